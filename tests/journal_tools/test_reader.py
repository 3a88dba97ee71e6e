"""Reading beside a writer: from an lsn on, up to an lsn, and what the end of the file means there."""

from __future__ import annotations

import errno

import pytest
from trio.testing import trio_test

from tests.journal.worlds import FOLDER, MemoryDisk, failing, open_journal, put, raw, running
from wheeltimer.errors import JournalDamaged, JournalNewer, StorageFailed
from wheeltimer.journal.frame import SECTOR_BYTES
from wheeltimer.journal.segment import SegmentHeader, decode_header, encode_header
from wheeltimer.journal_tools.reader import read

FIRST = FOLDER / "0000000001.segment"


async def thirty(disk: MemoryDisk) -> None:
    """Thirty commits of two records each, over several segments."""
    journal = open_journal(disk)
    async with running(journal):
        for index in range(30):
            await journal.wait_durable(put(journal, raw(40, index + 1), raw(50, index + 1)))


def lsns(disk: MemoryDisk, *bounds: int) -> list[int]:
    return [frame.first_lsn for frame in read(FOLDER, *bounds, disk=disk)]


@trio_test
async def test_from_an_lsn_to_an_lsn() -> None:
    disk = MemoryDisk()
    await thirty(disk)
    assert lsns(disk) == list(range(1, 60, 2))
    for start in range(1, 62):
        assert lsns(disk, start) == [lsn for lsn in range(1, 60, 2) if lsn + 1 >= start]
    assert lsns(disk, 20, 30) == [19, 21, 23, 25, 27, 29]
    disk.calls.clear()
    assert lsns(disk, 59) == [59]
    assert disk.calls["read"] <= 8, "of earlier segments only the headers were read"


@trio_test
async def test_a_running_journal_is_read_without_its_lock() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await journal.wait_durable(put(journal, raw(9)))
        assert lsns(disk) == [1]
        before = {path: bytes(data) for path, data in disk.files.items()}
        assert {path: bytes(data) for path, data in disk.files.items()} == before
        disk.files[FIRST][2 * SECTOR_BYTES + 5] = 1  # of a commit under way
        assert lsns(disk) == [1]
        disk.files[FIRST][2 * SECTOR_BYTES + 5] = 0


@trio_test
async def test_a_frame_that_was_written_while_the_file_was_read_is_no_damage() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        for _ in range(3):
            await journal.wait_durable(put(journal, raw(9)))
        whole = bytes(disk.files[FIRST])
        early = whole[: 2 * SECTOR_BYTES] + bytes(SECTOR_BYTES) + whole[3 * SECTOR_BYTES :]
        answers = [early, early[:SECTOR_BYTES]]  # popped from the end: header sector, then the mixed read

        def mixed(path: object, limit: int = -1) -> bytes:
            return answers.pop() if answers else whole

        disk.read = mixed  # type: ignore[method-assign]
        assert lsns(disk) == [1, 2, 3]
        answers[:] = [early, early, early[:SECTOR_BYTES]]
        with pytest.raises(JournalDamaged, match=f"offset {2 * SECTOR_BYTES}"):
            lsns(disk)
        del disk.read


@trio_test
async def test_damage_is_named_and_newer_is_refused() -> None:
    disk = MemoryDisk()
    await thirty(disk)
    disk.files[FIRST][SECTOR_BYTES + 100] ^= 1
    with pytest.raises(JournalDamaged, match=f"{FIRST} at offset {SECTOR_BYTES}"):
        lsns(disk)
    head = decode_header(bytes(disk.files[FIRST]))
    assert head is not None
    disk.files[FIRST][:SECTOR_BYTES] = encode_header(SegmentHeader(2, *head[1:]))[0]
    with pytest.raises(JournalNewer):
        lsns(disk)
    disk.files[FIRST][0] ^= 1
    with pytest.raises(JournalDamaged, match="header"):
        lsns(disk)
    with failing(disk, "read", errno.EIO), pytest.raises(StorageFailed):
        lsns(disk)
