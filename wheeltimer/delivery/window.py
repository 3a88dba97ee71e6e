"""Limits of one destination: attempts in flight, its rate, whether it is held, its share of all permits.

Time is an argument, in elapsed ns; nothing here waits or starts anything. ``dispatcher.py`` chooses attempts.

The window grows by one for each success. It is halved, at most once per duration of one attempt, if the
receiver answers that it is overloaded, or cannot be reached (additive increase, multiplicative decrease,
after Jacobson and Chiu/Jain). A destination that cannot be reached is *held*: no attempt starts for
``HOLD_NS``, then one real attempt at a time, until one is answered.

`verdict` decides how an answer counts. Once a status line was read, only its status counts, also if the
attempt failed after it: the receiver was reached. A timeout counts only if it was at least
`TIMEOUT_TELLS_MS`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from wheeltimer.core.outcome import Answer

NS_PER_S: Final = 1_000_000_000
WINDOW_FIRST: Final = 8
WINDOW_MAX: Final = 128
HOLD_NS: Final = 30 * NS_PER_S
DOWN_IN_A_ROW: Final = 10
DOWN_OF_MIN: Final = 10  # with fewer outcomes the share of failures is not used
DOWN_PERMILLE: Final = 700
DOWN_SPAN_NS: Final = 300 * NS_PER_S
TIMEOUT_TELLS_MS: Final = 1_000  # a shorter timeout was chosen by the task and is no evidence of an outage
SHORT_PAUSE_MIN_NS: Final = 10_000_000
SHORT_PAUSE_MAX_NS: Final = NS_PER_S
SHORT_MAX_NS: Final = 120 * NS_PER_S  # twice the time for which TIME_WAIT blocks a port
_SLOT_NS: Final = 10 * NS_PER_S  # outcomes are counted in slots of this length, so memory is bounded

_UNREACHABLE: Final = frozenset({"dns", "connect", "tls", "timeout"})
_TOO_MUCH: Final = _UNREACHABLE | {"reset"}
_OURS: Final = frozenset({"internal", "blocked"})  # a bug, or the address rule: the receiver was not called
_GATEWAY: Final = frozenset({502, 503, 504})


def verdict(answer: Answer) -> tuple[bool | None, bool]:
    """(whether the destination could not be reached, None if unknown; whether the window is to be halved)."""
    if answer.status is not None:
        down = answer.status in _GATEWAY
        return down, down or answer.status == 429
    assert answer.error is not None
    kind = answer.error.partition(":")[0]
    if kind in _OURS or (kind == "timeout" and (answer.given_ms or 0) < TIMEOUT_TELLS_MS):
        return None, False
    return kind in _UNREACHABLE, kind in _TOO_MUCH


class TokenBucket:
    """A token bucket with a burst of one second, in integers (GCRA, ITU-T I.371)."""

    __slots__ = ("_burst_ns", "_count", "_period_ns", "_whole_ns", "rate")

    def __init__(self, count: int, period_ms: int) -> None:
        self.rate = (count, period_ms)
        self._count = count
        self._period_ns = period_ms * 1_000_000
        # One token is period/count ns; stored times count, so that no fraction is lost.
        self._burst_ns = max(NS_PER_S * count, self._period_ns)
        self._whole_ns = 0  # when the bucket is full again, times count

    def wait_ns(self, now_ns: int) -> int:
        """How long until there is a token; 0: there is one."""
        ahead = self._whole_ns - now_ns * self._count + self._period_ns - self._burst_ns
        return max(0, -(-ahead // self._count))

    def take(self, now_ns: int) -> None:
        """Take a token; ``wait_ns`` must have returned 0."""
        self._whole_ns = max(self._whole_ns, now_ns * self._count) + self._period_ns

    def give_back(self) -> None:
        """Undo `take`: the attempt was not made."""
        self._whole_ns -= self._period_ns


class Window:
    """The state of one destination. ``held_ns``: since when it is held; None if it is not."""

    def __init__(self, size_max: int = WINDOW_MAX, bucket: TokenBucket | None = None) -> None:
        self.size_max = size_max
        self.size = min(WINDOW_FIRST, size_max)
        self.bucket = bucket
        self.in_flight = 0
        self.held_ns: int | None = None
        self.probes = 0  # failed probes since it is held
        self.short_until_ns = 0  # no local port to it was free; no new connection is tried before that
        self._short_since_ns: int | None = None
        self._probe_at_ns = 0
        self._halved_ns = -1
        self._in_a_row = 0
        self._slots: deque[list[int]] = deque()  # [slot number, outcomes, of them unreachable]

    def wait_ns(self, now_ns: int) -> int | None:
        """0: an attempt may start; more: after that many ns; None: not before one in flight has ended."""
        if self.held_ns is not None:
            if self.in_flight:
                return None
            return max(0, self._probe_at_ns - now_ns)
        if self.in_flight >= self.size:
            return None
        return self.bucket.wait_ns(now_ns) if self.bucket is not None else 0

    def limit(self, fresh: Window) -> None:
        """Take over the limits of new settings; keep the rest of the state."""
        if self.bucket is None or fresh.bucket is None or self.bucket.rate != fresh.bucket.rate:
            self.bucket = fresh.bucket  # else keep the tokens that were used
        self.size_max = fresh.size_max
        self.size = min(self.size, self.size_max)

    def start(self, now_ns: int) -> None:
        """An attempt starts."""
        self.in_flight += 1
        if self.bucket is not None:
            self.bucket.take(now_ns)

    def cut(self) -> None:
        """The daemon cut an attempt short, or did not make it: no evidence about the destination."""
        self.in_flight -= 1
        if self.bucket is not None:
            self.bucket.give_back()

    def short(self, now_ns: int) -> bool:
        """No local port to the destination was free for an attempt. True: the attempt lapses, and new
        connections wait a little. False: this has lasted `SHORT_MAX_NS`, and the attempt counts as failed.
        """
        over_ns = self.short_until_ns + SHORT_PAUSE_MAX_NS  # after that, this is a new shortage
        if self._short_since_ns is None or now_ns > over_ns:
            self._short_since_ns = now_ns
        lasts_ns = now_ns - self._short_since_ns
        self.short_until_ns = now_ns + max(SHORT_PAUSE_MIN_NS, min(lasts_ns, SHORT_PAUSE_MAX_NS))
        return lasts_ns < SHORT_MAX_NS

    def end(self, answer: Answer, started_ns: int, now_ns: int) -> None:
        """An attempt that started at ``started_ns`` ended."""
        self.in_flight -= 1
        if now_ns >= self.short_until_ns:
            self._short_since_ns = None
        down, crowded = verdict(answer)
        if crowded:
            if started_ns > self._halved_ns:  # attempts in flight at the last halving do not count again
                self._halved_ns = now_ns
                self.size = max(1, self.size // 2)
        elif answer.error is None and answer.status is not None and answer.status < 300:
            self.size = min(self.size + 1, self.size_max)
        if down is None:
            if self.held_ns is not None:  # an inconclusive probe: wait, as many tasks may give one
                self._probe_at_ns = max(self._probe_at_ns, now_ns + TIMEOUT_TELLS_MS * 1_000_000)
        elif not down:
            self._in_a_row = 0
            if self.held_ns is not None:
                self.held_ns, self.probes = None, 0
                self._slots.clear()
            self._count(now_ns, 0)
        elif self.held_ns is not None:
            if started_ns >= self._probe_at_ns:
                self.probes += 1
                self._probe_at_ns = now_ns + HOLD_NS
        else:
            self._in_a_row += 1
            self._count(now_ns, 1)
            if self._in_a_row >= DOWN_IN_A_ROW or self._mostly_down(now_ns):
                self.held_ns, self._probe_at_ns, self.probes = now_ns, now_ns + HOLD_NS, 0

    def _count(self, now_ns: int, down: int) -> None:
        number = now_ns // _SLOT_NS
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0, 0])
            while self._slots[0][0] <= number - DOWN_SPAN_NS // _SLOT_NS:
                self._slots.popleft()
        self._slots[-1][1] += 1
        self._slots[-1][2] += down

    def _mostly_down(self, now_ns: int) -> bool:
        outcomes = sum(slot[1] for slot in self._slots)
        down = sum(slot[2] for slot in self._slots)
        return outcomes >= DOWN_OF_MIN and down * 1000 >= DOWN_PERMILLE * outcomes


# -- how many of the permits one destination may have: slow ones must not delay all others -----------------

PARTS: Final = 4  # no destination has more than a fourth of all permits while others wait
FEW: Final = 5  # attempts that a destination may start from a full reserve; fewer as the reserve shrinks


def most(concurrency: int) -> int:
    """How many attempts one destination may have in flight while a task for another one waits."""
    return max(1, concurrency // PARTS)


def share(concurrency: int, in_flight: int, mine: int) -> float:
    """A destination with ``mine`` of all ``in_flight`` attempts may start one more if ``mine`` is less than
    this.

    A destination may have at most three times the permits that stay free, so the first attempt of another one
    finds a permit, also with many slow destinations (a dynamic threshold, Choudhury and Hahne 1998). If
    others have attempts in flight, an eighth of all permits is a reserve: for first attempts and, up to
    `FEW`, for the next ones, so that tasks of a fast destination that come due together need not wait for
    each other. With fewer than four permits there is no bound.
    """
    if not mine or concurrency < PARTS:
        return math.inf
    free = concurrency - in_flight - 1
    if in_flight == mine:
        return (PARTS - 1) * free
    reserve = concurrency // (2 * PARTS)
    few = min(FEW, free * FEW // max(1, reserve))
    return max(few, (PARTS - 1) * (free - reserve))
