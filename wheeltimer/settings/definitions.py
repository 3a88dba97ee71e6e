"""All settings (knobs), each with its unit, default, bounds and reason.

A struct's field is the whole definition. The attribute's name has the unit (``tick_ms``), its key in the file
is the same without ``_ms`` (a duration is written with its unit), and ``Annotated`` holds the bounds, the
reason and the parser. ``load.py`` checks values; a struct built by hand is not checked.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from wheeltimer.errors import BadValue
from wheeltimer.protocol.limits import HEADERS_MOST, REPLY_BYTES_MAX
from wheeltimer.protocol.limits import Limits as CoreLimits
from wheeltimer.protocol.retry import Rule
from wheeltimer.protocol.units import DAY_MS, DURATION_MS_MAX, HOUR_MS, SECOND_MS
from wheeltimer.settings.values import (
    DEFAULT_PORT,
    Address,
    Rate,
    Secret,
    parse_address,
    parse_duration,
    parse_mode,
    parse_name,
    parse_network,
    parse_path,
    parse_proxy,
    parse_queue_pattern,
    parse_rate,
    parse_readable,
    parse_secret,
    parse_secret_file,
    parse_sha256,
    tuple_of,
)

_MIB: Final = 1 << 20
_CORE: Final = CoreLimits()

Parse = Callable[[Any, Path], Any]


def _knob(reason: str, low: int | None = None, high: int | None = None, parse: Parse | None = None) -> Meta:
    return Meta(description=reason, ge=low, le=high, extra={"parse": parse})


def _ms(reason: str, low_ms: int, high_ms: int) -> Meta:
    return _knob(reason, low_ms, high_ms, parse_duration)


def _wheel_size(value: Any, _folder: Path) -> int:
    size = msgspec.convert(value, int, strict=not isinstance(value, str))
    if size <= 0 or size & (size - 1):
        raise BadValue(f"{size} is not a power of two; 4096 suits most")
    return size


class Limits(CoreLimits, frozen=True, kw_only=True):
    """``[limits]``: bounds for hostile or mistaken input. Limits of the core keep the core's defaults."""

    line_bytes_max: Annotated[
        int, _knob("one request; a line is held whole before it is read", 4096, _MIB)
    ] = _CORE.line_bytes_max
    tasks_max: Annotated[int, _knob("live tasks; each costs about 350 bytes of memory", 1, 1_000_000_000)] = (
        _CORE.tasks_max
    )
    body_bytes_max: Annotated[
        int, _knob("a callback's body; in memory and journal until the task ends", 0, _MIB)
    ] = _CORE.body_bytes_max
    meta_bytes_max: Annotated[int, _knob("a task's meta; in every event of its end", 0, 65_536)] = (
        _CORE.meta_bytes_max
    )
    headers_max: Annotated[int, _knob("headers that a task adds to its callback", 0, HEADERS_MOST)] = (
        _CORE.headers_max
    )
    header_bytes_max: Annotated[
        int, _knob("names and values of those headers together; common servers refuse more", 0, 65_536)
    ] = _CORE.header_bytes_max
    id_bytes_max: Annotated[int, _knob("a task's id; kept as long as the task is known", 36, 1024)] = (
        _CORE.id_bytes_max
    )
    reply_bytes_max: Annotated[
        int, _knob("of a callback's reply: how much is judged and sent on to a hook", 1024, REPLY_BYTES_MAX)
    ] = _CORE.reply_bytes_max
    history_max: Annotated[int, _knob("attempts kept per task", 1, 100)] = _CORE.history_max
    history_reply_bytes_max: Annotated[
        int, _knob("of the last attempt's reply: how much is kept in history", 0, 65_536)
    ] = _CORE.history_reply_bytes_max
    delay_max_ms: Annotated[
        int, _ms("the longest delay; a longer one is a unit mixed up", SECOND_MS, DURATION_MS_MAX)
    ] = _CORE.delay_max_ms
    timeout_max_ms: Annotated[
        int, _ms("the longest timeout; an attempt holds its permit all this time", SECOND_MS, DAY_MS)
    ] = _CORE.timeout_max_ms
    polls_max: Annotated[int, _knob("not-yet replies that a task may ask for", 1, 1_000_000_000)] = (
        _CORE.polls_max
    )
    keep_done_ms: Annotated[
        int, _ms("how long done and cancelled tasks stay known: the window for duplicates", 0, 366 * DAY_MS)
    ] = _CORE.keep_done_ms
    keep_done_max: Annotated[int, _knob("how many of them, newest first", 0, 100_000_000)] = (
        _CORE.keep_done_max
    )
    keep_dead_ms: Annotated[
        int, _ms("how long dead and expired tasks can be redriven; kept whole", 0, DURATION_MS_MAX)
    ] = _CORE.keep_dead_ms
    keep_dead_max: Annotated[int, _knob("how many of them, newest first", 0, 100_000_000)] = (
        _CORE.keep_dead_max
    )
    unread_bytes_max: Annotated[
        int,
        _knob(
            "replies that a client has not read; beyond it nothing more is read from it", 65_536, 64 * _MIB
        ),
    ] = _MIB
    unread_ms: Annotated[
        int, _ms("a client that reads no reply in this time is disconnected", 100, HOUR_MS)
    ] = 30 * SECOND_MS
    clients_bytes_max: Annotated[
        int,
        _knob(
            "replies not read and lines not ended, of all clients together; beyond it those with the most are"
            " disconnected",
            _MIB, 64 * 1024 * _MIB,
        ),
    ] = 128 * _MIB  # fmt: skip
    partial_line_ms: Annotated[
        int, _ms("a client that begins a line and does not end it in this time is disconnected", 100, HOUR_MS)
    ] = 30 * SECOND_MS
    connections_max: Annotated[
        int, _knob("clients at once; each takes a descriptor and up to unread_bytes_max", 1, 1_000_000)
    ] = 10_000
    address_connections_max: Annotated[
        int, _knob("of them from one address: one machine does not shut out the others", 1, 1_000_000)
    ] = 5_000
    hello_ms: Annotated[
        int,
        _ms("a client that shows no token in this time is disconnected, if one is required", 100, HOUR_MS),
    ] = 10 * SECOND_MS
    subscribers_max: Annotated[int, _knob("connections that subscribed to events, at once", 0, 1_000_000)] = (
        1_000
    )
    subscriber_bytes_max: Annotated[
        int, _knob("events that wait for a slow subscriber; with more it gets lagged", 65_536, 1024 * _MIB)
    ] = 4 * _MIB
    drain_ms: Annotated[
        int,
        _ms(
            "attempts in flight and group requests may end in this time after SIGTERM, then are cut",
            0,
            HOUR_MS,
        ),
    ] = 30 * SECOND_MS


