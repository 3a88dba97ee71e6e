"""Reads replies that llhttp refuses but that have only one meaning, so that their status counts.

A receiver that answers has done its work, so a head that curl and browsers accept must not make the task
fail. A head with a sound status line is read here field by field and written again in a form that llhttp
accepts:

* line ends of LF only, also in chunks (RFC 9112 section 2.2),
* folded lines (5.2), white space before a colon, control characters in a value,
* lines that are no fields, more fields than ``reply.HEADERS_MAX``,
* the same content-length more than once, or as a list (6.3), the transfer coding ``identity``,
* white space after the size of a chunk, any character in a chunk extension, a length in a trailer.

Only the fields that a decision depends on are kept. The connection is closed after such a reply, so bytes
behind it are never taken for another reply. If the end of the body would be a guess, the reply is refused:
two different lengths, a length that is not a number, a length beside a transfer coding, a coding other than
chunked, a damaged chunk. Exceeding a limit is no reason for that: beyond `CHUNKS_MAX` and
`CHUNK_LINE_BYTES_MAX` no more of the body is read, and beyond `FIELDS_MAX` only fields that determine the end
of the body are kept.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

import httptools

FIELDS_MAX: Final = 64  # fields that are kept, besides those that determine the end of the body
CHUNKS_MAX: Final = 1_024  # 1.5 us each, without a pause between them
CHUNK_LINE_BYTES_MAX: Final = 4_096

# The beginning of a status line, up to the reason.
_STATUS: Final = re.compile(rb"(?:\r?\n)*HTTP/1\.([01]) ([1-9][0-9]{2})(?=[ \r\n])")
_SAMPLE: Final = b"HTTP/1.1 200 "
_HEAD_END: Final = re.compile(rb"\n\r?\n")
# A sequence of whole interim replies, except 101: a head of 64 KiB may hold 5,000.
_INTERIM: Final = re.compile(
    rb"(?:(?:\r?\n)*+HTTP/1\.[01] 1(?!01)[0-9]{2}(?=[ \r\n])[^\n]*+\n(?:(?!\r?\n)[^\n]*+\n)*+\r?\n)*+"
)
# A name, white space, a colon; the value with its folded lines.
_FIELD: Final = re.compile(
    rb"\n(content-length|transfer-encoding|content-encoding|retry-after|wheeltimer-retry)[ \t]*:"
    rb"([^\n]*(?:\n[ \t][^\n]*)*)",
    re.IGNORECASE,
)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_CHUNK_SIZE_OF_LONG_LINE: Final = re.compile(rb"[0-9a-fA-F]{1,15}[ \t]*;")
_CONTROLS: Final = bytes.maketrans(bytes(range(32)) + b"\x7f", b" " * 33)


class Unsound(Exception):
    """There is no status line, or the end of the body is unknown; ``str()`` is the reason."""


class Reader(Protocol):
    """What is used here of ``ReplyReader``; httptools calls its other ``on_*`` methods."""

    @property
    def head_is_whole(self) -> bool: ...

    def on_body(self, data: bytes) -> None: ...

    def on_cut(self) -> None: ...

    def on_message_complete(self) -> None: ...


def status_of(data: bytes | bytearray) -> int | None:
    """The status of the first final status line, after any interim replies; None: it has not come yet."""
    line = _STATUS.match(data, _after_interim(data))
    if line is None or line[2].startswith(b"1") or data.find(b"\n", line.end()) < 0:
        return None
    return int(line[2])


def rewrite(data: bytes | bytearray, searched: int = 0) -> tuple[bytes, int, bool] | None:
    """The head at the start of ``data``: (in a form that llhttp accepts, the offset behind it, whether a
    chunked body follows); None: its end has not come. The end is not before ``searched``. An interim reply
    becomes empty: it has no body, also if its fields announce one. O(bytes). Raises Unsound.
    """
    line = _STATUS.match(data)
    if line is None:
        if _may_become(data):
            return None
        raise Unsound("no HTTP/1 status line")
    if line[2] == b"101":
        raise Unsound("switched protocols without being asked")
    end = _HEAD_END.search(data, max(line.end(), searched))
    if end is None:
        return None
    if line[2].startswith(b"1"):
        return b"", _after_interim(data), False
    lengths: set[int] = set()
    codings: list[bytes] = []
    lines = [b"HTTP/1.%b %b \r\n" % (line[1], line[2])]
    for field in _FIELD.finditer(data, line.end(), end.start()):
        name, value = field[1].lower(), field[2].translate(_CONTROLS).strip()
        if name == b"content-length":
            lengths.update(_length(item.strip()) for item in value.split(b","))
        elif name == b"transfer-encoding":
            codings += [item.strip().lower() for item in value.split(b",")]
        elif len(lines) <= FIELDS_MAX:
            lines.append(b"%b: %b\r\n" % (name, value))
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if codings and codings != [b"chunked"]:
        raise Unsound("a transfer coding other than chunked")
    if codings and lengths:
        raise Unsound("a content-length beside a transfer coding: where the body ends would be a guess")
    if len(lengths) > 1:
        raise Unsound("two different lengths: where the body ends would be a guess")
    lines += [b"content-length: %d\r\n" % length for length in lengths]
    if codings:
        lines.append(b"transfer-encoding: chunked\r\n")
    return b"".join((*lines, b"\r\n")), end.end(), bool(codings)


def _after_interim(data: bytes | bytearray) -> int:
    found = _INTERIM.match(data)
    assert found is not None
    return found.end()


def _may_become(data: bytes | bytearray) -> bool:
    """Whether ``data`` may be the first part of a status line."""
    begun = bytes(data[:4096].lstrip(b"\r\n"))
    return _STATUS.match(begun + _SAMPLE[len(begun) :]) is not None


def _length(text: bytes) -> int:
    if not _LENGTH.fullmatch(text):
        raise Unsound("a content-length that is no number")
    return int(text)


class OddParser:
    """What ``ReplyReader`` uses of ``httptools.HttpResponseParser``, for replies that httptools refuses."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._strict = httptools.HttpResponseParser(reader)
        self._head = bytearray()
        self._chunks: _Chunks | None = None

    def feed_data(self, data: bytes) -> None:
        """Raises Unsound, and the errors of httptools."""
        if not self._reader.head_is_whole:
            searched = max(0, len(self._head) - 2)
            self._head += data
            while not self._reader.head_is_whole:
                found = rewrite(self._head, searched)
                if found is None:
                    return
                head, end, chunked = found
                if head:
                    self._strict.feed_data(head)
                del self._head[:end]
                searched = 0
                self._chunks = _Chunks(self._reader) if chunked else None
            data = bytes(self._head)
            self._head.clear()
        if self._chunks is not None:
            self._chunks.feed(data)
        elif data:
            self._strict.feed_data(data)

    def get_status_code(self) -> int:
        return self._strict.get_status_code()

    def get_http_version(self) -> str:
        return self._strict.get_http_version()

    def should_keep_alive(self) -> bool:
        return False


