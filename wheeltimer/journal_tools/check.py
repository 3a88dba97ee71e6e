"""Verifies a journal without opening it, as recovery does; safe beside a daemon that writes.

``recovery.scan`` decides what is torn and what is damaged. This file adds the check that the frames' records
decode, which the daemon's start does later, and retries if the folder changes while it is read. It takes no
lock and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from wheeltimer.core.records import decode_all
from wheeltimer.errors import BadValue, JournalDamaged, StorageFailed
from wheeltimer.journal.directory import segments_in, spares_in
from wheeltimer.journal.disk import Disk
from wheeltimer.journal.preallocation import first_nonzero
from wheeltimer.journal.recovery import Progress, Verified, VerifiedSegment, Verifier, is_clean, scan
from wheeltimer.journal.segment import frames

KINDS: Final = {
    "RawScheduled": "scheduled", "Rescheduled": "rescheduled", "Attempted": "attempted",
    "Stopping": "stopping", "Ended": "ended", "Paused": "paused", "Forgotten": "forgotten",
    "Carried": "carried", "Counted": "counted",
}  # fmt: skip
"""The names of ``docs/journal-format.md`` for the records' classes."""

_OURS: Final = (".segment", ".zeros", ".tmp", "lock")


@dataclass(slots=True)
class Checked:
    """The result. ``state``: ``stopped`` cleanly, ``open`` (the daemon runs, or was killed) or ``empty``.

    ``torn``: file, offset and number of bytes that a crash left of its last write, or that are being written
    now. ``spares``: file and offset of spare segments that are not zero; nothing is lost, a start zeroes
    them.
    """

    journal_id: str = ""
    state: str = "empty"
    segments: int = 0
    trimmed: int = 0
    file_bytes: int = 0
    frames: int = 0
    records: int = 0
    first_lsn: int = 0
    last_lsn: int = 0
    torn: tuple[str, int, int] | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    spares: list[tuple[str, int]] = field(default_factory=list)


def check(folder: Path, disk: Disk | None = None, progress: Progress | None = None) -> Checked:
    """Verifies every byte; blocking, one segment in memory at a time. About 1 s a million records more
    than recovery's scan.

    A read is no snapshot, and a daemon may write, rotate and trim meanwhile: damage is reported only if a
    second pass finds it in the same place. Raises :class:`JournalDamaged`, :class:`JournalNewer`,
    :class:`StorageFailed`, and :class:`BadValue` for a folder without a journal.
    """
    disk = Disk() if disk is None else disk
    seen = gone = None
    while True:
        try:
            return _look(folder, disk, progress)
        except FileNotFoundError as exc:  # trimmed and removed before it was read: a new pass finds the trim
            if exc.filename == gone:
                raise StorageFailed(f"{gone} is listed and cannot be found") from exc
            gone = exc.filename
        except OSError as exc:
            raise StorageFailed(f"journal {folder} cannot be read: {exc}") from exc
        except JournalDamaged as error:
            if str(error) == seen:
                raise
            seen = str(error)


def need_journal(folder: Path, disk: Disk | None = None) -> None:
    """Raises :class:`BadValue` for a folder without a journal, :class:`StorageFailed`."""
    try:
        names = (Disk() if disk is None else disk).names(folder)
    except OSError as exc:
        raise StorageFailed(f"{folder} cannot be read: {exc}") from exc
    if not any(name.endswith(_OURS) for name in names):
        raise BadValue(f"{folder} holds no journal; name the daemon's data folder")


def _look(folder: Path, disk: Disk, progress: Progress | None) -> Checked:
    result = Checked()

    def each(judge: Verifier, part: VerifiedSegment, data: bytes) -> None:
        counts = _records_in(judge, part, data)
        if part.number >= judge.result.trim_below:
            parts.append((part.number, counts))

    need_journal(folder, disk)
    suspects = _nonzero(folder, disk)
    segments = segments_in(disk, folder)
    if not segments:
        result.spares = suspects
        return result
    parts: list[tuple[int, Counter[str]]] = []
    total = sum(disk.size(folder / name) for _, name in segments)
    found = scan(folder, segments, lambda name: disk.read(folder / name), progress, total, each)
    _sum_up(result, found)
    kept = (counts for number, counts in parts if number >= found.trim_below)
    result.kinds = dict(sum(kept, Counter[str]()))
    if suspects:  # a second pass, because a daemon may have been making one of them its next segment
        result.spares = [suspect for suspect in _nonzero(folder, disk) if suspect in suspects]
    return result


def _nonzero(folder: Path, disk: Disk) -> list[tuple[str, int]]:
    """Spare segments that are not zero, each with the offset of its first byte that is not."""
    found = []
    for _, name in spares_in(disk, folder):
        with suppress(FileNotFoundError):  # it became a segment meanwhile
            offset = first_nonzero(disk, folder / name, disk.size(folder / name))
            found += [(name, offset)] if offset >= 0 else []
    return found


def _records_in(judge: Verifier, part: VerifiedSegment, data: bytes) -> Counter[str]:
    """Counts by kind; a record that does not decode is a fault, as at a start."""
    counts: Counter[str] = Counter()
    for frame in frames(data, part.walk.end):
        try:
            counts.update(KINDS[type(record).__name__] for record in decode_all(frame.payload))
        except msgspec.MsgspecError as error:
            judge.fault(part.number, part.name, frame.offset, frame.first_lsn, no_records(error))
            break
    return counts


def no_records(error: msgspec.MsgspecError) -> str:
    return f"the frame verifies and holds no records of this version: {error}"


def _sum_up(result: Checked, found: Verified) -> None:
    result.journal_id = found.journal_id.hex()
    result.segments, result.trimmed = len(found.parts), len(found.trimmed)
    result.file_bytes = sum(part.file_bytes for part in found.parts)
    result.frames = sum(part.walk.frames for part in found.parts)
    result.last_lsn = found.next_lsn - 1
    if found.parts:
        head = found.parts[0].head
        result.first_lsn = head.first_lsn if head else found.next_lsn
        result.records = found.next_lsn - result.first_lsn
        result.state = "stopped" if is_clean(found.parts[-1]) else "open"
    if found.torn is not None:
        part, offset, length = found.torn
        result.torn = part.name, offset, length
