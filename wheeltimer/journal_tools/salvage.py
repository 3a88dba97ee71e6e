"""The frames of a damaged segment that can still be read, and the gaps between them. Pure.

A frame is accepted if its header verifies on its own under the segment's salt and its payload verifies. It
need not continue the frame before, because that one may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from wheeltimer.journal.frame import (
    CHAINED,
    HEADER_BYTES,
    SALT_AT,
    SECTOR_BYTES,
    Header,
    Kind,
    extent_bytes,
    header_at,
    only_zeros,
    payload_fault,
)
from wheeltimer.journal.segment import HEADER, SEGMENT_BYTES_MIN, SegmentHeader, decode_header

CUT: Final = "the file was cut here: what came after this, if anything, is lost"


class Gap(NamedTuple):
    """Bytes of a segment without a readable frame. ``lsn_known``: records up to this lsn were on disk, as a
    later header proves; 0 if there is none."""

    offset: int
    size: int
    why: str
    lsn_known: int


class SalvagedFrame(NamedTuple):
    """A frame that verifies, and the marker in its slot if that verifies too."""

    offset: int
    header: Header
    marker: Header | None


def salt_of(data: bytes) -> bytes | None:
    """The segment's salt: from its header, else from its first frame, else from the unverified header."""
    head = decode_header(data)
    if head is not None:
        return head.salt
    if len(data) < SECTOR_BYTES + HEADER_BYTES:
        return None
    first = data[SECTOR_BYTES + SALT_AT : SECTOR_BYTES + SALT_AT + 8]
    if header_at(data, SECTOR_BYTES, first) is not None:
        return first
    shown: bytes = HEADER.unpack_from(data)[8]
    return shown


def shown_id(data: bytes) -> bytes:
    """The journal's id in a header, verified or not; empty if there is none."""
    shown: bytes = HEADER.unpack_from(data)[4] if len(data) >= HEADER.size else b""
    return shown.strip(b"\0") and shown


def salvage(data: bytes, head: SegmentHeader | None) -> Iterator[SalvagedFrame | Gap]:
    """Frames and gaps of a segment in order; nothing for zeros after the last of them."""
    if head is None:
        yield Gap(0, min(len(data), SECTOR_BYTES), "the segment's header does not verify", 0)
    salt = salt_of(data)
    view, offset = memoryview(data), SECTOR_BYTES
    while salt is not None and offset < len(data) and not only_zeros(data, offset):
        found, why = _frame(data, view, offset, salt)
        if found is None:
            end, known = _resume(data, view, offset, salt)
            yield Gap(offset, end - offset, why, known)
            offset = end
            continue
        yield found
        offset += extent_bytes(found.header.length)
        if found.header.kind == Kind.SEAL:
            return
    size = SEGMENT_BYTES_MIN if head is None else head.size
    if len(data) < size:
        yield Gap(len(data), size - len(data), CUT, 0)


def _frame(data: bytes, view: memoryview, offset: int, salt: bytes) -> tuple[SalvagedFrame | None, str]:
    header = header_at(data, offset, salt)
    if header is None or header.kind not in CHAINED:
        return None, "a frame header does not verify"
    if fault := payload_fault(data, view, offset, header):
        return None, fault
    slot = offset + extent_bytes(header.length) - HEADER_BYTES
    marker = header_at(data, slot, salt)
    if marker is not None and (marker.prev_crc != header.crc or marker.kind in CHAINED):
        marker = None
    return SalvagedFrame(offset, header, marker), ""


def _resume(data: bytes, view: memoryview, offset: int, salt: bytes) -> tuple[int, int]:
    """The offset of the next frame that can be read (or the end), and the highest ``synced_lsn`` of that
    frame and of the headers before it."""
    known = 0
    broken = header_at(data, offset, salt)
    step = offset
    while True:
        slot = header_at(data, step + SECTOR_BYTES - HEADER_BYTES, salt)
        if slot is not None:
            known = max(known, slot.synced_lsn)
        step += SECTOR_BYTES
        if step >= len(data) or only_zeros(data, step):
            break
        found, _ = _frame(data, view, step, salt)
        # Bytes inside the broken frame's own payload are payload: a frame can only begin after it.
        inside = broken is not None and step < offset + extent_bytes(broken.length)
        if found is not None and not inside:
            known = max(known, found.header.synced_lsn)
            break
        header = None if inside else header_at(data, step, salt)
        if header is not None:
            known = max(known, header.synced_lsn)
    return min(step, len(data)), known
