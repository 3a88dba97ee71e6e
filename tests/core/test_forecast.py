"""Forecast: every live task in the slice of its next attempt, whatever clock it waits for."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from wheeltimer.core.engine import Engine
from wheeltimer.core.queries import Forecast
from wheeltimer.core.records import Due, Scheduled
from wheeltimer.core.task import NS_PER_MS, Now, Task
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.replies import ForecastReply

NOW = Now(10**15, 1_750_000_000_000 * NS_PER_MS)
HOUR_MS = 3_600_000


def command(**fields: Any) -> c.Forecast:
    found = wire.decode(json.dumps({"op": "forecast", **fields}).encode())
    assert isinstance(found, c.Forecast)
    return found


def filled(tasks: dict[str, Task]) -> Engine:
    engine = Engine(Limits(), NOW, 10 * NS_PER_MS, 64)
    for key, task in tasks.items():
        engine.apply(Scheduled(key, task.created_ms, task))
    return engine


def delayed(ms: int) -> Task:
    deadline_ns = NOW.elapsed_ns + ms * NS_PER_MS
    return Task("http://x/", delay=ms, created_ms=NOW.wall_ms, lsn=1, deadline_ns=deadline_ns)


def at(ms: int) -> Task:
    due_ms = NOW.wall_ms + ms
    return Task("http://x/", at=due_ms, created_ms=NOW.wall_ms, lsn=1, due_given_ms=due_ms)


def asked(engine: Engine, now: Now = NOW, **fields: Any) -> ForecastReply:
    forecast = Forecast(command(**fields), now, Limits().delay_max_ms)
    for rows in forecast.rows(engine, 7):
        forecast.feed(rows)
    return forecast.reply()


@pytest.mark.parametrize("make", [delayed, at])
def test_a_task_on_the_boundary_of_a_slice_counts_in_the_later_one(make: Any) -> None:
    engine = filled({f"q/{ms}": make(ms) for ms in (-5, 0, 1, 999, 1000, 1001, 2999, 3000, 10**9)})
    reply = asked(engine, horizon="3s", slices=3)
    assert (reply.from_, reply.slice_ms) == (NOW.wall_ms, 1000)
    assert reply.counts == [2, 2, 1]
    assert (reply.overdue, reply.later) == (2, 2)


def test_the_length_of_a_slice_is_rounded_up() -> None:
    reply = asked(filled({}), horizon=1000, slices=3)
    assert (reply.slice_ms, len(reply.counts)) == (334, 3)


def test_defaults_are_an_hour_in_minutes() -> None:
    reply = asked(filled({"q/a": delayed(HOUR_MS - 1), "q/b": delayed(HOUR_MS)}))
    assert (reply.slice_ms, len(reply.counts), reply.counts[59], reply.later) == (60_000, 60, 1, 1)


def test_what_is_ready_is_overdue_and_what_ended_or_runs_is_not_counted() -> None:
    engine = filled({f"q/{n}": delayed(0) for n in range(3)})
    task = engine.get("q/0")
    assert task is not None
    engine.apply(Due("q/0", NOW.wall_ms, task, 0))
    reply = asked(engine)
    assert reply.overdue == 3
    assert sum(reply.counts) == 0


def test_only_the_queue_that_was_asked_for() -> None:
    engine = filled({"q/a": delayed(1), "qq/b": delayed(1), "p/c": at(1)})
    assert asked(engine, queue="q").counts[0] == 1
    assert asked(engine).counts[0] == 3


def test_a_clock_that_was_set_moves_what_follows_it_and_nothing_else() -> None:
    engine = filled({"q/a": delayed(90_000), "q/b": at(90_000)})
    later = Now(NOW.elapsed_ns, NOW.wall_ns + 60_000 * NS_PER_MS)
    counts = asked(engine, later, horizon="2m", slices=2).counts
    assert counts == [1, 1], "the wall clock went a minute forward: only the at task came nearer"


def test_every_live_task_is_counted_once() -> None:
    chance = random.Random(3)
    tasks = {
        f"q/{n}": chance.choice((delayed, at))(chance.randrange(-HOUR_MS, 3 * HOUR_MS)) for n in range(500)
    }
    reply = asked(filled(tasks), slices=chance.randrange(1, 1001))
    assert sum(reply.counts) + reply.overdue + reply.later == 500


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"slices": 0}, "slices"), ({"slices": 1001}, "slices"), ({"horizon": "5ms", "slices": 6}, "slices"),
        ({"horizon": 0}, "horizon"), ({"horizon": "11y"}, "horizon"), ({"horizon": "3651d"}, "horizon"),
        ({"queue": "no such/name"}, "queue"),
    ],
)  # fmt: skip
def test_bounds(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadValue) as refused:
        asked(filled({}), **fields)
    assert refused.value.field == field
