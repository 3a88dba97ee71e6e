"""Hands over due tasks, detects clock steps, forgets ended tasks when their retention is over.

The ticker sleeps until the next bucket that holds a key, at most 1 s; every time it wakes it compares the
wall clock with elapsed time and sets ``alive_ns``. Due tasks become ``ready`` here, and the dispatcher starts
the attempts that may start at once; nothing here waits for a receiver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from wheeltimer.core import outcome
from wheeltimer.core import records as r
from wheeltimer.core.task import NS_PER_MS, Now, Task
from wheeltimer.runtime.clock import Clock, stepped
from wheeltimer.runtime.timer import DeadlineTimer
from wheeltimer.shard.durable import DurableEngine

HORIZON_NS: Final = 1_000_000_000  # the longest sleep: often enough for clock steps and the health check
SLICE_MAX: Final = 64  # keys handed over before the ticker yields to the loop; about 10 us each
FULL_PAUSE_S: Final = 0.02  # until timers are looked at again, if the journal had no space for an end
_log = logging.getLogger("wheeltimer.ticker")


class Ticker:
    """Runs the engine's wheels; ``handed_over`` is called after each slice of due tasks.

    ``alive_ns``: when it last woke, for the health check.
    """

    def __init__(
        self, ledger: DurableEngine, clock: Clock, timer: DeadlineTimer, handed_over: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._engine = ledger.engine
        self._clock = clock
        self._timer = timer
        self._handed_over = handed_over
        self._armed_ns = 0
        self.lateness = Lateness()
        self.steps = 0
        self.alive_ns = 0

    def poke(self) -> None:
        """Call after tasks were added: wakes the ticker earlier if one of them is due earlier. O(1)."""
        wake_ns = self._engine.earliest_added_ns
        if wake_ns < self._armed_ns:
            self._arm(wake_ns)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled."""
        before = self._clock.now()
        task_status.started()
        while True:
            now = self._clock.now()
            self.alive_ns = now.elapsed_ns
            if step_ns := stepped(before, now):
                self._stepped(step_ns)
            before = now
            room = self._hand_over(now)
            forgot = self._ledger.forget(now)
            if forgot:
                self._ledger.changed()
            wake_ns = self._engine.next_wake_ns(now, HORIZON_NS)
            if not room:
                await trio.sleep(FULL_PAUSE_S)
            elif forgot or wake_ns <= now.elapsed_ns:
                await trio.lowlevel.checkpoint()
            else:
                self._arm(wake_ns)
                await self._timer.wait()

    def _stepped(self, step_ns: int) -> None:
        self.steps += 1
        self._ledger.journal.mark()
        _log.warning("clock step of the wall clock step_ms=%d steps=%d", step_ns // NS_PER_MS, self.steps)

    def _hand_over(self, now: Now) -> bool:
        """One slice of due tasks; False if the journal had no space for an end, which is then tried again."""
        room = True
        keys = self._engine.take_due(now, SLICE_MAX)
        handed: list[Task] = []
        for key in keys:
            task = self._engine.get(key)
            assert task is not None
            what = outcome.due(self._engine, key, task, now, self._ledger.journal.next_lsn)
            if isinstance(what, r.Due):
                self._ledger.apply_volatile(what)
                handed.append(task)
            elif what is not None:
                if self._ledger.submit(what):
                    self._ledger.changed()
                else:
                    room = False
        if keys:
            now = self._clock.now()  # read again: lateness includes the time that this slice took
            for task in handed:
                self.lateness.add(task.late_ns(now))
            self._handed_over()
        return room

    def _arm(self, wake_ns: int) -> None:
        self._armed_ns = wake_ns
        self._timer.arm(wake_ns)


# -- how late timers were ----------------------------------------------------------------------------------
# A histogram with bounded error and memory, for ``stats`` and the benchmarks.

_STEPS: Final = 16  # buckets per doubling: a percentile is right to within 1/16
_SHIFT: Final = 4


class Lateness:
    """Counts of lateness in microseconds, in buckets whose width grows with it; at most 600 buckets."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.max_us = 0

    def add(self, late_ns: int) -> None:
        late_us = max(0, late_ns) // 1000
        shift = max(0, late_us.bit_length() - 1 - _SHIFT)
        bucket = shift * _STEPS + (late_us >> shift)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1
        self.max_us = max(self.max_us, late_us)

    def percentile_us(self, permille: int) -> int:
        """The lateness that ``permille`` of 1000 timers stayed within, in us, rounded up; 0 for none."""
        wanted = -(-self.total * permille // 1000)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                shift = max(0, bucket // _STEPS - 1)
                return min(self.max_us, ((bucket - shift * _STEPS + 1) << shift) - 1)
        return 0

    def shown(self) -> dict[str, int]:
        """p50, p99, p99.9 and max in us."""
        return {
            "p50": self.percentile_us(500),
            "p99": self.percentile_us(990),
            "p999": self.percentile_us(999),
            "max": self.max_us,
        }
