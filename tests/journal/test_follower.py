"""Reading behind the writer: every durable batch once, over seals and trims, and never half a frame."""

from __future__ import annotations

import errno
import random

import pytest
from trio.testing import trio_test

from tests.journal.worlds import FOLDER, MemoryDisk, failing, open_journal, put, raw, running
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Follower, Journal, Trimmed
from wheeltimer.journal import follower as follower_module


async def all_of(follower: Follower, upto_lsn: int) -> list[tuple[int, bytes]]:
    """(first lsn, payload) of what it reads."""
    found = []
    while frames := await follower.read(upto_lsn):
        found += [(frame.first_lsn, bytes(frame.payload)) for frame in frames]
    assert follower.next_lsn == upto_lsn + 1
    return found


async def fill(journal: Journal, count: int, chance: random.Random) -> list[tuple[int, int]]:
    """Batches of several sizes; (first lsn, bytes) of each."""
    put_in = []
    for number in range(count):
        size = chance.randrange(2, 250)
        records = [raw(size, number % 200)] * chance.randrange(1, 4)
        lsn = put(journal, *records)
        put_in.append((lsn - len(records) + 1, len(records) * size))
        await journal.wait_durable(lsn)
    return put_in


@pytest.mark.parametrize("seed", range(5))
@trio_test
async def test_every_batch_comes_once_over_many_segments_from_any_lsn(seed: int) -> None:
    chance = random.Random(seed)
    disk = MemoryDisk()
    async with running(open_journal(disk)) as journal:
        tail = journal.follow()
        batches = await fill(journal, 60, chance)
        assert len([path for path in disk.files if path.suffix == ".segment"]) > 5
        upto_lsn = journal.durable_lsn
        whole = await all_of(tail, upto_lsn)
        assert [lsn for lsn, _ in whole] == [lsn for lsn, _ in batches]
        for _ in range(20):
            lsn = chance.randrange(1, upto_lsn + 1)
            first = max(start for start, _ in batches if start <= lsn)
            found = await all_of(await journal.shelf.find(lsn), upto_lsn)
            assert found == [batch for batch in whole if batch[0] >= first], lsn


@trio_test
async def test_a_reader_follows_what_is_written_after_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that was read before a frame was written holds none of it, or half: it is read again."""
    disk = MemoryDisk()
    async with running(open_journal(disk)) as journal:
        follower = await journal.shelf.find(1)
        for number in range(1, 40):
            lsn = put(journal, raw(100, number))
            assert await follower.read(lsn - 1) == [], "not durable, so not read"
            await journal.wait_durable(lsn)
            (frame,) = await follower.read(lsn)
            assert frame.first_lsn == lsn
            assert bytes(frame.payload).endswith(bytes([number]) * 10)


@trio_test
async def test_a_frame_half_written_when_its_piece_was_read_is_no_fault() -> None:
    disk = MemoryDisk()
    async with running(open_journal(disk)) as journal:
        await journal.wait_durable(put(journal, raw(100, 1)))
        place = journal.follow()
        await journal.wait_durable(put(journal, raw(100, 2)))
        number, offset = place._number, place._offset
        path = FOLDER / f"{number:010d}.segment"
        follower = await journal.shelf.find(1)
        whole = bytes(disk.files[path][offset : offset + 512])
        disk.files[path][offset + 120 : offset + 512] = bytes(392)  # the second frame's end is on its way
        assert len(await follower.read(1)) == 1
        disk.files[path][offset : offset + 512] = whole
        assert len(await follower.read(2)) == 1


@trio_test
async def test_what_was_trimmed_is_told() -> None:
    disk = MemoryDisk()
    async with running(open_journal(disk)) as journal:
        await fill(journal, 40, random.Random(1))
        behind = await journal.shelf.find(1)
        await behind.read(3)
        first_lsn = (await journal.shelf.head(3)).first_lsn
        assert journal.trim(3)
        await journal.wait_durable(put(journal, raw(50)))
        assert await journal.shelf.oldest_lsn() == first_lsn
        with pytest.raises(Trimmed):
            await journal.shelf.find(first_lsn - 1)
        with pytest.raises(Trimmed):
            await all_of(behind, journal.durable_lsn)
        assert await all_of(await journal.shelf.find(first_lsn), journal.durable_lsn)


@trio_test
async def test_a_durable_frame_that_does_not_verify_is_a_fault_of_the_storage() -> None:
    disk = MemoryDisk()
    async with running(open_journal(disk)) as journal:
        await fill(journal, 8, random.Random(2))
        (path,) = (path for path in disk.files if path.name == "0000000001.segment")
        disk.files[path][600] ^= 1
        with pytest.raises(StorageFailed, match=r"0000000001\.segment at offset 512"):
            await all_of(await journal.shelf.find(1), journal.durable_lsn)
        with failing(disk, "read_at", errno.EIO), pytest.raises(StorageFailed, match="cannot be read"):
            await all_of(await journal.shelf.find(1), journal.durable_lsn)


@trio_test
async def test_later_readers_begin_near_their_lsn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thousand who come back together would each walk the whole segment."""
    monkeypatch.setattr(follower_module, "PLACE_EVERY_BYTES", 4096)
    disk = MemoryDisk()
    async with running(open_journal(disk, segment_bytes=1 << 16)) as journal:
        for number in range(100):
            await journal.wait_durable(put(journal, raw(250, number)))
        await all_of(await journal.shelf.find(1), journal.durable_lsn)
        for lsn in (1, 50, 99):
            follower = await journal.shelf.find(lsn)
            frames = await follower.read(lsn)
            assert [frame.first_lsn for frame in frames] == [lsn]
            began = 512 * lsn  # frames of a sector each, behind the header
            assert began - 4096 - 512 <= (await journal.shelf.find(lsn))._offset <= began
