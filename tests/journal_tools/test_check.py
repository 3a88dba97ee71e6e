"""`journal check` judges as a start does, and is not fooled by a folder that changes while it is read."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test, wait_all_tasks_blocked

from tests.journal.worlds import FOLDER, MemoryDisk, failing, open_journal, put, running
from wheeltimer.core import records as r
from wheeltimer.errors import BadValue, JournalDamaged, JournalNewer, StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.journal.frame import SECTOR_BYTES
from wheeltimer.journal.recovery import scan
from wheeltimer.journal.segment import SegmentHeader, decode_header, encode_header
from wheeltimer.journal_tools.check import check

FIRST = FOLDER / "0000000001.segment"


def paused(number: int, size: int = 40) -> bytes:
    """A record of our own, of about ``size`` bytes."""
    return r.encode(r.Paused(f"q{number}".ljust(size, "x"), 1_700_000_000_000 + number, number % 2 == 0))


async def three_segments(disk: MemoryDisk, *, clean: bool = True) -> None:
    journal = open_journal(disk)
    async with running(journal, clean=clean):
        await fill(journal)
    assert len(segments(disk)) == 3


async def fill(journal: Journal) -> None:
    for number in range(8):
        await wait_all_tasks_blocked()  # spares are made
        await journal.wait_durable(put(journal, paused(number), paused(number, 300)))


def segments(disk: MemoryDisk) -> list[Path]:
    return sorted(path for path in disk.files if path.suffix == ".segment" and path.parent == FOLDER)


def start_says(disk: MemoryDisk) -> str:
    """Recovery's verdict: the error's text, or the last lsn and what was torn."""
    names = [(int(path.name[:10]), path.name) for path in segments(disk)]
    try:
        found = scan(FOLDER, names, lambda name: disk.read(FOLDER / name))
    except (JournalDamaged, JournalNewer) as error:
        return str(error)
    torn = found.torn and (found.torn[0].name, *found.torn[1:])
    return f"{found.next_lsn - 1} {torn}"


def check_says(disk: MemoryDisk) -> str:
    try:
        found = check(FOLDER, disk)
    except (JournalDamaged, JournalNewer) as error:
        return str(error)
    return f"{found.last_lsn} {found.torn}"


@trio_test
async def test_what_is_found_is_counted() -> None:
    disk = MemoryDisk()
    await three_segments(disk)
    before = {path: bytes(data) for path, data in disk.files.items()}
    disk.calls.clear()
    found = check(FOLDER, disk)
    assert (found.state, found.segments, found.frames, found.records) == ("stopped", 3, 8, 16)
    assert (found.first_lsn, found.last_lsn, found.torn) == (1, 16, None)
    assert found.kinds == Counter(paused=16)
    assert set(disk.calls) <= {"names", "read", "read_at"}, "it only reads"
    assert {path: bytes(data) for path, data in disk.files.items()} == before


def damages(disk: MemoryDisk) -> Iterator[str]:
    """Every bit, every cut (with nothing, and zeros, behind it) and every zeroed sector of every file."""
    for path in segments(disk):
        whole = bytes(disk.files[path])
        used = len(whole.rstrip(b"\0"))
        for at in range(used):
            for bit in range(8):
                disk.files[path][at] = whole[at] ^ 1 << bit
                yield f"{path.name}: bit {bit} of {at}"
            disk.files[path][at] = whole[at]
        for at in range(used):
            for rest in (b"", bytes(len(whole) - at)):
                disk.files[path][:] = whole[:at] + rest
                yield f"{path.name}: cut at {at}, then {len(rest)} zeros"
        for at in range(0, used, SECTOR_BYTES):
            disk.files[path][:] = whole[:at] + bytes(SECTOR_BYTES) + whole[at + SECTOR_BYTES :]
            yield f"{path.name}: sector {at} zeroed"
        disk.files[path][:] = whole


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_check_and_recovery_agree_on_every_damage(clean: bool, thorough: bool) -> None:
    disk = MemoryDisk()
    trio.run(lambda: three_segments(disk, clean=clean))
    tally: Counter[str] = Counter()
    for number, what in enumerate(damages(disk)):
        if not thorough and number % 5:
            continue
        says = check_says(disk)
        assert says == start_says(disk), what
        tally["refused" if "damaged" in says else "started"] += 1
    assert tally["refused"] > 1000
    assert tally["started"] > 50


@trio_test
async def test_a_missing_segment_is_named() -> None:
    disk = MemoryDisk()
    await three_segments(disk)
    second = segments(disk)[1]
    del disk.files[second]
    with pytest.raises(JournalDamaged, match="segment 2 is missing") as caught:
        check(FOLDER, disk)
    assert caught.value.file == "0000000003.segment"
    assert caught.value.offset == 0
    assert caught.value.lsn > 1


@trio_test
async def test_frames_that_hold_no_records_are_damage_as_they_are_to_a_start() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await journal.wait_durable(put(journal, paused(1)))
        await journal.wait_durable(put(journal, b"\x91\xa1?"))
    with pytest.raises(JournalDamaged, match="holds no records of this version") as caught:
        check(FOLDER, disk)
    assert (caught.value.offset, caught.value.lsn) == (2 * SECTOR_BYTES, 2)


@trio_test
async def test_trimmed_segments_are_not_judged() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await fill(journal)
        kept = bytes(disk.files[FIRST])
        assert journal.trim(2)
        await journal.wait_durable(journal.next_lsn - 1)
    assert FIRST not in disk.files
    assert check(FOLDER, disk).first_lsn > 1
    disk.files[FIRST] = bytearray(kept[:5000])  # a kill before it was removed
    disk.files[FIRST][700] ^= 1
    found = check(FOLDER, disk)
    assert (found.trimmed, found.segments) == (1, 2)


@trio_test
async def test_a_segment_that_is_trimmed_while_it_is_read_is_no_damage() -> None:
    """Listed, then gone; and the record that says so stands in a segment that was not listed yet."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await fill(journal)
        early = [path.name for path in segments(disk)]
        await fill(journal)
        assert journal.trim(3)
        await fill(journal)
        for stale in ([early], [early[2:]], [early, early[2:]]):
            answers = [*stale]
            now = MemoryDisk.names(disk, FOLDER)
            disk.names = lambda folder, a=answers, n=now: a.pop(0) if a else n  # type: ignore[method-assign]
            assert check(FOLDER, disk).last_lsn == journal.durable_lsn
            assert not answers, "it looked again"
        del disk.names


