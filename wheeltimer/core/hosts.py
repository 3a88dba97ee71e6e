"""Which hosts a URL may have, and what to write instead of others.

Pure, as the address guard in ``addresses.py`` is. Only what a request brings is checked: a stored URL is
called as it is, and the attempt's error shows what came of it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from wheeltimer.core.addresses import HOST_CHARS_MAX, ends_in_number

LABEL_CHARS_MAX: Final = 63
"""Longest label of a name (RFC 1035 section 2.3.4); Python's resolver takes no longer one either."""


def host_problem(host: str) -> str | None:
    """Why this host (ASCII, as `split_url` gives it) can be no receiver's; None if it may be one's.

    Underscores, one closing dot, names of one label and punycode are fine: resolvers take them. So are the
    short and hexadecimal spellings of IPv4. IPv6 is left to `addresses.parse_literal`.
    """
    if ":" in host:
        return None
    if "%" in host:
        return "a host has no % escapes; write the name itself, letters beyond ASCII as punycode (xn--...)"
    if "*" in host:
        return "a host has no *; name one host"
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
    """What to write instead of a URL that `split_url` does not take; user names are not repeated."""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]
    if "@" in authority:
        if field == "url":
            instead = 'send what stands before the @ as a header: headers {"authorization": "Basic ..."}'
        else:
            instead = "leave it out: hooks send no Authorization header, receivers check webhook-signature"
        return f"a URL with a user name or password is not taken; {instead}"
    host = authority.partition(":")[0]
    if not host.isascii():
        punycode = _punycode(host)
        instead = f"write {punycode}" if punycode else "write the name as its registry lists it, xn--..."
        return f"a host beyond ASCII is written as punycode; {instead}"
    return (
        "an absolute http:// or https:// URL of visible ASCII without user name or fragment,"
        f" at most {url_bytes_max} bytes, expected"
    )


def _punycode(host: str) -> str | None:
    """The name in ASCII, None where Python's codec does not give one that reads back as the same name.

    The codec is that of IDNA 2003, which takes "straße" for "strasse": another name by now (RFC 5891).
    """
    if len(host) > HOST_CHARS_MAX:
        return None  # the codec's time grows faster than the length
    try:
        encoded = host.encode("idna")
        same = encoded.decode("idna") == unicodedata.normalize("NFC", host.lower())
    except UnicodeError:
        return None
    return encoded.decode("ascii") if same else None
