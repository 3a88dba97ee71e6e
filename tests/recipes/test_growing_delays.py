"""recipes/growing-delays.md: an endpoint that stays down, until the tries or the time are used up."""

from __future__ import annotations

import itertools
import json
import re
import threading

import msgspec

from tests.recipes.conftest import KILLED, ONCE, Open
from tests.recipes.world import (
    MINUTE_MS,
    SECOND_MS,
    Answer,
    Call,
    Page,
    World,
    came_as_shown,
    hook_as_shown,
    instant_ms,
)
from wheeltimer.protocol import retry
from wheeltimer.protocol.units import parse_duration_ms

PAGE = Page("growing-delays.md")
SCHEDULE, REDRIVE = PAGE.sh("schedule"), PAGE.sh("redrive")
LIMIT_MS = instant_ms("2030-01-31T08:00:00Z")
BROKEN = Answer(500, b"out of order")


def attempts(world: World, count: int) -> list[Call]:
    """So many calls, one after the other, as the rule says."""
    world.settle()
    while len(world.receiver.of("/webhook")) < count:
        (task,) = world.plan()
        world.pass_until(task["next"])
    return world.receiver.of("/webhook")


def test_six_tries_further_and_further_apart_and_a_person_is_told(open_world: Open) -> None:
    world = open_world(PAGE)
    world.receiver.answers["/webhook"] = [BROKEN]
    world.shell(SCHEDULE)
    attempts(world, 3)
    world.accident()
    calls = attempts(world, 6)
    world.settle()
    assert [call.attempt for call in calls] == [1, 2, 3, 4, 5, 6]
    assert len({call.webhook_id for call in calls}) == 1
    came_as_shown(calls[2], PAGE.shown("POST /webhook"))
    for number, (before, call) in enumerate(itertools.pairwise(calls), 1):
        gap_ms = call.at_ms - before.at_ms
        assert 8_000 * number <= gap_ms < 12_000 * number + 6_000, f"wait {number}: {gap_ms} ms"
    (told,) = world.receiver.wait("/tell-a-person", 1)
    hook_as_shown(told, PAGE.json("task.dead"))
    shown = world.shell(PAGE.sh("list"))
    assert "attempts_used_up" in shown
    world.pass_until(LIMIT_MS + 60 * MINUTE_MS)
    assert len(world.receiver.of("/webhook")) == 6
    assert len(world.receiver.of("/tell-a-person")) == 1


def test_the_limit_comes_before_the_sixth_try(open_world: Open) -> None:
    """Scheduled at 07:59: after 10, 20 and 30 s it is 08:00 before the next one."""
    world = open_world(PAGE, "2030-01-31T07:59:00Z")
    world.receiver.answers["/webhook"] = [BROKEN]
    world.shell(SCHEDULE)
    attempts(world, 2)
    world.accident()
    world.pass_until(LIMIT_MS - 2 * SECOND_MS)
    count = len(world.receiver.of("/webhook"))
    assert 3 <= count <= 4  # the third wait is 24 to 36 s long
    assert not world.receiver.of("/tell-a-person")
    world.move_to(LIMIT_MS)
    (told,) = world.receiver.wait("/tell-a-person", 1)
    body = json.loads(told.body)
    assert (body["type"], body["error"], body["attempts"]) == ("task.expired", "expired", count)
    assert body["meta"] == {"customer": "Acme"}
    assert LIMIT_MS <= body["ended"] < LIMIT_MS + MINUTE_MS
    world.pass_until(LIMIT_MS + 60 * MINUTE_MS)
    assert len(world.receiver.of("/webhook")) == count, "called after the limit"


@KILLED
def test_the_daemon_is_down_when_the_limit_comes(open_world: Open) -> None:
    """Found at the start, it is the same end with the same hook."""
    world = open_world(PAGE, "2030-01-31T07:59:00Z")
    world.receiver.answers["/webhook"] = [BROKEN]
    world.shell(SCHEDULE)
    attempts(world, 1)
    world.accident(down_ms=60 * MINUTE_MS)
    world.pass_until(LIMIT_MS + 60 * MINUTE_MS)
    (told,) = world.receiver.wait("/tell-a-person", 1)
    assert json.loads(told.body)["type"] == "task.expired"
    assert len(world.receiver.of("/webhook")) == 1, "called after the limit"


