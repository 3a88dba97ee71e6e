"""Requests: one struct per ``op``, which is its parser, its validator and its schema.

msgspec checks types and unknown fields while it parses; ``check_fields`` checks what types cannot express.
Lines and bytes are in ``wire.py``; ``core/schedule.py`` and ``core/control.py`` decide what a command does.
"""

from __future__ import annotations

import base64
import binascii
import re
from array import array
from itertools import accumulate
from typing import Final, Literal, get_args

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from wheeltimer.errors import BadValue
from wheeltimer.protocol.hosts import url_problem
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import Rule, check_poll
from wheeltimer.protocol.success import SuccessRule
from wheeltimer.protocol.task_view import Poll
from wheeltimer.protocol.units import check_instant, parse_duration_ms

Method = Literal["POST", "GET", "PUT", "PATCH", "DELETE"]
StateWord = Literal["scheduled", "ready", "running", "done", "dead", "expired", "cancelled"]
OnConflict = Literal["error", "keep", "replace"]


class Command(Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True, gc=False):
    """Base of every request; ``seq`` is repeated in the reply."""

    seq: int | float | str | None = None

    @property
    def reply_seq(self) -> int | float | str | UnsetType:
        """``seq`` for a reply: left out if the request had none."""
        return UNSET if self.seq is None else self.seq


class TaskFields(Command):
    """The fields that ``schedule`` and ``reschedule`` share; absent and null both mean "not given"."""

    delay: int | str | None = None
    at: int | str | None = None
    method: Method | None = None
    headers: dict[str, str] | None = None
    body: Raw = Raw()
    body_text: str | None = None
    body_base64: str | None = None
    meta: Raw = Raw()
    retry: str | Rule | None = None
    timeout: int | str | None = None
    connect_timeout: int | str | None = None
    expires_in: int | str | None = None
    expires_at: int | str | None = None
    success: SuccessRule | None = None
    poll: Poll | None = None
    group: str | None = None
    on_done: str | None = None
    on_dead: str | None = None


class Hello(Command, tag="hello"):
    token: str | None = None


class Ping(Command, tag="ping"):
    pass


class Schedule(TaskFields, tag="schedule", kw_only=True):
    url: str
    id: str | None = None
    queue: str | None = None
    on_conflict: OnConflict = "error"


class Reschedule(TaskFields, tag="reschedule", kw_only=True):
    id: str
    queue: str | None = None
    url: str | None = None
    if_version: int | None = None


class Get(Command, tag="get"):
    id: str
    queue: str | None = None


class Cancel(Command, tag="cancel"):
    id: str | None = None
    group: str | None = None
    queue: str | None = None
    if_version: int | None = None


class Finish(Command, tag="finish"):
    id: str | None = None
    group: str | None = None
    queue: str | None = None
    reply: Raw = Raw()


class Redrive(Command, tag="redrive"):
    id: str | None = None
    group: str | None = None
    queue: str | None = None


class List(Command, tag="list"):
    queue: str | None = None
    state: StateWord | None = None
    group: str | None = None
    limit: int = 100
    cursor: str | None = None


class Pause(Command, tag="pause"):
    queue: str


class Resume(Command, tag="resume"):
    queue: str


class Subscribe(Command, tag="subscribe"):
    from_: str | None = field(default=None, name="from")
    queue: str | None = None
    group: str | None = None
    types: list[str] | None = None


class Forecast(Command, tag="forecast"):
    horizon: int | str = "1h"
    slices: int = 60
    queue: str | None = None


class Stats(Command, tag="stats"):
    pass


AnyCommand = (
    Hello | Ping | Schedule | Reschedule | Get | Cancel | Finish | Redrive | List | Pause | Resume
    | Subscribe | Forecast | Stats
)  # fmt: skip

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "op": tuple(struct.__struct_config__.tag for struct in get_args(AnyCommand)),
    "method": get_args(Method),
    "state": get_args(StateWord),
    "on_conflict": get_args(OnConflict),
    "retry.kind": tuple(rule.__struct_config__.tag for rule in get_args(Rule)),
}
"""The values of each field that allows only a few words; a refusal lists them."""

_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII).fullmatch
_URL: Final = re.compile(
    r"(https?)://(\[[0-9A-Fa-f.%]*:[0-9A-Fa-f:.%]*\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]{1,5}))?([/?][!-~]*)?",
    re.ASCII | re.IGNORECASE,
).fullmatch
URL_BYTES_MAX: Final = 8192
DEPTH_MAX: Final = 64
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEP: Final = bytes(set(range(256)) - set(b"[{]}"))
FLAT_BYTES_MAX: Final = 2 * DEPTH_MAX  # JSON up to this size is not too deep: a level takes two bytes


def check_name(value: str, field: str) -> str:
    """A queue or group name: 1 to 128 of ``A-Za-z0-9._:-``."""
    if not _NAME(value):
        raise BadValue(f"{field}: 1 to 128 of A-Za-z0-9._:- expected", field)
    return value


def check_id(value: str, limits: Limits) -> str:
    """An id: 1 to 256 bytes of printable UTF-8."""
    if value.isascii() and value.isprintable() and 0 < len(value) <= limits.id_bytes_max:
        return value
    if not value or not value.isprintable():
        raise BadValue("id: at least one character, all of them printable, expected", "id")
    if len(value.encode()) > limits.id_bytes_max:
        raise BadValue(f"id: at most {limits.id_bytes_max} bytes expected", "id")
    return value