class _Chunks:
    """Reads a chunked body (RFC 9112 section 7.1) whose lines may end in LF; trailers are not kept."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rest = bytearray()
        self._left = 0  # bytes of the present chunk that have not come
        self._count = 0
        self._next = "size"  # the next line: a size, "end" of a chunk (empty), a "trailer"; "done": none

    def feed(self, data: bytes) -> None:
        """Raises Unsound."""
        self._rest += data
        at = 0
        while self._next != "done":
            if self._left:
                part = bytes(self._rest[at : at + self._left])
                if not part:
                    break
                at += len(part)
                self._left -= len(part)
                self._reader.on_body(part)
                continue
            end = self._rest.find(b"\n", at)
            if (end if end >= 0 else len(self._rest)) - at > CHUNK_LINE_BYTES_MAX:
                self._long_line(bytes(self._rest[at : at + CHUNK_LINE_BYTES_MAX]))
                break
            if end < 0:
                break
            self._line(bytes(self._rest[at:end]).removesuffix(b"\r"))
            at = end + 1
        del self._rest[:at]

    def _line(self, line: bytes) -> None:
        if self._next == "size":
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise Unsound("a chunk whose size is no number")
            self._count += 1
            if self._count > CHUNKS_MAX:
                self._cut()
                return
            self._left = int(size[1], 16)
            self._next = "end" if self._left else "trailer"
        elif self._next == "end":
            if line:
                raise Unsound("a chunk that is longer than its size")
            self._next = "size"
        elif not line:
            self._next = "done"
            self._reader.on_message_complete()

    def _long_line(self, line: bytes) -> None:
        """``line``: the first part of a line that is too long to be read. Raises Unsound."""
        if self._next == "end":
            raise Unsound("a chunk that is longer than its size")
        if self._next == "size" and _CHUNK_SIZE_OF_LONG_LINE.match(line) is None:
            raise Unsound("a chunk whose size is no number")
        self._cut()

    def _cut(self) -> None:
        self._next = "done"
        self._reader.on_cut()
