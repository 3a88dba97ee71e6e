"""The example of docs/journal-format.md: read from the page byte by byte, and written again by the code.

The decoder here knows the page and nothing of the package: struct, zlib and msgpack.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack

import wheeltimer
from wheeltimer.core import records as r
from wheeltimer.core.task import Task
from wheeltimer.journal.frame import Kind

from .worlds import FOLDER, SEGMENT, Clock, MemoryDisk, open_journal

PAGE = Path(wheeltimer.__file__).parent / "docs" / "journal-format.md"
TIME_MS = 1_900_000_000_000


def written() -> dict[str, bytes]:
    """What the code writes for the input that the page tells."""
    disk = MemoryDisk(seed=1)
    with open_journal(disk, Clock(b"the boot of page")) as journal:
        writer = journal._writer
        task = Task(url="http://x/", created_ms=TIME_MS, lsn=1, delay=1000, deadline_ns=6_000_000_000)
        writer.commit(Kind.BATCH, [r.encode(r.Scheduled("mail/letter", TIME_MS, task))])
        for lsn in range(2, 8):
            writer.commit(Kind.BATCH, [r.encode(r.Paused("mail", TIME_MS + lsn, lsn % 2 == 0, lsn))])
        writer.stop()
    return {path.name: bytes(data) for path, data in disk.files.items() if path.suffix == ".segment"}


def dump(data: bytes) -> str:
    """Rows of 16 bytes; those that are zero are left out."""
    rows = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if any(row):
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            rows.append(f"{at:04x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}  {text}")
    return "\n".join(rows)


def on_the_page() -> dict[str, bytes]:
    text = PAGE.read_text(encoding="utf-8").split("## An example", 1)[1]
    found = {}
    for name, block in re.findall(r"(?ms)^`(\d{10}\.segment)`.*?```text\n(.*?)```", text):
        data = bytearray(4096)
        for line in block.strip().splitlines():
            match = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} {1,2}){16})", line)
            assert match, line
            at = int(match[1], 16)
            data[at : at + 16] = bytes.fromhex(match[2])
        found[name] = bytes(data)
    return found


def decoded(data: bytes, prev_crc: int) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """A segment by the tables of the page: its header, its frames with their records, its last crc."""
    magic, form, reader, zero, journal_id, number, first_lsn, size, salt, prev, crc = struct.unpack_from(
        "<8sHHI16sQQQ8sII", data
    )
    assert (magic, form, reader, zero, size) == (b"WTsegm\r\n", 1, 1, 0, 4096)
    assert crc == crc32(data[:68])
    assert prev == prev_crc
    assert not any(data[72:512])
    head = {"journal_id": journal_id, "number": number, "first_lsn": first_lsn, "salt": salt}
    frames: list[dict[str, Any]] = []
    at, lsn = 512, first_lsn
    while any(data[at : at + 512]):
        frame = frame_at(data, at, salt)
        assert frame["prev_crc"] == crc
        assert frame["first_lsn"] == lsn
        extent = (frame["length"] + 176 + 511) // 512 * 512
        slot = at + extent - 88
        payload = data[at + 88 : at + 88 + frame["length"]]
        assert crc32(payload) == frame["payload_crc"]
        frame["payload"] = msgpack.unpackb(payload, strict_map_key=False) if payload else []
        assert len(frame["payload"]) == frame["records"]
        assert not any(data[at + 88 + frame["length"] : slot])
        if any(data[slot : slot + 88]):
            frame["slot"] = frame_at(data, slot, salt)
            assert frame["slot"]["prev_crc"] == frame["crc"]
        frames.append(frame)
        crc, lsn, at = frame["crc"], lsn + frame["records"], at + extent
    return head, frames, crc


def frame_at(data: bytes, at: int, salt: bytes) -> dict[str, Any]:
    names = (
        "crc", "magic", "salt", "length", "records", "first_lsn", "synced_lsn", "kind", "zero", "boot_id",
        "boottime_ns", "wall_ms", "prev_crc", "payload_crc",
    )  # fmt: skip
    fields = struct.unpack_from("<I4s8sIIQQB7s16sQqII", data, at)
    frame = dict(zip(names, fields, strict=True))
    assert frame["crc"] == crc32(data[at + 4 : at + 88])
    assert (frame["magic"], frame["salt"], frame["zero"]) == (b"WTfr", salt, bytes(7))
    assert frame["synced_lsn"] == frame["first_lsn"] - 1
    return frame


def test_the_page_decodes_byte_by_byte() -> None:
    files = on_the_page()
    assert list(files) == ["0000000001.segment", "0000000002.segment"]
    one, first, crc = decoded(files["0000000001.segment"], 0)
    two, second, _ = decoded(files["0000000002.segment"], crc)
    assert one["journal_id"] == two["journal_id"]
    assert one["salt"] != two["salt"]
    assert (one["number"], two["number"], one["first_lsn"], two["first_lsn"]) == (1, 2, 1, 7)
    assert [frame["kind"] for frame in first] == [1] * 6 + [3]
    assert [frame["kind"] for frame in second] == [1]
    assert second[0]["slot"]["kind"] == 5
    records = [record for frame in first + second for record in frame["payload"]]
    assert records[0] == [
        "s", "mail/letter", TIME_MS,
        {"u": "http://x/", "d": 1000, "c": TIME_MS, "l": 1, "w": 6_000_000_000},
    ]  # fmt: skip
    for lsn, record in enumerate(records[1:], 2):
        assert record == ["p", "mail", TIME_MS + lsn, lsn % 2 == 0, lsn]
    assert len(records) == 7


def test_the_writer_writes_the_pages_bytes() -> None:
    files = written()
    assert files == on_the_page(), "\n\n".join(f"{name}\n{dump(data)}" for name, data in files.items())
    assert {len(data) for data in files.values()} == {SEGMENT}
    assert str(FOLDER)
