"""Shares the loop between those who bring work: connections, scans, group operations.

Trio runs all that is runnable before it looks at timers and sockets again. Sixteen connections that
each work for a millisecond would make every timer sixteen milliseconds late, so their slices are
spread: about one slice a pass, first come first served, and whoever has used one goes to the back.

A client that asks for a little at a time waits for none of them. It has a lane of its own, which a slice
of others does not fill; and while there are such clients, the slices of all others are short, because a
request that comes in the middle of one waits for its end. Then it waits for its commit, and that long
those who bring much are still, for a moment at most: a loop that never sleeps keeps from its processor
what the kernel has to do for a sync, which then takes 8 ms in place of 0.2 (Python's own lock costs
nothing that can be measured here). Neither lane can starve the other.
"""

from __future__ import annotations

import time
from typing import Final

import trio

SLICE_NS: Final = 1_000_000  # work done in one pass of the loop before the next in line waits for another
SLICE_LINES_MAX: Final = 256  # lines, rows or tasks between two looks at the clock
SHORT_FACTOR: Final = 4  # a slice is so much shorter beside clients that ask for little
LIGHT_NS: Final = 2 * SLICE_NS  # of those who ask for little in one pass; more of them share a commit then
LIGHT_NEAR_NS: Final = 100_000_000  # for so long after the last of them
ENTRY_NS: Final = 300_000  # of the loop's time, to let a client in and to let it go
# No longer are those who bring much still for a commit: a disk may be slow. Beside a client that asks for
# little without pause, on a disk that takes as long as this, they are left with a tenth of the loop.
HUSH_NS: Final = 2_000_000


class _Lane:
    """Who waits in order, and what was done since the first of them waited for a pass."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.spent_ns = 0

    async def rest(self, most_ns: int) -> None:
        """Under the lock: return in the next pass if ``most_ns`` of this one is spent."""
        if self.spent_ns >= most_ns:
            self.spent_ns = 0
            await trio.lowlevel.checkpoint()


class TimeSlices:
    """``await turn.take()`` before a slice, ``turn.spent(began_ns)`` after it; both with the same ``light``.

    ``light`` is for who has brought little, several times in a row: ``server/connection.py`` decides.
    """

    def __init__(self) -> None:
        self._heavy, self._light, self._entries = _Lane(), _Lane(), _Lane()
        self._light_ns = -LIGHT_NEAR_NS  # when the last light slice began
        self._short = False
        self._hush_lsn = 0  # replies of light slices wait for it
        self._hush_until_ns = 0  # until then, or until it is durable, no other slice begins; 0: it is
        self._hushed = trio.Event()

    async def take(self, *, light: bool = False) -> int:
        """Wait until a slice may begin; the instant it does, in ns, for ``spent``.

        Where little was done since the last wait it begins at once: a request that comes alone is not
        made to wait for another pass.
        """
        if light:
            lane = self._light
            if lane.spent_ns >= LIGHT_NS:
                async with lane.lock:
                    await lane.rest(LIGHT_NS)
            now_ns = self._light_ns = time.perf_counter_ns()
            self._short = True
            return now_ns
        lane = self._heavy
        # Nobody goes before those who wait already.
        if lane.spent_ns >= self.slice_ns or self._hush_until_ns or lane.lock.locked():
            async with lane.lock:
                await self._be_still()
                await lane.rest(self.slice_ns)
        now_ns = time.perf_counter_ns()
        self._short = now_ns - self._light_ns < LIGHT_NEAR_NS
        return now_ns

    async def enter(self) -> None:
        """Wait until one more client may come in: a slice's worth of them in a pass, in their own line."""
        lane = self._entries
        async with lane.lock:
            await self._be_still()
            await lane.rest(SLICE_NS)
        lane.spent_ns += ENTRY_NS

    async def _be_still(self) -> None:
        """Once before a slice, so that light slices which follow each other closely let it begin."""
        left_ns = self._hush_until_ns - time.perf_counter_ns()
        if left_ns > 0:
            with trio.move_on_after(left_ns / 1e9):
                await self._hushed.wait()

    def pause_bulk_until(self, lsn: int) -> None:
        """Replies of a light slice that is over wait until ``lsn`` is durable, which ``committed`` tells."""
        if not self._hush_until_ns:
            self._hushed = trio.Event()
            self._hush_until_ns = self._light_ns + HUSH_NS
        self._hush_lsn = lsn

    def committed(self, lsn: int) -> None:
        """Everything up to ``lsn`` is on disk."""
        if lsn >= self._hush_lsn:
            self._hush_until_ns = 0
            self._hushed.set()

    @property
    def slice_ns(self) -> int:
        """How long a slice may take now."""
        return SLICE_NS // SHORT_FACTOR if self._short else SLICE_NS

    @property
    def lines_max(self) -> int:
        """How many lines, rows or tasks a slice may have now."""
        return SLICE_LINES_MAX // SHORT_FACTOR if self._short else SLICE_LINES_MAX

    @staticmethod
    def now_ns() -> int:
        """For a slice that waits for no turn: the instant it begins."""
        return time.perf_counter_ns()

    def over(self, began_ns: int) -> bool:
        """Whether a slice that began then has taken its time."""
        return time.perf_counter_ns() - began_ns > self.slice_ns

    def release(self, began_ns: int, *, light: bool = False) -> int:
        """Count a slice that is over; how long it took, in ns."""
        took_ns = time.perf_counter_ns() - began_ns
        lane = self._light if light else self._heavy
        lane.spent_ns += took_ns
        return took_ns

    def charge(self, work_ns: int) -> None:
        """Count work of those who bring much that cannot be timed."""
        self._heavy.spent_ns += work_ns
