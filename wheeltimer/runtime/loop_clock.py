"""Trio's clock, for a process that may stand still: SIGSTOP, a virtual machine that moves, a throttled CPU.

When such a process goes on, deadlines have passed while replies and lines lie unread in its sockets. Trio
reads before it looks at deadlines, but not then: a wait for events that a signal interrupts (SIGCONT is one),
and whose time is over, comes back from Python's ``epoll.poll`` without a look at any socket (PEP 475). So

* the first reading of the clock after a wait is never past the deadline that was waited for; the next pass of
  the loop reads the sockets without waiting, and only then is the deadline over,
* after the process stood still the clock shows the time before that for `GRACE_S` more: a reply of several
  reads or a TLS handshake takes some passes of the loop. It does so at most once in `GRACE_EVERY_S`, and not
  twice in a row: on a processor that is throttled all the time no deadline is postponed by more.

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
GRACE_EVERY_S: Final = 1.0
_JUST_BEFORE_S: Final = 1e-6


class LoopClock(trio.abc.Clock):
    """``source`` gives seconds that never go back; its origin does not matter."""

    def __init__(self, source: Callable[[], float] = time.perf_counter) -> None:
        self._source = source
        self._read_s = source()  # the last reading of ``source``
        self._plain_until_s = -math.inf  # a reading before that is shown as it is
        self._shown_s = -math.inf  # the least that is shown: time never goes back
        self._held_until_s = -math.inf  # as long as ``source`` is before that, nothing more is shown
        self._next_hold_s = -math.inf
        self._waits = False  # the loop waits for events ...
        self._until_s = math.inf  # ... until this deadline

    def start_clock(self) -> None:
        """Trio's loop begins."""
        self._read_s = self._source()
        self._plain_until_s = self._read_s + STILL_S

    def current_time(self) -> float:
        """Seconds. About 0.1 us."""
        now_s = self._source()
        if now_s >= self._plain_until_s:
            return self._examined(now_s)
        self._read_s = now_s
        self._plain_until_s = now_s + STILL_S
        self._waits = False
        return now_s

    def _examined(self, now_s: float) -> float:
        """What is shown at a grace, past the deadline that was waited for, or long after the last reading."""
        until_s = self._until_s if self._waits else math.inf
        if self._read_s >= self._held_until_s:  # else it has shown nothing new since the last grace
            self._shown_s = max(self._shown_s, self._read_s)
            still = now_s - (until_s if self._waits else self._read_s) > STILL_S
            if still and now_s >= self._next_hold_s:
                self._held_until_s = now_s + GRACE_S
                self._next_hold_s = now_s + GRACE_EVERY_S
        self._read_s = now_s
        self._waits = False
        self._plain_until_s = -math.inf
        if now_s >= self._held_until_s:
            self._shown_s = max(self._shown_s, min(now_s, until_s - _JUST_BEFORE_S))
            self._plain_until_s = now_s + STILL_S
        return self._shown_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """How long the loop may wait; Trio's next call, when it has waited, is ``current_time``."""
        wait_s = deadline - self.current_time()
        if wait_s <= 0:
            return wait_s
        self._waits, self._until_s = True, deadline
        if self._read_s < self._held_until_s:  # what is shown jumps then, and the deadline may be over
            return min(wait_s, self._held_until_s - self._read_s)
        self._plain_until_s = deadline
        return wait_s
