"""recipes/task-table.md: the bank's answer comes by callback, by query, by both, or not at all."""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any

import pytest

from tests.recipes.conftest import KILLED, ONCE, Open
from tests.recipes.world import JUST_BEFORE_MS, MINUTE_MS, SECOND_MS, Answer, Call, Page, World, masked

PAGE = Page("task-table.md")
REGISTER, FINISH, CANCEL = PAGE.sh("schedule"), PAGE.sh("finish"), PAGE.sh("cancel")
HOOK, EVENT = json.loads(PAGE.json("ended")), PAGE.shown("event")
BANK = "/bank/R-1001"
PENDING, SETTLED = Answer(200, b'{"status":"pending"}'), Answer(200, b'{"status":"settled"}')
SET_BY_THE_WAY = {"attempts", "status", "ended"}  # what the page says may differ


@pytest.fixture
def world(open_world: Open) -> World:
    world = open_world(PAGE)
    world.receiver.answers[BANK] = [PENDING]
    return world


def register(world: World) -> str:
    """Both rows; the cursor from before them."""
    subscriber = world.daemon.connect()
    cursor: str = subscriber.done("subscribe")["cursor"]
    subscriber.close()
    world.shell(REGISTER)
    return cursor


def queries(world: World, count: int) -> list[Call]:
    while len(world.receiver.of(BANK)) < count:
        world.pass_until(world.plan()[0]["next"])
    return world.receiver.of(BANK)


def ended_once(world: World, cursor: str, attempts: int, status: int | None) -> None:
    """One message at /result and one event, both as the page shows them; nothing else ever comes."""
    world.receiver.wait("/result", 1)
    world.settle()
    asked = len(world.receiver.of(BANK))
    world.pass_until(world.now_ms + 120 * MINUTE_MS)
    assert len(world.receiver.of(BANK)) == asked, "the bank was asked after the end"
    assert not world.receiver.of("/release"), "compensated although it is settled"
    assert not world.receiver.of("/unclear")
    results = world.receiver.of("/result")
    assert len({(call.webhook_id, call.body) for call in results}) == 1
    body = json.loads(results[0].body)
    assert body.keys() == HOOK.keys()
    assert {name: body[name] for name in body.keys() - SET_BY_THE_WAY} == {
        name: HOOK[name] for name in HOOK.keys() - SET_BY_THE_WAY
    }
    assert (body["attempts"], body["status"]) == (attempts, status)
    assert events(world, cursor) == [masked(EVENT.replace('"attempts":2', f'"attempts":{attempts}'))]


def events(world: World, cursor: str) -> list[str]:
    """Every end of the query since then, as the page's subscriber gets it, over any restart."""
    asked: dict[str, Any] = json.loads(PAGE.json("subscribe"))
    world.ask("schedule", id="last", queue="transfer.query", url="http://127.0.0.1:9/")
    world.ask("cancel", id="last", queue="transfer.query")
    asked["types"] += ["task.cancelled"]
    found = []
    with world.daemon.connect() as subscriber:
        subscriber.send(asked | {"from": cursor})
        assert subscriber.reply()["ok"]
        while json.loads(line := subscriber.line() or b"")["id"] != "last":
            if "group" in json.loads(line):  # a hook is a task without one
                found.append(masked(line.decode()))
    return found


def test_the_callback_arrives(world: World) -> None:
    cursor = register(world)
    queries(world, 1)
    world.accident()
    queries(world, 2)
    assert world.shell(FINISH) == PAGE.shown("finished")
    world.accident()
    ended_once(world, cursor, attempts=2, status=None)
    assert world.shell(FINISH) == "finished: 0\n"
    assert world.shell(CANCEL) == "cancelled: 0\n"


def test_a_query_finds_it_settled(world: World) -> None:
    cursor = register(world)
    queries(world, 2)
    world.accident()
    world.receiver.answers[BANK] = [SETTLED]
    queries(world, 3)
    world.receiver.wait("/result", 1)
    world.settle()
    world.accident()
    assert world.shell(CANCEL) == "cancelled: 1\n"
    ended_once(world, cursor, attempts=3, status=200)


@pytest.mark.parametrize("answer", [PENDING, SETTLED], ids=["pending", "settled"])
def test_the_callback_arrives_while_a_query_is_in_flight(world: World, answer: Answer) -> None:
    """Whatever the query brings, the result is the callback's; a kill -9 takes nothing back."""
    cursor = register(world)
    queries(world, 1)
    hold = threading.Event()
    world.receiver.answers[BANK] = [Answer(200, answer.body, hold=hold)]
    world.move_to(world.plan()[0]["next"] - JUST_BEFORE_MS)
    world.receiver.wait(BANK, 2)
    assert world.shell(FINISH) == "finished: 1, 1 after the attempt in flight\n"
    world.accident()
    hold.set()
    ended_once(world, cursor, attempts=1 if world.killed else 2, status=None)


@KILLED
def test_killed_between_the_registration_and_the_call(world: World) -> None:
    """We crashed too, the bank was called or was not: the query finds out."""
    cursor = register(world)
    world.receiver.answers[BANK] = [SETTLED]
    world.accident(down_ms=60 * SECOND_MS)
    assert "already known" in world.shell(REGISTER)
    queries(world, 1)
    world.settle()
    assert world.shell(FINISH) == "finished: 1\n", "the callback comes later: the release alone is left"
    ended_once(world, cursor, attempts=1, status=200)


def test_nobody_says_anything(world: World) -> None:
    """Ten queries, 2^n seconds apart; then a person is told, and the money is given back at 30 minutes."""
    began_ms = world.now_ms
    register(world)
    queries(world, 5)
    world.accident()
    calls = queries(world, 10)
    world.receiver.wait("/unclear", 1)
    gaps_ms = [after.at_ms - before.at_ms for before, after in itertools.pairwise(calls)]
    for number, gap_ms in enumerate(gaps_ms, 1):
        assert 2**number * SECOND_MS <= gap_ms < 2**number * SECOND_MS + 30 * SECOND_MS
    assert [call.attempt for call in calls] == list(range(1, 11))
    assert all(call.method == "GET" and call.body == b"" for call in calls)
    assert not world.receiver.of("/release")
    world.receiver.answers["/release"] = [Answer(503), Answer()]
    world.pass_all()
    told, released = world.receiver.of("/unclear"), world.receiver.of("/release")
    assert json.loads(told[0].body)["meta"] == HOOK["meta"]
    assert [call.body for call in released] == [b'{"transfer":"R-1001"}'] * 2
    assert released[0].at_ms - began_ms >= 30 * MINUTE_MS
    assert not world.receiver.of("/result")


@ONCE
def test_one_number_under_two_codes_is_two_tasks_and_the_line_of_json_is_the_first(world: World) -> None:
    register(world)
    assert world.send(PAGE.json("schedule"))["duplicate"]
    tasks = world.ask("list", group="R-1001")["tasks"]
    assert [(task["queue"], task["id"]) for task in tasks] == [
        ("transfer.query", "R-1001"),
        ("transfer.release", "R-1001"),
    ]
