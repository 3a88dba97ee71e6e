"""Group commit: who waits for what, what a failure does, when markers are written, how room is counted."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Disk, InlineWorker, Journal, WorkerThread
from wheeltimer.journal.capacity import charge
from wheeltimer.journal.committer import SETTLE_S
from wheeltimer.journal.frame import HEADER_BYTES, SECTOR_BYTES, Kind, header_at
from wheeltimer.journal.segment import decode_header, frame_bytes_max

from .worlds import (
    FOLDER,
    SEGMENT,
    Clock,
    MemoryDisk,
    contents,
    failing,
    open_journal,
    put,
    raw,
    reopened,
    running,
)

FIRST = FOLDER / "0000000001.segment"


class Slow(InlineWorker):
    """A hand whose jobs are done when the test says so; submitting is all that happens before."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        self.waiting.append(job)

    def work(self) -> None:
        """Does the job that was handed over."""
        super().submit(self.waiting.pop(0))


def segments(disk: MemoryDisk) -> list[Path]:
    return sorted(path for path in disk.files if path.suffix == ".segment")


@trio_test
async def test_one_write_and_one_sync_for_all_that_wait() -> None:
    disk, hand = MemoryDisk(), Slow()
    journal = open_journal(disk, hand=hand, segment_bytes=1 << 16)
    async with running(journal, clean=False):
        await wait_all_tasks_blocked()
        disk.calls.clear()
        first = put(journal, raw(9))
        later = [put(journal, raw(9), raw(8)) for _ in range(100)]
        assert len(hand.waiting) == 1, "an idle disk is handed the first record at once"
        hand.work()
        await journal.wait_durable(first)
        assert journal.durable_lsn == first
        hand.work()
        await journal.wait_durable(later[-1])
        assert (journal.commits, journal.durable_lsn, first, later[0]) == (2, 201, 1, 3)
        assert disk.calls["fdatasync"] == 2
        assert disk.calls["pwrite"] == 3, "two frames and the marker of the second"
    assert [records for _, records, _ in reopened(disk, segment_bytes=1 << 16)] == [1, 200]


@trio_test
async def test_a_held_slice_is_one_commit() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk, segment_bytes=1 << 16)
    async with running(journal):
        for _ in range(50):
            lsn = put(journal, raw(30), hold=True)
        assert journal.durable_lsn == 0
        journal.flush()
        await journal.wait_durable(lsn)
        assert journal.commits == 1


@trio_test
async def test_waiting_hands_over_what_is_held() -> None:
    journal = open_journal(MemoryDisk())
    async with running(journal):
        with trio.fail_after(5):
            await journal.wait_durable(put(journal, raw(9), hold=True))
        assert journal.durable_lsn == journal.next_lsn - 1 == 1


@trio_test
async def test_replies_leave_in_the_order_of_their_lsns() -> None:
    disk, hand, woken, told = MemoryDisk(), Slow(), list[int](), list[int]()
    journal = open_journal(disk, hand=hand, segment_bytes=1 << 16)
    journal.on_durable.append(told.append)

    async def wait(lsn: int) -> None:
        await journal.wait_durable(lsn)
        assert journal.durable_lsn >= lsn
        woken.append(lsn)

    async with running(journal, clean=False), trio.open_nursery() as nursery:
        lsns = [put(journal, raw(9)) for _ in range(10)]
        for lsn in (7, 3, 10, 1, 3, 2):
            nursery.start_soon(wait, lsn)
        await wait_all_tasks_blocked()
        assert woken == []
        hand.work()
        await wait_all_tasks_blocked()
        assert woken == [1]
        hand.work()
        await wait_all_tasks_blocked()
        assert sorted(woken) == [1, 2, 3, 3, 7, 10]
        assert told == [1, lsns[-1]]
        await journal.wait_durable(1)


