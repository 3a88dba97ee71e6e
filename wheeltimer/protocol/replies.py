"""One struct per reply. ``seq`` is left out if the request had none."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

Seq = int | float | str | UnsetType


class ScheduleReply(Struct, gc=False):
    ok: bool
    id: str
    queue: str
    version: int
    due: int
    state: str
    duplicate: bool = False
    seq: Seq = UNSET


class RescheduleReply(Struct, gc=False):
    ok: bool
    version: int
    due: int
    seq: Seq = UNSET


class CancelReply(Struct, gc=False):
    ok: bool
    cancelled: int
    running: int
    seq: Seq = UNSET


class FinishReply(Struct, gc=False):
    ok: bool
    finished: int
    running: int
    seq: Seq = UNSET


class RedriveReply(Struct, gc=False):
    ok: bool
    redriven: int
    seq: Seq = UNSET


class PauseReply(Struct, gc=False):
    ok: bool
    queue: str
    paused: bool
    seq: Seq = UNSET


class TaskReply(Struct, gc=False):
    ok: bool
    task: dict[str, object]
    seq: Seq = UNSET


class ListReply(Struct, gc=False):
    ok: bool
    tasks: list[dict[str, object]]
    cursor: str | UnsetType = UNSET
    seq: Seq = UNSET


class HelloReply(Struct, gc=False):
    ok: bool
    server: str
    version: str
    protocol: int
    durability: str
    now: int
    limits: dict[str, int]
    seq: Seq = UNSET


class StatsReply(Struct, gc=False, kw_only=True):
    """What ``stats`` answers; the daemon puts it together. What counts all queues, not to every token."""

    ok: bool
    tasks: dict[str, int]
    queues: dict[str, dict[str, int | bool]]
    attempts: dict[str, int] | UnsetType = UNSET
    connections: int | UnsetType = UNSET
    journal: dict[str, int] | UnsetType = UNSET
    lateness_ms: dict[str, int]
    lateness_us: dict[str, int]
    lapsed: dict[str, int] | UnsetType = UNSET
    clock_steps: int
    uptime_ms: int
    seq: Seq = UNSET


class SubscribeReply(Struct, gc=False):
    ok: bool
    cursor: str
    seq: Seq = UNSET


class ForecastReply(Struct, gc=False):
    ok: bool
    from_: int = field(name="from")
    slice_ms: int
    counts: list[int]
    overdue: int
    later: int
    seq: Seq = UNSET


class PingReply(Struct, gc=False):
    ok: bool
    now: int
    seq: Seq = UNSET


class ErrorReply(Struct, gc=False):
    ok: bool
    error: str
    message: str
    field: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    version: int | UnsetType = UNSET
    state: str | UnsetType = UNSET
    due: int | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    seq: Seq = UNSET
