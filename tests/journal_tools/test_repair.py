"""A repair keeps every record that can be read, names every one that cannot, and dies safely anywhere."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import trio_test

from tests.journal.worlds import FOLDER, MemoryDisk, contents, failing, open_journal, put, running
from wheeltimer.errors import JournalDamaged, JournalInUse, StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.journal.frame import HEADER_BYTES, SECTOR_BYTES, Kind
from wheeltimer.journal.segment import decode_header, headers, walk
from wheeltimer.journal_tools.check import check
from wheeltimer.journal_tools.repair import REPORT, Repaired, repair
from wheeltimer.journal_tools.salvage import CUT

from .test_check import damages, fill, segments, three_segments

raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
NOTHING = b"\x93\xa1f\x90"  # a record that forgets no task


def records_of(journal: Journal) -> dict[int, bytes]:
    return {
        lsn: bytes(raw)
        for first, _, payload in contents(journal)
        for lsn, raw in enumerate(raws(payload), first)
    }


def pieces(disk: MemoryDisk) -> list[tuple[Path, int, int, range]]:
    """File, start and end of every frame's header and payload, and its lsns."""
    found = []
    for path in segments(disk):
        data = bytes(disk.files[path])
        head = decode_header(data)
        assert head is not None
        for offset, header in headers(data, walk(data, head).end):
            if header.kind == Kind.BATCH:
                lsns = range(header.first_lsn, header.last_lsn + 1)
                found.append((path, offset, offset + HEADER_BYTES + header.length, lsns))
    return found


def copy(disk: MemoryDisk) -> MemoryDisk:
    other = MemoryDisk(7)
    other.files = {path: bytearray(data) for path, data in disk.files.items()}
    return other


def lost_lsns(found: Repaired) -> set[int]:
    return {lsn for lost in found.lost for lsn in range(lost.lsn_from, lost.lsn_to + 1)}


def is_damaged(disk: MemoryDisk) -> bool:
    try:
        check(FOLDER, disk)
    except JournalDamaged:
        return True
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can repair what is somebody else's")
def test_what_root_repairs_stays_its_owners(tmp_path: Path) -> None:
    """A daemon that runs as somebody else could not open the new segments, and ended with 74 for ever."""
    disk, folder, nobody = MemoryDisk(), tmp_path / "data", 65534
    trio.run(lambda: three_segments(disk))
    folder.mkdir()
    for path, data in disk.files.items():
        (folder / path.name).write_bytes(data)
    first = folder / min(path.name for path in segments(disk))
    data = bytearray(first.read_bytes())
    data[SECTOR_BYTES + HEADER_BYTES] ^= 1
    first.write_bytes(data)
    (folder / "lock").unlink()
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody, nobody)
    target = tmp_path / "not theirs"
    target.write_text("kept")
    for links in (["lock"], [f"{number:010d}.segment.tmp" for number in range(9)]):
        for name in links:
            (folder / name).symlink_to(target)
        with pytest.raises((StorageFailed, JournalInUse)):
            repair(folder)
        assert (target.read_text(), target.stat().st_uid) == ("kept", 0)
        for name in links:
            (folder / name).unlink()
    found = repair(folder)
    assert found is not None
    made = list(folder.rglob("*"))
    assert found.aside / REPORT in made
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(nobody, nobody)}


def test_what_is_lost_and_what_survives_is_all_that_was_there(thorough: bool) -> None:
    disk = MemoryDisk()
    trio.run(lambda: three_segments(disk))
    with open_journal(copy(disk)) as journal:
        written, journal_id = records_of(journal), journal.journal_id
    whole, frames = copy(disk), pieces(disk)
    tally: Counter[int] = Counter()
    for number, what in enumerate(every_damage(disk)):
        if (not thorough and number % 29) or not is_damaged(disk):
            continue
        hurt = copy(disk)
        before = {path: bytes(hurt.files[path]) for path in segments(hurt)}
        found = repair(FOLDER, hurt)
        assert found is not None, what
        for path, data in before.items():
            assert hurt.files[found.aside / path.name] == data, f"{what}: an old file was touched"
        lost = lost_lsns(found)
        with open_journal(hurt) as journal:
            survived = records_of(journal)
            assert journal.journal_id == journal_id or found.id_is_new
            assert journal.found.torn is None
        for lsn, record in survived.items():
            if lsn in lost:
                assert record.startswith(NOTHING), f"{what}: lsn {lsn} is told lost and is there"
            else:
                assert record == written[lsn], f"{what}: lsn {lsn} is another"
        cut = any(each.why == CUT for each in found.lost)  # nobody knows how many records were there
        assert cut or survived.keys() | lost >= written.keys(), f"{what}: lost without a word"
        for path, start, end, lsns in frames:
            same = hurt_bytes(before, path, start, end) == whole.files[path][start:end]
            if same and path in before:
                assert not lost & set(lsns), f"{what}: lsn {lsns} could be read"
        tally[len(lost)] += 1
    assert tally.total() > 100
    assert set(tally) > {0, 2}


