"""One log line for each dead task, and what keeps that bounded."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from tests.clocks import ManualClock
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.task import Task
from wheeltimer.daemon.deaths import LAST_CHARS_MAX, LINES_MAX, PAIRS_MAX, PERIOD_S, Deaths
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.success import JsonCheck, SuccessRule, unmet
from wheeltimer.protocol.task_view import Attempt, State

URL = "https://User.example:8443/secret/path?key=secret"


def dead(
    deaths: Deaths, engine: Engine, key: str, url: str = URL, state: State = State.DEAD,
    error: str = "connect: refused\nby a wall", status: int | None = None, attempts: int = 1,
) -> None:  # fmt: skip
    """A task that ends after ``attempts`` of one kind."""
    task = Task(url, lsn=1, created_ms=0, due_given_ms=0, meta=b'"secret"', state=int(State.READY))
    task.history = [
        Attempt(n, 1, 0, 0, 5, "failed", status, error or None, "secret reply")
        for n in range(1, attempts + 1)
    ]
    engine.insert(key, task)
    ended = r.Ended(key, 5, 1, int(state), attempts, "attempts_used_up")
    engine.apply(ended)
    deaths.ended(ended)


@pytest.fixture
def engine() -> Engine:
    return Engine(Limits(), ManualClock().now(), 10_000_000, 64)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return said


def test_a_task_that_dies_is_one_line_without_what_it_carried(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)
    dead(deaths, engine, "orders/7")
    dead(deaths, engine, 'orders/7 attempts=0 "x"')
    dead(deaths, engine, "orders/8", state=State.EXPIRED)
    plain, quoted = lines(caplog)
    assert plain == (
        'dead queue=orders id=7 attempts=1 error=attempts_used_up last="connect: refused\\nby a wall"'
        " destination=https://user.example:8443"
    )
    assert r'id="7 attempts=0 \"x\"" attempts=1' in quoted


def test_what_a_reply_had_instead_of_success_is_not_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)
    rule = SuccessRule(json=(JsonCheck("/status", 200),))
    why = unmet(rule, 200, b'{"status":"the secret is here"}', False)
    dead(deaths, engine, "orders/7", error=f"success: {why}")
    dead(deaths, engine, "orders/8", error="success: the body is no JSON")
    assert why is not None
    assert "secret" in why
    shown, plain = lines(caplog)
    assert 'last="success: /status" ' in shown
    assert 'last="success: the body is no JSON" ' in plain


def test_what_the_last_attempt_brought_is_its_error_or_its_status_or_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)
    dead(deaths, engine, "orders/7", error="", status=503)
    dead(deaths, engine, "orders/8", error="reset: closed in the reply body", status=503)
    dead(deaths, engine, "orders/9", error="x" * (LAST_CHARS_MAX + 1))
    dead(deaths, engine, "orders/10", attempts=0)
    answered, cut, long, none = lines(caplog)
    assert " attempts=1 error=attempts_used_up last=503 " in answered
    assert ' last="reset: closed in the reply body" ' in cut
    assert f" last={'x' * LAST_CHARS_MAX} " in long
    assert " attempts=0 error=attempts_used_up last=none " in none


def test_as_many_deaths_as_have_a_line_leave_nothing_to_add(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)
    for n in range(LINES_MAX):
        dead(deaths, engine, f"orders/{n}")
    assert len(lines(caplog)) == LINES_MAX

    async def end() -> None:
        with trio.move_on_after(0):
            await deaths.run()

    trio.run(end)
    assert lines(caplog) == []


def test_a_receiver_that_refuses_everything_fills_no_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaths.run)
            for n in range(100):
                dead(deaths, engine, f"orders/{n}")
            dead(deaths, engine, "billing/1")
            dead(deaths, engine, "orders/other", "http://other.example/")
            said = lines(caplog)
            assert len(said) == LINES_MAX + 2, "a queue and a destination of its own each have their lines"
            await trio.sleep(PERIOD_S + 1)
            (rest,) = lines(caplog)
            assert f"unsaid={100 - LINES_MAX} queue=orders destination=https://user.example:8443" in rest
            dead(deaths, engine, "orders/again")
            assert len(lines(caplog)) == 1, "the next minute has lines of its own"
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))


def test_many_queues_and_destinations_share_one_limit(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = Deaths(engine)
    for n in range(10 * PAIRS_MAX):
        dead(deaths, engine, f"q{n}/x", f"http://h{n}.example/")
    assert len(lines(caplog)) == PAIRS_MAX + LINES_MAX

    async def end() -> None:
        with trio.move_on_after(0):
            await deaths.run()

    trio.run(end)
    (rest,) = lines(caplog)
    assert f"unsaid={9 * PAIRS_MAX - LINES_MAX} queue=* destination=*" in rest
