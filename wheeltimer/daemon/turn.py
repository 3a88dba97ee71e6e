"""Shares the loop between those who bring work by the thousand: connections, scans, group operations.

Trio runs all that is runnable before it looks at timers and sockets again. Sixteen connections that
each work for a millisecond would make every timer sixteen milliseconds late, so their slices are
spread: about one slice a pass, first come first served.
"""

from __future__ import annotations

import time
from typing import Final

import trio

SLICE_NS: Final = 1_000_000  # work done in one pass of the loop before the next in line waits for another
SLICE_LINES_MAX: Final = 256  # lines, rows or tasks between two looks at the clock


class Turn:
    """``await turn.take()`` before a slice, ``turn.spent(began_ns)`` after it."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._spent_ns = 0

    async def take(self) -> int:
        """Wait until a slice may begin; the instant it does, in ns, for ``spent``.

        Where little was done since the last wait it begins at once: a request that comes alone is not
        made to wait for another pass.
        """
        if self._spent_ns >= SLICE_NS:
            async with self._lock:
                self._spent_ns = 0
                await trio.lowlevel.checkpoint()
        return time.perf_counter_ns()

    def over(self, began_ns: int) -> bool:
        """Whether a slice that began then has taken its time."""
        return time.perf_counter_ns() - began_ns > SLICE_NS

    def spent(self, began_ns: int) -> int:
        """Count a slice that is over; how long it took, in ns."""
        took_ns = time.perf_counter_ns() - began_ns
        self._spent_ns += took_ns
        return took_ns
