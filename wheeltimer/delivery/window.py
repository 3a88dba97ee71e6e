"""What one destination can bear: attempts in flight, its rate, and whether it is held for being down.

Time is an argument, in ns of elapsed time; nothing here waits or starts anything. Who is chosen is in
``dispatcher.py``.

The window opens by one for each success and is halved at most once per time of one attempt when the
receiver answers that it is too much, or cannot be reached (additive increase, multiplicative decrease, after
Jacobson and Chiu/Jain). A destination that cannot be reached is *held*: nothing goes for ``HOLD_NS``, then
one real attempt at a time, until one is answered.

How an answer counts is in `verdict`. Once a status line was read its status alone counts, also if the attempt
failed after it: the receiver was reached. A time-out counts only if at least `TIMEOUT_TELLS_MS` were given.
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
DOWN_OF_MIN: Final = 10  # outcomes that a share needs before it means anything
DOWN_PERMILLE: Final = 700
DOWN_SPAN_NS: Final = 300 * NS_PER_S
TIMEOUT_TELLS_MS: Final = 1_000  # a shorter one is the task's choice, and no sign of the destination's state
SHORT_PAUSE_MIN_NS: Final = 10_000_000
SHORT_PAUSE_MAX_NS: Final = NS_PER_S
SHORT_MAX_NS: Final = 120 * NS_PER_S  # twice as long as a port rests after its connection (TIME_WAIT)
_SLOT_NS: Final = 10 * NS_PER_S  # outcomes are counted in slots of this length: bounded memory at any rate

_UNREACHABLE: Final = frozenset({"dns", "connect", "tls", "timeout"})
_TOO_MUCH: Final = _UNREACHABLE | {"reset"}
_OURS: Final = frozenset({"internal", "blocked"})  # a bug, or a rule on addresses: no receiver was asked
_GATEWAY: Final = frozenset({502, 503, 504})


def verdict(answer: Answer) -> tuple[bool | None, bool]:
    """(whether the destination could not be reached, None: this does not tell; whether it asks for fewer
    attempts at a time).
    """
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
        # One token is period/count ns; kept multiplied by count, so that no fraction is lost.
        self._burst_ns = max(NS_PER_S * count, self._period_ns)
        self._whole_ns = 0  # when the bucket is full again, times count

    def wait_ns(self, now_ns: int) -> int:
        """How long until a token is there; 0: one is."""
        ahead = self._whole_ns - now_ns * self._count + self._period_ns - self._burst_ns
        return max(0, -(-ahead // self._count))

    def take(self, now_ns: int) -> None:
        """Take a token that ``wait_ns`` said is there."""
        self._whole_ns = max(self._whole_ns, now_ns * self._count) + self._period_ns

    def give_back(self) -> None:
        """Undo `take`: the attempt was not made."""
        self._whole_ns -= self._period_ns


class Window:
    """The state of one destination. ``held_ns``: since when it is held, None when it is open."""

    def __init__(self, size_max: int = WINDOW_MAX, bucket: TokenBucket | None = None) -> None:
        self.size_max = size_max
        self.size = min(WINDOW_FIRST, size_max)
        self.bucket = bucket
        self.in_flight = 0
        self.held_ns: int | None = None
        self.probes = 0  # attempts that failed since it is held
        self.short_until_ns = 0  # no local port to it was free; no new connection is tried before
        self._short_since_ns: int | None = None
        self._probe_at_ns = 0
        self._halved_ns = -1
        self._in_a_row = 0
        self._slots: deque[list[int]] = deque()  # [slot number, outcomes, of them unreachable]

    def wait_ns(self, now_ns: int) -> int | None:
        """0: an attempt may start; more: not for so long; None: not before one in flight has ended."""
        if self.held_ns is not None:
            if self.in_flight:
                return None
            return max(0, self._probe_at_ns - now_ns)
        if self.in_flight >= self.size:
            return None
        return self.bucket.wait_ns(now_ns) if self.bucket is not None else 0

    def limit(self, fresh: Window) -> None:
        """Take the limits of a new setting over; what was learned of the destination stays."""
        if self.bucket is None or fresh.bucket is None or self.bucket.rate != fresh.bucket.rate:
            self.bucket = fresh.bucket  # else what was used of this second stays used
        self.size_max = fresh.size_max
        self.size = min(self.size, self.size_max)

    def start(self, now_ns: int) -> None:
        """An attempt starts."""
        self.in_flight += 1
        if self.bucket is not None:
            self.bucket.take(now_ns)

    def cut(self) -> None:
        """We cut an attempt short, or did not make it: no sign of the destination's state."""
        self.in_flight -= 1
        if self.bucket is not None:
            self.bucket.give_back()

    def short(self, now_ns: int) -> bool:
        """No local port to the destination was free for an attempt. True: it was not made, and others wait a
        little; False: this lasts too long to be ours, and the attempt has failed.
        """
        over_ns = self.short_until_ns + SHORT_PAUSE_MAX_NS  # later than that, nothing has lapsed meanwhile
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
            if started_ns > self._halved_ns:  # what was in flight at the last halving says nothing new
                self._halved_ns = now_ns
                self.size = max(1, self.size // 2)
        elif answer.error is None and answer.status is not None and answer.status < 300:
            self.size = min(self.size + 1, self.size_max)
        if down is None:
            if self.held_ns is not None:  # the next probe waits: such tasks may come often
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


# -- how many of the permits one destination may have: slow ones must not hold up all others ---------------

PARTS: Final = 4  # no destination has more than this part of all permits while others wait
FEW: Final = 5  # attempts of one destination that the reserve is for while it is whole; fewer as it goes


def most(concurrency: int) -> int:
    """So many attempts one destination may have in flight while anything for another waits."""
    return max(1, concurrency // PARTS)


def share(concurrency: int, in_flight: int, mine: int) -> float:
    """A destination with ``mine`` attempts among all ``in_flight`` may start one more while it has fewer
    than this.

    Never more than three times what stays free, so whoever comes next, to a destination that has none, finds
    a permit, however many slow ones there are (a dynamic threshold, Choudhury and Hahne 1998). Beside others
    an eighth is in reserve: for first attempts, and, by a threshold of its own, for the next few, so tasks of
    a fast destination that come due together need not wait for each other. Fewer than four permits are not
    worth saving.
    """
    if not mine or concurrency < PARTS:
        return math.inf
    free = concurrency - in_flight - 1
    if in_flight == mine:
        return (PARTS - 1) * free
    reserve = concurrency // (2 * PARTS)
    few = min(FEW, free * FEW // max(1, reserve))
    return max(few, (PARTS - 1) * (free - reserve))
