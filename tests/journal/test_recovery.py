"""Starts after accidents: what is set aside, made anew, removed, refused; and what the errors say."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trio.testing import trio_test

from wheeltimer.errors import JournalDamaged, JournalInUse, JournalNewer, StorageFailed
from wheeltimer.journal import Disk, Journal
from wheeltimer.journal.frame import HEADER_BYTES, SECTOR_BYTES, Kind, header_at
from wheeltimer.journal.segment import SegmentHeader, decode_header, encode_header

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


async def written(
    disk: MemoryDisk, commits: int, *, clean: bool, clock: Clock | None = None
) -> list[tuple[int, int, bytes]]:
    """Writes so many batches of one record; what a start would then read."""
    journal = open_journal(disk, clock)
    batches = []
    async with running(journal, clean=clean):
        for index in range(commits):
            record = raw(40, index % 251 + 1)
            lsn = put(journal, record)
            await journal.wait_durable(lsn)
            batches.append((lsn, 1, b"\x91" + record))
    return batches


def salt_of(disk: MemoryDisk, path: Path = FIRST) -> bytes:
    head = decode_header(bytes(disk.files[path]))
    assert head is not None
    return head.salt


@trio_test
async def test_torn_tail_is_set_aside() -> None:
    disk = MemoryDisk()
    batches = await written(disk, 3, clean=False)
    disk.files[FIRST][3 * SECTOR_BYTES + 100] ^= 1  # of the third batch, ...
    disk.files[FIRST][4 * SECTOR_BYTES - HEADER_BYTES : 4 * SECTOR_BYTES] = bytes(
        HEADER_BYTES
    )  # ... unmarked
    torn = bytes(disk.files[FIRST][3 * SECTOR_BYTES :]).rstrip(b"\0")
    with open_journal(disk) as journal:
        assert contents(journal) == batches[:2]
        assert journal.next_lsn == 3
        assert journal.found.torn is not None
        assert journal.found.torn[1:] == (3 * SECTOR_BYTES, len(torn))
    assert disk.files[FOLDER / f"torn-0000000001-{3 * SECTOR_BYTES}"] == torn
    with open_journal(disk) as journal:
        assert journal.found.torn is None, "a torn tail is met once"
        assert contents(journal) == batches[:2]


@trio_test
async def test_damaged_last_commit_is_refused_when_its_marker_stands() -> None:
    disk = MemoryDisk()
    await written(disk, 3, clean=False)
    disk.files[FIRST][3 * SECTOR_BYTES + 100] ^= 1
    before = {path: bytes(data) for path, data in disk.files.items()}
    with pytest.raises(JournalDamaged) as caught:
        open_journal(disk)
    message = str(caught.value)
    assert f"{FIRST} at offset {3 * SECTOR_BYTES} (lsn 3)" in message
    assert f"wheeltimer journal repair {FOLDER}" in message
    after = {path: bytes(data) for path, data in disk.files.items()}
    assert after == before, "a refused start changes nothing"
    assert not disk.locks
    assert not disk.open_files


@trio_test
async def test_damage_in_the_middle_names_its_file_and_offset() -> None:
    disk = MemoryDisk()
    await written(disk, 30, clean=True)
    third = FOLDER / "0000000003.segment"
    disk.files[third][2 * SECTOR_BYTES + 100] ^= 1
    with pytest.raises(JournalDamaged, match=rf"{third} at offset {2 * SECTOR_BYTES} "):
        open_journal(disk)


@trio_test
async def test_a_missing_segment_is_damage() -> None:
    for gone in (1, 2, 4):
        disk = MemoryDisk()
        await written(disk, 30, clean=True)
        del disk.files[FOLDER / f"{gone:010d}.segment"]
        with pytest.raises(JournalDamaged, match=f"segment {gone} is missing"):
            open_journal(disk)


@trio_test
async def test_a_segment_of_another_journal_is_damage() -> None:
    disk, other = MemoryDisk(1), MemoryDisk(2)
    await written(disk, 30, clean=True)
    await written(other, 30, clean=True)
    third = FOLDER / "0000000003.segment"
    disk.files[third] = other.files[third]
    with pytest.raises(JournalDamaged, match="another journal"):
        open_journal(disk)


@trio_test
async def test_a_segment_of_another_past_is_damage() -> None:
    """An older backup of one file: same journal, number and lsns, but not what the others carry on."""
    disk, other = MemoryDisk(1), MemoryDisk(1)
    await written(disk, 30, clean=True)
    await written(other, 30, clean=True, clock=Clock(b"another boot ..."))
    third = FOLDER / "0000000003.segment"
    disk.files[third] = other.files[third]
    with pytest.raises(JournalDamaged, match="carry on"):
        open_journal(disk)


@trio_test
async def test_anything_after_a_seal_is_damage() -> None:
    disk = MemoryDisk()
    await written(disk, 30, clean=True)
    disk.files[FIRST][-1] = 1
    with pytest.raises(JournalDamaged, match="after a seal"):
        open_journal(disk)


@trio_test
async def test_clean_stop_goes_on_in_the_same_file() -> None:
    disk = MemoryDisk()
    batches = await written(disk, 2, clean=True)
    salt = salt_of(disk)
    journal = open_journal(disk)
    assert contents(journal) == batches
    async with running(journal):
        put(journal, raw(9))
    assert salt_of(disk) == salt
    assert [lsn for lsn, _, _ in reopened(disk)] == [1, 2, 3]


@trio_test
async def test_unclean_tail_is_made_anew_under_a_new_salt() -> None:
    """After a failed sync the page cache may show what the disk does not have: nothing of it is trusted."""
    disk = MemoryDisk()
    batches = await written(disk, 3, clean=False)
    salt = salt_of(disk)
    disk.log.clear()
    with open_journal(disk) as journal:
        assert contents(journal) == batches
    assert salt_of(disk) != salt
    calls = [name for name, _ in disk.log]
    named = calls.index("rename")
    assert calls[named - 2 : named + 2] == ["pwrite", "fdatasync", "rename", "sync_folder"]
    data = bytes(disk.files[FIRST])
    marker = header_at(data, 4 * SECTOR_BYTES - HEADER_BYTES, salt_of(disk))
    assert marker is not None, "what was synced as a whole says so"
    assert marker.kind == Kind.MARKER
    assert marker.synced_lsn == 3


@trio_test
async def test_sealed_last_segment_without_successor_is_normal() -> None:
    """A kill during rotation, on either side of the new file's name."""
    disk = MemoryDisk()
    await written(disk, 20, clean=False)
    names = sorted(path for path in disk.files if path.suffix == ".segment")
    assert len(names) > 2
    all_but_last = len(
        [lsn for lsn, _, _ in reopened(disk) if lsn < decode_header(bytes(disk.files[names[-1]])).first_lsn]
    )  # type: ignore[union-attr]
    del disk.files[names[-1]]
    clock = Clock()
    journal = open_journal(disk, clock)
    assert len(contents(journal)) == all_but_last
    assert journal.found.torn is None
    async with running(journal):
        for _ in range(9):
            await journal.wait_durable(put(journal, raw(50)))
    assert [lsn for lsn, _, _ in reopened(disk)] == list(range(1, all_but_last + 10))


