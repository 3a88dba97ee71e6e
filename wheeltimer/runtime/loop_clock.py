"""Trio's clock, for a process that may be stopped: SIGSTOP, a virtual machine that moves, a throttled CPU.

When such a process continues, deadlines have passed while replies and lines lie unread in its sockets. Trio
normally reads sockets before it looks at deadlines. After a stop it does not: if a signal (SIGCONT is one)
interrupts ``epoll.poll`` and its time is over, Python returns no events, without another system call (PEP
475). So

* the first reading of the clock after a wait is never past the deadline of that wait; the next pass of the
  loop reads the sockets without waiting, and the deadline is over only after that,
* after a stop the clock shows the time from before it for `GRACE_S` more: a reply of several reads or a TLS
  handshake takes some passes of the loop. There is at most one such grace in `GRACE_EVERY_S`, never two
  in a row: on a processor that is throttled all the time no deadline is postponed by more.

This clock serves only limits on waiting. The wheels decide when a task is due, by the clocks of ``clock.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import trio

STILL_S: Final = 0.1  # a longer gap between readings, beyond the planned wait, is a stop: a slice takes 1 ms
GRACE_S: Final = 0.1
GRACE_EVERY_S: Final = 1.0
_JUST_BEFORE_S: Final = 1e-6


class LoopClock(trio.abc.Clock):
    """``source`` gives seconds that never go back; its origin does not matter."""

    def __init__(self, source: Callable[[], float] = time.perf_counter) -> None:
        self._source = source
        self._read_s = source()  # the last reading of ``source``
        self._plain_until_s = -math.inf  # a reading before that is shown unchanged
        self._shown_s = -math.inf  # the least that is shown: time never goes back
        self._held_until_s = -math.inf  # the end of a grace: until then the shown time does not move
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
        """The time to show during a grace, past the deadline of a wait, or long after the last reading."""
        until_s = self._until_s if self._waits else math.inf
        if self._read_s >= self._held_until_s:  # else the shown time has not moved since the last grace
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
        """How long the loop may wait. Trio's next call, after the wait, is ``current_time``."""
        wait_s = deadline - self.current_time()
        if wait_s <= 0:
            return wait_s
        self._waits, self._until_s = True, deadline
        if self._read_s < self._held_until_s:  # at its end the shown time jumps
            return min(wait_s, self._held_until_s - self._read_s)
        self._plain_until_s = deadline
        return wait_s