class Journal(Struct, frozen=True, kw_only=True):
    """``[journal]``: the files on disk."""

    segment_bytes: Annotated[
        int, _knob("one file; the unit of reservation and of giving space back", _MIB, 4096 * _MIB)
    ] = 64 * _MIB
    unsynced_bytes_max: Annotated[
        int,
        _knob(
            "changes and replies that wait for a slow disk; beyond it no connection is read until a commit"
            " ends. At most an eighth of a segment counts",
            65_536, 1024 * _MIB,
        ),
    ] = 8 * _MIB  # fmt: skip
    history_bytes: Annotated[
        int,
        _knob(
            "kept beyond what is needed, for subscribers who come back: at most what five segments leave of"
            " 256 MiB, so nothing where a segment has 64 MiB; given up where the disk is full",
            0, 256 * _MIB,
        ),
    ] = 256 * _MIB  # fmt: skip


class Queue(Struct, frozen=True, kw_only=True):
    """``[queues.NAME]``: defaults of one queue. None: as for all queues."""

    retry: Annotated[str | None, _knob("the rule for tasks that name none")] = None
    concurrency: Annotated[int | None, _knob("attempts in flight of this queue", 1, 100_000)] = None
    rate: Annotated[Rate | None, _knob("attempts started; a burst of one second", parse=parse_rate)] = None
    final_statuses: Annotated[
        tuple[Annotated[int, Meta(ge=300, le=599)], ...], _knob("answers that are not tried again")
    ] = ()
    secrets: Annotated[
        tuple[Secret, ...],
        _knob("keys that sign callbacks; several while one is replaced", parse=tuple_of(parse_secret)),
    ] = ()
    secret_files: Annotated[
        tuple[Secret, ...], _knob("files that hold one key each", parse=tuple_of(parse_secret_file))
    ] = ()

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        """All keys, those of ``secrets`` first."""
        return tuple(secret.key for secret in self.secrets + self.secret_files)


class Destination(Struct, frozen=True, kw_only=True):
    """``[destinations."scheme://host[:port]"]``: limits of one destination."""

    window_max: Annotated[int, _knob("attempts in flight at most", 1, 100_000)] = 128
    rate: Annotated[Rate | None, _knob("attempts started; a burst of one second", parse=parse_rate)] = None


