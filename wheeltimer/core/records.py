"""The journal's records: what happened. Subscribers' events are made of them.

A record is a msgpack array whose first element names its kind; a frame's payload is an array of
records, decoded in one call. Written records hold all that their event shows, so a reader of the
journal needs no other state. Volatile records are applied and published but never written: after a
restart no task is ``ready`` or ``running``, and an attempt without a recorded outcome was not made.

How a record changes a task is in ``engine.py``; which records an input causes is decided in
``schedule.py`` and ``outcome.py``. Kinds and fields are final: new fields are appended with a
default, and older journals stay readable.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from wheeltimer.core.task import Task
from wheeltimer.protocol.task_view import Attempt


class Record(Struct, array_like=True, frozen=True, gc=False):
    """Base of every record."""


class Scheduled(Record, tag="s", frozen=True):
    """A new task, or a new version by ``replace``; also the task of a hook."""

    key: str
    time_ms: int
    task: Task


class Rescheduled(Record, tag="r", frozen=True):
    """A new version by ``reschedule`` or ``redrive``: the whole task as it is from now on."""

    key: str
    time_ms: int
    task: Task


class Attempted(Record, tag="a", frozen=True):
    """An attempt ended.

    ``next_ms`` and ``deadline_ns``: when the next attempt is due, if the attempt was of the present version
    and another follows (a retry or "not yet"). ``ends``: the task's ``Ended`` is the next record of the same
    frame.
    """

    key: str
    time_ms: int
    attempt: Attempt
    failures: int
    polls: int
    next_ms: int | None
    deadline_ns: int | None
    ends: bool = False
    group: str | None = None


class Stopping(Record, tag="x", frozen=True):
    """A cancel (1) or finish (2) of a running task: it takes effect when the attempt ends."""

    key: str
    time_ms: int
    stop: int
    reply: bytes | None = None


class Ended(Record, tag="e", frozen=True):
    """A task ended in ``state``; ``reason`` is why, other than by a successful attempt."""

    key: str
    time_ms: int
    version: int
    state: int
    attempts: int
    reason: str | None = None
    group: str | None = None
    meta: bytes | None = None


class Paused(Record, tag="p", frozen=True):
    """A queue was paused or resumed; ``lsn`` is this record's own, 0 in older journals, which lack it."""

    queue: str
    time_ms: int
    paused: bool
    lsn: int = 0


class Forgotten(Record, tag="f", frozen=True):
    """Retention of these ended tasks is over; a later task of the same id is a new one."""

    keys: list[str]
    time_ms: int


class Carried(Record, tag="c", frozen=True):
    """Compaction's copy of a task or, if ``task`` is None, of a paused queue: state, no event.

    The lsn of this record is in ``task.carried_lsn``, for a queue in ``lsn``.
    """

    key: str
    time_ms: int
    task: Task | None
    lsn: int = 0


class Counted(Record, tag="n", frozen=True):
    """Compaction's copy of the counters: all attempts ever made, by outcome. No event."""

    time_ms: int
    succeeded: int
    failed: int
    not_yet: int


class Due(Record, tag="d", frozen=True):
    """Volatile: the wheel handed the task over; it waits for a permit.

    ``task``: the unpacked row on which this was decided; the row has not changed since. ``late_ms``: how late
    the task is, in whole ms.
    """

    key: str
    time_ms: int
    task: Task
    late_ms: int


class Started(Record, tag="b", frozen=True):
    """Volatile: an attempt began. ``task`` as in `Due`."""

    key: str
    time_ms: int
    version: int
    attempt: int
    task: Task


class Lapsed(Record, tag="l", frozen=True):
    """Volatile: the attempt in flight was not made after all. It is not counted and not in the history.

    ``task`` as in `Due`. It has no stored cancel or finish: a task that has one ends instead, by `Ended`.
    """

    key: str
    time_ms: int
    task: Task


Written = Scheduled | Rescheduled | Attempted | Stopping | Ended | Paused | Forgotten | Carried | Counted
Volatile = Due | Started | Lapsed
AnyRecord = Written | Volatile
Records = list[Written]  # one decision, in the order in which it is applied


class RawScheduled(Record, tag="s", frozen=True):
    """A ``Scheduled`` as recovery reads it and ``schedule_batch.py`` writes it: the task is a packed row."""

    key: str
    time_ms: int
    task: Raw


class RawCarried(Record, tag="c", frozen=True):
    """A ``Carried`` as recovery reads it: the task is a packed row, `NIL` for a paused queue."""

    key: str
    time_ms: int
    task: Raw
    lsn: int = 0


NIL: Final = b"\xc0"
Replayed = RawScheduled | Rescheduled | Attempted | Stopping | Ended | Paused | Forgotten | Carried | Counted
RawRecord = (
    RawScheduled | Rescheduled | Attempted | Stopping | Ended | Paused | Forgotten | RawCarried | Counted
)


encode: Final = msgspec.msgpack.Encoder().encode
decode_all: Final = msgspec.msgpack.Decoder(list[Replayed]).decode  # a frame's payload, consumed exactly
decode_recovered: Final = msgspec.msgpack.Decoder(list[RawRecord]).decode  # the same, rows left packed
