"""The blocking half of a commit: encode, write, sync; seal and continue in the next segment.

Runs in the worker's thread (in tests, in any) and, before that, in :func:`restore`. It owns the open segment;
the loop reads its state only between jobs. ``committer.py`` decides what is written when, and wakes the
waiters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .directory import Directory, segment_name
from .disk import Disk
from .frame import (
    HEADER_BYTES,
    SECTOR_BYTES,
    Clocks,
    Kind,
    encode,
    extent_bytes,
    payload_of,
)
from .preallocation import Spare, SpareSegments
from .recovery import Verified
from .segment import FORMAT, SegmentHeader, encode_header, rewritten

PAGE_BYTES: Final = 4096
"""Writes are padded with zeros to the end of their page: so the kernel never reads a page to complete it."""
_PAGE_ZEROS: Final = bytes(PAGE_BYTES)


@dataclass(slots=True)
class OpenSegment:
    """The segment that is written. ``offset``: of the next frame; ``crc``: the next frame's ``prev_crc``."""

    fd: int
    number: int
    size: int
    salt: bytes
    offset: int
    crc: int
    slot_boot: bytes = b""
    """Boot of the last frame, in whose slot a marker may be written; empty if there is no frame yet."""


class Writer:
    """Writes frames; one call at a time. Every method raises :class:`OSError`, after which none is called.

    ``clock`` is called in the worker's thread. ``sizes``, ``first_lsns``: of every segment by number. The
    loop reads them too, so a new segment's ``first_lsn`` is set before its size.
    """

    def __init__(
        self, directory: Directory, spares: SpareSegments, segment: OpenSegment, found: Verified,
        clock: Callable[[], Clocks], fsync: bool,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.disk = directory.disk
        self.spares = spares
        self.segment = segment
        self.journal_id = found.journal_id
        self.next_lsn = found.next_lsn
        self.sizes = {part.number: part.file_bytes for part in found.parts} | {segment.number: segment.size}
        self.first_lsns = {part.number: part.head.first_lsn for part in found.parts if part.head is not None}
        self.first_lsns.setdefault(segment.number, found.next_lsn)
        self.clock = clock
        self.fsync = fsync
        self.pace = SyncTimes()
        self._marked = True

    @property
    def lacks_boot(self) -> bool:
        """Whether the last frame is of another boot than this one."""
        return self.segment.slot_boot != self.clock().boot_id

    def commit(self, kind: Kind, records: list[bytes]) -> None:
        """One frame, on disk when this returns: one write and one fdatasync, more if it rotates."""
        payload = payload_of(records)
        extent = extent_bytes(len(payload))
        if self.segment.offset + extent + SECTOR_BYTES > self.segment.size:
            self._rotate()
        segment = self.segment
        clocks = self.clock()
        frame, crc = encode(kind, segment.salt, self.next_lsn, len(records), clocks, segment.crc, payload)
        page_rest = -(segment.offset + len(frame)) % PAGE_BYTES
        self.disk.write(segment.fd, frame + _PAGE_ZEROS[:page_rest], segment.offset)
        self._sync()
        self.disk.need_name(segment.fd)  # a record in a deleted file must not be acknowledged
        segment.offset += extent
        segment.crc = crc
        segment.slot_boot = clocks.boot_id
        self.next_lsn += len(records)
        self._marked = False

    def idle(self) -> None:
        """Writes a marker, not synced, when no batch follows: it shows that the last frame was on disk, so a
        fault after it is a torn next frame."""
        if not self._marked:
            self._mark(Kind.MARKER)

    def settle(self) -> None:
        """Writes the marker if it is missing, and syncs it."""
        self.idle()
        self._sync()

    def step(self) -> None:
        """Writes a marker with the present clocks and syncs it; for a clock that was set."""
        self._mark(Kind.MARKER)
        self._sync()

    def stop(self) -> None:
        """Marks a clean stop: the next start may continue in this segment without rewriting it."""
        self._mark(Kind.STOP)
        self._sync()

    def look(self) -> None:
        """Raises :class:`OSError` if the folder, its lock or the open segment was deleted or replaced."""
        self.directory.need_here()
        name = segment_name(self.segment.number)
        self.disk.need_at(self.segment.fd, self.directory.path / name)

    def drop(self, below: int) -> None:
        """Removes the segments below a trim, which is on disk."""
        numbers = [number for number in self.sizes if number < below]
        self.directory.remove([segment_name(number) for number in numbers])
        for number in numbers:
            del self.sizes[number], self.first_lsns[number]

    def close(self) -> None:
        self.disk.close(self.segment.fd)

    def _mark(self, kind: Kind) -> None:
        """Writes a marker in the last frame's slot.

        Writes nothing if that frame is of another boot: its marker has the last clocks of that boot.
        """
        self._marked = True
        segment = self.segment
        clocks = self.clock()
        if segment.slot_boot == clocks.boot_id:
            marker, _ = encode(kind, segment.salt, self.next_lsn, 0, clocks, segment.crc)
            self.disk.write(segment.fd, marker, segment.offset - HEADER_BYTES)

    def _sync(self) -> None:
        if self.fsync:
            self.pace.sync(self.disk, self.segment.fd, segment_name(self.segment.number))

    def _rotate(self) -> None:
        old = self.segment
        seal, crc = encode(Kind.SEAL, old.salt, self.next_lsn, 0, self.clock(), old.crc)
        self.disk.write(old.fd, seal, old.offset)
        self._sync()
        spare = self.spares.take()
        assert spare is not None, "a batch was applied for which no room was reserved"
        salt, size = self.disk.random(8), self.spares.segment_bytes
        head = SegmentHeader(FORMAT, self.journal_id, old.number + 1, self.next_lsn, size, salt, crc)
        self.segment = begin(self.directory, spare, head)
        self.first_lsns[head.number] = head.first_lsn
        self.sizes[head.number] = size
        self.disk.close(old.fd)


def begin(
    directory: Directory,
    spare: Spare,
    head: SegmentHeader,
    old: tuple[bytes, int] = (b"", 0),
    slot_boot: bytes = b"",
) -> OpenSegment:
    """Makes a segment of a spare file: header and, under its salt, the frames of ``old`` (a segment's
    bytes and their end offset); all synced before the file gets its name. Raises :class:`OSError`."""
    disk = directory.disk
    data, crc = encode_header(head)
    try:
        frames, crc = rewritten(*old, head.salt, crc)
        disk.write(spare.fd, data, 0)
        if frames:
            disk.write(spare.fd, frames, SECTOR_BYTES)
        disk.fdatasync(spare.fd)
        directory.publish(spare.path, segment_name(head.number))
    except OSError:
        disk.close(spare.fd)
        raise
    return OpenSegment(
        spare.fd, head.number, head.size, head.salt, SECTOR_BYTES + len(frames), crc, slot_boot
    )


def restore(directory: Directory, spares: SpareSegments, found: Verified) -> OpenSegment:
    """Sets torn bytes aside and returns the segment to continue. Raises :class:`OSError`.

    A tail that was not stopped cleanly is rewritten in a new, synced file: after a failed sync the page cache
    may have bytes that are not on the disk.
    """
    disk = directory.disk
    salt = disk.random(8)
    if not found.parts:
        found.journal_id = disk.random(16)
        size = spares.segment_bytes
        return begin(
            directory, spares.make(size), SegmentHeader(FORMAT, found.journal_id, 1, 1, size, salt, 0)
        )
    if found.trimmed:
        directory.remove(found.trimmed)
    tail = found.parts[-1]
    state, head = tail.walk, tail.head
    if found.tail_data is None:
        assert head is not None
        fd = disk.open(directory.path / tail.name)
        return OpenSegment(fd, tail.number, head.size, head.salt, state.end, state.crc, state.last_boot)
    if state.torn:
        offset, length = state.torn
        directory.set_aside(tail.number, offset, found.tail_data[offset : offset + length])
    if head is None:  # its header does not verify: only its number is known
        crc = found.parts[-2].walk.crc
        head = SegmentHeader(FORMAT, found.journal_id, tail.number, found.next_lsn, 0, salt, crc)
    size = max(head.size, spares.segment_bytes)
    head = head._replace(min_reader=FORMAT, size=size, salt=salt)
    segment = begin(directory, spares.make(size), head, (found.tail_data, state.end), state.last_boot)
    state.end = segment.offset
    found.tail_data = None
    return segment


# -- how long the disk takes to sync, and the log line if that is long -------------------------------------

SLOW_SYNC_MS: Final = 1000
"""A sync that takes longer is counted: requests wait for it, and clients begin to time out."""
QUIET_S: Final = 60
"""Least time between two warnings: a slow disk is slow for many syncs."""
_QUIET_NS: Final = QUIET_S * 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_log = logging.getLogger("wheeltimer.journal")


class SyncTimes:
    """Counts since the start; written by the thread that syncs, read by the loop."""

    def __init__(self) -> None:
        self.slow_syncs = 0
        self.sync_ms_max = 0
        self._quiet_until_ns = self._stuck_quiet_until_ns = 0

    def sync(self, disk: Disk, fd: int, name: str) -> None:
        """``disk.fdatasync(fd)``, timed; ``name`` is the file's. Raises :class:`OSError`.

        The clock is ``perf_counter``, which stops while the machine is suspended: a suspend is no slow sync.
        """
        began_ns = time.perf_counter_ns()
        disk.fdatasync(fd)
        now_ns = time.perf_counter_ns()
        took_ms = (now_ns - began_ns) // _NS_PER_MS
        if took_ms > self.sync_ms_max:
            self.sync_ms_max = took_ms
        if took_ms > SLOW_SYNC_MS:
            self.slow_syncs += 1
            if now_ns >= self._quiet_until_ns:
                self._quiet_until_ns = now_ns + _QUIET_NS
                _log.warning(
                    "disk is slow, requests wait for it and timers do not: fdatasync of %s took ms=%d"
                    " slow_syncs=%d; said at most once in %d s",
                    name, took_ms, self.slow_syncs, QUIET_S,
                )  # fmt: skip

    def stuck(self, least_ms: int, unsynced_bytes: int) -> None:
        """Logs that a commit has been under way for over ``least_ms``: at once, because it may never end."""
        now_ns = time.perf_counter_ns()
        if now_ns >= self._stuck_quiet_until_ns:
            self._stuck_quiet_until_ns = now_ns + _QUIET_NS
            _log.warning(
                "disk does not answer: a commit has waited for over ms=%d unsynced_bytes=%d",
                least_ms, unsynced_bytes,
            )  # fmt: skip
