"""Events: what subscribers see of the records, one line each.

A line is made from a record's bytes as they are in the journal, so an event that is read again after a
reconnect equals the one that was sent live, byte for byte. ``attempt.started`` is the exception: its record
is never written, so it is made from the record object and sent live only. ``server/subscriptions.py`` decides
which subscriber gets which event when.

A cursor is ``JOURNAL-LSN``: 8 hex digits of the journal's id and the lsn of the last record that was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from wheeltimer.core import records as r
from wheeltimer.core.access import Grant
from wheeltimer.core.row import Shown
from wheeltimer.core.task import split_key
from wheeltimer.errors import BadValue
from wheeltimer.protocol.events import TYPES, AttemptEvent, ChangeEvent, EndEvent, StartEvent
from wheeltimer.protocol.requests import Subscribe, check_name
from wheeltimer.protocol.task_view import STATE_WORDS

_CURSOR: Final = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,17})", re.ASCII).fullmatch


class Event(NamedTuple):
    """One event and the fields that filters test.

    ``lsn``: of its record; for ``attempt.started``, of the last record before it. ``line`` ends in a line
    feed.
    """

    lsn: int
    type: str
    queue: str
    group: str | None
    line: bytes


class _Scheduled(r.Record, tag="s", frozen=True):
    key: str
    time_ms: int
    task: Shown


class _Rescheduled(r.Record, tag="r", frozen=True):
    key: str
    time_ms: int
    task: Shown


class _Carried(r.Record, tag="c", frozen=True):
    key: str
    time_ms: int
    task: Raw


_Seen = (
    _Scheduled | _Rescheduled | r.Attempted | r.Stopping | r.Ended | r.Paused | r.Forgotten | _Carried
    | r.Counted
)  # fmt: skip
_decode: Final = msgspec.msgpack.Decoder(_Seen).decode
_split: Final = msgspec.msgpack.Decoder(list[Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def split(payload: bytes | memoryview) -> list[Raw]:
    """A frame's records, each as its own bytes; 0.15 us a record."""
    return _split(payload)


class Writer:
    """Makes the events of one journal. ``journal_id``: its 16 bytes."""

    def __init__(self, journal_id: bytes) -> None:
        self._prefix = f"{journal_id[:4].hex()}-"

    def cursor(self, lsn: int) -> str:
        """The cursor of a subscriber that has seen everything up to ``lsn``."""
        return f"{self._prefix}{lsn}"

    def lsn_of(self, cursor: str) -> int | None:
        """The lsn of a cursor; None if the cursor is of another journal. Raises BadValue."""
        match = _CURSOR(cursor)
        if match is None:
            raise BadValue("from: a cursor from an event or a reply of subscribe expected", "from")
        return int(match[2]) if cursor.startswith(self._prefix) else None

    def events(self, records: Iterable[tuple[int, Raw]]) -> Iterator[Event]:
        """The events of records, each with its lsn, in order; about 3 us each."""
        for lsn, raw in records:
            record = _decode(raw)
            if isinstance(record, _Scheduled):
                yield self._change(lsn, record, "task.scheduled")
            elif isinstance(record, r.Attempted):
                yield self._attempted(lsn, record)
            elif isinstance(record, r.Ended):
                yield self._ended(lsn, record)
            elif isinstance(record, _Rescheduled):
                yield self._change(lsn, record, "task.rescheduled")

    def started(self, lsn: int, record: r.Started) -> Event:
        """``attempt.started``; ``lsn`` is that of the last record before it."""
        queue, id = split_key(record.key)
        group = record.task.group
        event = StartEvent(
            event="attempt.started", cursor=self.cursor(lsn), time=record.time_ms, queue=queue, id=id,
            version=record.version, group=group or UNSET, attempt=record.attempt,
        )  # fmt: skip
        return Event(lsn, event.event, queue, group, _encode(event) + b"\n")

    def _change(self, lsn: int, record: _Scheduled | _Rescheduled, name: str) -> Event:
        queue, id = split_key(record.key)
        row = record.task
        due_ms = row.due_given_ms
        if due_ms is None:  # computed from the other fields, as in ``Task.due_ms``
            assert isinstance(row.delay, int)
            due_ms = row.created_ms + row.delay
        event = ChangeEvent(
            event=name, cursor=self.cursor(lsn), time=record.time_ms, queue=queue, id=id, version=row.version,
            group=row.group or UNSET, due=due_ms,
        )  # fmt: skip
        return Event(lsn, name, queue, row.group, _encode(event) + b"\n")

    def _attempted(self, lsn: int, record: r.Attempted) -> Event:
        queue, id = split_key(record.key)
        made = record.attempt
        event = AttemptEvent(
            event=f"attempt.{made.outcome}", cursor=self.cursor(lsn), time=record.time_ms, queue=queue, id=id,
            version=made.version, group=record.group or UNSET, attempt=made.attempt, started=made.started,
            late_ms=made.late_ms, ms=made.ms, outcome=made.outcome,
            status=UNSET if made.status is None else made.status,
            error=UNSET if made.error is None else made.error,
            reply=UNSET if made.reply is None else made.reply,
        )  # fmt: skip
        return Event(lsn, event.event, queue, record.group, _encode(event) + b"\n")

    def _ended(self, lsn: int, record: r.Ended) -> Event:
        queue, id = split_key(record.key)
        state = STATE_WORDS[record.state]
        event = EndEvent(
            event=f"task.{state}", cursor=self.cursor(lsn), time=record.time_ms, queue=queue, id=id,
            version=record.version, group=record.group or UNSET, state=state, attempts=record.attempts,
            error=UNSET if record.reason is None else record.reason,
            # A carriage return is white space in JSON, but some clients take it for the end of a line.
            meta=UNSET if record.meta is None else Raw(record.meta.replace(b"\r", b" ")),
        )  # fmt: skip
        return Event(lsn, event.event, queue, record.group, _encode(event) + b"\n")


class Filter(NamedTuple):
    """Which events a subscriber asked for; None: all. Subscribers with equal filters share their lines."""

    queue: str | None = None
    group: str | None = None
    types: frozenset[str] | None = None
    grant: Grant | None = None  # set if the token sees only some queues

    @classmethod
    def of(cls, command: Subscribe, grant: Grant | None = None) -> Filter:
        """The filter of a request, limited to the queues that the token sees. Raises BadValue."""
        if command.queue is not None:
            check_name(command.queue, "queue")
        if command.group is not None:
            check_name(command.group, "group")
        types = None if command.types is None else _types(command.types)
        seeing = grant if grant is not None and grant.filter is not None else None
        return cls(command.queue, command.group, types, seeing)

    def passes(self, event: Event) -> bool:
        return (
            (self.queue is None or event.queue == self.queue)
            and (self.group is None or event.group == self.group)
            and (self.types is None or event.type in self.types)
            and (self.grant is None or self.grant.allows(event.queue))
        )


ALL: Final = Filter()


def _types(names: list[str]) -> frozenset[str]:
    wanted: set[str] = set()
    for name in names:
        found = {type for type in TYPES if type == name or (name[-2:] == ".*" and type.startswith(name[:-1]))}
        if not found:
            raise BadValue(
                f"types: {name[:40]!r} is no event; there are {', '.join(TYPES)}, task.*, attempt.*", "types"
            )
        wanted |= found
    if not wanted:
        raise BadValue("types: at least one name expected; leave it out for all events", "types")
    return frozenset(wanted)
