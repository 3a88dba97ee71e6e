"""Descriptors or threads run out while the journal runs: it waits, or has no room, and loses nothing."""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.journal.worlds import MemoryDisk, open_journal, put, raw, reopened, running
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.journal.disk import Disk
from wheeltimer.journal.spare_descriptors import COUNT, SpareDescriptors
from wheeltimer.journal.worker import WorkerThread

RECORDS = 32  # five segments, each a spare before
OPENS = ("create", "read_at")  # what opens a file while the journal runs
LACKS = {errno.EMFILE: "file descriptors", errno.ENFILE: "file descriptors", errno.ENOMEM: "memory"}
FOR_LONG_S = 60.0
Fails = Callable[[Path], int]


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


def nth(first: int, times: float, code: int) -> Fails:
    """Fails call number ``first`` and those after it, ``times`` in all."""
    calls = iter(range(1 << 30))
    return lambda path: code if first <= next(calls) < first + times else 0


def stored_in(disk: Disk, **options: Path) -> list[bytes]:
    """Every record that a fresh start finds; each was a commit of its own."""
    return [payload[1:] for _, _, payload in reopened(disk, **options)]


async def write_and_follow(journal: Journal, records: list[bytes]) -> list[bytes]:
    """Stores the records one after the other, waiting for room; what a follower found of them."""
    follower, found = journal.follow(), []
    for record in records:
        while not journal.reserve(len(record)):  # noqa: ASYNC110 -- nobody says when there is room
            await trio.sleep(0.1)
        lsn = journal.append([record], len(record))
        await journal.wait_durable(lsn)
        for frame in await follower.read(lsn):
            found.append(bytes(frame.payload)[1:])  # without the array's head
        await trio.sleep(0.01)  # a spare is made meanwhile
    return found


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", OPENS)
@trio_test
async def test_an_open_that_fails_once_or_twice_is_tried_again(
    autojump: MockClock, name: str, times: int
) -> None:
    """Each in turn."""
    records = [raw(200, number) for number in range(RECORDS)]
    for first in range(200):
        disk = MemoryDisk()
        journal = open_journal(disk)
        disk.calls.clear()
        disk.fail[name] = nth(first, times, errno.EMFILE)
        async with running(journal):
            assert await write_and_follow(journal, records) == records
        assert journal.failure is None
        calls = disk.calls[name]
        disk.fail.clear()
        assert stored_in(disk) == records
        if first >= calls:
            break
    assert first > 3, "hardly any call was made to fail"


@pytest.mark.parametrize("code", LACKS, ids=lambda code: errno.errorcode[code])
@trio_test
async def test_without_descriptors_for_long_there_is_no_room_and_then_it_goes_on(
    autojump: MockClock, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    stored: list[bytes] = []
    caplog.set_level(logging.INFO, logger="wheeltimer.journal")
    async with running(journal):
        disk.fail["create"] = lambda path: code
        while journal.reserve(200):
            journal.append([raw(200, len(stored))], 200)
            stored.append(raw(200, len(stored)))
            await journal.wait_durable(journal.next_lsn - 1)
        await trio.sleep(FOR_LONG_S)
        assert not journal.reserve(200)
        assert (journal.full, journal.lacks) == (True, LACKS[code])
        assert journal.reserve(200, essential=True), "outcomes have the reserved segments"
        journal.append([raw(200, 250)], 200)
        stored.append(raw(200, 250))
        del disk.fail["create"]
        await trio.sleep(5)
        assert (journal.full, journal.lacks) == (False, "")
        for number in range(RECORDS):
            put(journal, raw(200, number))
            stored.append(raw(200, number))
            await journal.wait_durable(journal.next_lsn - 1)
            await trio.sleep(0.01)
    assert stored_in(disk) == stored
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith(f"no {LACKS[code]} for one more segment")]) == 1
    assert f"{LACKS[code]} for one more segment again" in said


@trio_test
async def test_a_reader_without_descriptors_for_long_is_told_and_the_journal_goes_on(
    autojump: MockClock,
) -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        follower = journal.follow()
        lsn = put(journal, raw(20))
        await journal.wait_durable(lsn)
        disk.fail["read_at"] = disk.fail["names"] = lambda path: errno.EMFILE
        with pytest.raises(StorageFailed, match="cannot be read"):
            await follower.read(lsn)
        with pytest.raises(StorageFailed, match="cannot be read"):
            await journal.shelf.oldest_lsn()
        await journal.wait_durable(put(journal, raw(20)))
        disk.fail.clear()
        assert len(await follower.read(lsn)) == 1
    assert journal.failure is None


# --- the descriptors in hand ---------------------------------------------------------------------------


