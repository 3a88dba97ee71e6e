"""What fires when: live tasks counted by the instant of their next attempt. Fed a slice of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from wheeltimer.core.engine import Engine
from wheeltimer.core.task import NS_PER_MS, Now, key_of
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.replies import ForecastReply
from wheeltimer.protocol.task_view import State
from wheeltimer.protocol.units import parse_duration_ms

SLICES_MAX: Final = 1000


class _Timing(Struct, gc=False):
    """The fields of a row that say when its next attempt is; named as in the row."""

    S: int = 0
    w: int | None = None
    D: int | None = None
    c: int = 0
    d: int | str | None = None


_timing: Final = msgspec.msgpack.Decoder(_Timing).decode


class Forecast:
    """One count. Feed it every slice of rows and ask for ``reply``. Time O(rows), 0.5 us each.

    A task that waits for elapsed time is counted where that ends, whatever the wall clock was when it was
    scheduled. What is ``ready`` is overdue; what is ``running`` has begun and is not counted.
    """

    def __init__(
        self, command: c.Forecast, now: Now, horizon_max_ms: int, sees: Callable[[str], bool] | None = None
    ) -> None:
        horizon_ms = parse_duration_ms(command.horizon, "horizon", min_ms=1, max_ms=horizon_max_ms)
        if not 1 <= command.slices <= SLICES_MAX:
            raise BadValue(f"slices: 1 to {SLICES_MAX} expected", "slices")
        if command.slices > horizon_ms:
            raise BadValue("slices: at most one for each millisecond of the horizon expected", "slices")
        self._prefix = None if command.queue is None else key_of(c.check_name(command.queue, "queue"), "")
        self._sees = sees  # which queues; None: all
        self._now = now
        slice_ms = -(-horizon_ms // command.slices)
        self._reply = ForecastReply(
            True, now.wall_ms, slice_ms, [0] * command.slices, 0, 0, command.reply_seq
        )

    def rows(self, engine: Engine, size: int = 256) -> Iterator[list[tuple[str, bytes]]]:
        """The rows to feed."""
        return engine.table.slices(size)

    def feed(self, rows: list[tuple[str, bytes]]) -> None:
        """Count one slice of rows."""
        prefix, elapsed_ns, wall_ns = self._prefix, self._now.elapsed_ns, self._now.wall_ns
        reply = self._reply
        sees = self._sees
        counts, slice_ns = reply.counts, reply.slice_ms * NS_PER_MS
        for key, row in rows:
            if prefix is not None and not key.startswith(prefix):
                continue
            if sees is not None and not sees(key[: key.index("/")]):
                continue
            task = _timing(row)
            if task.S == State.SCHEDULED:
                if task.w is not None:
                    ahead_ns = task.w - elapsed_ns
                elif task.D is not None:
                    ahead_ns = task.D * NS_PER_MS - wall_ns
                else:
                    assert isinstance(task.d, int)
                    ahead_ns = (task.c + task.d) * NS_PER_MS - wall_ns
                if ahead_ns <= 0:
                    reply.overdue += 1
                elif (at := ahead_ns // slice_ns) < len(counts):
                    counts[at] += 1
                else:
                    reply.later += 1
            elif task.S == State.READY:
                reply.overdue += 1

    def reply(self) -> ForecastReply:
        return self._reply
