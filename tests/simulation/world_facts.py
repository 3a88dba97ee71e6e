"""What is true of the world beside the stories: clocks, what commits have put on disk; and what a request
means."""

from __future__ import annotations

from dataclasses import dataclass, field

from .history import MS, Ask, Call, History


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass
class Facts:
    """``steps`` of the wall clock: (true ns, by how many ns); ``unnoted``: those that no marker tells of."""

    history: History
    wall_ns_at_0: int = 0
    steps: list[tuple[int, int]] = field(default_factory=list)
    unnoted: list[tuple[int, int]] = field(default_factory=list)
    boots: list[int] = field(default_factory=list)  # true ns of each boot
    versions: dict[str, int] = field(default_factory=dict)  # durable
    outcomes: set[tuple[str, int, int]] = field(default_factory=set)  # durable: (key, version, attempt)
    unreachable: dict[str, int] = field(default_factory=dict)

    def fork(self, history: History) -> Facts:
        """The same until now, for another future."""
        return Facts(
            history, self.wall_ns_at_0, list(self.steps), list(self.unnoted), list(self.boots),
            dict(self.versions), set(self.outcomes), dict(self.unreachable),
        )  # fmt: skip

    def wall_high_ms(self, since_ns: int, until_ns: int) -> int:
        """The latest that the wall clock showed between two instants."""
        offset = self.wall_ns_at_0
        high = 0
        for at_ns, by_ns in [*self.steps, (until_ns, 0)]:
            if at_ns >= since_ns:
                high = max(high, min(at_ns, until_ns) + offset)
            if at_ns >= until_ns:
                break
            offset += by_ns
        return high // MS

    def leeway_ns(self, since_ns: int, until_ns: int) -> int:
        """How early a wait on elapsed time may look: over a boot it goes by the wall clock as last noted."""
        if not any(since_ns < boot_ns <= until_ns for boot_ns in self.boots):
            return 0
        return sum(max(0, by) for at, by in self.unnoted if since_ns <= at <= until_ns)


def makes(ask: Ask) -> bool:
    """Whether it may have made a version."""
    return ask.request["op"] in ("schedule", "reschedule", "redrive")


def bound(ask: Ask) -> tuple[int, int]:
    """Not before this true ns, and not before the wall clock showed this ms."""
    asked = ask.request
    return ask.sent_ns + asked.get("delay", 0) * MS, asked.get("at", 0)


def early(bound: tuple[int, int, int], call: Call | None, facts: Facts, now_ns: int = 0) -> bool:
    since_ns, due_ns, due_ms = bound
    at_ns = now_ns if call is None else call.began_ns
    if due_ms and facts.wall_high_ms(since_ns, at_ns) < due_ms:
        return True
    return at_ns + facts.leeway_ns(since_ns, at_ns) < due_ns
