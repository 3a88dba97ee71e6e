"""recipes/slow-third-party.md: six jobs, three at a time, every 5 s, until the renderer says 200."""

from __future__ import annotations

import itertools
import json
import threading
import tomllib

import pytest

from tests.process.daemon import START_S
from tests.recipes.conftest import KILLED, ONCE, Open
from tests.recipes.world import MINUTE_MS, SECOND_MS, Answer, Page, World, hook_as_shown

PAGE = Page("slow-third-party.md")
SCHEDULE = PAGE.sh("schedule")
HOOK = PAGE.json("ended")
PARALLEL: int = tomllib.loads(PAGE.config)["queues"]["render"]["concurrency"]
JOBS = [f"/jobs/{number}" for number in range(17, 23)]
WORKING = Answer(200, b'{"status":102}')
READY = Answer(200, json.loads(HOOK)["reply"].encode())
BROKEN = Answer(500)


@pytest.fixture
def world(open_world: Open) -> World:
    return open_world(PAGE)


def only_17(world: World) -> None:
    """The page's line of JSON alone: one of the six."""
    assert world.send(PAGE.json("schedule"))["ok"]


def polls(world: World, count: int) -> None:
    """Until the first job was asked so many times."""
    world.settle()
    while len(world.receiver.of(JOBS[0])) < count:
        world.pass_until(world.plan()[0]["next"])


def test_three_at_a_time_and_each_result_once(world: World) -> None:
    """Killed with three requests in flight and three that wait for a permit."""
    receiver, hold = world.receiver, threading.Event()
    for path in JOBS:
        receiver.answers[path] = [Answer(200, WORKING.body, hold=hold), WORKING, READY]
    world.shell(SCHEDULE)
    with receiver.changed:
        assert receiver.changed.wait_for(lambda: receiver.in_flight == PARALLEL, START_S)
    assert (world.count("running"), world.count("ready")) == (PARALLEL, len(JOBS) - PARALLEL)
    assert sum(len(receiver.of(path)) for path in JOBS) == PARALLEL
    if world.killed:
        world.kill()
        hold.set()  # the renderer answers who is no more
        with receiver.changed:
            assert receiver.changed.wait_for(lambda: receiver.in_flight == 0, START_S)
        world.start()
    hold.set()
    world.pass_all()
    assert receiver.in_flight_max == PARALLEL
    results = receiver.of("/result")
    assert sorted(json.loads(call.body)["id"] for call in results) == [f"job-{path[6:]}" for path in JOBS]
    (first,) = [call for call in results if json.loads(call.body)["id"] == "job-17"]
    asked = receiver.of(JOBS[0])
    assert [call.attempt for call in asked] in ([1, 2, 3], [1, 1, 2])  # one was cut, or none
    if not world.killed:
        hook_as_shown(first, HOOK)


