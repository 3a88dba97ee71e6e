"""Clocks and timers for tests: time moves when the test says so.

``ManualClock`` answers like ``runtime.clock.SystemClock``, ``ManualTimer`` like the timers of
``runtime.timer``; ``tests/runtime/test_clock.py`` holds them against the real ones.
"""

from __future__ import annotations

import trio

from wheeltimer.core.task import Now

START_WALL_NS = 1_750_000_000_000_000_000
START_ELAPSED_NS = 1_000_000_000_000


class ManualClock:
    """Elapsed and wall time that stand still until ``advance``; ``step_wall`` moves the wall alone."""

    def __init__(
        self,
        elapsed_ns: int = START_ELAPSED_NS,
        wall_ns: int = START_WALL_NS,
        boot_id: bytes = b"boot-of-the-test",
    ) -> None:
        assert len(boot_id) == 16
        self.boot_id = boot_id
        self._elapsed_ns = elapsed_ns
        self._wall_ns = wall_ns
        self.timers: list[ManualTimer] = []

    def now(self) -> Now:
        return Now(self._elapsed_ns, self._wall_ns)

    def elapsed_ns(self) -> int:
        return self._elapsed_ns

    def advance(self, ns: int) -> None:
        """Let time pass on both clocks; timers that come due are woken."""
        assert ns >= 0
        self._elapsed_ns += ns
        self._wall_ns += ns
        self._wake(stepped=False)

    def step_wall(self, ns: int) -> None:
        """Set the wall clock forward (or back): wakes every timer at once, as the kernel does."""
        self._wall_ns += ns
        self._wake(stepped=True)

    def reboot(self, boot_id: bytes, elapsed_ns: int = 5_000_000_000) -> None:
        """Another boot: elapsed time starts anew, wall time goes on."""
        assert len(boot_id) == 16
        assert boot_id != self.boot_id
        self.boot_id = boot_id
        self._elapsed_ns = elapsed_ns

    def _wake(self, *, stepped: bool) -> None:
        for timer in self.timers:
            timer.look(stepped=stepped)


class ManualTimer:
    """A ``DeadlineTimer`` that hangs on a ``ManualClock``."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._deadline_elapsed_ns: int | None = None
        self._stepped = False
        self._look = trio.Event()
        clock.timers.append(self)

    def arm(self, deadline_elapsed_ns: int) -> None:
        self._deadline_elapsed_ns = deadline_elapsed_ns
        self._look.set()

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self._stepped or self._has_come()):
            self._look = trio.Event()
            await self._look.wait()
        self._stepped = False
        if self._has_come():
            self._deadline_elapsed_ns = None

    def close(self) -> None:
        if self in self._clock.timers:
            self._clock.timers.remove(self)

    def look(self, *, stepped: bool) -> None:
        """Time has moved; called by the clock."""
        self._stepped |= stepped
        self._look.set()

    def _has_come(self) -> bool:
        return self._deadline_elapsed_ns is not None and self._deadline_elapsed_ns <= self._clock.elapsed_ns()
