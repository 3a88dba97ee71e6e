"""The results of the clients: one struct for each kind of reply, with the fields of the protocol's page.

If the daemon has a struct for a reply, it is used here too; members that a later daemon adds are ignored.
Instants are Unix ms as in the protocol; each has a property with the ``datetime`` in UTC, named ``..._at``.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

from msgspec import Struct

from wheeltimer.protocol import replies
from wheeltimer.protocol.replies import CancelReply, FinishReply, PauseReply, RedriveReply
from wheeltimer.protocol.task_view import Attempt

R = TypeVar("R")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 -- one name in every version


def instant(ms: int) -> datetime:
    """Unix ms as a ``datetime`` in UTC, exact to the ms."""
    return _EPOCH + timedelta(milliseconds=ms)


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else instant(ms)


class ScheduleReply(replies.ScheduleReply, gc=False):
    """``id queue version due state duplicate``."""

    @property
    def due_at(self) -> datetime:
        return instant(self.due)


class RescheduleReply(replies.RescheduleReply, gc=False):
    """``version due``."""

    @property
    def due_at(self) -> datetime:
        return instant(self.due)


class PingReply(replies.PingReply, gc=False):
    """``now``."""

    @property
    def now_at(self) -> datetime:
        return instant(self.now)


class ForecastReply(replies.ForecastReply, gc=False):
    """``from_ slice_ms counts overdue later``."""

    @property
    def from_at(self) -> datetime:
        return instant(self.from_)


class PastAttempt(Attempt, frozen=True, gc=False):
    """One line of a task's history."""

    @property
    def started_at(self) -> datetime:
        return instant(self.started)


class Hello(Struct, kw_only=True):
    """The daemon's version and limits. ``now`` is Unix ms."""

    server: str
    version: str
    protocol: int
    durability: str
    now: int
    limits: dict[str, int]

    @property
    def now_at(self) -> datetime:
        return instant(self.now)


class TaskInfo(Struct, kw_only=True):
    """A task; instants are Unix ms. Fields of the request are as given, or None if not given."""

    id: str
    queue: str
    url: str
    version: int
    state: str
    created: int
    due: int
    next: int | None = None
    ended: int | None = None
    attempts: int = 0
    polls: int = 0
    error: str | None = None
    history: list[PastAttempt] = []
    delay: int | str | None = None
    at: int | str | None = None
    method: str = "POST"
    headers: dict[str, str] | None = None
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None
    meta: Any = None
    retry: Any = None
    timeout: int | str | None = None
    connect_timeout: int | str | None = None
    expires_in: int | str | None = None
    expires_at: int | str | None = None
    success: Any = None
    poll: Any = None
    group: str | None = None
    on_done: str | None = None
    on_dead: str | None = None

    @property
    def created_at(self) -> datetime:
        return instant(self.created)

    @property
    def due_at(self) -> datetime:
        return instant(self.due)

    @property
    def next_at(self) -> datetime | None:
        return _instant(self.next)

    @property
    def ended_at(self) -> datetime | None:
        return _instant(self.ended)


class TaskList(Struct, kw_only=True):
    """One page; ``cursor`` if there are more."""

    tasks: list[TaskInfo]
    cursor: str | None = None


class Stats(Struct, kw_only=True):
    """Counts, journal, lateness, attempts that lapsed.

    For a token that is limited to some queues the daemon leaves out ``attempts connections journal lapsed``.
    """

    tasks: dict[str, int]
    queues: dict[str, dict[str, Any]]
    attempts: dict[str, int] = {}
    connections: int | None = None
    journal: dict[str, int] = {}
    lateness_ms: dict[str, int]
    lapsed: dict[str, int] = {}
    uptime_ms: int


class Event(Struct, kw_only=True):
    """One event; fields that its kind does not have are None. ``time`` and ``started`` are Unix ms."""

    event: str
    cursor: str
    time: int
    queue: str
    id: str
    version: int
    group: str | None = None
    due: int | None = None
    state: str | None = None
    attempts: int | None = None
    meta: Any = None
    attempt: int | None = None
    started: int | None = None
    late_ms: int | None = None
    ms: int | None = None
    outcome: str | None = None
    status: int | None = None
    error: str | None = None
    reply: str | None = None

    @property
    def time_at(self) -> datetime:
        return instant(self.time)

    @property
    def due_at(self) -> datetime | None:
        return _instant(self.due)

    @property
    def started_at(self) -> datetime | None:
        return _instant(self.started)


class GetReply(Struct):
    """The reply of ``get``."""

    task: TaskInfo


__all__: Final = [
    "CancelReply", "Event", "FinishReply", "ForecastReply", "GetReply", "Hello", "PastAttempt", "PauseReply",
    "PingReply", "RedriveReply", "RescheduleReply", "ScheduleReply", "Stats", "TaskInfo", "TaskList",
]  # fmt: skip
