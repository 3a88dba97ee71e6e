"""The tables of docs/journal-format.md are the structures of the code, field by field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wheeltimer
from wheeltimer.journal import frame, segment

TEXT = (Path(wheeltimer.__file__).parent / "docs" / "journal-format.md").read_text(encoding="utf-8")


def table(title: str) -> list[tuple[int, int, str]]:
    """Offset, size and name of every row of the table after a title."""
    body = TEXT.split(f"**{title}**", 1)[1]
    rows = []
    for line in body.split("| offset |", 1)[1].splitlines()[2:]:
        if not (found := re.match(r"\| (\d+) \| (\d+) \| `(\w+)` \|", line)):
            break
        rows.append((int(found[1]), int(found[2]), found[3]))
    return rows


@pytest.mark.parametrize(
    ("title", "size"), [("Segment header", segment.HEADER.size), ("Frame header", frame.HEADER_BYTES)]
)
def test_tables_leave_no_byte_out(title: str, size: int) -> None:
    at = 0
    for offset, length, _ in table(title):
        assert offset == at
        at += length
    assert at == size


def test_frame_header_table_is_the_struct() -> None:
    fields = [(offset, name) for offset, _, name in table("Frame header") if name != "zero"]
    assert [name for _, name in fields] == list(frame.Header._fields)
    clocks = frame.Clocks(b"B" * 16, 0x1111111111111111, 0x2222222222222222)
    data, _ = frame.encode(
        frame.Kind.TRIM, b"SALTSALT", 0x3333333333333334, 0x44444444, clocks, 0x55555555, b"pay"
    )
    want = {
        "magic": b"WTfr",
        "salt": b"SALTSALT",
        "length": b"\3\0\0\0",
        "records": b"\x44" * 4,
        "first_lsn": b"\x34" + b"\x33" * 7,
        "synced_lsn": b"\x33" * 8,
        "kind": b"\4",
        "zero": bytes(7),
        "boot_id": b"B" * 16,
        "boottime_ns": b"\x11" * 8,
        "wall_ms": b"\x22" * 8,
        "prev_crc": b"\x55" * 4,
    }
    for offset, length, name in table("Frame header"):
        if name in want:
            assert data[offset : offset + length] == want[name], name


def test_segment_header_table_is_the_struct() -> None:
    head = segment.SegmentHeader(
        0x1111, b"J" * 16, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444, b"SALTSALT", 0x55555555
    )
    data, crc = segment.encode_header(head)
    want = {
        "magic": b"WTsegm\r\n",
        "format": b"\1\0",
        "min_reader": b"\x11" * 2,
        "zero": bytes(4),
        "journal_id": b"J" * 16,
        "number": b"\x22" * 8,
        "first_lsn": b"\x33" * 8,
        "size": b"\x44" * 8,
        "salt": b"SALTSALT",
        "prev_crc": b"\x55" * 4,
        "crc": crc.to_bytes(4, "little"),
    }
    for offset, length, name in table("Segment header"):
        assert data[offset : offset + length] == want[name], name


def test_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d) \| `([A-Z]+)` \|", TEXT, re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {kind.name: kind.value for kind in frame.Kind}