@trio_test
async def test_a_new_segment_without_frames_is_normal() -> None:
    disk = MemoryDisk()
    batches = await written(disk, 20, clean=False)
    last = max(path for path in disk.files if path.suffix == ".segment")
    first_lsn = decode_header(bytes(disk.files[last])).first_lsn  # type: ignore[union-attr]
    disk.files[last][SECTOR_BYTES:] = bytes(SEGMENT - SECTOR_BYTES)
    assert reopened(disk) == batches[: first_lsn - 1]


@trio_test
async def test_a_last_segment_that_lost_its_header_goes_on_in_its_place() -> None:
    for left in (bytes(SEGMENT), b"WTse".ljust(SEGMENT, b"\0")):
        disk = MemoryDisk()
        batches = await written(disk, 20, clean=False)
        last = max(path for path in disk.files if path.suffix == ".segment")
        first_lsn = decode_header(bytes(disk.files[last])).first_lsn  # type: ignore[union-attr]
        disk.files[last][:] = left
        journal = open_journal(disk)
        assert contents(journal) == batches[: first_lsn - 1]
        async with running(journal):
            put(journal, raw(50))
        assert [lsn for lsn, _, _ in reopened(disk)] == list(range(1, first_lsn + 1))


def test_the_only_segment_without_header_is_refused() -> None:
    """Without it the journal's id is gone, and no crash leaves a file so."""
    disk = MemoryDisk()
    disk.files[FIRST] = bytearray(SEGMENT)
    with pytest.raises(JournalDamaged, match="header"):
        open_journal(disk)


@trio_test
async def test_a_lost_marker_before_a_valid_batch_is_no_damage() -> None:
    disk = MemoryDisk()
    batches = await written(disk, 3, clean=False)
    for index in (2, 3, 4):
        disk.files[FIRST][index * SECTOR_BYTES - HEADER_BYTES : index * SECTOR_BYTES] = bytes(HEADER_BYTES)
    assert reopened(disk) == batches


