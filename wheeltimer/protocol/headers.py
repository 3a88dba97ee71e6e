"""The headers that a caller may add to its callback: what they may be called and hold."""

from __future__ import annotations

import re
from typing import Final

from wheeltimer.errors import BadValue
from wheeltimer.protocol.limits import Limits

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII).fullmatch
_HEADER_VALUE: Final = re.compile(r"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
_RESERVED: Final = frozenset(
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "keep-alive",
    ]
)
_RESERVED_PREFIXES: Final = ("webhook-", "wheeltimer-", "proxy-")


def check_headers(headers: dict[str, str], limits: Limits) -> None:
    """At most 32 headers and 8 KiB; none that the daemon sets itself; nothing that could split a line."""
    if len(headers) > limits.headers_max:
        raise BadValue(f"headers: at most {limits.headers_max} expected", "headers")
    size = 0
    for name, value in headers.items():
        lower = name.lower()
        if not _HEADER_NAME(name):
            raise BadValue("headers: a name is letters, digits and !#$%&'*+-.^_`|~", "headers")
        if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
            raise BadValue(f"headers: {name} is set by the daemon", "headers")
        if not _HEADER_VALUE(value):
            raise BadValue(
                f"headers: the value of {name} may hold visible Latin-1 characters, spaces and tabs",
                "headers",
            )
        size += len(name) + len(value) + 4
    if size > limits.header_bytes_max:
        raise BadValue(f"headers: at most {limits.header_bytes_max} bytes together expected", "headers")