def test_every_five_seconds_and_the_whole_result_is_handed_on(world: World) -> None:
    """Killed between two polls, and while the hook is called; the renderer is not asked again."""
    hold = threading.Event()
    result = json.dumps({"status": 200, "text": "zu Gast \u8ba2\u5355 \u20ac" * 3500}, ensure_ascii=False)
    assert 60_000 < len(result.encode()) < 65_536
    not_yet = [WORKING, Answer(200, b'{"status":"200"}'), Answer(204, b"")]
    world.receiver.answers[JOBS[0]] = [*not_yet, Answer(200, result.encode())]
    world.receiver.answers["/result"] = [Answer(hold=hold), Answer()]
    only_17(world)
    polls(world, 2)
    world.accident()
    assert world.task("job-17", "render")["polls"] == 2
    polls(world, 3)
    world.move_to(world.plan()[0]["next"])
    world.receiver.wait("/result", 1)
    world.accident()
    hold.set()
    world.settle()
    calls = world.receiver.of(JOBS[0])
    assert [(call.method, call.attempt) for call in calls] == [("GET", number) for number in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(calls):
        assert 5_000 <= after.at_ms - before.at_ms < 5_000 + MINUTE_MS
    results = world.receiver.of("/result")
    assert len(results) == 1 + world.killed
    assert len({(call.webhook_id, call.body) for call in results}) == 1
    assert json.loads(results[0].body)["reply"] == result


@KILLED
def test_sent_again_while_it_waits_it_is_still_polled_once(world: World) -> None:
    world.receiver.answers[JOBS[0]] = [WORKING]
    world.shell(SCHEDULE)
    polls(world, 2)
    world.accident()
    assert world.shell(SCHEDULE).count("already known") == len(JOBS)
    other = json.loads(world.local(PAGE.json("schedule"))) | {"timeout": "1s"}
    assert world.send(json.dumps(other))["duplicate"], "keep: also where something else is asked"
    assert world.task("job-17", "render")["version"] == 1
    began, began_ms = len(world.receiver.of(JOBS[0])), world.now_ms
    world.pass_until(began_ms + MINUTE_MS)
    asked = world.receiver.of(JOBS[0])[began:]
    assert 1 <= len(asked) <= MINUTE_MS // (5 * SECOND_MS)
    assert all(b.at_ms - a.at_ms >= 5_000 for a, b in itertools.pairwise(asked))
    assert "scheduled" in world.shell(PAGE.sh("list"))


def test_failures_end_it_only_when_they_come_in_a_row(world: World) -> None:
    """Eleven, "not yet", eleven, "not yet", and then twelve: dead, and somebody is told."""
    eleven = [BROKEN] * 11
    world.receiver.answers[JOBS[0]] = [*eleven, WORKING, *eleven, WORKING, *eleven, Answer(503, b"busy")]
    only_17(world)
    polls(world, 5)
    world.accident()
    polls(world, 30)
    world.accident()
    world.pass_all()
    assert len(world.receiver.of(JOBS[0])) == 36
    (told,) = world.receiver.of("/given-up")
    body = json.loads(told.body)
    assert (body["type"], body["error"], body["status"]) == ("task.dead", "attempts_used_up", 503)
    assert (body["attempts"], body["reply"]) == (36, "busy")
    assert not world.receiver.of("/result")


@ONCE
def test_not_yet_ten_minutes_long(world: World) -> None:
    most = json.loads(PAGE.json("schedule"))["poll"]["max"]
    world.receiver.answers[JOBS[0]] = [WORKING]
    only_17(world)
    polls(world, most)
    world.pass_until(world.now_ms + 60 * MINUTE_MS)
    assert len(world.receiver.of(JOBS[0])) == most
    (told,) = world.receiver.of("/given-up")
    body = json.loads(told.body)
    assert (body["error"], body["reply"]) == ("polls_used_up", WORKING.body.decode())


@ONCE
def test_a_renderer_that_is_gone_ends_the_jobs_and_tells(world: World) -> None:
    """Nobody listens on port 9: the jobs end by their own rule or by that of a destination that is down."""
    line = json.loads(PAGE.json("schedule"))
    for number in range(6):
        own = {
            "id": f"job-{number}",
            "url": "http://127.0.0.1:9/jobs",
            "on_dead": world.local(line["on_dead"]),
        }
        world.ask(**(line | own))
    for _ in range(30):
        world.move(5 * SECOND_MS)
        world.ask("stats")
    world.receiver.wait("/given-up", 6)
    errors = {json.loads(call.body)["error"] for call in world.receiver.of("/given-up")}
    assert "destination_down" in errors


@ONCE
def test_the_line_of_json_is_the_first_of_the_loop(world: World) -> None:
    world.receiver.answers[JOBS[0]] = [WORKING]
    only_17(world)
    strict = SCHEDULE.replace("--on-conflict keep", "--on-conflict error")
    assert world.shell(strict).count("already known") == 1, "the same content, or it would be refused"