@KILLED
def test_killed_while_a_person_is_being_told(open_world: Open) -> None:
    """The end is on disk and its hook with it: told again, as the same message."""
    world = open_world(PAGE)
    hold = threading.Event()
    world.receiver.answers["/webhook"] = [Answer(410)]
    world.receiver.answers["/tell-a-person"] = [Answer(hold=hold)]
    world.shell(SCHEDULE)
    world.receiver.wait("/tell-a-person", 1)
    world.accident()
    calls = world.receiver.wait("/tell-a-person", 2)
    hold.set()
    world.settle()
    assert len({(call.webhook_id, call.attempt, call.body) for call in calls}) == 1
    body = json.loads(calls[0].body)
    assert (body["type"], body["status"], body["error"]) == ("task.dead", 410, "final_answer")
    assert len(world.receiver.of("/webhook")) == 1


def test_a_mended_endpoint_gets_what_was_missed(open_world: Open) -> None:
    world = open_world(PAGE)
    world.receiver.answers["/webhook"] = [BROKEN]
    world.shell(SCHEDULE)
    attempts(world, 6)
    world.pass_until(LIMIT_MS + MINUTE_MS)
    world.receiver.answers["/webhook"] = [BROKEN, BROKEN, Answer()]
    assert world.shell(REDRIVE) == "redriven: 1\n"
    world.receiver.wait("/webhook", 7)
    world.await_state("event-7001", "webhooks", "scheduled")  # on disk: else the kill has it made again
    world.accident()
    *_, last = attempts(world, 9)
    world.settle()
    assert (last.attempt, last.version) == (3, 2)
    assert {call.webhook_id for call in world.receiver.of("/webhook")} == {last.webhook_id}
    assert world.task("event-7001", "webhooks")["state"] == "done"
    assert len(world.receiver.of("/tell-a-person")) == 1


@ONCE
def test_no_answer_in_five_seconds_is_a_failure(open_world: Open) -> None:
    world = open_world(PAGE)
    hold = threading.Event()
    world.receiver.answers["/webhook"] = [Answer(hold=hold), Answer()]
    world.shell(SCHEDULE)
    world.receiver.wait("/webhook", 1)
    world.move(5 * SECOND_MS)
    world.settle()
    hold.set()
    attempts(world, 2)
    world.settle()
    first, second = world.task("event-7001", "webhooks")["history"]
    assert first["error"] == "timeout: no whole reply within 5000 ms"
    assert second["outcome"] == "succeeded"


@ONCE
def test_the_same_request_twice_is_one_task(open_world: Open) -> None:
    world = open_world(PAGE)
    world.shell(SCHEDULE)
    assert "already known" in world.shell(SCHEDULE)
    assert world.send(PAGE.json("schedule"))["duplicate"]
    world.settle()
    assert len(world.receiver.of("/webhook")) == 1


@ONCE
def test_a_task_of_the_queue_that_names_no_rule_has_the_queues(open_world: Open) -> None:
    world = open_world(PAGE)
    world.receiver.answers["/webhook"] = [BROKEN]
    url = world.local("http://127.0.0.1:9000/webhook")
    world.ask("schedule", id="no-rule", queue="webhooks", url=url)
    world.pass_all()
    task = world.await_state("no-rule", "webhooks", "dead")
    assert (task["state"], task["attempts"]) == ("dead", 6)


def test_the_rules_of_the_table_wait_as_it_says() -> None:
    rows = re.findall(r"^\|[^|]*\| `(\{.*?\})` \| (.*?) \|$", PAGE.text, re.MULTILINE)
    assert [json.loads(rule)["kind"] for rule, _ in rows] == ["linear", "exponential", "list"]
    for text, said in rows:
        rule = msgspec.json.decode(text, type=retry.Rule)
        waits = rule.delays if isinstance(rule, retry.ListRule) else re.findall(r"\d+ s", said)
        for number, wait in enumerate(waits, 1):
            wait_ms = parse_duration_ms(str(wait).replace(" ", ""), "wait")
            assert retry.next_delay_ms(rule, number, retry.CHANCE_MAX // 2) == wait_ms
