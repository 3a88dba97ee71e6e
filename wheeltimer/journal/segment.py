"""One segment file: its header, and the walk over its frames to the first that does not verify.

Pure: works on the file's bytes. ``recovery.py`` decides what the end of the walk means for the journal as a
whole (torn, damaged, clean).

A segment's first sector is its header, frames follow sector by sector, the rest is zeros::

    | header sector | frame | frame | ... | seal | zeros |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import crc32

from .frame import (
    CHAINED,
    HEADER_BYTES,
    SALT_AT,
    SECTOR_BYTES,
    Clocks,
    Frame,
    Header,
    Kind,
    encode,
    extent_bytes,
    header_at,
    header_of,
    only_zeros,
    payload_fault,
)

MAGIC: Final = b"WTsegm\r\n"
FORMAT: Final = 1
"""Version of the format that this code writes, and the oldest reader that can read it."""
READS: Final = 1
"""Newest ``min_reader`` that this code can read."""

HEADER: Final = struct.Struct("<8sHHI16sQQQ8sII")
SEGMENT_BYTES_MIN: Final = 4096
"""Smallest segment that the layout allows; the settings' minimum is larger, tests use less."""
FRAME_BYTES_MAX: Final = 4 << 20
"""Longest frame, however large the segment: bounds a reader's memory and the time of one write."""