@trio_test
async def test_a_crash_at_every_recovery_step_loses_nothing() -> None:
    """Power is cut before each call of a start that sets a torn tail aside and makes the tail anew."""
    for stop_at in range(1, 60):
        disk = MemoryDisk()
        batches = await written(disk, 9, clean=False)
        last = max(path for path in disk.files if path.suffix == ".segment")
        end = len(bytes(disk.files[last]).rstrip(b"\0"))
        disk.files[last][-(-end // SECTOR_BYTES) * SECTOR_BYTES + 7] = 1  # a torn write
        started, calls = False, [0]

        def dead(_: Path, calls: list[int] = calls, stop_at: int = stop_at) -> int:
            calls[0] += 1
            return errno.EIO if calls[0] >= stop_at else 0

        for name in ("pwrite", "fdatasync", "rename", "sync_folder", "create", "unlink", "allocate"):
            disk.fail[name] = dead
        try:
            open_journal(disk).abandon()
            started = True
        except StorageFailed:
            pass
        disk.fail.clear()
        disk.locks.clear()
        disk.open_files.clear()
        assert reopened(disk) == batches, f"cut at call {stop_at}"
        if started:
            return
    pytest.fail("the start never got through")


@trio_test
async def test_unfinished_files_are_removed() -> None:
    disk = MemoryDisk()
    disk.files[FOLDER / "0000000002.segment.tmp"] = bytearray(b"half")
    disk.files[FOLDER / "spare-9.tmp"] = bytearray(b"half")
    open_journal(disk).abandon()
    assert not [path for path in disk.files if path.name in ("0000000002.segment.tmp", "spare-9.tmp")]


@trio_test
async def test_a_newer_format_is_refused_by_name() -> None:
    disk = MemoryDisk()
    await written(disk, 3, clean=True)
    head = decode_header(bytes(disk.files[FIRST]))
    assert head is not None
    newer = SegmentHeader(2, *head[1:])
    disk.files[FIRST][:SECTOR_BYTES] = encode_header(newer)[0]
    with pytest.raises(JournalNewer, match=f"{FIRST.name} needs a reader of format 2"):
        open_journal(disk)


def test_a_used_folder_is_refused_naming_the_holder(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=SEGMENT):
        for _ in range(2):  # a refused start must not drop the lock
            with pytest.raises(JournalInUse, match=f"process {os.getpid()}"):
                Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=SEGMENT)
        script = (
            "import sys; from pathlib import Path; from wheeltimer.journal.directory import Directory\n"
            "from wheeltimer.journal import Disk\n"
            "try: Directory.open(Path(sys.argv[1]), Disk())\n"
            "except Exception as exc: print(type(exc).__name__, exc)"
        )
        out = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "j")], capture_output=True, text=True, check=True
        )
        assert out.stdout.startswith("JournalInUse")
        assert str(os.getpid()) in out.stdout
    Journal.open(tmp_path / "j", clock=Clock(), segment_bytes=SEGMENT).abandon()


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    disk = MemoryDisk()
    with failing(disk, "lock", errno.EACCES), pytest.raises(JournalInUse, match="cannot be written"):
        open_journal(disk)
    with failing(disk, "make_folder", errno.EROFS), pytest.raises(JournalInUse, match="cannot be written"):
        open_journal(disk)


def test_an_unreadable_file_is_storage_failed() -> None:
    disk = MemoryDisk()
    open_journal(disk).abandon()
    with failing(disk, "read", errno.EIO), pytest.raises(StorageFailed):
        open_journal(disk)
    assert not disk.locks
    assert not disk.open_files


def test_the_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    Journal.open(tmp_path / "a" / "b", clock=Clock(), segment_bytes=SEGMENT).abandon()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "a" / "b").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@trio_test
async def test_the_first_and_last_clocks_of_every_boot_are_known() -> None:
    disk, first, second = MemoryDisk(), Clock(b"1" * 16), Clock(b"2" * 16)
    journal = open_journal(disk, first)
    async with running(journal, clean=False):
        await journal.wait_durable(put(journal, raw(9)))
        first.step_ms += 3_600_000
        journal.mark()  # the clock was set after the last frame
    stepped = first()
    journal = open_journal(disk, second)
    async with running(journal):
        await journal.wait_durable(put(journal, raw(9)))
    with open_journal(disk, Clock(b"3" * 16)) as journal:
        assert list(journal.boots) == [first.boot_id, second.boot_id]
        known = journal.boots[first.boot_id]
        assert stepped.wall_ms - known.last.wall_ms <= 1
        assert known.last.wall_ms - known.first.wall_ms >= 3_600_000


