"""Which hosts a URL may have, and what to write instead of others.

No I/O, like the address guard in ``core/addresses.py``. Only URLs in requests are checked: a stored URL is
called as it is, and the attempt's error shows the problem.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote

HOST_CHARS_MAX: Final = 253
"""Longest host name (RFC 1035 section 2.3.4, in text); the longest literal is far shorter."""
LABEL_CHARS_MAX: Final = 63
"""Longest label of a name (RFC 1035 section 2.3.4); Python's resolver refuses longer ones too."""

_SHOWN_CHARS_MAX: Final = 100  # of a URL, or a part of one, that a message repeats
_ABSOLUTE: Final = "an absolute http:// or https:// URL expected"
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._~-]").search
_LOOKS_NUMERIC: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*").fullmatch
_OTHER_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?![0-9])").match
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?(?:[/?][!\"$-~]*)?").fullmatch
_IPV6: Final = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*").fullmatch
_PORT: Final = re.compile(r":[0-9]{1,5}").fullmatch
_NOT_SENT: Final = re.compile(r"[^!-~]|#").search


def host_problem(host: str) -> str | None:
    """Why this host (ASCII, as `split_url` returns it) cannot be that of a receiver; None if it can.

    Underscores, one closing dot, names of one label and punycode are valid: resolvers take them. So are the
    short and hexadecimal spellings of IPv4. `addresses.parse_literal` checks IPv6.
    """
    if ":" in host:
        return None
    if "%" in host:
        return "a host has no % escapes; write the name itself, letters beyond ASCII as punycode (xn--...)"
    if "*" in host:
        return "a host has no *; name one host"
    if found := _NO_NAME(host):
        return _no_char(found[0])
    name = host.removesuffix(".")
    if len(name) > HOST_CHARS_MAX:
        return f"a host has at most {HOST_CHARS_MAX} characters"
    labels = name.split(".")
    if "" in labels:
        return "a host has no empty part: no dot in front, no two dots in a row"
    if max(map(len, labels)) > LABEL_CHARS_MAX:
        return f"each part of a host has at most {LABEL_CHARS_MAX} characters"
    if name != host and ends_in_number(name):
        return f"an address has no closing dot; write {name}"
    return None


def url_problem(url: str, field: str, url_bytes_max: int) -> str:
    """What to write instead of a URL that `split_url` refuses; the message does not repeat user names."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
    if "@" in authority:
        if field == "url":
            instead = 'send what stands before the @ as a header: headers {"authorization": "Basic ..."}'
        else:
            instead = "leave it out: hooks send no Authorization header, receivers check webhook-signature"
        return f"a URL with a user name or password is not taken; {instead}"
    if len(url) > url_bytes_max:
        return f"a URL of at most {url_bytes_max} bytes expected"
    scheme, rest = url.partition("://")[::2]
    if url != url.strip():
        return "white space stands around the URL; leave it out"
    if not rest or not _SCHEME(scheme) or scheme.lower() not in ("http", "https"):
        return f"{_ABSOLUTE}{_scheme_problem(url, scheme if rest else '')}"
    host = authority.partition(":")[0]
    if not host.isascii():
        punycode = _punycode(host)
        instead = f"write {punycode}" if punycode else "write the name as its registry lists it, xn--..."
        return f"a host beyond ASCII is written as punycode; {instead}"
    return _authority_problem(authority) or _target_problem(rest[len(authority) :])


def _scheme_problem(url: str, scheme: str) -> str:
    """What is wrong in front of the host; ``scheme`` is the text before "://", or ""."""
    if _PLAIN(url) and len(url) <= _SHOWN_CHARS_MAX and not url.lower().startswith(("http:", "https:")):
        return f"; write http://{url}"
    if not scheme and url.lower().startswith(("http:", "https:")):
        return "; behind the colon stand two slashes and a host"
    if _SCHEME(scheme) or _OTHER_SCHEME(url):
        return "; no other scheme is called"
    return "; begin with http:// or https:// and a host"


def _authority_problem(authority: str) -> str | None:
    """What is wrong with host and port; None if the URL's mistake is in its path or query."""
    host, closed, port = authority.partition("]")
    bracketed = host.startswith("[")
    if (bracketed and not (closed and _IPV6(host[1:]))) or _IPV6(authority):
        return "an IPv6 address, without a zone, stands in brackets, as http://[::1]:8080/"
    if not bracketed:
        host, colon, port = authority.partition(":")
        port = colon + port
    if not host:
        return "a host expected behind ://"
    if any(char in "{}<>" for char in authority):
        return "a host has no braces; fill in the template before the URL is sent"
    if any(map(str.isspace, authority)):
        return "a host has no white space"
    if not bracketed and (found := _NO_NAME(host)):
        return _no_char(found[0])
    if port and not _PORT(port):
        return "behind the host a colon and a port from 1 to 65535, or neither, expected"
    return None


def _target_problem(target: str) -> str:
    """What is wrong with path and query, which are sent unchanged."""
    found = _NOT_SENT(target)
    char = found[0] if found else "#"
    if char == "#":
        return "a fragment (#...) is not sent; leave it out, or write %23 for the character #"
    if char.isspace():
        kind = "white space"
    else:
        kind = "a control character" if char.isascii() else "a character beyond ASCII"
    return f"{kind} in a path or query is percent-encoded; write {quote(char, errors='replace')}"


def _no_char(char: str) -> str:
    if char == "$":
        return 'a host has no "$"; fill in the variable before the URL is sent'
    shown = char if char.isprintable() else ascii(char)[1:-1]
    return f'a host has no "{shown}"; it has letters, digits, - _ ~ and dots between its parts'


def _punycode(host: str) -> str | None:
    """The name in ASCII; None if Python's codec gives none that decodes to the same name.

    The codec is that of IDNA 2003, which encodes "straße" as "strasse": in IDNA 2008 another name (RFC 5891).
    """
    if len(host) > HOST_CHARS_MAX:
        return None  # the codec's time grows faster than the length
    try:
        encoded = host.encode("idna")
        same = encoded.decode("idna") == unicodedata.normalize("NFC", host.lower())
    except UnicodeError:
        return None
    return encoded.decode("ascii") if same else None


def ends_in_number(host: str) -> bool:
    """Whether a host can only be an IPv4 address, by its last label (URL standard: "ends in a number")."""
    return _LOOKS_NUMERIC.fullmatch(host.rpartition(".")[2]) is not None