@trio_test
async def test_a_frame_that_was_written_while_the_file_was_read_is_no_damage() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        for number in range(3):
            await journal.wait_durable(put(journal, paused(number)))
        whole = bytes(disk.files[FIRST])
        early = whole[: 2 * SECTOR_BYTES] + bytes(SECTOR_BYTES) + whole[3 * SECTOR_BYTES :]
        answers = [early]
        disk.read = lambda path, limit=-1: answers.pop() if answers else whole  # type: ignore[method-assign]
        assert check(FOLDER, disk).last_lsn == 3
        answers = [early, early]
        with pytest.raises(JournalDamaged, match=f"offset {2 * SECTOR_BYTES}"):
            check(FOLDER, disk)
        del disk.read


@trio_test
async def test_a_later_format_and_a_disk_that_cannot_be_read_are_no_damage() -> None:
    disk = MemoryDisk()
    await three_segments(disk)
    with failing(disk, "read", errno.EIO), pytest.raises(StorageFailed):
        check(FOLDER, disk)
    with failing(disk, "names", errno.EACCES), pytest.raises(StorageFailed):
        check(FOLDER, disk)
    head = decode_header(bytes(disk.files[FIRST]))
    assert head is not None
    disk.files[FIRST][:SECTOR_BYTES] = encode_header(SegmentHeader(2, *head[1:]))[0]
    with pytest.raises(JournalNewer):
        check(FOLDER, disk)


def test_a_folder_of_something_else_is_refused_and_an_empty_journal_is_not(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadValue, match="holds no journal"):
        check(tmp_path)
    (tmp_path / "lock").touch()
    assert check(tmp_path).state == "empty"
    (tmp_path / "0000000001.segment").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageFailed, match="cannot be found"):
        check(tmp_path)
    shutil.rmtree(tmp_path)
