"""Bytes that are no request but can be recognised: HTTP, TLS, a byte order mark, half of a surrogate pair.

This file only recognises them. ``server/connection.py`` closes a new connection that begins with such bytes;
``wire.py`` refuses them as a bad line on an open one.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw

BLANK: Final = b" \t\r\n"
"""White space as JSON has it (RFC 8259, section 2)."""

HALVES_MAX: Final = 256  # in a line; if there are more, the field is not named
_LOOKED_AT_BYTES: Final = 4096  # of the data: enough for a request line
_METHOD: Final = re.compile(
    rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PRI)(?![!-~])|[!#-~]+ [!-~]+ HTTP/"
).match
_EXPECTED: Final = "one JSON object on a line is expected"
_HTTP: Final = "this is HTTP, and the daemon is no HTTP server here"
_TLS: Final = "this is TLS, and this listener speaks no TLS: use one that is set as tls:HOST:PORT"
_BOM: Final = "this begins with a byte order mark (BOM): send it without"
_UTF16: Final = "this is UTF-16: send UTF-8"
_PROXY: Final = "this is a PROXY protocol header, and the daemon reads none: switch it off in the proxy"
# The shortest beginning that identifies each. For version 2 of PROXY, whose signature is
# ``\r\n\r\n\0\r\nQUIT\n``, the bytes after its first white space.
_BEGINNINGS: Final = (
    (b"\xef\xbb", _BOM), (b"\xff\xfe", _UTF16), (b"\xfe\xff", _UTF16), (b"PROXY", _PROXY), (b"\0\r", _PROXY),
    (b"\x16\x03", _TLS),
)  # fmt: skip
_HIGH: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF: Final = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def named(data: bytes) -> str | None:
    """What ``data`` is, in a sentence without a full stop; None if its beginning is not recognised."""
    for beginning, sentence in _BEGINNINGS:
        if data.startswith(beginning):
            return sentence
    return _HTTP if _METHOD(data[:_LOOKED_AT_BYTES]) else None


def opening(data: bytes) -> str:
    """Why a connection that begins with ``data``, white space left out, is closed. One line."""
    what = named(data)
    told = f"{_EXPECTED}, which begins with {{" if what is None else f"{what}; {_EXPECTED}"
    return f"{told}; nothing of this was read and the connection is closed"


def half_pair(line: bytes) -> tuple[str, str] | None:
    """Half of a surrogate pair in a line that is JSON otherwise: (its escape, the field it is in).

    JavaScript that cuts a string between two halves sends ``"\\ud83d"``, which is no character (RFC 8259,
    section 8.2). The field is "" if the half is in a name. None: the line has another fault.
    """
    if _SURROGATE.search(line) is None:
        return None
    escapes = line.replace(b"\\\\", b"__")  # each remaining backslash begins an escape
    found = _HALF.search(escapes)
    if found is None:
        return None
    start, end = found.span()
    mended, count = _HALF.subn(b"__1___", escapes, HALVES_MAX)
    try:
        one = _members(mended)
        other = _members(mended[:start] + b"__2___" + mended[end:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return (found[0].decode(), "") if count == HALVES_MAX else None
    fields = [name for name, value in one.items() if bytes(value) != bytes(other.get(name, b""))]
    return found[0].decode(), fields[0] if fields and fields[0] in other else ""
