"""The bytes of one frame: a header with a crc of its own, a payload, zeros, and a marker's slot.

Pure: bytes in, bytes out. ``recovery.py`` decides what follows from a frame that does not verify;
``segment.py`` defines where frames are in a file.

A frame starts on a sector boundary and takes whole sectors; the last 88 bytes of its last sector are
a slot in which a marker is written once the frame is on disk and no other frame follows at once::

    sector 0                                                      last sector
    | header 88 | payload: msgpack array of the records | 0 0 0 ... | slot 88 |

So no two batches share a sector, no header lies across two, and writing one batch never changes the
bytes of another: a lost sector destroys at most one frame, and the frame after it shows the loss.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple
from zlib import crc32

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""

MAGIC: Final = b"WTfr"

HEADER: Final = struct.Struct("<I4s8sIIQQB7x16sQqII")
HEADER_BYTES: Final = HEADER.size
SALT_AT: Final = 8
"""Offset of the segment's salt in a header."""

FRAME_OVERHEAD_BYTES: Final = 2 * HEADER_BYTES + 5
"""Header, slot and the longest array header: the bytes of a frame besides records and rounding."""

ZEROS: Final = bytes(1 << 16)


class Kind(IntEnum):
    """The purpose of a frame. MARKER and STOP are in slots, the others in the chain of frames."""

    BATCH = 1
    """Records of one commit."""
    MARKER = 2
    """The frame whose slot this is in was on disk when this was written."""
    SEAL = 3
    """Last frame of a segment; the next segment continues the chain."""
    TRIM = 4
    """Segments below the number in the payload are needed no longer."""
    STOP = 5
    """A marker of a clean stop: synced, and nothing was written after it."""


CHAINED: Final = frozenset({Kind.BATCH, Kind.SEAL, Kind.TRIM})


class Clocks(NamedTuple):
    """When a frame was written: elapsed time (CLOCK_BOOTTIME) under a boot id, and wall time.

    ``boot_id`` is 16 bytes. ``wall_ms`` is in whole ms, rounded down: one ms must be added to a deadline that
    is converted by it to another boot, so that it is late and never early.
    """

    boot_id: bytes
    boottime_ns: int
    wall_ms: int


class Header(NamedTuple):
    """A frame header's fields, in their order on disk; see ``docs/journal-format.md``."""

    crc: int
    magic: bytes
    salt: bytes
    length: int
    records: int
    first_lsn: int
    synced_lsn: int
    kind: int
    boot_id: bytes
    boottime_ns: int
    wall_ms: int
    prev_crc: int
    payload_crc: int

    @property
    def clocks(self) -> Clocks:
        return Clocks(self.boot_id, self.boottime_ns, self.wall_ms)

    @property
    def last_lsn(self) -> int:
        """lsn of the frame's last record; ``first_lsn - 1`` if it has none."""
        return self.first_lsn + self.records - 1


class Frame(NamedTuple):
    """One batch, as recovery and readers return it.

    ``payload`` is one msgpack array of ``records`` elements, whose lsns are ``first_lsn`` and up: a view
    that keeps the bytes of its whole segment, or piece of one, in memory. ``offset``: of the frame in its
    segment. ``kind`` is ``BATCH`` unless the caller asked for others.
    """

    first_lsn: int
    records: int
    clocks: Clocks
    payload: memoryview
    offset: int
    kind: int = Kind.BATCH


def extent_bytes(length: int) -> int:
    """Bytes that a frame with a payload of ``length`` takes in the file: whole sectors."""
    return (length + 2 * HEADER_BYTES + SECTOR_BYTES - 1) & -SECTOR_BYTES


def array_header(count: int) -> bytes:
    """The first bytes of a msgpack array of ``count`` elements."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def encode(
    kind: Kind,
    salt: bytes,
    first_lsn: int,
    count: int,
    clocks: Clocks,
    prev_crc: int,
    payload: bytes | memoryview = b"",
) -> tuple[bytes, int]:
    """The frame's bytes without rounding and slot, and its crc for the next frame's ``prev_crc``.

    ``synced_lsn`` is ``first_lsn - 1``: one commit at a time is under way, so all before a frame was on disk
    when it was written. A marker's ``first_lsn`` is the one after its own frame's last.
    """
    body = HEADER.pack(
        0, MAGIC, salt, len(payload), count, first_lsn, first_lsn - 1, kind,
        clocks.boot_id, clocks.boottime_ns, clocks.wall_ms, prev_crc, crc32(payload),
    )[4:]  # fmt: skip
    crc = crc32(body)
    return b"".join((crc.to_bytes(4, "little"), body, payload)), crc


def payload_of(records: Sequence[bytes]) -> bytes:
    """A msgpack array of encoded records."""
    return b"".join((array_header(len(records)), *records))


def header_of(data: bytes, offset: int) -> Header:
    """The header at ``offset``, unverified."""
    return Header._make(HEADER.unpack_from(data, offset))


def header_at(data: bytes, offset: int, salt: bytes) -> Header | None:
    """The header at ``offset`` if it verifies on its own: crc, magic and the segment's salt."""
    if offset < 0 or offset + HEADER_BYTES > len(data):
        return None
    fields = HEADER.unpack_from(data, offset)
    if (
        fields[1] != MAGIC
        or fields[2] != salt
        or fields[0] != crc32(data[offset + 4 : offset + HEADER_BYTES])
    ):
        return None
    return Header._make(fields)


def payload_fault(data: bytes, view: memoryview, offset: int, header: Header) -> str | None:
    """Why the payload after the header at ``offset`` does not verify; None if it does."""
    start = offset + HEADER_BYTES
    end = start + header.length
    if end > len(data):
        return "the file ends inside a frame"
    if crc32(view[start:end]) != header.payload_crc:
        return "a frame's payload does not match its checksum"
    if header.length == 0:
        return None if header.records == 0 else "a frame without payload claims records"
    if not data.startswith(array_header(header.records), start):
        return "a frame's payload is not an array of its count"
    return None


def only_zeros(data: bytes, start: int, end: int | None = None) -> bool:
    """Whether ``data[start:end]`` is all zeros; copies nothing."""
    end = len(data) if end is None or end > len(data) else end
    while end - start > len(ZEROS):
        if not data.startswith(ZEROS, start):
            return False
        start += len(ZEROS)
    return start >= end or data.startswith(ZEROS[: end - start], start)