def hurt_bytes(before: dict[Path, bytes], path: Path, start: int, end: int) -> bytes:
    return before.get(path, b"")[start:end]


def every_damage(disk: MemoryDisk) -> Iterator[str]:
    yield from damages(disk)
    for path in segments(disk)[:-1]:
        whole = disk.files.pop(path)
        yield f"{path.name} is missing"
        disk.files[path] = whole


async def missing_middle() -> MemoryDisk:
    disk = MemoryDisk()
    await three_segments(disk)
    del disk.files[segments(disk)[1]]
    return disk


@trio_test
async def test_a_missing_segment_is_named_with_its_lsns() -> None:
    disk = await missing_middle()
    found = repair(FOLDER, disk)
    assert found is not None
    (lost,) = found.lost
    assert (lost.file, lost.why) == ("0000000002.segment", "the segment is missing")
    assert found.records_lost == lost.lsn_to - lost.lsn_from + 1 > 0
    lines = [msgspec.json.decode(line) for line in disk.files[found.aside / REPORT].splitlines()]
    assert lines == list(found.lines())
    assert repair(FOLDER, disk) is None, "there is nothing left to do"
    journal = open_journal(disk)
    async with running(journal):
        lsn = put(journal, b"\xc0")
        assert lsn == found.last_lsn + 2, "the trim has one as well"
        await journal.wait_durable(lsn)


@trio_test
async def test_a_crash_at_any_point_leaves_the_old_journal_or_the_new_one() -> None:
    """Every call that changes something fails in turn; a second repair ends what the first began."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        await fill(journal)
        await fill(journal)
    del disk.files[segments(disk)[1]]
    old = {path.name: bytes(disk.files[path]) for path in segments(disk)}
    trial = copy(disk)
    first = repair(FOLDER, trial)
    assert first is not None
    changing = ("create", "pwrite", "fdatasync", "rename", "unlink", "link", "sync_folder", "make_folder")
    new = reopened_records(trial)
    names = {path.name for path in segments(trial)} - old.keys()
    assert len(names) > 1
    points = 0
    for name in changing:
        for occurrence in range(min(trial.calls[name], 30)):
            hurt = copy(disk)
            left = [occurrence]

            def now(_: Path, left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] < 0

            with failing(hurt, name, errno.EIO, now):
                try:
                    repair(FOLDER, hurt)
                except StorageFailed:
                    points += 1
            hurt.open_files.clear()
            hurt.locks.clear()
            kept = {path.name: bytes(data) for path, data in hurt.files.items() if path.name in old}
            assert kept == old, f"{name} {occurrence}"
            is_new = names <= {path.name for path in segments(hurt)}
            assert is_damaged(hurt) != is_new, f"{name} {occurrence}: neither the old nor the new one"
            again = repair(FOLDER, hurt)
            assert again is None or again.lost == first.lost, f"{name} {occurrence}: the report is another"
            assert reopened_records(hurt) == new, f"{name} {occurrence}"
    assert points > 20


def reopened_records(disk: MemoryDisk) -> dict[int, bytes]:
    other = copy(disk)
    with open_journal(other) as journal:
        return records_of(journal)


@trio_test
async def test_a_sound_journal_is_left_alone_and_a_running_one_is_refused() -> None:
    disk = MemoryDisk()
    await three_segments(disk)
    before = {path: bytes(data) for path, data in disk.files.items() if path.name != "lock"}
    assert repair(FOLDER, disk) is None
    assert {path: bytes(data) for path, data in disk.files.items() if path.name != "lock"} == before
    del disk.files[segments(disk)[1]]
    disk.locks.clear()
    disk.lock(FOLDER / "lock")
    with pytest.raises(JournalInUse):
        repair(FOLDER, disk)
    with pytest.raises(StorageFailed), failing(disk, "names", errno.ENOENT):
        repair(FOLDER, disk)
