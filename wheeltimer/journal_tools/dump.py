"""Records as lines of JSON, for people: every field of a record, under readable names.

``reader.py`` reads the frames; ``core`` defines the letters on disk. Streams: one segment and one frame's
records are in memory. No I/O except through the iterator of frames.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from wheeltimer.core import records as r
from wheeltimer.core.task import STOP_CANCEL, Task, split_key, unpack
from wheeltimer.errors import JournalDamaged
from wheeltimer.journal.frame import CHAINED, Frame, Kind
from wheeltimer.journal.segment import decode_trim
from wheeltimer.protocol.task_view import STATE_WORDS
from wheeltimer.protocol.units import format_instant

from .check import KINDS, no_records

DUMPED: Final = CHAINED - {Kind.SEAL}
"""The kinds of frames whose records have lsns."""
TRIM: Final = "trimmed"
WORDS: Final = (*KINDS.values(), TRIM)

_encode: Final = msgspec.json.Encoder().encode
_TASK_DEFAULTS: Final = {
    name: default
    for name, default in zip(
        reversed(Task.__struct_fields__), reversed(Task.__struct_defaults__), strict=False
    )
    if default is not msgspec.NODEFAULT
}
_BYTES: Final = frozenset({"meta", "reply", "stop_reply"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records to show; None: no condition. ``since_ms`` and ``until_ms``: Unix ms, both inclusive."""

    id: str | None = None
    queue: str | None = None
    kinds: frozenset[str] | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def takes(self, kind: str, time_ms: int, keys: list[tuple[str, str | None]]) -> bool:
        return (
            (self.kinds is None or kind in self.kinds)
            and (self.since_ms is None or time_ms >= self.since_ms)
            and (self.until_ms is None or time_ms <= self.until_ms)
            and any(self._is_of(queue, id) for queue, id in keys)
        )

    def _is_of(self, queue: str, id: str | None) -> bool:
        return (self.queue is None or queue == self.queue) and (self.id is None or id == self.id)


def dump_lines(found: Iterable[Frame], wanted: Wanted) -> Iterator[bytes]:
    """One line, without a line feed, for every record that ``wanted`` takes, in order of lsn.

    ``found``: frames of the kinds in :data:`DUMPED`. Raises :class:`JournalDamaged` for a frame whose
    records this version cannot decode.
    """
    for frame in found:
        if frame.kind == Kind.TRIM:
            yield from _trim(frame, wanted)
            continue
        try:
            decoded = r.decode_all(frame.payload)
        except msgspec.MsgspecError as error:
            raise JournalDamaged(f"lsn {frame.first_lsn}: {no_records(error)}") from error
        for lsn, record in enumerate(decoded, frame.first_lsn):
            kind = KINDS[type(record).__name__]
            if wanted.takes(kind, record.time_ms, _keys(record)):
                head = {"lsn": lsn, "time": record.time_ms, "at": at(record.time_ms), "kind": kind}
                yield _encode(head | _rest(record))


def at(time_ms: int) -> str:
    """An instant in RFC 3339; empty if it is outside the calendar."""
    try:
        return format_instant(time_ms)
    except (ValueError, OverflowError):
        return ""


def _trim(frame: Frame, wanted: Wanted) -> Iterator[bytes]:
    time_ms = frame.clocks.wall_ms
    if wanted.takes(TRIM, time_ms, [("", None)]):
        below = decode_trim(bytes(frame.payload), 0)
        line = {"lsn": frame.first_lsn, "time": time_ms, "at": at(time_ms), "kind": TRIM, "below": below}
        yield _encode(line)


def _keys(record: r.Replayed) -> list[tuple[str, str | None]]:
    """Queue and id of each task of a record; the id is None if the record is about a queue."""
    match record:
        case r.Forgotten(keys):
            return [split_key(key) for key in keys]
        case r.Paused(queue):
            return [(queue, None)]
        case r.Counted():
            return [("", None)]
        case r.Carried(key, _, None):
            return [(key, None)]
        case _:
            return [split_key(record.key)]


def _rest(record: r.Replayed) -> dict[str, Any]:
    keys = _keys(record)
    if isinstance(record, r.Forgotten):
        return {"tasks": [{"queue": queue, "id": id} for queue, id in keys]}
    ((queue, id),) = keys
    about = {"queue": queue, "id": id}
    fields: dict[str, Any] = {name: value for name, value in about.items() if value}
    for name, value in asdict(record).items():
        if name in ("key", "time_ms", "queue", "lsn") or value is None:
            continue
        if name == "task":
            fields["task"] = task_fields(unpack(value) if isinstance(value, msgspec.Raw) else value)
        else:
            fields[name] = _field(name, value)
    return fields


def _field(name: str, value: Any) -> Any:
    if name == "state":
        return STATE_WORDS[value]
    if name == "stop":
        return "cancel" if value == STOP_CANCEL else "finish"
    return _json_or_text(value) if name in _BYTES else value


def task_fields(task: Task) -> dict[str, Any]:
    """A task's fields with the names of `get`, and the engine's own fields; defaults are left out."""
    fields: dict[str, Any] = {
        "version": task.version, "state": STATE_WORDS[task.state], "created": task.created_ms,
        "due": at(task.due_ms), "next": at(task.next_ms),
    }  # fmt: skip
    for name, value in asdict(task).items():
        if name in ("version", "state", "created_ms", "body_as") or value == _TASK_DEFAULTS.get(name, UNSET):
            continue
        if name == "body":
            fields |= _body(value, task.body_as)
        elif name == "content":
            fields[name] = value.hex()
        else:
            fields[name] = _field(name, value) if value else value
    return fields


def _body(body: bytes, given_as: str) -> dict[str, Any]:
    """The body under the name of the request's field: as JSON, as text if it is UTF-8, else as base64."""
    if not given_as:
        value = _json_or_text(body)
        return {"body": value} if isinstance(value, msgspec.Raw) else {"body_text": value}
    try:
        return {"body_text": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}


def _json_or_text(data: bytes) -> Any:
    """JSON unchanged if it is on one line; else text; else base64."""
    try:
        if b"\n" not in data and b"\r" not in data:
            msgspec.json.decode(data)
            return msgspec.Raw(data)
        return data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return data.decode()
        except UnicodeDecodeError:
            return b64encode(data).decode()