@trio_test
async def test_a_cancelled_wait_loses_nothing() -> None:
    disk, hand = MemoryDisk(), Slow()
    journal = open_journal(disk, hand=hand)
    async with running(journal, clean=False):
        lsn = put(journal, raw(9))
        with trio.move_on_after(0):
            await journal.wait_durable(lsn)
        second = put(journal, raw(10))
        with trio.move_on_after(0):
            await journal.wait_durable(second)
        hand.work()
        await journal.wait_durable(lsn)
        hand.work()
        await journal.wait_durable(second)
    assert [lsn for lsn, _, _ in reopened(disk)] == [1, 2]


async def fail_and_collect(journal: Journal, waiting: int) -> list[str]:
    """Starts so many waiters, runs the journal until it dies, returns what each of them was told."""
    told: list[str] = []

    async def wait(lsn: int) -> None:
        try:
            await journal.wait_durable(lsn)
        except StorageFailed as exc:
            told.append(str(exc))

    async with trio.open_nursery() as nursery:
        for _ in range(waiting):
            nursery.start_soon(wait, put(journal, raw(9)))
        await wait_all_tasks_blocked()
        with pytest.raises(StorageFailed):
            await journal.run()
        nursery.cancel_scope.deadline = trio.current_time() + 10  # who was told by then has ended
    return told


@pytest.mark.parametrize("hand", [InlineWorker, WorkerThread])
@pytest.mark.parametrize(
    ("call", "code"), [("fdatasync", errno.EIO), ("pwrite", errno.EIO), ("pwrite", errno.ENOSPC)]
)
def test_a_failed_sync_is_never_tried_again(
    hand: type[InlineWorker | WorkerThread], call: str, code: int
) -> None:
    """beanstalkd 1.12 answers INSERTED after a failed fsync; and a second sync may lie."""

    async def main() -> None:
        disk = MemoryDisk()
        journal = open_journal(disk, hand=hand())
        disk.calls.clear()
        with failing(disk, call, code, lambda path: path.suffix == ".segment"):
            told = await fail_and_collect(journal, 5)
        assert len(told) == 5
        assert all("cannot be written" in text for text in told)
        calls = [name for name, path in disk.log if path.endswith(".segment")]
        assert calls.count(call) == 1, "it is not tried again"
        assert calls[-1] == call, "nothing touches the file after the failure"
        assert journal.durable_lsn == 0
        assert journal.failure is not None
        with pytest.raises(StorageFailed):
            await journal.wait_durable(1)
        with pytest.raises(StorageFailed):
            put(journal, raw(9))
        with pytest.raises(StorageFailed):
            await journal.close()
        assert not disk.open_files
        assert not [thread for thread in threading.enumerate() if thread.name == "journal"]

    trio.run(main)


@trio_test
async def test_what_was_durable_before_a_failure_stays_acknowledged() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)

    async def use() -> None:
        lsn = put(journal, raw(9))
        await journal.wait_durable(lsn)
        disk.fail["fdatasync"] = lambda path: errno.EIO
        with trio.CancelScope(shield=True):
            with pytest.raises(StorageFailed):
                await journal.wait_durable(put(journal, raw(9)))
            await journal.wait_durable(lsn)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        with pytest.raises(StorageFailed):
            await journal.run()
    disk.fail.clear()
    assert reopened(disk)[0][0] == 1


@trio_test
async def test_a_short_write_is_finished() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        for short in (1, 88, 100, 511):
            disk.short = short
            await journal.wait_durable(put(journal, raw(200, short % 251)))
    assert [payload[3] for _, _, payload in reopened(disk)] == [1, 88, 100, 511 % 251]


@trio_test
async def test_a_write_of_nothing_is_a_failure() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    disk.pwrite = lambda fd, data, offset: 0  # type: ignore[method-assign]
    assert len(await fail_and_collect(journal, 2)) == 2


