"""Trio's clock, for a process that may stand still: SIGSTOP, a virtual machine that moves, a throttled CPU.

When such a process goes on, deadlines have passed while replies and lines lie unread in its sockets. Trio
reads before it looks at deadlines, but not then: a wait for events that a signal interrupts (SIGCONT is one),
and whose time is over, comes back from Python's ``epoll.poll`` without a look at any socket (PEP 475). So

* the first reading of the clock after a wait is never past the deadline that was waited for; the next pass of
  the loop reads the sockets without waiting, and only then is the deadline over,
* time in which the process stood still does not count, and `GRACE_S` more: a reply of several reads or a TLS
  handshake takes some passes of the loop.

This clock is for limits on waiting alone. When a task is due is the wheel's, by the clocks of ``clock.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import trio

STILL_S: Final = 0.1  # longer than planned between two readings: a slice of work takes a millisecond
GRACE_S: Final = 0.1
_JUST_BEFORE_S: Final = 1e-6


class LoopClock(trio.abc.Clock):
    """``source`` gives seconds that never go back; its origin does not matter."""

    def __init__(self, source: Callable[[], float] = time.perf_counter) -> None:
        self._source = source
        self._read_s = source()  # the last reading of ``source``
        self._lost_s = 0.0  # time that does not count
        self._least_s = -math.inf  # this clock has shown it already
        self._waits = False  # the loop waits for events ...
        self._until_s = math.inf  # ... until this deadline ...
        self._planned_s = 0.0  # ... which was so far away

    def start_clock(self) -> None:
        """Trio's loop begins."""
        self._read_s = self._source()

    def current_time(self) -> float:
        """Seconds. About 0.1 us."""
        now_s = self._source()
        if self._waits or now_s - self._read_s > STILL_S:
            return self._after_a_wait(now_s)
        self._read_s = now_s
        shown_s = now_s - self._lost_s
        return shown_s if shown_s > self._least_s else self._least_s

    def _after_a_wait(self, now_s: float) -> float:
        shown_s = max(self._least_s, self._read_s - self._lost_s)
        over_s = now_s - self._read_s - self._planned_s
        if over_s > STILL_S:
            self._lost_s += over_s + GRACE_S
            self._least_s = shown_s
        self._read_s = now_s
        shown_s = max(self._least_s, min(now_s - self._lost_s, self._until_s - _JUST_BEFORE_S))
        self._waits, self._until_s, self._planned_s = False, math.inf, 0.0
        return shown_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """How long the loop may wait; Trio's next call, when it has waited, is ``current_time``."""
        now_s = self.current_time()
        wait_s = deadline - now_s
        if wait_s > 0:
            self._waits, self._until_s, self._planned_s = True, deadline, wait_s
        return wait_s
