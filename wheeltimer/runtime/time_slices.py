"""Shares the loop among connections, scans and group changes: interactive connections before bulk work.

Trio runs all runnable tasks before it looks at timers and sockets again. Sixteen connections that each work
for a millisecond would make every timer sixteen milliseconds late. So bulk work is spread over the passes of
the loop: about one time slice a pass, first come first served.

Interactive connections (``light``) do not queue behind bulk work. They have a lane of their own, and while
there are any, bulk slices are a quarter as long, because a request that arrives during a slice waits for its
end. While an interactive request waits for its commit, no bulk slice starts (at most `HUSH_NS`). A loop that
never sleeps delays the kernel's part of fdatasync: measured 8 ms instead of 0.2 ms (Python's global lock has
no measurable part in that). Neither lane can starve the other.
"""

from __future__ import annotations

import time
from typing import Final

import trio

SLICE_NS: Final = 1_000_000  # bulk work in one pass of the loop; then the next slice waits for a new pass
SLICE_LINES_MAX: Final = 256  # lines, rows or tasks between two looks at the clock
SHORT_FACTOR: Final = 4  # bulk slices are divided by it while there are interactive connections
LIGHT_NS: Final = 2 * SLICE_NS  # interactive work in one pass; what comes after it shares a commit
LIGHT_NEAR_NS: Final = 100_000_000  # bulk slices are short until that time after the last interactive slice
ENTRY_NS: Final = 300_000  # what accepting and closing a client takes of the loop
# How long at most bulk work pauses for a commit: a disk may be slow. With a disk that takes that long and an
# interactive client that asks without pause, a tenth of the loop is left for bulk work.
HUSH_NS: Final = 2_000_000


class _Lane:
    """The slices that wait, in order, and the work done since one last waited for a new pass."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.spent_ns = 0

    async def rest(self, most_ns: int) -> None:
        """Call with the lock held. Returns in the next pass if ``most_ns`` of this one is spent."""
        if self.spent_ns >= most_ns:
            self.spent_ns = 0
            await trio.lowlevel.checkpoint()


class TimeSlices:
    """``await turn.take()`` before a slice, ``turn.release(began_ns)`` after it, with the same ``light``.

    ``light``: for an interactive connection; ``server/connection.py`` decides which ones are.
    """

    def __init__(self) -> None:
        self._heavy, self._light, self._entries = _Lane(), _Lane(), _Lane()
        self._light_ns = -LIGHT_NEAR_NS  # when the last light slice began
        self._short = False
        self._hush_lsn = 0  # replies of light slices wait for it
        self._hush_until_ns = 0  # no bulk slice begins before that, or before _hush_lsn is durable; 0: it is
        self._hushed = trio.Event()

    async def take(self, *, light: bool = False) -> int:
        """Wait until a slice may begin; return the instant it does, in ns, for `release`.

        It begins at once if little was done since the last wait, so that a single request does not wait for
        another pass.
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
        # A slice never overtakes those that wait already.
        if lane.spent_ns >= self.slice_ns or self._hush_until_ns or lane.lock.locked():
            async with lane.lock:
                await self._be_still()
                await lane.rest(self.slice_ns)
        now_ns = time.perf_counter_ns()
        self._short = now_ns - self._light_ns < LIGHT_NEAR_NS
        return now_ns

    async def enter(self) -> None:
        """Wait until one more client may be accepted: at most `SLICE_NS` of `ENTRY_NS` each in one pass."""
        lane = self._entries
        async with lane.lock:
            await self._be_still()
            await lane.rest(SLICE_NS)
        lane.spent_ns += ENTRY_NS

    async def _be_still(self) -> None:
        """Wait for the end of a pause, once before a slice: close light slices cannot keep it waiting."""
        left_ns = self._hush_until_ns - time.perf_counter_ns()
        if left_ns > 0:
            with trio.move_on_after(left_ns / 1e9):
                await self._hushed.wait()

    def pause_bulk_until(self, lsn: int) -> None:
        """Call after a light slice whose replies wait for ``lsn``: no bulk slice begins until `committed`."""
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
        """For a slice that begins without `take`: the present instant."""
        return time.perf_counter_ns()

    def over(self, began_ns: int) -> bool:
        """Whether a slice that began then has used up its time."""
        return time.perf_counter_ns() - began_ns > self.slice_ns

    def release(self, began_ns: int, *, light: bool = False) -> int:
        """Count a slice that is over; return how long it took, in ns."""
        took_ns = time.perf_counter_ns() - began_ns
        lane = self._light if light else self._heavy
        lane.spent_ns += took_ns
        return took_ns

    def charge(self, work_ns: int) -> None:
        """Count bulk work that cannot be measured."""
        self._heavy.spent_ns += work_ns