@trio_test
async def test_a_full_segment_is_sealed_before_the_next_has_a_name() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await wait_all_tasks_blocked()
        while len(segments(disk)) == 1:
            disk.log.clear()
            await journal.wait_durable(put(journal, raw(200)))
    calls = [(name, Path(path).suffix) for name, path in disk.log]
    seal = calls.index(("pwrite", ".segment"))
    assert calls[seal : seal + 7] == [
        ("pwrite", ".segment"), ("fdatasync", ".segment"),  # seal
        ("pwrite", ".zeros"), ("fdatasync", ".zeros"), ("rename", ".zeros"), ("sync_folder", ""),
        ("pwrite", ".segment"),
    ]  # fmt: skip


@trio_test
async def test_many_segments_come_back_in_order() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    want = []
    async with running(journal):
        for index in range(300):
            record = raw(2 + index % 200, index % 251)
            want.append(record)
            lsn = put(journal, record)
            await journal.wait_durable(lsn)
            await trio.lowlevel.checkpoint()
    assert len(segments(disk)) > 30
    progress: list[tuple[int, int]] = []
    with open_journal(disk) as journal:
        out = [bytes(frame.payload)[1:] for frame in journal.replay(lambda *args: progress.append(args))]
        assert journal.bytes == sum(len(data) for path, data in disk.files.items() if path.suffix != "")
    assert out == want
    assert progress[-1][0] == progress[-1][1]
    assert all(done <= total for done, total in progress)


def marker(disk: MemoryDisk, path: Path = FIRST) -> Kind | None:
    """What stands in the slot of the first frame of a segment."""
    data = bytes(disk.files[path])
    head = decode_header(data)
    assert head is not None
    header = header_at(data, 2 * SECTOR_BYTES - HEADER_BYTES, head.salt)
    return None if header is None else Kind(header.kind)


def test_a_marker_is_written_when_the_disk_is_idle_and_synced_after_a_second() -> None:
    clock = MockClock()

    async def main() -> None:
        disk = MemoryDisk()
        journal = open_journal(disk, segment_bytes=1 << 16)
        async with running(journal):
            await wait_all_tasks_blocked()
            for _ in range(3):
                await journal.wait_durable(put(journal, raw(9)))
                clock.jump(SETTLE_S * 0.9)
                await wait_all_tasks_blocked()
            assert marker(disk) == Kind.MARKER
            syncs, writes = disk.calls["fdatasync"], disk.calls["pwrite"]
            clock.jump(SETTLE_S * 0.2)
            await wait_all_tasks_blocked()
            assert disk.calls["fdatasync"] == syncs + 1
            for _ in range(50):
                clock.jump(10)
                await wait_all_tasks_blocked()
            assert (disk.calls["fdatasync"], disk.calls["pwrite"]) == (syncs + 1, writes), (
                "once in an idle period"
            )
            await journal.wait_durable(put(journal, raw(9)))
            clock.jump(SETTLE_S)
            await wait_all_tasks_blocked()
            assert disk.calls["fdatasync"] == syncs + 3

    trio.run(main, clock=clock)


@trio_test
async def test_a_clean_stop_is_marked_and_synced() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        lsn = put(journal, raw(9))
        disk.log.clear()
        await journal.close()
        assert journal.durable_lsn == lsn
        assert [name for name, path in disk.log if path == FIRST.name][-2:] == ["pwrite", "fdatasync"]
    assert marker(disk) == Kind.STOP
    assert not disk.open_files


@trio_test
async def test_close_commits_what_is_held() -> None:
    disk, hand = MemoryDisk(), Slow()
    journal = open_journal(disk, hand=hand)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        put(journal, raw(9))
        put(journal, raw(10), hold=True)
        nursery.start_soon(journal.close)
        for _ in range(3):
            await wait_all_tasks_blocked()
            hand.work()
    assert journal.durable_lsn == 2
    assert marker(disk) is None, "somebody followed"
    assert reopened(disk) == [(1, 1, b"\x91" + raw(9)), (2, 1, b"\x91" + raw(10))]


