"""recipes/payment-notification.md: a shop that says everything but `success`, for 24 hours."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import re
import select
import threading
import tomllib
from typing import IO

import msgspec
import pytest

from tests.process.daemon import until
from tests.recipes.conftest import ONCE, Open
from tests.recipes.world import (
    HOUR_MS,
    JUST_BEFORE_MS,
    MINUTE_MS,
    Answer,
    Page,
    World,
    came_as_shown,
    instant_ms,
    masked,
)
from wheeltimer.protocol import retry

PAGE = Page("payment-notification.md")
SCHEDULE, ASK = PAGE.sh("schedule"), PAGE.sh("get")
TAIL, *EVENTS = PAGE.shown("wheeltimer tail").splitlines()
SHOP = "/pay/notify"
START_MS = instant_ms("2030-01-31T08:00:00Z")
WAITS_MS = [4 * MINUTE_MS, 10 * MINUTE_MS, 10 * MINUTE_MS, *(hours * HOUR_MS for hours in (1, 2, 6, 15))]
NOT_SUCCESS = [
    Answer(200, b"fail"), Answer(200, b"SUCCESS"), Answer(200, b'"success"'),
    Answer(200, b"<p>success</p>"), Answer(500, b"success"), Answer(302, b"success", {"location": SHOP}),
    Answer(200, b""), Answer(404, b"success"),
]  # fmt: skip


@pytest.fixture
def world(open_world: Open) -> World:
    world = open_world(PAGE)
    world.shell(SCHEDULE)
    return world


def next_call(world: World) -> None:
    (task,) = world.plan()
    world.pass_until(task["next"])


def executions(world: World, cursor: str) -> list[tuple[str, int, int | None]]:
    """(event, attempt, status) of all that the page's subscriber gets from there, up to the task's end."""
    asked = json.loads(PAGE.json("subscribe"))
    found: list[tuple[str, int, int | None]] = []
    with world.daemon.connect() as subscriber:
        subscriber.send(asked | {"from": cursor})
        assert subscriber.reply()["ok"]
        while not found or found[-1][0] not in ("task.done", "task.dead"):
            event = subscriber.reply()
            if event["id"] == "trade-2088":
                attempt: int = event["attempt"] if "attempt" in event else event["attempts"]
                found.append((str(event["event"]), attempt, event.get("status")))
    return found


def test_nothing_but_the_word_is_success_and_eight_calls_are_all(world: World) -> None:
    """Killed between two calls, and again for three hours in which a call was due."""
    with world.daemon.connect() as subscriber:
        cursor: str = subscriber.done("subscribe")["cursor"]
    world.receiver.answers[SHOP] = list(NOT_SUCCESS)
    world.pass_until(START_MS - MINUTE_MS)
    assert not world.receiver.of(SHOP)
    while (count := len(world.receiver.of(SHOP))) < 8:
        next_call(world)
        assert len(world.receiver.of(SHOP)) == count + 1
        if count + 1 == 2:
            world.accident()
        if count + 1 == 4:
            world.accident(down_ms=3 * HOUR_MS)
            world.settle()
            assert len(world.receiver.of(SHOP)) == 4 + world.killed, "made at the start, however late"
    world.pass_all()
    calls = world.receiver.of(SHOP)
    assert [call.attempt for call in calls] == list(range(1, 9))
    assert len({call.webhook_id for call in calls}) == 1
    came_as_shown(calls[0], PAGE.shown("POST"))
    waits_ms = [*WAITS_MS[:3], 3 * HOUR_MS if world.killed else HOUR_MS, *WAITS_MS[4:]]
    for (before, after), nominal_ms, wait_ms in zip(
        itertools.pairwise(calls), WAITS_MS, waits_ms, strict=True
    ):
        gap_ms = after.at_ms - before.at_ms
        assert 8 * nominal_ms // 10 <= gap_ms < 12 * wait_ms // 10 + MINUTE_MS
    assert executions(world, cursor) == [
        *(("attempt.failed", number, answer.status) for number, answer in enumerate(NOT_SUCCESS, 1)),
        ("task.dead", 8, None),
    ]
    (told,) = world.receiver.of("/pay/unanswered")
    body = json.loads(told.body)
    assert (body["type"], body["status"], body["reply"]) == ("task.dead", 404, "success")


def await_subscribed(world: World, lines: IO[str]) -> None:
    """Until the first event comes through, of a task that is here for nothing else."""
    for number, _ in enumerate(until(every_s=0.2)):
        if select.select([lines], [], [], 0)[0]:
            return
        id = f"known-by-now-{number}"
        world.ask("schedule", id=id, queue="pay", delay="1000d", url="http://127.0.0.1:9/")
        world.ask("finish", id=id, queue="pay")


def test_told_at_last_and_every_execution_is_an_event(world: World) -> None:
    """Killed while it waits, and while the second call is in flight; `tail` runs on over both."""
    hold = threading.Event()
    fail, error, success = Answer(200, b"fail"), Answer(500), Answer(200, b"success\n")
    cut = [Answer(hold=hold)] if world.killed else []
    world.receiver.answers[SHOP] = [fail, *cut, error, success]
    with world.beside(TAIL.removeprefix("$ ")) as tail:
        assert tail.stdout is not None
        await_subscribed(world, tail.stdout)
        next_call(world)
        world.accident()
        if world.killed:
            world.move_to(world.plan()[0]["next"] - JUST_BEFORE_MS)
            world.receiver.wait(SHOP, 2)
            world.accident()
            world.settle()
        else:
            next_call(world)
        next_call(world)
        lines = (line for line in tail.stdout if "known-by-now" not in line)
        shown = [masked(line) for line in itertools.islice(lines, len(EVENTS))]
    assert shown == [masked(line) for line in EVENTS]
    assert "pay/trade-2088  done" in world.shell(ASK)
    world.pass_until(START_MS + 48 * HOUR_MS)
    calls = world.receiver.of(SHOP)
    assert [call.attempt for call in calls] == ([1, 2, 2, 3] if world.killed else [1, 2, 3])
    assert len({call.webhook_id for call in calls}) == 1
    assert not world.receiver.of("/pay/unanswered")


@ONCE
def test_each_call_is_signed_with_the_secret_of_the_page(world: World) -> None:
    world.receiver.answers[SHOP] = [Answer(200, b"success")]
    world.pass_all()
    (call,) = world.receiver.of(SHOP)
    (secret,) = tomllib.loads(PAGE.config)["queues"]["pay"]["secrets"]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{call.webhook_id}.{call.headers['webhook-timestamp']}.".encode() + call.body
    digest = hmac.digest(key, signed, "sha256")
    assert call.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


@ONCE
def test_the_line_of_json_is_the_same_request(world: World) -> None:
    assert world.send(PAGE.json("schedule"))["duplicate"]


def test_how_long_it_goes_on() -> None:
    minutes = retry.budget_ms(retry.BUILT_IN["alipay"]) // MINUTE_MS
    assert f"Eight calls in {minutes // 60} h {minutes % 60} m" in PAGE.text
    (rule,) = re.findall(r"--retry '(\{.*?\})'", PAGE.text)
    exact = msgspec.json.decode(rule, type=retry.Rule)
    waits_ms = [retry.next_delay_ms(exact, number, 0) for number in range(1, 8)]
    assert waits_ms == WAITS_MS