@contextmanager
def none_left() -> Iterator[list[int]]:
    """All descriptors below a low limit are open; those that were taken, to be closed by the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk()
    disk.hold(tmp_path)
    yield disk
    disk.let_go()


def test_files_are_made_read_and_listed_when_the_process_has_no_descriptor_left(
    held: Disk, tmp_path: Path
) -> None:
    with none_left():
        for number in range(3 * COUNT):
            path = tmp_path / f"{number}"
            fd = held.create(path)
            held.write(fd, b"stored", 0)
            held.sync_folder(tmp_path)
            held.close(fd)
            assert held.read_at(path, 0, 6) == held.read(path) == b"stored"
            held.close(held.open(path))
            assert len(held.names(tmp_path)) == number + 1
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)


def test_sockets_that_take_what_was_closed_are_outlasted_as_long_as_there_is_one(tmp_path: Path) -> None:
    spare, stolen = SpareDescriptors(), list[int]()
    with none_left():

        def robbed(times: int) -> int:
            if len(spare) < COUNT and len(stolen) < times:
                stolen.append(os.dup(0))
            return os.open(tmp_path, os.O_RDONLY)

        fd = spare.call(robbed, COUNT - 1)
        assert len(spare) == 0
        assert len(stolen) == COUNT - 1
        spare.close(fd)  # what the journal closes comes back, one for one
        assert len(spare) == 1
        stolen.clear()
        with pytest.raises(OSError, match="Too many open files"):
            spare.call(robbed, 1)
    spare.close(spare.call(os.dup, 0))
    assert len(spare) == COUNT, "filled again when there are some"
    spare.let_go()


def test_too_few_descriptors_at_the_start_are_an_error_that_keeps_none() -> None:
    for left in range(COUNT + 1):  # one for /dev/null, and one less than are wanted
        with none_left() as taken:
            for _ in range(left):
                os.close(taken.pop())
            before = open_now()
            with pytest.raises(OSError, match="Too many open files"):
                SpareDescriptors()
            assert open_now() == before


def open_now() -> list[int]:
    """Without a descriptor to list them by."""
    found = []
    for fd in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        with suppress(OSError):
            os.fstat(fd)
            found.append(fd)
    return found


def test_a_descriptor_in_hand_keeps_no_file_open(tmp_path: Path) -> None:
    """Else the space of a segment that was removed would not come back, and its lock would be held."""
    before = os.listdir("/proc/self/fd")
    spare, path = SpareDescriptors(), tmp_path / "segment"
    with none_left():
        for _ in range(2 * COUNT):
            spare.close(spare.call(os.open, path, os.O_RDWR | os.O_CREAT))
    opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in spare._fds}
    assert opened == {os.devnull}
    assert not any(map(os.get_inheritable, spare._fds))
    fd = os.open(path, os.O_RDONLY)
    spare.let_go()
    spare.close(fd)
    assert os.listdir("/proc/self/fd") == before, "once they are given back a file is just closed"


def test_changes_of_a_folder_are_synced_without_any_descriptor(held: Disk, tmp_path: Path) -> None:
    with none_left():
        fds = [held.create(tmp_path / f"{number}") for number in range(COUNT)]
        with pytest.raises(OSError, match="Too many open files"):
            held.create(tmp_path / "more")
        held.sync_folder(tmp_path)
        for fd in fds:
            held.close(fd)
        held.close(held.create(tmp_path / "more"))


def test_another_folder_in_its_place_is_not_synced_in_vain(tmp_path: Path) -> None:
    disk, folder = Disk(), tmp_path / "data"
    folder.mkdir()
    disk.hold(folder)
    folder.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        disk.sync_folder(folder)
    folder.mkdir()
    with pytest.raises(OSError, match="another folder"):
        disk.sync_folder(folder)
    disk.let_go()


def test_a_journal_that_was_opened_and_closed_holds_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        open_journal(Disk(), path=tmp_path).abandon()
    assert os.listdir("/proc/self/fd") == before


# --- threads -------------------------------------------------------------------------------------------


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@trio_test
async def test_a_journal_that_runs_needs_no_new_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(Disk(), path=tmp_path, hand=WorkerThread())
    with trio.fail_after(30):
        async with running(journal):
            monkeypatch.setattr(threading.Thread, "start", no_thread)
            monkeypatch.setattr("_thread.start_new_thread", no_thread)
            records = [raw(200, number) for number in range(RECORDS)]
            assert await write_and_follow(journal, records) == records
            assert await journal.shelf.oldest_lsn() == 1
    assert stored_in(Disk(), path=tmp_path) == records


@trio_test
async def test_a_start_without_threads_says_so_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    journal = open_journal(Disk(), path=tmp_path, hand=WorkerThread())
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.RaisesGroup(pytest.RaisesExc(StorageFailed, match="thread")):
        await journal.run()
    assert os.listdir("/proc/self/fd") == before
