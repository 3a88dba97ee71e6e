"""A disk that is slow is counted, and told of once and not at every commit."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from wheeltimer.journal import InlineWorker, writer
from wheeltimer.journal.worker import Job

from .worlds import MemoryDisk, open_journal, put, raw, running


class Stopwatch:
    """Stands for the module ``time``; moved by the disk."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns


class SlowDisk(MemoryDisk):
    """Each sync takes ``sync_ms``."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch, self.sync_ms = watch, 3

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.watch.now_ns += self.sync_ms * 1_000_000


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    watch = Stopwatch()
    monkeypatch.setattr(writer, "time", watch)
    return SlowDisk(watch)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [said.getMessage() for said in caplog.records if said.levelno >= logging.WARNING]


def test_a_storm_of_slow_syncs_is_counted_each_and_warned_of_once_a_minute(
    disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        journal = open_journal(disk, segment_bytes=1 << 16)
        async with running(journal):
            await journal.wait_durable(put(journal, raw(9)))
            assert (journal.pace.slow_syncs, journal.pace.sync_ms_max) == (0, 3)
            disk.sync_ms = 1000
            await journal.wait_durable(put(journal, raw(9)))
            assert (journal.pace.slow_syncs, journal.pace.sync_ms_max) == (0, 1000)
            assert warned(caplog) == []
            disk.sync_ms = 1500
            for _ in range(40):  # a minute of them
                await journal.wait_durable(put(journal, raw(9)))
            assert (journal.pace.slow_syncs, journal.pace.sync_ms_max) == (40, 1500)
            (line,) = warned(caplog)
            assert "0000000001.segment took ms=1500 slow_syncs=1" in line
            await journal.wait_durable(put(journal, raw(9)))
            assert len(warned(caplog)) == 2
            assert "slow_syncs=41" in warned(caplog)[1]
            disk.sync_ms = 3

    trio.run(main)


class Stuck(InlineWorker):
    """Once it is ``stuck``, nothing that is handed over is done before ``go_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = False
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        if self.stuck:
            self.jobs.append(job)
        else:
            super().submit(job)

    def go_on(self) -> None:
        super().submit(self.jobs.pop(0))


def test_a_commit_that_does_not_end_is_told_of_while_it_hangs(
    disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that never comes back must not be silent; the clock is set, nobody sleeps."""

    async def main() -> None:
        hand = Stuck()
        journal = open_journal(disk, hand=hand, segment_bytes=1 << 16)
        async with running(journal, clean=False):
            await trio.sleep(10)
            assert warned(caplog) == []
            hand.stuck = True
            put(journal, raw(200))
            with trio.move_on_after(30):
                await journal.wait_durable(1)
            (line,) = warned(caplog)
            assert "over ms=1000 unsynced_bytes=512" in line
            assert journal.unsynced_bytes == 512
            hand.go_on()
            await wait_all_tasks_blocked()
            assert (journal.durable_lsn, journal.unsynced_bytes) == (1, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))
