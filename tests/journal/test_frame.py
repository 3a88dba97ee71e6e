"""Frames and segments as bytes: what goes in comes out, and what the docstrings say of the layout holds."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltimer.journal.frame import (
    HEADER_BYTES,
    SECTOR_BYTES,
    Clocks,
    Kind,
    array_header,
    encode,
    extent_bytes,
    header_at,
    only_zeros,
    payload_fault,
    payload_of,
)
from wheeltimer.journal.segment import (
    SEGMENT_BYTES_MIN,
    SegmentHeader,
    decode_header,
    encode_header,
    frame_bytes_max,
    frames,
    walk,
)

from .worlds import BOOT

SALT = b"saltsalt"
CLOCKS = Clocks(BOOT, 123_456_789, 1_700_000_000_123)
HEAD = SegmentHeader(1, b"i" * 16, 3, 100, 1 << 16, SALT, 77)


def segment_of(*batches: list[object]) -> tuple[bytes, SegmentHeader]:
    """A segment with these batches, each a list of values."""
    data, crc = encode_header(HEAD)
    lsn = HEAD.first_lsn
    for batch in batches:
        payload = payload_of([msgpack.packb(value) for value in batch])
        frame, crc = encode(Kind.BATCH, SALT, lsn, len(batch), CLOCKS, crc, payload)
        data += frame.ljust(extent_bytes(len(payload)), b"\0")
        lsn += len(batch)
    head = decode_header(data)
    assert head is not None
    return data.ljust(HEAD.size, b"\0"), head


@given(
    st.lists(st.lists(st.integers(0, 2**63) | st.binary(max_size=600), min_size=1, max_size=30), max_size=9)
)
def test_what_goes_in_comes_out(batches: list[list[object]]) -> None:
    data, head = segment_of(*batches)
    state = walk(data, head)
    assert (state.fault, state.frames, state.sealed) == (None, len(batches), False)
    out = list(frames(data, state.end))
    assert [msgpack.unpackb(frame.payload) for frame in out] == batches
    lsn = HEAD.first_lsn
    for frame, batch in zip(out, batches, strict=True):
        assert (frame.first_lsn, frame.records, frame.clocks) == (lsn, len(batch), CLOCKS)
        assert frame.offset % SECTOR_BYTES == 0
        lsn += len(batch)
    assert state.next_lsn == lsn


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536, 1 << 31])
def test_array_headers_of_every_length(count: int) -> None:
    unpacker = msgpack.Unpacker()
    unpacker.feed(array_header(count))
    assert unpacker.read_array_header() == count


@given(st.integers(0, 100_000))
def test_a_frame_takes_whole_sectors_and_keeps_its_slot(length: int) -> None:
    extent = extent_bytes(length)
    assert extent % SECTOR_BYTES == 0
    assert extent - SECTOR_BYTES < HEADER_BYTES + length + HEADER_BYTES <= extent


def test_header_tells_what_was_durable_when_it_was_written() -> None:
    frame, crc = encode(Kind.BATCH, SALT, 41, 2, CLOCKS, 5, b"\x92\xc0\xc0")
    header = header_at(frame, 0, SALT)
    assert header is not None
    assert (header.first_lsn, header.last_lsn, header.synced_lsn) == (41, 42, 40)
    assert (header.prev_crc, header.crc, header.clocks, header.kind) == (5, crc, CLOCKS, Kind.BATCH)


def test_a_header_of_another_segment_does_not_verify() -> None:
    frame, _ = encode(Kind.BATCH, SALT, 41, 1, CLOCKS, 5, b"\x91\xc0")
    assert header_at(frame, 0, b"another!") is None


def test_a_payload_that_is_not_an_array_of_its_count_is_a_fault() -> None:
    for payload in (b"\x92\xc0\xc0", b"\xc0", b""):
        frame, _ = encode(Kind.BATCH, SALT, 41, 1, CLOCKS, 5, payload)
        header = header_at(frame, 0, SALT)
        assert header is not None
        assert payload_fault(frame, memoryview(frame), 0, header) is not None


def test_a_stale_frame_is_no_continuation() -> None:
    """A frame that verifies on its own but repeats an lsn, or hangs on another frame, is damage."""
    data, head = segment_of([1], [2])
    second = data[2 * SECTOR_BYTES : 3 * SECTOR_BYTES]
    twice = data[: 3 * SECTOR_BYTES] + second + data[4 * SECTOR_BYTES :]
    skipped = data[:SECTOR_BYTES] + second + data[2 * SECTOR_BYTES :]
    alien, _ = encode(Kind.BATCH, SALT, head.first_lsn + 2, 1, CLOCKS, 5, b"\x91\xc0")
    hung = data[: 3 * SECTOR_BYTES] + alien.ljust(SECTOR_BYTES, b"\0") + data[4 * SECTOR_BYTES :]
    for image in (twice, skipped, hung):
        assert walk(image, head).proven


def test_an_unknown_kind_of_frame_is_a_later_version() -> None:
    data, head = segment_of([1])
    crc = header_at(data, SECTOR_BYTES, SALT).crc  # type: ignore[union-attr]
    frame, _ = encode(9, SALT, head.first_lsn + 1, 1, CLOCKS, crc, b"\x91\xc0")  # type: ignore[arg-type]
    image = data[: 2 * SECTOR_BYTES] + frame + data[2 * SECTOR_BYTES + len(frame) :]
    assert walk(image, head).newer


@given(st.binary(max_size=300), st.integers(0, 200_000))
def test_only_zeros_agrees_with_looking(head: bytes, zeros: int) -> None:
    data = head + bytes(zeros)
    assert only_zeros(data, 0) == (not head.strip(b"\0"))
    assert only_zeros(data, len(head))
    assert not only_zeros(data + b"\1", len(head))
    assert only_zeros(data + b"\1", len(head), len(data))


def test_a_frame_never_exceeds_its_segment() -> None:
    for size in (SEGMENT_BYTES_MIN, 1 << 20, 64 << 20):
        assert 2 * SECTOR_BYTES + frame_bytes_max(size) < size


def test_segment_header_survives_and_notices_every_bit() -> None:
    data, crc = encode_header(HEAD)
    assert decode_header(data) == HEAD._replace(crc=crc)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_header(bytes(flipped)) is None