@trio_test
async def test_without_sync_everything_but_the_syncs_is_the_same() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk, fsync=False)
    async with running(journal):
        await wait_all_tasks_blocked()
        disk.calls.clear()
        for _ in range(3):
            await journal.wait_durable(put(journal, raw(9)))
        assert disk.calls["fdatasync"] == 0
        assert disk.calls["pwrite"] == 6
    assert len(reopened(disk)) == 3


@trio_test
async def test_room_is_given_back_and_never_promised_twice() -> None:
    """Whatever could be reserved at one time can be appended, in frames of its own, to the last byte."""
    segment_bytes = 8192
    for size in (1, 300, 332, 1000, 1500, frame_bytes_max(segment_bytes) - 181):
        disk = MemoryDisk()
        disk.fail["allocate"] = lambda path, disk=disk: errno.ENOSPC if len(disk.files) > 5 else 0  # type: ignore[misc]
        journal = open_journal(disk, segment_bytes=segment_bytes)

        async def use_up(journal: Journal, size: int, *, essential: bool) -> int:
            used = 0
            while True:
                taken = 0
                while journal.reserve(size, essential=essential):
                    taken += 1
                for _ in range(taken):
                    await journal.wait_durable(journal.append([bytes(size)], size))
                if taken == 0:
                    return used
                used += taken

        async with running(journal):
            await wait_all_tasks_blocked()
            assert len(segments(disk)) == 1
            normal = await use_up(journal, size, essential=False)
            assert len(segments(disk)) <= 2
            essential = await use_up(journal, size, essential=True)
            assert len(segments(disk)) == 4
            assert essential >= normal, "two segments of four are kept"
        assert len(reopened(disk, segment_bytes=segment_bytes)) == normal + essential


@trio_test
async def test_released_room_can_be_taken_again() -> None:
    journal = open_journal(MemoryDisk())
    async with running(journal):
        await wait_all_tasks_blocked()
        for _ in range(100):
            taken = 0
            while journal.reserve(100):
                taken += 1
            assert taken > 5
            for _ in range(taken):
                journal.release(100)


def test_a_full_disk_refuses_and_recovers_by_itself() -> None:
    clock = MockClock()

    async def main() -> None:
        disk = MemoryDisk()
        journal = open_journal(disk)
        full = [True]
        disk.fail["allocate"] = lambda path: errno.ENOSPC if full[0] else 0
        async with running(journal):
            while journal.reserve(200):
                await journal.wait_durable(journal.append([raw(200)], 200))
                await wait_all_tasks_blocked()
            assert journal.reserve(200, essential=True), "what is kept for outcomes is there"
            await journal.wait_durable(journal.append([raw(200)], 200))
            assert not journal.reserve(200)
            for _ in range(5):
                clock.jump(1)
                await wait_all_tasks_blocked()
            assert not journal.reserve(200)
            full[0] = False
            clock.jump(1)
            await wait_all_tasks_blocked()
            assert journal.reserve(200)

    trio.run(main, clock=clock)


@trio_test
async def test_a_spare_that_cannot_be_written_ends_the_journal() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    with (
        failing(disk, "fdatasync", errno.EIO, lambda path: path.suffix == ".tmp"),
        pytest.raises(StorageFailed),
    ):
        await journal.run()
    assert not disk.open_files


@trio_test
async def test_decisions_are_never_split_and_frames_never_too_long() -> None:
    disk, hand = MemoryDisk(), Slow()
    journal = open_journal(disk, hand=hand, segment_bytes=8192)
    async with running(journal, clean=False):
        await wait_all_tasks_blocked()
        put(journal, raw(9))
        for _ in range(8):
            put(journal, raw(150), raw(150), raw(150))
        for _ in range(3):
            hand.work()
            await wait_all_tasks_blocked()
    assert [records for _, records, _ in reopened(disk, segment_bytes=8192)] == [1, 12, 12]


