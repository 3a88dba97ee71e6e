"""The rows: how a task ``t`` gets into each state, by what clients, receivers and time do.

Seconds are counted from the input, which comes at 0; what happens before has negative times. Whatever is not
said: ``t`` is asked for as ``ASK`` says; from the input on its callbacks are answered 200 with ``ok``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from .world import OK, Cell

URL: Final = "http://127.0.0.1:9/t"
ASK: Final[dict[str, Any]] = {
    "op": "schedule", "id": "t", "url": URL, "body": {"n": 1}, "meta": {"of": "t"}, "group": "g",
    "retry": {"kind": "fixed", "every": "10s", "attempts": 3, "jitter": 0}, "timeout": "9s",
    "success": {"text": "ok"}, "poll": {"every": "10s", "max": 3}, "expires_in": "100s",
    "on_done": "http://127.0.0.1:9/hook", "on_dead": "http://127.0.0.1:9/hook",
}  # fmt: skip
FAILED, NOT_YET, GONE = (500, b"no", b""), (200, b"wait", b""), (410, b"gone", b"")
RELEASE_S: Final = 5.0  # when what was held is answered, and a destination that was down is there again
RESUME_S: Final = 60.0  # when every queue is resumed


@dataclass(frozen=True)
class Row:
    """``setup`` brings ``t`` there in ``age_s``; ``used``: attempts that failed before the input."""

    setup: Callable[[Cell, Row, dict[str, Any]], Awaitable[None]]
    age_s: float
    used: int = 0
    queue: str = "q"
    fields: dict[str, Any] = field(default_factory=dict)  # of the task, in this row whatever the input wants
    last: dict[str, Any] = field(default_factory=dict)  # what the last schedule had, where there were two

    def request(self, more: dict[str, Any]) -> dict[str, Any]:
        """The request that makes ``t`` here; ``more``: what the input wants of it."""
        asked = ASK | {"queue": self.queue} | more | self.fields
        if "expires_at" in asked and "expires_at" not in ASK:
            del asked["expires_at" if "expires_in" in self.fields else "expires_in"]
        return asked


async def _ask(cell: Cell, request: dict[str, Any]) -> None:
    reply = await cell.put(request)
    assert reply["ok"], reply


async def _scheduled(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    await _ask(cell, asked)
    await trio.sleep(row.age_s)


def _attempted(answer: tuple[int, bytes, bytes]) -> Callable[[Cell, Row, dict[str, Any]], Awaitable[None]]:
    async def setup(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
        cell.answers.append(answer)
        await _scheduled(cell, row, asked)

    return setup


async def _without_permit(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    cell.held = trio.Event()
    await _ask(cell, {"op": "schedule", "id": "other", "queue": row.queue, "url": URL, "body": 1})
    await _scheduled(cell, row, asked)


async def _paused(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    await _ask(cell, {"op": "pause", "queue": row.queue})
    await _scheduled(cell, row, asked)


async def _down(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    """Ten others could not reach the destination, at -5."""
    cell.down = True
    for number in range(10):
        await _ask(cell, {"op": "schedule", "id": f"down-{number}", "url": URL, "retry": "none"})
    await _scheduled(cell, row, asked)


def _running(*then: dict[str, Any]) -> Callable[[Cell, Row, dict[str, Any]], Awaitable[None]]:
    """Called at -2 and held; ``then`` is asked at -1."""

    async def setup(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
        cell.held = trio.Event()
        await _ask(cell, asked)
        await trio.sleep(row.age_s - 1)
        for request in then:
            base = asked if request["op"] == "schedule" else {"id": "t", "queue": row.queue}
            await _ask(cell, base | request)
        await trio.sleep(1)

    return setup


async def _cancelled(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    """Cancelled at -1."""
    await _ask(cell, asked)
    await trio.sleep(row.age_s - 1)
    await _ask(cell, {"op": "cancel", "id": "t", "queue": row.queue})
    await trio.sleep(1)


async def _unknown(cell: Cell, row: Row, asked: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


_SOON: Final = {"delay": "1s"}
_RESCHEDULE: Final = {"op": "reschedule", "delay": "21s"}
_REPLACE: Final = {"op": "schedule", "delay": "21s", "on_conflict": "replace"}

ROWS: Final = {
    "scheduled": Row(_scheduled, 5, fields={"delay": "10s"}),
    "scheduled, between attempts": Row(_attempted(FAILED), 6, used=1, fields=_SOON),
    "scheduled, between polls": Row(_attempted(NOT_YET), 6, fields=_SOON),
    "ready, waits for a permit": Row(_without_permit, 2, queue="one", fields=_SOON),
    "ready, queue paused": Row(_paused, 2, fields=_SOON),
    "ready, destination held": Row(_down, 5, fields=_SOON),
    "running": Row(_running(), 3, fields=_SOON),
    "running, rescheduled": Row(_running(_RESCHEDULE), 3, fields=_SOON),
    "running, replaced": Row(_running(_REPLACE), 3, fields=_SOON, last={"delay": "21s"}),
    "running, to be cancelled": Row(_running({"op": "cancel"}), 3, fields=_SOON),
    "running, to be finished": Row(_running({"op": "finish", "reply": {"by": "first"}}), 3, fields=_SOON),
    "done": Row(_attempted(OK), 3, fields=_SOON),
    "dead": Row(_attempted(GONE), 3, fields=_SOON),
    "expired": Row(_attempted(FAILED), 5, used=1, fields=_SOON | {"expires_in": "2s"}),
    "cancelled": Row(_cancelled, 3, fields={"delay": "10s"}),
    "unknown": Row(_unknown, 0, fields={"delay": "10s"}),
}  # fmt: skip
