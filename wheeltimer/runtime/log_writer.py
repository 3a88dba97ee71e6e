"""Standard error, written by a thread, so that no write blocks the loop.

A pipe without a reader takes 64 KiB; then each write blocks until it is read. So a thread of its own writes
standard error, from a queue of bounded size; lines for which the queue has no room are counted and dropped.
``sys.stderr`` as a whole is replaced, not only the log's handler: a traceback or the reason of a failed
start must not block either. A non-blocking descriptor would do the same without a thread, but O_NONBLOCK
belongs to the open file, which other processes share.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

WAITING_BYTES_MAX: Final = 262_144  # in the queue: about 2,000 lines
END_S: Final = 1.0  # how long the process waits at its end until the queue is written
_LIBRARIES: Final = ("httpx", "httpcore")  # they log each request at INFO


class LogWriter(io.RawIOBase):
    """A descriptor that is written by a thread; `write` never waits. Safe to use from any thread.

    Text is lost if the queue has no room for it, or if it cannot be written. The next text that is written
    begins with a line that has the number of lines lost before it.
    """

    def __init__(self, fd: int, waiting_bytes_max: int = WAITING_BYTES_MAX) -> None:
        super().__init__()
        self._fd = fd
        self._bytes_max = waiting_bytes_max
        self._waiting: deque[tuple[bytes, int]] = deque()  # text, and the lines lost before it
        self._bytes = 0
        self._lost = 0
        self._overflowed = False
        self._end_s: float | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Queue ``data``, or drop all of it. After an overflow nothing is queued until half is free again,
        so that a slow reader gets consecutive lines and not every tenth."""
        text = bytes(data)
        with self._changed:
            room = self._bytes_max // 2 if self._overflowed else self._bytes_max
            self._overflowed = self._bytes + len(text) > room
            if self._overflowed:
                self._lost += _lines(text)
            else:
                self._waiting.append((text, self._lost))
                self._bytes += len(text)
                self._lost = 0
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing until `end` was called, as it would have to wait."""
        if self._end_s is not None:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting, max(0.0, self._end_s - time.monotonic()))

    def end(self) -> None:
        """Call at the end of the process: from now on `flush` waits for the queue, `END_S` in all."""
        if self._end_s is None:
            self._end_s = time.monotonic() + END_S
        self.flush()

    def _work(self) -> None:
        """The thread: write the queue in order. If it is empty and lines were lost, write their number."""
        last = b"\n"
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                text, lost = self._waiting[0]  # removed once it is written: `flush` waits for that
            note = b"" if last.endswith(b"\n") else b"\n"
            note = note + _dropped(lost) if lost else b""
            written = self._written(note + text)
            last = text if written and text else last
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(text)
                if not written:
                    self._lost += lost + _lines(text)
                elif self._lost and not self._waiting:
                    self._waiting.append((b"", self._lost))
                    self._lost = 0
                if not self._waiting:
                    self._changed.notify_all()

    def _written(self, data: bytes) -> bool:
        """False if it cannot be written: the reader is gone, the disk is full, the descriptor is closed."""
        try:
            write_all(self._fd, data)
        except OSError:
            return False
        return True


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``; blocks until that is done. Raises OSError.

    It blocks also if another process, which shares the open file, made that non-blocking.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _lines(text: bytes) -> int:
    return text.count(b"\n") or bool(text)


def _dropped(lines: int) -> bytes:
    record = logging.LogRecord(
        "wheeltimer", logging.WARNING, "", 0, "log dropped=%d lines, its reader took none", (lines,), None
    )
    return LineFormatter().format(record).encode() + b"\n"


class LineFormatter(logging.Formatter):
    """``2030-01-31T08:00:00.123Z WARNING wheeltimer text``: UTC, one line except for a traceback.

    Control characters are escaped: text from users and receivers may hold them.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


class _Present:
    """Writes to the present ``sys.stderr``, which a progress bar replaces to put lines above the bar."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)


class _Handler(logging.StreamHandler[_Present]):
    """Closed by ``logging.shutdown``, at the end of the process."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__(_Present())
        self._writer = writer
        self.setFormatter(LineFormatter())

    def close(self) -> None:
        self._writer.end()
        super().close()


def begin() -> None:
    """Make writes to standard error non-blocking and send the log there. Call once in a process.

    Does nothing if standard error has no file descriptor, as in tests.
    """
    stderr = sys.stderr
    try:
        fd = stderr.fileno()
    except OSError:
        return
    stderr.flush()
    writer = LogWriter(fd)
    sys.stderr = io.TextIOWrapper(
        writer, encoding=stderr.encoding, errors="backslashreplace", line_buffering=True
    )
    atexit.register(writer.end)
    logging.basicConfig(handlers=[_Handler(writer)], level=logging.INFO)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