def split_url(url: str, field: str = "url") -> tuple[str, str, int, str]:
    """(scheme, host, port, target) of an http or https URL.

    User names and fragments are refused: the target is sent exactly as it is written.
    """
    match = _URL(url) if len(url) <= URL_BYTES_MAX else None
    if match is None:
        raise BadValue(f"{field}: {url_problem(url, field, URL_BYTES_MAX)}", field)
    scheme, host, port_text, target = match.groups()
    scheme = scheme.lower()
    port = int(port_text) if port_text else (443 if scheme == "https" else 80)
    if not 0 < port < 65536:
        raise BadValue(f"{field}: a port from 1 to 65535 expected", field)
    if not target:
        target = "/"
    elif target[0] == "?":
        target = "/" + target
    if "#" in target:
        raise BadValue(f"{field}: a URL without a fragment (#...) expected", field)
    return scheme, host.strip("[]").lower(), port, target


def too_deep(raw: bytes) -> bool:
    """Whether JSON is nested deeper than ``DEPTH_MAX``: it could exhaust the stack of a later parser."""
    if len(raw) <= FLAT_BYTES_MAX or raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return False
    # Without a Python loop over 64 KiB: remove strings (first their escapes), turn brackets into +1 and -1,
    # sum up.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(unescaped.split(b'"')[::2])
    steps = array("b", outside.translate(_STEPS, _NO_STEP))
    return max(accumulate(steps), default=0) > DEPTH_MAX


def check_depth(raw: bytes, field: str) -> None:
    """Refuse JSON that is ``too_deep``."""
    if too_deep(raw):
        raise BadValue(f"{field}: nested deeper than {DEPTH_MAX}", field)


def json_body(command: TaskFields, limits: Limits) -> bytes:
    """The bytes of ``body``, checked for length and depth."""
    body = bytes(command.body)
    if len(body) > limits.body_bytes_max:
        raise BadValue(f"body: at most {limits.body_bytes_max} bytes expected", "body")
    if len(body) > FLAT_BYTES_MAX:
        check_depth(body, "body")
    return body


def body_of(command: TaskFields, limits: Limits) -> tuple[bytes | None, str]:
    """(the bytes to send, the kind of their field) of a checked command; (None, "") without a body."""
    if command.body:
        if command.body_text is not None or command.body_base64 is not None:
            raise BadValue("body: only one of body, body_text and body_base64 expected", "body")
        return json_body(command, limits), ""
    if command.body_text is not None:
        if command.body_base64 is not None:
            raise BadValue("body_text: only one of body, body_text and body_base64 expected", "body_text")
        body, kind = command.body_text.encode(), "text"
    elif command.body_base64 is not None:
        kind = "base64"
        try:
            if len(command.body_base64) % 4:
                raise ValueError("padding")  # the library accepts one character of it too many
            body = base64.b64decode(command.body_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadValue("body_base64: standard base64 with padding expected", "body_base64") from error
    else:
        return None, ""
    if len(body) > limits.body_bytes_max:
        field = f"body_{kind}"
        raise BadValue(f"{field}: at most {limits.body_bytes_max} bytes expected", field)
    return body, kind


def is_plain(command: TaskFields) -> bool:
    """True if only delay and body are given, as in most requests: no other field needs a check."""
    return (
        command.headers is None
        and command.method is None
        and command.at is None
        and command.retry is None
        and command.timeout is None
        and command.connect_timeout is None
        and command.expires_in is None
        and command.expires_at is None
        and command.success is None
        and command.poll is None
        and command.group is None
        and command.on_done is None
        and command.on_dead is None
        and command.body_text is None
        and command.body_base64 is None
        and not command.meta
    )


def check_fields(command: TaskFields, limits: Limits, now_ms: int) -> None:
    """Check the values of the task fields beyond their types, except body, url and names of retry rules.

    ``now_ms`` is the daemon's wall clock.
    """
    if command.delay is not None:
        if command.at is not None:
            raise BadValue("at: either delay or at expected, not both", "at")
        parse_duration_ms(command.delay, "delay", max_ms=limits.delay_max_ms)
    elif command.at is not None:
        check_instant(command.at, "at", now_ms)
    if command.headers is not None:
        check_headers(command.headers, limits)
    if command.meta:
        if len(bytes(command.meta)) > limits.meta_bytes_max:
            raise BadValue(f"meta: at most {limits.meta_bytes_max} bytes expected", "meta")
        check_depth(bytes(command.meta), "meta")
    if command.timeout is not None:
        parse_duration_ms(command.timeout, "timeout", min_ms=1, max_ms=limits.timeout_max_ms)
    if command.connect_timeout is not None:
        parse_duration_ms(command.connect_timeout, "connect_timeout", min_ms=1, max_ms=limits.timeout_max_ms)
    if command.expires_in is not None:
        if command.expires_at is not None:
            raise BadValue("expires_at: either expires_in or expires_at expected, not both", "expires_at")
        parse_duration_ms(command.expires_in, "expires_in", min_ms=1, max_ms=limits.delay_max_ms)
    elif command.expires_at is not None:
        check_instant(command.expires_at, "expires_at", now_ms)
    if command.poll is not None:
        parse_duration_ms(command.poll.every, "poll.every", min_ms=1, max_ms=limits.delay_max_ms)
        check_poll(command.poll.every, command.poll.factor, command.poll.cap)
        if not 1 <= command.poll.max <= limits.polls_max:
            raise BadValue(f"poll.max: 1 to {limits.polls_max} expected", "poll.max")
    if command.group is not None:
        check_name(command.group, "group")
    if command.on_done is not None:
        split_url(command.on_done, "on_done")
    if command.on_dead is not None:
        split_url(command.on_dead, "on_dead")


decode: Final = msgspec.json.Decoder(AnyCommand).decode


# -- the headers that a client may add to a callback -------------------------------------------------------

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