@trio_test
async def test_a_tail_that_is_made_anew_keeps_what_the_clocks_of_every_boot_were() -> None:
    """The clock was set in a boot before the last one: its marker is in the middle of the segment by now."""
    disk, first, second = MemoryDisk(), Clock(b"1" * 16), Clock(b"2" * 16)
    for clock in (first, second):
        journal = open_journal(disk, clock)
        async with running(journal, clean=False):
            await journal.wait_durable(put(journal, raw(9)))
            clock.step_ms += 3_600_000
            journal.mark()
    with open_journal(disk, Clock(b"3" * 16)) as journal:
        known = journal.boots
        assert all(boot.last.wall_ms - boot.first.wall_ms >= 3_600_000 for boot in known.values())
    with open_journal(disk, Clock(b"3" * 16)) as journal:
        assert journal.boots == known


@pytest.mark.parametrize(("frames", "refused"), [(2, False), (3, True)])
@trio_test
async def test_a_marker_that_a_crash_left_by_half_is_no_damage(frames: int, refused: bool) -> None:
    """It is synced with the frame after it: where the power goes before that, half of it may be on the disk,
    and all of that frame. Once a third one says that the second is on disk, no crash explains it."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal, clean=False):
        for _ in range(frames):
            await journal.wait_durable(put(journal, raw(9)))
    last = frames * SECTOR_BYTES + SECTOR_BYTES
    disk.files[FIRST][last - HEADER_BYTES : last] = bytes(HEADER_BYTES)  # nobody was idle after it
    slot = 2 * SECTOR_BYTES - HEADER_BYTES
    disk.files[FIRST][slot : slot + HEADER_BYTES] = b"\x5a" * 40 + bytes(HEADER_BYTES - 40)
    if refused:
        with pytest.raises(JournalDamaged, match="bytes after a frame are not zero"):
            open_journal(disk)
        return
    with open_journal(disk) as journal:
        assert [frame.first_lsn for frame in journal.replay()] == [1, 2]
        assert journal.found.torn is None


@trio_test
async def test_another_boot_leaves_the_marker_of_the_last_one_alone() -> None:
    disk, first, second = MemoryDisk(), Clock(b"1" * 16), Clock(b"2" * 16)
    journal = open_journal(disk, first)
    async with running(journal):
        await journal.wait_durable(put(journal, raw(9)))
    with open_journal(disk) as journal:
        known = journal.boots[first.boot_id]
    journal = open_journal(disk, second)
    async with running(journal):
        journal.mark()  # starts, marks and stops without a record of its own
    with open_journal(disk) as journal:
        assert journal.boots[first.boot_id] == known


@trio_test
async def test_trimmed_segments_are_not_replayed_and_a_hole_before_the_trim_is_no_damage() -> None:
    disk = MemoryDisk()
    await written(disk, 30, clean=True)
    kept = {path: bytes(data) for path, data in disk.files.items() if path.suffix == ".segment"}
    journal = open_journal(disk)
    async with running(journal):
        assert journal.trim(4)
    names = sorted(path.name for path in disk.files if path.suffix == ".segment")
    assert names[0] == "0000000004.segment"
    expected = reopened(disk)
    assert expected[0][0] == decode_header(bytes(disk.files[FOLDER / names[0]])).first_lsn  # type: ignore[union-attr]
    disk.files[FIRST] = bytearray(kept[FIRST])  # the removal of this one was lost with the power
    disk.files[FOLDER / "0000000003.segment"] = bytearray(SEGMENT)  # and of what is left of this one
    assert reopened(disk) == expected
    assert sorted(path.name for path in disk.files if path.suffix == ".segment") == names
    del disk.files[FOLDER / "0000000004.segment"]
    with pytest.raises(JournalDamaged, match="segment 4 is missing"):
        open_journal(disk)


@trio_test
async def test_trim_is_durable_before_anything_is_removed() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    async with running(journal):
        for _ in range(20):
            await journal.wait_durable(put(journal, raw(50)))
        lsn = journal.next_lsn
        disk.log.clear()
        assert journal.trim(2)
        await journal.wait_durable(lsn)
    names = [name for name, path in disk.log if path.endswith(".segment") or name == "unlink"]
    assert "unlink" in names
    assert names.index("fdatasync") < names.index("unlink")


def test_real_disk_reads_what_it_wrote(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.create(tmp_path / "file")
    disk.allocate(fd, 3 << 20)
    disk.zero(fd, 0, 3 << 20)
    disk.write(fd, b"hello", 5)
    disk.fdatasync(fd)
    disk.close(fd)
    disk.rename(tmp_path / "file", tmp_path / "other")
    disk.sync_folder(tmp_path)
    assert disk.names(tmp_path) == ["other"]
    assert disk.size(tmp_path / "other") == 3 << 20
    assert disk.read(tmp_path / "other")[:11] == bytes(5) + b"hello\0"
    assert disk.read(tmp_path / "other", 7) == bytes(5) + b"he"
