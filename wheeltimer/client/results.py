"""What the clients give back: one struct for each kind of reply, with the fields of the protocol's page.

Where the daemon has a struct for a reply it is that one; what a later daemon adds is left out.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from msgspec import Struct

from wheeltimer.core.replies import (
    CancelReply,
    FinishReply,
    ForecastReply,
    PauseReply,
    PingReply,
    RedriveReply,
    RescheduleReply,
    ScheduleReply,
)
from wheeltimer.core.task import Attempt

R = TypeVar("R")


class Hello(Struct, kw_only=True):
    """Who is there. ``now`` is Unix ms."""

    server: str
    version: str
    protocol: int
    durability: str
    now: int
    limits: dict[str, int]


class TaskInfo(Struct, kw_only=True):
    """A task; instants are Unix ms. Fields of the request are as given, None where they were not."""

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
    history: list[Attempt] = []
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


class TaskList(Struct, kw_only=True):
    """One page; ``cursor`` where there is more."""

    tasks: list[TaskInfo]
    cursor: str | None = None


class Stats(Struct, kw_only=True):
    """Counts, journal, lateness, what was short.

    A token of some queues is not told ``attempts connections journal lapsed``.
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
    """One event; what an event of its name does not have is None. ``time`` and ``started`` are Unix ms."""

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


class GetReply(Struct):
    """Holds what ``get`` returns."""

    task: TaskInfo


__all__: Final = [
    "CancelReply", "Event", "FinishReply", "ForecastReply", "GetReply", "Hello", "PauseReply", "PingReply",
    "RedriveReply", "RescheduleReply", "ScheduleReply", "Stats", "TaskInfo", "TaskList",
]  # fmt: skip
