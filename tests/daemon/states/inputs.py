"""The columns: all that can come to a task, from a client, from its receiver, with time, or by accident."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from .rows import FAILED, GONE, NOT_YET, OK, Row
from .world import KEEP_S, Cell

OTHER: Final = "http://127.0.0.2:9/other"  # what makes it another content, and another destination
END_S: Final = 200.0  # when the story is told; everything has happened by then
Fields = dict[str, Any]
_PATIENT: Final[Fields] = {"connect_timeout": "9s"}


@dataclass(frozen=True)
class Input:
    """``ask``: a request as ``t`` of this row and this cell's own request have it; its reply is in the cell.

    ``answers``: what the next callbacks are answered, or the one in flight. ``fields``: what it needs of the
    task. ``restart``: the process ends so, with this exit code, and another takes its place. ``end_s``: when
    the story is told. ``short``: no connection can be made for our own shortage, see `Cell`.
    """

    ask: Callable[[Cell, Row, Fields], Fields] | None = None
    answers: tuple[tuple[int, bytes, bytes] | None, ...] = ()
    fields: Callable[[Cell, Row], Fields] = field(default=lambda cell, row: {})
    restart: Callable[[], Awaitable[None]] | None = None
    exit_code: int | None = None
    end_s: float = END_S
    short: bool = False


def _schedule(**more: Any) -> Input:
    return Input(lambda cell, row, asked: asked | row.last | more)


def _of(op: str, **more: Any) -> Input:
    """A request that names ``t`` by its id."""
    return Input(lambda cell, row, asked: {"op": op, "id": "t", "queue": row.queue, **more})


def _by(op: str, **filters: Any) -> Input:
    """A request that names ``t`` otherwise."""
    return Input(lambda cell, row, asked: {"op": op, **filters})


def _in_queue(op: str) -> Input:
    return Input(lambda cell, row, asked: {"op": op, "queue": row.queue})


def _answered(answer: tuple[int, bytes, bytes] | None, fields: Fields | None = None) -> Input:
    return Input(answers=(answer,), fields=lambda cell, row: fields or {})


def _last(answer: tuple[int, bytes, bytes] | None) -> Input:
    """The next attempt is the last one that the rule allows."""

    def fields(cell: Cell, row: Row) -> Fields:
        return {"retry": {"kind": "fixed", "every": "10s", "attempts": row.used + 1, "jitter": 0}}

    return Input(answers=(answer,), fields=fields)


def _expires(*answers: tuple[int, bytes, bytes] | None, short: bool = False) -> Input:
    """The expiry comes 2 s after the input."""
    return Input(
        answers=answers,
        short=short,
        fields=lambda cell, row: {
            "expires_at": cell.now_ms() + round((row.age_s + 2) * 1000),
            **(_PATIENT if short else {}),
        },
    )


async def _killed() -> None:
    await trio.lowlevel.checkpoint()


async def _drained() -> None:
    signal.raise_signal(signal.SIGTERM)
    await trio.sleep_forever()


def _at(cell: Cell, row: Row, asked: Fields) -> Fields:
    return {"op": "reschedule", "id": "t", "queue": row.queue, "at": cell.now_ms() + 30_000}


INPUTS: Final = {
    "get": _of("get"),
    "list": _in_queue("list"),
    "schedule the same": _schedule(),
    "schedule the same, keep": _schedule(on_conflict="keep"),
    "schedule the same, replace": _schedule(on_conflict="replace"),
    "schedule another": _schedule(url=OTHER),
    "schedule another, keep": _schedule(url=OTHER, on_conflict="keep"),
    "schedule another, replace": _schedule(url=OTHER, on_conflict="replace"),
    "cancel": _of("cancel"),
    "cancel by group": _by("cancel", group="g"),
    "cancel another version": _of("cancel", if_version=9),
    "finish": _of("finish"),
    "finish by group": _by("finish", group="g"),
    "finish with a reply": _of("finish", reply={"by": "hand"}),
    "reschedule, delay": _of("reschedule", delay="30s"),
    "reschedule, at": Input(_at),
    "reschedule, no time": _of("reschedule"),
    "reschedule, another url": _of("reschedule", url=OTHER),
    "reschedule another version": _of("reschedule", delay="30s", if_version=9),
    "redrive": _of("redrive"),
    "redrive by group": _by("redrive", group="g"),
    "redrive by queue": _in_queue("redrive"),
    "pause": _in_queue("pause"),
    "resume": _in_queue("resume"),
    "due time comes": Input(),
    "attempt succeeds": _answered(OK),
    "attempt fails, retry left": _answered(FAILED),
    "attempt fails, none left": _last(FAILED),
    "attempt is answered 410": _answered(GONE),
    "attempt is answered stop": _answered((500, b"no", b"wheeltimer-retry: stop\r\n")),
    "attempt is answered not yet": _answered(NOT_YET),
    "attempt times out": _answered(None),
    "expiry comes": _expires(),
    "expiry comes, the attempt fails": _expires(FAILED),
    "attempt lapses": Input(short=True, fields=lambda cell, row: _PATIENT),
    "attempt lapses, expiry comes": _expires(short=True),
    "retention is over": Input(end_s=END_S + KEEP_S + 200),
    "kill -9 and restart": Input(restart=_killed),
    "drain and restart": Input(restart=_drained, exit_code=0),
}  # fmt: skip