class Token(Struct, frozen=True, kw_only=True):
    """``[[tokens]]``: the rights of each token. Only the token's SHA-256 is stored."""

    name: Annotated[str, _knob("what logs call its holder", parse=parse_name)]
    sha256: Annotated[bytes, _knob("of the token, 64 hex digits", parse=parse_sha256)]
    scopes: Annotated[tuple[Literal["produce", "read", "admin"], ...], _knob("what it allows; at least one")]
    queues: Annotated[
        tuple[str, ...],
        _knob("queues it allows, * at the end for all that start so", parse=tuple_of(parse_queue_pattern)),
    ] = ("*",)
    tasks_max: Annotated[int | None, _knob("live tasks of this token", 1, 1_000_000_000)] = None


class Tls(Struct, frozen=True, kw_only=True):
    """``[tls]``: PEM files of the ``tls:`` listeners, readable when the settings are loaded."""

    cert: Annotated[Path, _knob("certificate chain", parse=parse_readable)]
    key: Annotated[Path, _knob("its private key", parse=parse_readable)]
    client_ca: Annotated[
        Path | None, _knob("whose client certificates are asked for: mutual TLS", parse=parse_readable)
    ] = None


class Settings(Struct, frozen=True, kw_only=True):
    """The top of the file, and its tables. Only ``data_dir`` has no default of its own."""

    listen: Annotated[
        tuple[Address, ...], _knob("where the TCP protocol is spoken", parse=tuple_of(parse_address))
    ] = (Address("tcp", "127.0.0.1", DEFAULT_PORT),)
    http: Annotated[Address | None, _knob("metrics, health, dashboard; None: off", parse=parse_address)] = (
        None
    )
    data_dir: Annotated[Path, _knob("the journal's folder", parse=parse_path)]
    tick_ms: Annotated[
        int, _ms("a bucket's length: memory against work per wake-up, not exactness", 1, SECOND_MS)
    ] = 10
    wheel_size: Annotated[
        int, _knob("buckets; fewer are longer, more cost memory", 64, 1 << 20, _wheel_size)
    ] = 4096
    allow_nets: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        _knob("private networks that callbacks may reach", parse=tuple_of(parse_network)),
    ] = ()
    egress_proxy: Annotated[
        str | None, _knob("callbacks go through this HTTP proxy, some hundreds a second", parse=parse_proxy)
    ] = None
    fsync: Annotated[
        Literal["group", "off"], _knob("off loses acknowledged tasks at a power cut: for tests")
    ] = "group"
    concurrency: Annotated[
        int, _knob("attempts in flight, all destinations; one descriptor each", 1, 100_000)
    ] = 512
    insecure: Annotated[bool, _knob("an open listener without tokens is meant")] = False
    unix_mode: Annotated[str, _knob("who may use unix: sockets, octal digits", parse=parse_mode)] = "0600"
    limits: Limits = Limits()
    journal: Journal = Journal()
    retry: Mapping[str, Rule] = {}
    queues: Mapping[str, Queue] = {}
    destinations: Mapping[str, Destination] = {}
    tokens: tuple[Token, ...] = ()
    tls: Tls | None = None
    config_file: Path | None = None


class Knob(NamedTuple):
    """One setting, for the documentation and the loader. ``low`` and ``high`` are in its own unit."""

    key: str
    attribute: str
    type: Any
    default: object
    low: int | None
    high: int | None
    reason: str
    parse: Parse | None

    @property
    def unit(self) -> str:
        """``ms``, ``bytes`` or ``""`` for a plain number, a text or a list."""
        if self.attribute.endswith("_ms"):
            return "ms"
        return "bytes" if "bytes" in self.attribute.split("_") else ""

    @property
    def choices(self) -> tuple[str, ...]:
        """All allowed values, if they are a fixed set; for a list, those of its members."""
        kind = typing.get_args(self.type)[0] if typing.get_origin(self.type) is tuple else self.type
        if kind is bool:
            return "true", "false"
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


def knobs(struct: type[Struct]) -> Iterator[Knob]:
    """The settings of one table, in order; the tables inside it (no ``Annotated``) are left out."""
    hints = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        base, *metas = typing.get_args(hints[field.name]) or (None,)
        if not metas or not isinstance(metas[0], Meta):
            continue
        meta = metas[0]
        yield Knob(
            key=field.name.removesuffix("_ms"),
            attribute=field.name,
            type=base,
            default=field.default,
            low=typing.cast("int | None", meta.ge),
            high=typing.cast("int | None", meta.le),
            reason=meta.description or "",
            parse=(meta.extra or {}).get("parse"),
        )
