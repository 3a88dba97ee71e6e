"""A folder deleted, replaced or moved under its daemon; spares that are not zero; segments that are cut.

On the real disk, without threads, on a mock clock.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test

from wheeltimer.core.records import Paused, encode
from wheeltimer.errors import JournalDamaged, JournalInUse, StorageFailed
from wheeltimer.journal import Disk, InlineWorker, Journal
from wheeltimer.journal.holding import hold_path
from wheeltimer.journal.preallocation import SPARES_WANTED
from wheeltimer.journal_tools.check import check

from .worlds import FOLDER, SEGMENT, Clock, MemoryDisk, contents, open_journal, put, raw, running

SECOND_S = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def mock_clock() -> MockClock:
    return MockClock()


def open_real(folder: Path) -> Journal:
    return open_journal(Disk(), Clock(), path=folder)


async def run(journal: Journal, task_status: trio.TaskStatus[None]) -> None:
    """Until its storage fails, which ``journal.failure`` tells."""
    with pytest.raises(StorageFailed):
        await journal.run(task_status)


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def replaced(folder: Path) -> None:
    """By a backup: every name is there again, none of the files is ours."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def without(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        (folder / name).unlink()

    return remove


ACCIDENTS = {
    "its files are deleted": emptied,
    "it is deleted": shutil.rmtree,
    "it is replaced": replaced,
    "it is moved away": moved,
    "its lock is deleted": without("lock"),
    "its open segment is deleted": without("0000000001.segment"),
}


@pytest.mark.parametrize("accident", ACCIDENTS.values(), ids=ACCIDENTS)
@trio_test
async def test_a_folder_that_is_gone_is_noticed_within_a_second(
    folder: Path, accident: Callable[[Path], None], mock_clock: MockClock
) -> None:
    """Also where nothing is written, and nothing is acknowledged afterwards."""
    mock_clock.autojump_threshold = 0
    journal = open_real(folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(run, journal)
        await journal.wait_durable(put(journal, raw(20)))
        await trio.sleep(0.1)  # its spares are made
        accident(folder)
        with trio.fail_after(SECOND_S):
            while journal.failure is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        with pytest.raises(StorageFailed):
            journal.append([raw(20)], 20)
    assert "while it was in use" in str(journal.failure)


@trio_test
async def test_what_is_written_to_a_deleted_file_is_never_acknowledged(
    folder: Path, mock_clock: MockClock
) -> None:
    """Before the next look: the commit itself sees it."""
    journal = open_real(folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(run, journal)
        emptied(folder)
        with pytest.raises(StorageFailed):
            await journal.wait_durable(put(journal, raw(20)))


@pytest.mark.parametrize(
    "accident", [emptied, shutil.rmtree, replaced, moved], ids=lambda each: each.__name__
)
def test_a_second_daemon_waits_until_the_first_has_noticed(
    folder: Path, accident: Callable[[Path], None]
) -> None:
    with open_real(folder):
        accident(folder)
        with pytest.raises(JournalInUse, match="in use by process"):
            open_real(folder)
    open_real(folder).abandon()


def test_a_copy_of_a_folder_in_use_starts(folder: Path) -> None:
    copy = folder.with_name("copy")
    with open_real(folder):
        shutil.copytree(folder, copy)
        open_real(copy).abandon()


def test_a_folder_is_free_again_where_its_holder_was_killed(folder: Path) -> None:
    """As after kill -9: the system closes what was held."""
    journal = open_real(folder)
    os.unlink(folder / "lock")
    journal.abandon()
    open_real(folder).abandon()


def test_a_name_that_another_user_holds_keeps_nobody_from_starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold_path(folder)
    assert held is not None
    with pytest.raises(BlockingIOError):
        hold_path(folder)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert hold_path(folder) is None
    os.close(held)


def test_a_file_system_that_locks_no_folders_has_its_lock_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EBADF, "NFS")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(socket.socket, "bind", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    with open_real(folder), pytest.raises(JournalInUse, match=f"process {os.getpid()}"):
        open_real(folder)


# -- spares ---------------------------------------------------------------------------------------


async def used(disk: MemoryDisk, frames: int) -> None:
    async with running(open_journal(disk)) as journal:
        for n in range(frames):
            while not journal.reserve(200):
                await trio.lowlevel.checkpoint()  # spares are on their way
            await journal.wait_durable(journal.append([encode(Paused("q" * 100, n, True))], 200))


@pytest.mark.parametrize("at", [0, 511, SEGMENT // 2, SEGMENT - 1])
@trio_test
async def test_a_spare_with_a_flipped_bit_refuses_no_sound_journal(
    at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A segment is full long before its end, and what lies there must be zeros when it is read."""
    disk = MemoryDisk()
    await used(disk, 2)
    spares = [path for path in disk.files if path.suffix == ".zeros"]
    assert len(spares) == SPARES_WANTED
    for path in spares:
        disk.files[path][at] = 1
    found = check(FOLDER, disk)
    assert found.state == "stopped", "nothing is lost"
    assert found.spares == [(path.name, at) for path in sorted(spares)]
    await used(disk, 4 * SEGMENT // 512)
    assert caplog.text.count("was zeroed") == SPARES_WANTED
    assert check(FOLDER, disk).spares == []
    with open_journal(disk) as journal:
        assert len(contents(journal)) == 2 + 4 * SEGMENT // 512


@trio_test
async def test_a_spare_that_was_written_when_power_went_is_zeros_again() -> None:
    """Header and frames go into a spare before it has a segment's name."""
    disk = MemoryDisk()
    await used(disk, 2)
    (segment,) = [path for path in disk.files if path.suffix == ".segment"]
    spare = min(path for path in disk.files if path.suffix == ".zeros")
    disk.files[spare][:] = disk.files[segment]
    with open_journal(disk) as journal:
        assert journal.found.torn is None
        assert not any(disk.files[spare])


@trio_test
async def test_a_spare_that_cannot_be_read_is_replaced() -> None:
    disk = MemoryDisk()
    await used(disk, 2)
    bad = min(path for path in disk.files if path.suffix == ".zeros")
    disk.fail["read_at"] = lambda path: errno.EIO if path == bad else 0
    with open_journal(disk):
        assert bad not in disk.files


# -- segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, SEGMENT - 512, SEGMENT - 1])
@pytest.mark.parametrize("frames", [1, 3, 30])
@trio_test
async def test_a_segment_that_is_cut_is_damage(size: int, frames: int) -> None:
    """In each place, also behind its last frame, where all records read back: no crash leaves that."""
    disk = MemoryDisk()
    await used(disk, frames)
    for path in sorted(path for path in disk.files if path.suffix == ".segment"):
        whole = bytes(disk.files[path])
        del disk.files[path][size:]
        with pytest.raises(JournalDamaged) as told:
            check(FOLDER, disk)
        assert told.value.file == path.name
        with pytest.raises(JournalDamaged):
            open_journal(disk, hand=InlineWorker())
        disk.files[path][:] = whole
    assert check(FOLDER, disk).state == "stopped"
