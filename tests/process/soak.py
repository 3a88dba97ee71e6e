"""What a soak asks, kind by kind of task, and what may come of each: plans, and how a story is judged.

A *story* is one task from its first request to its end, as seen from outside: what was asked and answered,
the events of a subscriber, the callbacks at the receivers. ``judge`` holds it against the contract. Who asks,
listens and measures is in ``test_soak.py``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

DELAY_MS: Final = (2_000, 8_000)
MARGIN_MS: Final = 1_000  # a stop that is to come before the due is asked for at least so long before it
QUEUES: Final = 8
Request = dict[str, Any]


class Step(NamedTuple):
    """A request, ``at_ms`` after the first one of its story."""

    at_ms: int
    request: Request


@dataclass(frozen=True)
class Kind:
    """``ends``: each end that may come, with the outcomes of its version's attempts as an expression over
    ``s`` (succeeded), ``f`` (failed) and ``n`` (not yet). ``wait_ms``: the least between two attempts.
    """

    share: float  # of all tasks, in per cent
    ends: dict[str, str]
    fields: Request = field(default_factory=dict)
    path: str = "/ok"
    to: str = "good"  # good: answers at once; slow: takes too long; down: nobody listens
    wait_ms: int = 0
    then: str = ""  # what is asked after the schedule
    race: bool = False  # what is asked comes as the task is due


def _fixed(every_ms: int, attempts: int) -> Request:
    return {"kind": "fixed", "every": every_ms, "attempts": attempts, "jitter": 0}


_HOOKS: Final = {"on_done": "done", "on_dead": "dead"}  # the URL is put in by whoever knows the receiver
_POLL: Final = {"success": {"text": "success"}, "poll": {"every": 300, "max": 5}, **_HOOKS}
_DELIVERED: Final = {"done": "s"}
_STOPPED: Final = {"cancelled": ""}

KINDS: Final = {
    "cancelled": Kind(64, _STOPPED, then="cancel"),
    "moved and cancelled": Kind(6, _STOPPED, _HOOKS, then="reschedule cancel"),
    "replaced and cancelled": Kind(4, _STOPPED, then="replace cancel"),
    "cancelled by group": Kind(6, _STOPPED, then="cancel group"),
    "delivered": Kind(4.5, _DELIVERED),
    "asked twice": Kind(1, _DELIVERED, then="again"),
    "moved": Kind(2, _DELIVERED, then="reschedule"),
    "replaced": Kind(1, _DELIVERED, then="replace"),
    "fails twice": Kind(
        3, {"done": "ffs"}, {"retry": _fixed(300, 5), **_HOOKS}, "/answers/500,500,200", wait_ms=300
    ),
    "dead": Kind(
        1.5, {"dead": "fff"}, {"retry": _fixed(200, 3), "meta": {"of": "dead"}, **_HOOKS},
        "/answers/500", wait_ms=200,
    ),
    "redriven": Kind(
        1, {"dead": "ff"}, {"retry": _fixed(200, 2), **_HOOKS}, "/answers/500", wait_ms=200, then="redrive"
    ),
    "final": Kind(0.5, {"dead": "f"}, _HOOKS, "/answers/410"),
    "polled": Kind(2, {"done": "nns"}, _POLL, "/answers/pending,pending,success", wait_ms=300),
    "polled for nothing": Kind(0.5, {"dead": "n{5}"}, _POLL, "/answers/pending", wait_ms=300),
    "expired": Kind(
        0.5, {"expired": "f{0,5}"}, {"retry": _fixed(400, 50), "expires_in": 1_500, **_HOOKS},
        "/answers/500", wait_ms=400,
    ),
    "finished": Kind(1, {"done": ""}, _HOOKS, then="finish"),
    "too slow": Kind(
        0.25, {"dead": "f{0,2}"}, {"retry": _fixed(300, 2), "timeout": 200, **_HOOKS}, "/slow/600", "slow",
        wait_ms=300,
    ),
    "nobody there": Kind(
        0.25, {"dead": "f{0,3}"}, {"retry": _fixed(300, 3), **_HOOKS}, to="down", wait_ms=300
    ),
    "cancelled as it is due": Kind(0.5, _STOPPED, then="cancel", race=True),
    "moved as it is due": Kind(0.5, _DELIVERED, then="reschedule", race=True),
}  # fmt: skip
assert sum(kind.share for kind in KINDS.values()) == 100
assert sum(kind.share for kind in KINDS.values() if kind.ends == _STOPPED and not kind.race) == 80


@dataclass(slots=True)
class Story:
    """What was seen of one task; ``*_ns`` is wall time as the test or the receiver read it."""

    number: int
    kind: str
    unanswered: int = 0  # requests that are planned or on their way
    dues: list[int | None] = field(default_factory=list)  # of each version, as answered; None: not said
    stopped_ns: int = 0  # when the answer "cancelled: 1" was read
    raced: bool = False  # something was asked when it was due already: either may have won
    forgotten: bool = False  # a request came so late that the task had ended and its retention was over
    told: list[tuple[int, int]] = field(default_factory=list)  # events: (version, due)
    started: list[tuple[int, int]] = field(default_factory=list)  # events: (version, attempt)
    outcomes: list[tuple[int, int, str]] = field(default_factory=list)  # events: (version, attempt, outcome)
    ends: list[tuple[int, str, int]] = field(default_factory=list)  # events: (version, state, attempts)
    calls: list[tuple[int, int, int, int]] = field(default_factory=list)  # (version, attempt, due, wall ns)
    hooks: list[tuple[str, Request]] = field(default_factory=list)  # (id, body)

    @property
    def to(self) -> str:
        """Which receiver it goes to."""
        return KINDS[self.kind].to

    @property
    def over(self) -> bool:
        """Whether all was answered, and its last version has ended and told so to whoever it was to tell."""
        ended = bool(self.ends) and self.ends[-1][0] == len(self.dues)
        told = ended and len(self.hooks) >= self._hooks_due()
        if self.forgotten:  # the other task of this id has an end of its own
            told = len(self.ends) >= 2
        return told and not self.unanswered

    def _hooks_due(self) -> int:
        hooked = "on_done" in KINDS[self.kind].fields
        return sum(hooked and state != "cancelled" for _, state, _ in self.ends)

    def judge(self) -> Iterator[str]:
        """What is wrong with it; nothing where every promise was kept."""
        kind = KINDS[self.kind]
        if self.forgotten:
            return  # the same id is another task since
        if not self.ends or self.ends[-1][0] != len(self.dues):
            yield "lost: its last version has not ended"
            return
        if [version for version, _ in self.told] != list(range(1, len(self.dues) + 1)):
            yield "each version is one event"
        for (_, told_ms), due_ms in zip(self.told, self.dues, strict=False):
            if due_ms is not None and told_ms != due_ms:
                yield f"answered due {due_ms}, told {told_ms}"
        yield from self._judge_ends(kind)
        yield from self._judge_calls(kind)
        yield from self._judge_hooks(kind)

    def _judge_ends(self, kind: Kind) -> Iterator[str]:
        last = len(self.dues)
        for version, state, attempts in self.ends:
            letters = "".join(outcome[0] for v, _, outcome in self.outcomes if v == version)
            wanted = kind.ends.get(state)
            if self.raced and state == "done":
                wanted = "s" if wanted is None else f"{wanted}|s"
            if wanted is None or not re.fullmatch(wanted, letters) or attempts != len(letters):
                yield f"version {version} may not end {state} after {letters!r} and {attempts} attempts"
            if version != last and self.kind != "redriven" and not self.raced:
                yield f"version {version} ended and is not the last"
        if self.stopped_ns and self.ends[-1][1] != "cancelled":
            yield "an acknowledged cancel did not hold"

    def _judge_calls(self, kind: Kind) -> Iterator[str]:
        calls = sorted(self.calls, key=lambda call: call[3])
        made = sorted((version, attempt) for version, attempt, _, _ in calls)
        ended = sorted((version, attempt) for version, attempt, _ in self.outcomes)
        if sorted(self.started) != ended:
            yield "each attempt that starts has one outcome"
        if made != ended and kind.to != "down":
            yield "each attempt is one request at the receiver"
        before_ns = 0
        for version, attempt, due_ms, at_ns in calls:
            known_ms = self.told[version - 1][1] if version <= len(self.told) else None
            if due_ms != known_ms:
                yield f"a callback says due {due_ms}"
            if at_ns // 1_000_000 < due_ms:
                yield f"version {version} came {due_ms - at_ns // 1_000_000} ms early"
            if attempt > 1 and at_ns - before_ns < kind.wait_ms * 1_000_000:
                yield f"attempt {attempt} came early"
            if self.stopped_ns and at_ns > self.stopped_ns:
                yield "called after an acknowledged cancel"
            before_ns = at_ns

    def _judge_hooks(self, kind: Kind) -> Iterator[str]:
        wanted = []
        if "on_done" in kind.fields:
            for version, state, attempts in self.ends:
                if state != "cancelled":
                    word = "done" if state == "done" else "dead"
                    wanted.append((f"{self.number}/{word}/{version}", f"task.{state}", version, attempts))
        came = [(id, body["type"], body["version"], body["attempts"]) for id, body in self.hooks]
        if sorted(came) != sorted(wanted):
            yield f"hooks {came} and not {wanted}"


class Planner:
    """Makes stories and what they ask, as a seed says. ``urls``: of each kind of receiver."""

    def __init__(self, seed: int, urls: dict[str, str]) -> None:
        self.chance = random.Random(seed)
        self.urls = urls
        self._names = list(KINDS)
        self._shares = [kind.share / (3 if "group" in kind.then else 1) for kind in KINDS.values()]
        self.made = 0

    def next(self) -> list[tuple[Story, list[Step]]]:
        """The next story with its steps; three where they share a group."""
        name = self.chance.choices(self._names, self._shares)[0]
        if "group" not in KINDS[name].then:
            return [self._one(name)]
        group = f"g{self.made + 1}"
        some = [self._one(name, group) for _ in range(3)]
        soonest_ms = min(steps[0].request["delay"] for _, steps in some)
        at_ms = self.chance.randrange(100, soonest_ms - MARGIN_MS)
        some[0][1].append(Step(at_ms, {"op": "cancel", "group": group}))
        return some

    def _one(self, name: str, group: str | None = None) -> tuple[Story, list[Step]]:
        self.made += 1
        chance, kind = self.chance, KINDS[name]
        story = Story(self.made, name)
        here = {"id": str(self.made), "queue": f"q{self.made % QUEUES}"}
        delay_ms = chance.randrange(*DELAY_MS)
        fields = {
            field: self.urls["good"] + "/ok" if field in _HOOKS else value
            for field, value in kind.fields.items()
        }
        first = {
            "op": "schedule", **here, "url": self.urls[kind.to] + kind.path, "delay": delay_ms,
            "body": {"n": self.made, "fill": "x" * chance.choice((0, 0, 20, 200))}, **fields,
        }  # fmt: skip
        if group is not None:
            first["group"] = group
        return story, [Step(0, first), *self._rest(kind, first, here, delay_ms)]

    def _rest(self, kind: Kind, first: Request, here: Request, delay_ms: int) -> Iterator[Step]:
        chance, at_ms = self.chance, 0
        if "group" in kind.then:
            return
        for op in kind.then.split():
            if kind.race:
                at_ms = delay_ms + chance.randrange(-15, 15)
            elif op == "redrive":
                at_ms = delay_ms + 2_000
            else:
                at_ms += chance.randrange(100, max(101, delay_ms - at_ms - MARGIN_MS))
            if op == "again":
                yield Step(at_ms, first)
            elif op == "finish":
                yield Step(at_ms, {"op": "finish", **here, "reply": {"by": "hand"}})
            elif op in ("reschedule", "replace"):
                moved_ms = chance.randrange(*DELAY_MS)
                delay_ms = at_ms + moved_ms
                if op == "reschedule":
                    yield Step(at_ms, {"op": op, **here, "delay": moved_ms})
                else:
                    yield Step(at_ms, first | {"delay": moved_ms, "on_conflict": "replace"})
            else:
                yield Step(at_ms, {"op": op, **here})
