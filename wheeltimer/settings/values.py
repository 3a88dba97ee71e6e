"""One value of the settings: text or TOML in, a typed value out.

Every parser takes the value and the folder for relative paths, and raises ``BadValue`` with what is wrong and
what would be right; ``load.py`` adds the source of the value.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from wheeltimer.errors import BadValue
from wheeltimer.protocol.requests import split_url
from wheeltimer.protocol.units import parse_duration_ms

DEFAULT_PORT: Final = 8463
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_RATE: Final = re.compile(r"([0-9]{1,9})/([smh])")
_RATE_PERIOD_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000}


class Address(Struct, frozen=True):
    """An address to listen on or connect to: ``tcp`` and ``tls`` have host and port, ``unix`` has a path."""

    kind: Literal["tcp", "tls", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The form that :func:`parse_address` reads."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls:' if self.kind == 'tls' else ''}{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it. A name other than ``localhost`` may resolve to anything."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: object, folder: Path = Path()) -> Address:
    """``HOST:PORT``, ``[::1]:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``."""
    help_text = "write HOST:PORT, [IPV6]:PORT, tls:HOST:PORT or unix:PATH"
    if not isinstance(text, str):
        raise BadValue(f"{text!r} is not an address; {help_text}")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or len(path.encode()) > 107:  # sockaddr_un holds 108 bytes with its NUL
            raise BadValue("a Unix socket's path has 1 to 107 bytes")
        return Address("unix", path=str((folder / path).absolute()))
    host, colon, port = text.removeprefix("tls:").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadValue(f"{text!r}: an IPv6 address stands in brackets, [::1]:{DEFAULT_PORT}")
    if not colon or not host or any(c.isspace() for c in text):
        raise BadValue(f"{text!r} is not an address; {help_text} (0.0.0.0 listens everywhere)")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise BadValue(f"{text!r}: a port is a number from 0 to 65535")
    return Address("tls" if text.startswith("tls:") else "tcp", host, int(port))


class Secret(Struct, frozen=True):
    """A signing key; its repr does not contain the bytes, so that no log or traceback does."""

    key: bytes

    def __repr__(self) -> str:
        return "Secret(...)"


class Rate(Struct, frozen=True):
    """At most ``count`` in ``period_ms``: the refill of a token bucket."""

    count: int
    period_ms: int


def parse_proxy(value: object, folder: Path) -> str:
    """``http://[user:password@]host[:port]``, or https; errors do not show it, as it may hold a password."""
    if isinstance(value, str):
        with suppress(ValueError):
            parts = urlsplit(value)
            plain = parts.path in ("", "/") and not parts.query and not parts.fragment
            if parts.scheme in ("http", "https") and parts.hostname and plain and parts.port != 0:
                return value
    raise BadValue('not the address of a proxy; write http://host:port, as "http://proxy.example:3128"')


def tuple_of(one: Callable[[object, Path], Any]) -> Callable[[object, Path], tuple[Any, ...]]:
    def parse(value: object, folder: Path) -> tuple[Any, ...]:
        if isinstance(value, str):  # one value, or a variable with commas
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, list | tuple):
            raise BadValue("a list is expected, in square brackets")  # not shown: it may hold a secret
        items = [one(item, folder) for item in value]
        if len(set(items)) != len(items):
            raise BadValue("the same value stands there twice; keep one")
        return tuple(items)

    return parse


def parse_duration(value: object, folder: Path = Path()) -> int:
    """Milliseconds. A bare number is allowed too; in a flag or variable it is text."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    try:
        return parse_duration_ms(value, "")
    except BadValue as error:
        raise BadValue(str(error).removeprefix(": ")) from error  # load.py adds the field


def parse_mode(value: object, folder: Path) -> str:
    """A file's mode; its owner can always read and write."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[67][0-7]{2}", value):
        raise BadValue(f'{value!r} is not a mode that its owner can use; write "0600" or "0660", in quotes')
    return value


def parse_network(value: object, folder: Path) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a network; write ADDRESS/BITS, as 10.20.0.0/16")
    try:
        return ip_network(value)
    except ValueError as error:
        raise BadValue(f"{error}; write ADDRESS/BITS, as 10.20.0.0/16") from error


def parse_path(value: object, folder: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise BadValue(f"{value!r} is not a path")
    return (folder / Path(value).expanduser()).absolute()


def parse_readable(value: object, folder: Path) -> Path:
    path = parse_path(value, folder)
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror}") from error
    return path


def parse_rate(value: object, folder: Path) -> Rate:
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise BadValue(f'{value!r} is not a rate; write "100/s" (or /m, /h), at least 1')
    return Rate(int(match[1]), _RATE_PERIOD_MS[match[2]])


def parse_secret(value: object, folder: Path) -> Secret:
    problem = "a secret is whsec_ and the base64 of 24 to 64 bytes (Standard Webhooks)"
    if not isinstance(value, str) or not value.startswith("whsec_"):
        raise BadValue(problem)
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise BadValue(problem) from None  # a chained error of a later Python could show the secret
    if not 24 <= len(key) <= 64:
        raise BadValue(problem)
    return Secret(key)


def parse_secret_file(value: object, folder: Path) -> Secret:
    path = parse_readable(value, folder)
    try:
        text = path.read_bytes()[:1024].removeprefix(codecs.BOM_UTF8).decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    try:
        return parse_secret(text, folder)
    except BadValue as error:
        raise BadValue(f"{path}: {error}") from None


def parse_queue_pattern(value: object, folder: Path = Path()) -> str:
    """A queue's name, or the start of one followed by ``*``."""
    if not isinstance(value, str) or (value != "*" and not _NAME.fullmatch(value.removesuffix("*"))):
        raise BadValue(f"{value!r} is not a queue or a start of one with *; as orders, billing-*")
    return value


def parse_name(value: object, folder: Path = Path()) -> str:
    """A name of a queue, a retry rule or a token."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise BadValue(f"{value!r} is not a name: 1 to 128 of A-Z a-z 0-9 . _ : -")
    return value


def parse_sha256(value: object, folder: Path = Path()) -> bytes:
    """64 hex digits; the digest's 32 bytes."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise BadValue("not a SHA-256 in 64 hex digits, as sha256sum prints it")
    return bytes.fromhex(value)


def parse_destination(value: str) -> str:
    """``scheme://host[:port]`` in canonical form: lower case, the port only if it is not the default."""
    problem = f'{value!r} is not a destination; write scheme://host[:port], as "https://partner.example"'
    try:
        scheme, host, port, _ = split_url(value)
    except BadValue as error:
        raise BadValue(problem) from error
    if value.count("/") > 2 or "?" in value:
        raise BadValue(problem)
    usual = 443 if scheme == "https" else 80
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port == usual else f":{port}")
