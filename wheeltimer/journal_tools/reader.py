"""Records from an lsn on, for the tools: reads the files, takes no lock, changes nothing.

Safe beside a running daemon. Bytes at the end of the last segment may be a commit under way, so the first
frame there that does not verify ends the reading without an error; a caller that must not read ahead of the
disk passes ``upto_lsn``. ``recovery.scan`` verifies a journal at rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wheeltimer.errors import JournalNewer, StorageFailed
from wheeltimer.journal.directory import segments_in
from wheeltimer.journal.disk import Disk
from wheeltimer.journal.frame import SECTOR_BYTES, Frame, Kind
from wheeltimer.journal.recovery import damaged
from wheeltimer.journal.segment import READS, SegmentHeader, SegmentWalk, decode_header, frames, walk


def read(
    folder: Path,
    from_lsn: int = 1,
    upto_lsn: int | None = None,
    disk: Disk | None = None,
    kinds: frozenset[int] = frozenset({Kind.BATCH}),
) -> Iterator[Frame]:
    """Batches in order, from the one that holds ``from_lsn`` (or the oldest kept) to ``upto_lsn``.

    Blocking; one segment in memory at a time; of a segment that ends before ``from_lsn`` only the header is
    read. ``kinds``: of the frames to return. A segment that is trimmed meanwhile is skipped. Raises
    :class:`StorageFailed`, :class:`JournalNewer`, and :class:`JournalDamaged` for a fault anywhere but at the
    end, after all frames before the fault.
    """
    disk = Disk() if disk is None else disk
    try:
        heads = list(_heads(disk, folder))
        next_lsn = None
        for index, (name, head) in enumerate(heads):
            last = index == len(heads) - 1
            if not last and heads[index + 1][1].first_lsn <= from_lsn:
                continue
            if next_lsn is not None and head.first_lsn != next_lsn:
                why = f"lsn {next_lsn} was expected and {head.first_lsn} begins here"
                raise damaged(folder, name, 0, next_lsn, why)
            try:
                data, state = _walked(disk, folder / name, head)
            except FileNotFoundError:
                if _is_gone(disk, folder, head.number):
                    continue
                raise
            next_lsn = state.next_lsn
            for frame in frames(data, state.end, from_lsn, kinds):
                if upto_lsn is not None and frame.first_lsn > upto_lsn:
                    return
                yield frame
            if state.proven or (state.fault and not last):
                raise damaged(folder, name, state.fault_at, state.next_lsn, str(state.fault))
    except OSError as exc:
        raise StorageFailed(f"journal {folder} cannot be read: {exc}") from exc


def _is_gone(disk: Disk, folder: Path, number: int) -> bool:
    """Whether a segment was trimmed since it was listed: there are later ones, but not it or earlier ones."""
    segments = segments_in(disk, folder)
    return bool(segments) and segments[0][0] > number


def _walked(disk: Disk, path: Path, head: SegmentHeader) -> tuple[bytes, SegmentWalk]:
    """A segment's bytes and the walk over them.

    A read is no snapshot: it may have read a frame's place before the frame was written, and then the frame
    after it. So a fault that looks proven counts only if a second read shows it again.
    """
    data = disk.read(path)
    state = walk(data, head)
    while state.proven:
        data, before = disk.read(path), state
        state = walk(data, head)
        if state.fault_at == before.fault_at:
            break
    return data, state


def _heads(disk: Disk, folder: Path) -> Iterator[tuple[str, SegmentHeader]]:
    for number, name in segments_in(disk, folder):
        try:
            head = decode_header(disk.read(folder / name, SECTOR_BYTES))
        except FileNotFoundError:
            if _is_gone(disk, folder, number):
                continue
            raise
        if head is None:
            raise damaged(folder, name, 0, 0, "the segment's header does not verify")
        if head.min_reader > READS:
            raise JournalNewer(f"{folder / name} was written by a later version; nothing was changed")
        yield name, head
