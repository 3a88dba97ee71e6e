"""Standard error whose reader stands still, is gone, or comes back; and what one log line looks like."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterator

import pytest

from wheeltimer.runtime.log_writer import LineFormatter, LogWriter

LINE = b"x" * 99 + b"\n"
ROOM = 10_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(reading end, writing end), both closed afterwards."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def read_to(fd: int, end: bytes) -> bytes:
    """What comes up to and with ``end``."""
    data = b""
    while not data.endswith(end):
        data += os.read(fd, 65_536)
    return data


def fill(writer: LogWriter) -> int:
    """Fill the pipe, then write lines until far more of them waited than have room; how many lines in all."""
    fd, lines = writer.fileno(), 3 * ROOM // len(LINE)
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            lines += os.write(fd, LINE) // len(LINE)
    os.set_blocking(fd, True)
    for _ in range(3 * ROOM // len(LINE)):
        writer.write(LINE)
    return lines


def test_a_reader_that_stands_still_costs_lines_and_they_are_counted(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing, ROOM)
    written = fill(writer)  # this returns though nobody reads
    data = read_to(reading, b"took none\n")
    *whole, note = data.splitlines(keepends=True)
    assert set(whole) == {LINE}, "no line is cut"
    (dropped,) = re.findall(rb"dropped=(\d+) lines", note)
    assert len(whole) + int(dropped) == written
    assert int(dropped) >= ROOM // len(LINE)
    writer.write(b"after\n")
    assert read_to(reading, b"after\n") == b"after\n", "the number is said once"


def test_the_number_of_lost_lines_stands_where_they_are_missing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing, ROOM)
    written = fill(writer)
    data = b""
    while writer._bytes > ROOM // 2 - 2 * len(LINE):  # with half of it free, lines are taken again
        data += os.read(reading, 4096)
    writer.write(b"back\n")
    *whole, note, _ = (data + read_to(reading, b"back\n")).splitlines(keepends=True)
    assert set(whole) == {LINE}
    (dropped,) = re.findall(rb"dropped=(\d+) lines, its reader took none\n", note)
    assert len(whole) + int(dropped) == written


def test_a_reader_that_is_gone_and_a_full_disk_raise_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for fd in (writing, os.open("/dev/full", os.O_WRONLY), os.open("/dev/null", os.O_RDONLY)):
        writer = LogWriter(fd, ROOM)
        for _ in range(3):
            assert writer.write(LINE) == len(LINE)
            writer.end()  # written, or counted as lost
        os.close(fd)


def test_lines_that_could_not_be_written_are_counted_when_they_can_be_again(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    spare = os.dup(writing)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, spare)
    os.close(full)
    writer = LogWriter(spare, ROOM)
    writer.write(LINE + LINE)
    writer.write(LINE)
    writer.end()
    os.dup2(writing, spare)
    writer.write(b"again\n")
    note, again = read_to(reading, b"again\n").splitlines()
    assert b"dropped=3 lines" in note
    assert again == b"again"
    os.close(spare)


def test_a_descriptor_that_others_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LogWriter(writing, 1 << 20)
    for _ in range(2_000):
        writer.write(LINE)
    writer.write(b"end\n")
    assert read_to(reading, b"end\n") == LINE * 2_000 + b"end\n"


def test_flush_waits_for_nobody_until_the_end(pipe: tuple[int, int]) -> None:
    """Not for the reader of a pipe that is full, with lines that wait behind it."""
    reading, writing = pipe
    writer = LogWriter(writing, ROOM)
    written = fill(writer)
    stream = io.TextIOWrapper(writer, encoding="utf-8", line_buffering=True)
    flushed = threading.Event()

    def print_a_line() -> None:
        print("line", file=stream, flush=True)
        flushed.set()

    threading.Thread(target=print_a_line, daemon=True).start()
    assert flushed.wait(10), "it waits for the reader"
    stream.detach()
    data = read_to(reading, b"took none\n")
    assert data.count(LINE) < written


def test_the_end_waits_for_a_reader_that_reads(pipe: tuple[int, int]) -> None:
    """Else the reason of an end would be lost with the process."""
    reading, writing = pipe
    writer = LogWriter(writing, 1 << 20)
    for _ in range(2_000):  # more than the pipe holds
        writer.write(LINE)
    writer.write(b"end\n")
    data = bytearray()
    reader = threading.Thread(target=lambda: data.extend(read_to(reading, b"end\n")), daemon=True)
    reader.start()
    writer.end()
    assert writer._bytes == 0, "all is in the pipe, or read"
    reader.join(10)
    assert data == LINE * 2_000 + b"end\n"


def line_of(text: str, *values: object) -> str:
    record = logging.LogRecord("wheeltimer.x", logging.INFO, "", 0, text, values, None)
    record.created, record.msecs = 1_893_484_800.007, 7.0
    return LineFormatter().format(record)


def test_a_line_is_utc_whatever_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert line_of("stopped exit=%d", 0) == "2030-01-01T08:00:00.007Z INFO wheeltimer.x stopped exit=0"


def test_what_others_wrote_makes_no_second_line_and_drives_no_terminal() -> None:
    line = line_of("held destination=%s", "a\n2030-01-01T08:00:00.000Z ERROR forged\x1b[2J\r\x9b")
    assert "\n" not in line
    assert line.isprintable()
    assert line.endswith(r"a\n2030-01-01T08:00:00.000Z ERROR forged\x1b[2J\r\x9b")
