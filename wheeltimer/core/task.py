"""A task: its fields, its timers, and its packed form at rest.

In memory a task is one ``bytes`` object, its *row*: a msgpack map that leaves out every field with its
default. A million waiting tasks are a million rows and a million keys, nothing else; a ``Task`` struct
exists only while code reads or changes it: the row is unpacked, the struct changed and packed again (about
half a microsecond each way).

Moves between states are in ``states.py``; ``protocol/requests.py`` checks the values of fields.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from wheeltimer.core.row import LETTERS
from wheeltimer.protocol.retry import Rule
from wheeltimer.protocol.success import SuccessRule
from wheeltimer.protocol.task_view import Attempt, Poll, State

NS_PER_MS: Final = 1_000_000


class Now(Struct, frozen=True, gc=False):
    """One reading of the clocks, taken together.

    ``elapsed_ns`` is time since boot, suspend included: it never steps. ``wall_ns`` is Unix time. The
    wall is read first, so that a pause between the two readings makes deadlines late, never early.
    ``wall_ms`` is the wall rounded up: an instant computed from it is never before the reading.
    """

    elapsed_ns: int
    wall_ns: int

    @property
    def wall_ms(self) -> int:
        return -(-self.wall_ns // NS_PER_MS)

    def elapsed_at(self, wall_ms: int) -> int:
        """The wall instant ``wall_ms`` on the elapsed time line, in ns, by the clocks of this reading."""
        return wall_ms * NS_PER_MS - self.wall_ns + self.elapsed_ns


class Spec(Struct, omit_defaults=True, gc=False, rename=LETTERS):
    """The fields of the client's request, as given; ``None`` is "not given".

    ``body`` is the bytes that are sent; ``body_as`` is ``""`` (JSON), ``"text"`` or ``"base64"``, by the
    field that had them. ``meta`` is JSON text.
    """

    url: str
    method: str = "POST"
    headers: dict[str, str] | None = None
    body: bytes | None = None
    body_as: str = ""
    meta: bytes | None = None
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
    delay: int | str | None = None
    at: int | str | None = None


SPEC_FIELDS: Final = Spec.__struct_fields__
_SPEC_LENGTH: Final = len(SPEC_FIELDS)


class Task(Spec, omit_defaults=True, gc=False, rename=LETTERS, kw_only=True):
    """A task in the engine: the request's fields and what has happened since.

    Times: ``*_ms`` is Unix milliseconds, ``*_ns`` is ns on the elapsed time line of this boot. A wait
    on elapsed time (``delay``, a retry, a poll, redrive) has ``deadline_ns``; one without it ends at
    ``due_ms`` of the wall clock. A field whose value can be computed from others keeps its default, so that
    the row stays small: see ``due_ms``, ``next_ms`` and ``born``.
    """

    created_ms: int
    lsn: int  # of the record that made the present version
    born_lsn: int = 0  # of the first scheduling; 0: ``lsn``
    deadline_ns: int | None = None
    due_given_ms: int | None = None  # None: created_ms + delay
    next_given_ms: int | None = None  # None: due_ms
    expiry_ns: int | None = None
    expiry_ms: int | None = None
    version: int = 1
    state: int = 0
    flight: int = 0  # version of the attempt in flight; 0: none
    revision: int = 0  # replaces, and reschedules that change what is sent
    attempts: int = 0  # of this version, ended
    failures: int = 0  # of this version, since the retry budget was last full
    polls: int = 0
    history: list[Attempt] | None = None
    ended_ms: int | None = None
    stop: int = 0  # a stored cancel (1) or finish (2) that waits for the attempt's end
    stop_reply: bytes | None = None
    rule: Rule | None = None  # a named rule, as it was when scheduled
    content: bytes | None = None  # digest of the request, once it cannot be computed from the fields
    reason: str | None = None  # why it ended other than by success
    carried_lsn: int = 0  # of compaction's last copy of the task; 0: none was made

    @property
    def due_ms(self) -> int:
        """When this version is due, Unix ms. If not stored: creation plus a delay given in ms."""
        if self.due_given_ms is not None:
            return self.due_given_ms
        assert isinstance(self.delay, int)
        return self.created_ms + self.delay

    @property
    def next_ms(self) -> int:
        """When the next attempt starts, Unix ms."""
        return self.due_ms if self.next_given_ms is None else self.next_given_ms

    @property
    def born(self) -> int:
        """The lsn of the first scheduling of this id."""
        return self.born_lsn or self.lsn

    def late_ns(self, now: Now) -> int:
        """How long ``now`` is after the planned instant, in ns; negative before it.

        A task that was made after its due time is late from its creation on.
        """
        if self.deadline_ns is not None:
            return now.elapsed_ns - self.deadline_ns
        return now.wall_ns - max(self.next_ms, self.created_ms) * NS_PER_MS

    def late_ms(self, now: Now) -> int:
        """How late ``now`` is against the planned instant itself, in whole ms, never negative."""
        if self.deadline_ns is not None:
            return max(0, (now.elapsed_ns - self.deadline_ns) // NS_PER_MS)
        return max(0, now.wall_ns // NS_PER_MS - self.next_ms)


STOP_CANCEL: Final = 1
STOP_FINISH: Final = 2

_encoder: Final = msgspec.msgpack.Encoder()
_sorting: Final = msgspec.msgpack.Encoder(order="deterministic")  # the order of headers does not matter
_encode: Final = _encoder.encode
unpack: Final = msgspec.msgpack.Decoder(Task).decode


def pack(task: Struct) -> bytes:
    """The row of a task. 0.2 us."""
    # Copied, because the encoder grows its buffer by halves and cuts it at the end, which leaves the bytes in
    # a block of memory up to a third too large: up to 70 MB for a million rows.
    return b"".join((_encode(task), b""))


# Plain integers: comparing with a member of an enumeration takes three times as long.
_SCHEDULED: Final = int(State.SCHEDULED)
_READY: Final = int(State.READY)


def timers(task: Task) -> tuple[int | None, int | None]:
    """When a live task must be looked at next: (ns of elapsed time, Unix ms), each None if never."""
    if task.state > _READY:
        return None, None
    elapsed, wall = task.expiry_ns, task.expiry_ms
    if task.state == _SCHEDULED:
        if task.deadline_ns is not None:
            elapsed = task.deadline_ns if elapsed is None else min(elapsed, task.deadline_ns)
        else:
            wall = task.due_ms if wall is None else min(wall, task.due_ms)
    return elapsed, wall


def digest(spec: Spec) -> bytes:
    """16 bytes that identify a request's content (BLAKE2b over the fields as given)."""
    fields = astuple(spec)[:_SPEC_LENGTH]  # a Task's own fields come after those of the request
    return blake2b(_sorting.encode(fields), digest_size=16).digest()


def content_of(task: Task) -> bytes:
    """The digest of the request that made ``task``."""
    return task.content or digest(task)


def key_of(queue: str, id: str) -> str:
    """The table's key; a queue's name has no ``/``, so ``split_key`` splits at the first one."""
    return f"{queue}/{id}"


def split_key(key: str) -> tuple[str, str]:
    """``key_of`` undone: (queue, id)."""
    queue, _, id = key.partition("/")
    return queue, id
