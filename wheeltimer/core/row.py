"""The row of a task: the letter of each field, and views that decode some of the fields only.

A row is a msgpack map. Its keys are the letters below. The journal contains them, so a letter is never given
to another field. Every struct that reads or writes rows takes its keys from ``LETTERS``; ``task.Task`` is the
one with all fields.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

LETTERS: Final = {
    # what the client asked for
    "url": "u", "method": "m", "headers": "h", "body": "b", "body_as": "B", "meta": "x", "retry": "r",
    "timeout": "t", "connect_timeout": "T", "expires_in": "e", "expires_at": "E", "success": "s",
    "poll": "p", "group": "g", "on_done": "o", "on_dead": "O", "delay": "d", "at": "a",
    # what has become of it
    "created_ms": "c", "lsn": "l", "born_lsn": "L", "deadline_ns": "w", "due_given_ms": "D",
    "next_given_ms": "n", "expiry_ns": "y", "expiry_ms": "Y", "version": "v", "state": "S",
    "flight": "f", "revision": "R", "attempts": "k", "failures": "F", "polls": "P", "history": "H",
    "ended_ms": "z", "stop": "q", "stop_reply": "Q", "rule": "j", "content": "C", "reason": "W",
    "carried_lsn": "K",
}  # fmt: skip


class Indexed(Struct, gc=False, rename=LETTERS):
    """The fields from which most timers, and all counts and groups, are derived."""

    state: int = 0
    deadline_ns: int | None = None
    expiry_ns: int | None = None
    expiry_ms: int | None = None
    ended_ms: int = 0
    group: str | None = None


class Written(Struct, gc=False, rename=LETTERS):
    """The lsns of the records that hold all of the task: its present version, and compaction's last copy."""

    lsn: int
    carried_lsn: int = 0


class Copied(Struct, gc=False, rename=LETTERS | {"time_ms": LETTERS["ended_ms"]}):
    """The fields of a copy's row that a replay needs: state, a stored cancel or finish, time of the end."""

    state: int = 0
    stop: int = 0
    time_ms: int = 0
    deadline_ns: int | None = None


class Timing(Struct, gc=False, rename=LETTERS):
    """The fields from which the instant of the next attempt is computed."""

    state: int = 0
    deadline_ns: int | None = None
    due_given_ms: int | None = None
    created_ms: int = 0
    delay: int | str | None = None


class Shown(Struct, gc=False, rename=LETTERS):
    """The fields that the event of a new version shows."""

    created_ms: int
    version: int = 1
    group: str | None = None
    due_given_ms: int | None = None
    delay: int | str | None = None


class Fresh(Struct, omit_defaults=True, gc=False, rename=LETTERS):
    """The fields of a ``Task`` that a plain request fills, in the order of ``Task``.

    The packed bytes equal those of a ``Task``, except that the map's header is shorter.
    """

    url: str
    body: bytes | None = None
    delay: int | None = None
    created_ms: int | None = None
    lsn: int | None = None
    deadline_ns: int | None = None


VIEWS: Final = (Indexed, Written, Copied, Timing, Shown, Fresh)
indexed: Final = msgspec.msgpack.Decoder(Indexed).decode
written: Final = msgspec.msgpack.Decoder(Written).decode
copied: Final = msgspec.msgpack.Decoder(Copied).decode
timing: Final = msgspec.msgpack.Decoder(Timing).decode
