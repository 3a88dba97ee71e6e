"""Events, one line of JSON each, for subscribers: the names and fields of all of them."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Raw, Struct, UnsetType

_ENDS: Final = ("cancelled", "done", "dead", "expired")


_OUTCOMES: Final = ("succeeded", "failed", "not_yet")


TYPES: Final = (
    "task.scheduled", "task.rescheduled", *(f"task.{word}" for word in _ENDS),
    "attempt.started", *(f"attempt.{word}" for word in _OUTCOMES),
)  # fmt: skip


class Head(Struct, kw_only=True, gc=False):
    """The fields of every event. ``time``: when it happened, Unix ms."""

    event: str
    cursor: str
    time: int
    queue: str
    id: str
    version: int
    group: str | UnsetType = UNSET


class ChangeEvent(Head, kw_only=True, gc=False):
    """``task.scheduled`` and ``task.rescheduled``: a version begins."""

    due: int


class EndEvent(Head, kw_only=True, gc=False):
    """``task.done``, ``dead``, ``expired``, ``cancelled``."""

    state: str
    attempts: int
    error: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET


class StartEvent(Head, kw_only=True, gc=False):
    """``attempt.started``: live only."""

    attempt: int


class AttemptEvent(Head, kw_only=True, gc=False):
    """``attempt.succeeded``, ``failed``, ``not_yet``: the entry of the task's history."""

    attempt: int
    started: int
    late_ms: int
    ms: int
    outcome: str
    status: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reply: str | UnsetType = UNSET


EVENTS: Final = (ChangeEvent, EndEvent, StartEvent, AttemptEvent)