def frame_bytes_max(segment_bytes: int) -> int:
    """Longest frame in segments of this size: a quarter, so that the unused end of a segment is less."""
    return min(FRAME_BYTES_MAX, segment_bytes // 4)


class SegmentHeader(NamedTuple):
    """The fields of the first sector. ``prev_crc``: crc of the previous segment's seal, 0 in segment 1."""

    min_reader: int
    journal_id: bytes
    number: int
    first_lsn: int
    size: int
    salt: bytes
    prev_crc: int
    crc: int = 0


def encode_header(header: SegmentHeader) -> tuple[bytes, int]:
    """The first sector's bytes, and its crc for the first frame's ``prev_crc``."""
    body = HEADER.pack(
        MAGIC, FORMAT, header.min_reader, 0, header.journal_id, header.number, header.first_lsn,
        header.size, header.salt, header.prev_crc, 0,
    )[:-4]  # fmt: skip
    crc = crc32(body)
    return (body + crc.to_bytes(4, "little")).ljust(SECTOR_BYTES, b"\0"), crc


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header if it verifies. Its layout never changes, so that every version can name a later format."""
    if len(data) < HEADER.size or not only_zeros(data, HEADER.size, SECTOR_BYTES):
        return None
    magic, _, min_reader, _, journal_id, number, first_lsn, size, salt, prev, crc = HEADER.unpack_from(data)
    if magic != MAGIC or crc != crc32(memoryview(data)[: HEADER.size - 4]):
        return None
    return SegmentHeader(min_reader, journal_id, number, first_lsn, size, salt, prev, crc)


class Boot(NamedTuple):
    """The clocks in the first frame of a boot, and in its last frame or marker."""

    first: Clocks
    last: Clocks


@dataclass(slots=True)
class SegmentWalk:
    """How far a segment's frames verify.

    ``end``: first offset after the valid frames. ``next_lsn``, ``crc``: ``first_lsn`` and ``prev_crc`` that
    the next frame must have. ``fault``: why the walk ended before the zeros; ``proven``: no crash explains
    it. ``torn``: offset and length of bytes that belong to no valid frame. ``doubt``: offset and lsn of a
    marker that does not verify, which a crash explains in the last segment only. ``frames``, ``last_boot``:
    without the seal. ``boots``: the first and the last clocks of each boot; ``seen``: the header with the
    last ones.
    """

    end: int
    next_lsn: int
    crc: int
    sealed: bool = False
    stopped: bool = False
    newer: bool = False
    fault: str | None = None
    fault_at: int = 0
    proven: bool = False
    torn: tuple[int, int] | None = None
    trim_below: int = 0
    doubt: tuple[int, int] | None = None
    frames: int = 0
    last_boot: bytes = b""
    boots: dict[bytes, Boot] = field(default_factory=dict)
    seen: Header | None = None

    def see(self, header: Header) -> None:
        """Notes the clocks of a frame or marker; they replace earlier ones of the same boot."""
        if self.seen is None or self.seen.boot_id != header.boot_id:
            self.keep_seen()
            self.boots.setdefault(header.boot_id, Boot(header.clocks, header.clocks))
        self.seen = header

    def keep_seen(self) -> None:
        if self.seen is not None:
            boot_id = self.seen.boot_id
            self.boots[boot_id] = Boot(self.boots[boot_id].first, self.seen.clocks)


def walk(data: bytes, head: SegmentHeader) -> SegmentWalk:
    """Verifies every frame of a segment; about 5 us a frame and 0.3 s a GiB."""
    state = SegmentWalk(end=SECTOR_BYTES, next_lsn=head.first_lsn, crc=head.crc)
    _walk(state, data, head)
    state.keep_seen()
    return state


def _walk(state: SegmentWalk, data: bytes, head: SegmentHeader) -> None:
    view = memoryview(data)
    while not state.sealed:
        offset = state.end
        header = header_at(data, offset, head.salt)
        if header is None:
            if not only_zeros(data, offset):
                _end(state, data, head, offset, state.next_lsn, "a frame header does not verify")
            return
        if fault := _chain_fault(state, header):
            state.fault, state.fault_at, state.proven = fault, offset, True
            return
        if fault := payload_fault(data, view, offset, header):
            _end(state, data, head, offset, state.next_lsn, fault)
            return
        _accept(state, data, offset, header)
        if not state.sealed and not _gap_is_right(state, data, offset, header, head.salt):
            gap = offset + HEADER_BYTES + header.length
            if _slot_may_be_torn(state, data, gap, header, head.salt):
                state.doubt = state.end - HEADER_BYTES, header.last_lsn
                continue
            _end(state, data, head, gap, header.last_lsn, "bytes after a frame are not zero")
            return
    after = state.end - SECTOR_BYTES + HEADER_BYTES
    if not only_zeros(data, after):
        state.fault, state.fault_at, state.proven = "bytes after a seal are not zero", after, True


def _chain_fault(state: SegmentWalk, header: Header) -> str | None:
    """Why a header that verifies on its own does not continue the chain, which no crash causes; else None."""
    if header.kind not in CHAINED:
        state.newer = header.kind not in (Kind.MARKER, Kind.STOP)
        return f"a frame of unknown kind {header.kind}"
    if header.first_lsn != state.next_lsn:
        return f"lsn {state.next_lsn} was expected and {header.first_lsn} stands there"
    if header.prev_crc != state.crc:
        return "a frame does not carry on the one before it"
    return None


def _accept(state: SegmentWalk, data: bytes, offset: int, header: Header) -> None:
    state.end = offset + extent_bytes(header.length)
    state.next_lsn = header.first_lsn + header.records
    state.crc = header.crc
    state.stopped = False
    state.sealed = header.kind == Kind.SEAL
    if not state.sealed:
        state.frames += 1
        state.last_boot = header.boot_id
    state.see(header)
    if header.kind == Kind.TRIM:
        state.trim_below = max(state.trim_below, decode_trim(data, offset + HEADER_BYTES))


def _gap_is_right(state: SegmentWalk, data: bytes, offset: int, header: Header, salt: bytes) -> bool:
    """Zeros between payload and slot; in the slot zeros, or a marker of this very frame."""
    start, slot = offset + HEADER_BYTES + header.length, state.end - HEADER_BYTES
    if only_zeros(data, start, state.end):
        return True
    if not only_zeros(data, start, slot):
        return False
    mark = header_at(data, slot, salt)
    if mark is None or mark.prev_crc != header.crc or mark.kind not in (Kind.MARKER, Kind.STOP):
        return False
    state.stopped = mark.kind == Kind.STOP
    state.see(mark)
    return True


def _slot_may_be_torn(state: SegmentWalk, data: bytes, gap: int, header: Header, salt: bytes) -> bool:
    """Whether a crash can leave that slot: a marker is not synced before the frame after it is. So if no
    later header proves that this frame was on disk, half of its marker may have been written."""
    if not only_zeros(data, gap, state.end - HEADER_BYTES):
        return False
    later = list(_headers_after(data, state.end, salt))
    return bool(later) and all(each.synced_lsn <= header.last_lsn for each in later)


def _end(state: SegmentWalk, data: bytes, head: SegmentHeader, offset: int, lsn: int, fault: str) -> None:
    """Ends the walk at a fault; it is damage if a later header proves that ``lsn`` was on disk."""
    state.fault, state.fault_at = fault, offset
    state.proven = any(header.synced_lsn >= lsn for header in _headers_after(data, offset, head.salt))
    state.torn = (offset, len(data.rstrip(b"\0")) - offset)


def _headers_after(data: bytes, offset: int, salt: bytes) -> Iterator[Header]:
    """Headers from ``offset`` on that verify on their own, at the start of a sector or in a slot."""
    at = data.find(salt, offset)
    while at >= 0:
        start = at - SALT_AT
        in_place = start % SECTOR_BYTES in (0, SECTOR_BYTES - HEADER_BYTES)
        if in_place and start >= offset and (header := header_at(data, start, salt)):
            yield header
        at = data.find(salt, at + 1)


def frames(
    data: bytes, end: int, from_lsn: int = 1, kinds: frozenset[int] = frozenset({Kind.BATCH})
) -> Iterator[Frame]:
    """The batches of a segment that was walked to ``end``, from the one that holds ``from_lsn``."""
    view = memoryview(data)
    for offset, header in headers(data, end):
        if header.kind in kinds and header.last_lsn >= from_lsn:
            start = offset + HEADER_BYTES
            payload = view[start : start + header.length]
            yield Frame(header.first_lsn, header.records, header.clocks, payload, offset, header.kind)


def headers(data: bytes, end: int) -> Iterator[tuple[int, Header]]:
    """Offset and header of every frame of a segment that was walked to ``end``; verifies nothing."""
    offset = SECTOR_BYTES
    while offset < end:
        header = header_of(data, offset)
        yield offset, header
        offset += extent_bytes(header.length)


def encode_trim(below: int) -> bytes:
    """A trim's one record: a 64-bit number."""
    return b"\xcf" + below.to_bytes(8, "big")


def decode_trim(data: bytes, start: int) -> int:
    return int.from_bytes(data[start + 2 : start + 10], "big")


def rewritten(data: bytes, end: int, salt: bytes, crc: int) -> tuple[bytes, int]:
    """The frames up to ``end`` without a seal, under another salt, to write after a new header.

    Same lsns, clocks and offsets. Markers are kept, because the one of a boot's last frame has the last
    clocks of that boot. The caller syncs all of it before it is used, so the last frame gets a marker if it
    has none. Returns the bytes and the last frame's crc.
    """
    out = bytearray()
    unmarked: Clocks | None = None  # the last frame's, if it has no marker
    for offset, header in headers(data, end):
        if header.kind == Kind.SEAL:
            break
        start, extent = offset + HEADER_BYTES, extent_bytes(header.length)
        payload = memoryview(data)[start : start + header.length]
        frame, crc = encode(
            Kind(header.kind), salt, header.first_lsn, header.records, header.clocks, crc, payload
        )
        out += frame.ljust(extent, b"\0")
        mark = header_at(data, offset + extent - HEADER_BYTES, header.salt)
        unmarked = header.clocks if mark is None else None
        next_lsn = header.last_lsn + 1
        if mark is not None:
            out[-HEADER_BYTES:] = encode(Kind.MARKER, salt, next_lsn, 0, mark.clocks, crc)[0]
    if unmarked is not None:
        out[-HEADER_BYTES:] = encode(Kind.MARKER, salt, next_lsn, 0, unmarked, crc)[0]
    return bytes(out), crc