def test_small_folders_take_smaller_segments() -> None:
    disk = MemoryDisk()
    disk.free = 7 * 16384
    with open_journal(disk, segment_bytes=1 << 20, segment_bytes_least=4096) as journal:
        assert journal.segment_bytes == 16384
    disk.free = 100
    with open_journal(disk, segment_bytes=1 << 20, segment_bytes_least=8192) as journal:
        assert journal.segment_bytes == 8192


def test_spares_of_an_earlier_run_are_used_and_those_of_another_size_are_not() -> None:
    disk = MemoryDisk()

    async def use(size: int) -> None:
        journal = open_journal(disk, segment_bytes=size)
        async with running(journal):
            await wait_all_tasks_blocked()

    trio.run(use, 8192)
    spares = [path for path in disk.files if path.suffix == ".zeros"]
    assert len(spares) == 3
    disk.calls.clear()
    trio.run(use, 8192)
    assert disk.calls["allocate"] == 0
    trio.run(use, 4096)
    assert [len(data) for path, data in disk.files.items() if path.suffix == ".zeros"] == [4096] * 3


def test_charge_covers_a_frame_of_its_own() -> None:
    for size in range(2000):
        assert charge(size) % SECTOR_BYTES == 0
        assert charge(size) - SECTOR_BYTES < size + 5 + 2 * HEADER_BYTES <= charge(size)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "journal"]


@pytest.mark.parametrize("end", ["close", "cancel", "crash"])
def test_the_thread_is_joined_and_files_closed_however_it_ends(end: str, tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=1 << 16)
        with trio.CancelScope() as scope:
            async with running(journal):
                assert threads() == ["journal"]
                await journal.wait_durable(put(journal, raw(9)))
                put(journal, raw(10))  # under way when the end comes
                if end == "cancel":
                    scope.cancel()
                elif end == "crash":
                    raise KeyError("a bug elsewhere")

    if end == "crash":
        with pytest.raises(ExceptionGroup):
            trio.run(main)
    else:
        trio.run(main)
    assert threads() == []
    with Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=1 << 16) as journal:
        assert [lsn for lsn, _, _ in contents(journal)] == [1, 2], "the commit under way was finished"


def test_the_real_thing_under_many_writers(tmp_path: Path) -> None:
    """A thread, a real disk, 20 writers that wait for each record: all is there, in few commits."""
    segment_bytes = 1 << 20  # so large that no spare has to come in time

    async def main() -> None:
        journal = Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=segment_bytes)
        kept: list[tuple[int, bytes]] = []

        async def write(fill: int) -> None:
            for size in range(2, 102):
                record = raw(size, fill)
                lsn = put(journal, record)
                await journal.wait_durable(lsn)
                kept.append((lsn, record))

        async with running(journal), trio.open_nursery() as nursery:
            for fill in range(20):
                nursery.start_soon(write, fill)
        assert journal.commits <= 1500
        want = b"".join(record for _, record in sorted(kept))
        with Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=segment_bytes) as journal:
            out = list(journal.replay())
        assert sum(frame.records for frame in out) == 2000
        heads = [1 if frame.records < 16 else 3 for frame in out]
        assert b"".join(bytes(f.payload)[h:] for f, h in zip(out, heads, strict=True)) == want

    trio.run(main)


def test_a_slow_disk_does_not_stop_the_loop(tmp_path: Path) -> None:
    class Asleep(Disk):
        def fdatasync(self, fd: int) -> None:
            time.sleep(0.05)

    async def main() -> None:
        journal = Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=SEGMENT, disk=Asleep())
        async with running(journal):
            lsn, turns = put(journal, raw(9)), 0
            while journal.durable_lsn < lsn:
                await trio.sleep(0.001)
                turns += 1
            assert turns > 5

    trio.run(main)
