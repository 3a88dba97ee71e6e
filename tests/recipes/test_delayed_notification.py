"""recipes/delayed-notification.md: order 42 is moved before its time, at its time, and while it is called."""

from __future__ import annotations

import threading
import tomllib

import pytest

from tests.delivery.servers import deaf_listener
from tests.recipes.conftest import KILLED, ONCE, Open
from tests.recipes.world import JUST_BEFORE_MS, MINUTE_MS, SECOND_MS, Answer, Page, World, instant_ms, masked

PAGE = Page("delayed-notification.md")
SCHEDULE, MOVE, ASK = PAGE.sh("schedule"), PAGE.sh("reschedule"), PAGE.sh("get")
OLD_MS, NEW_MS = instant_ms("2030-01-31T08:00:00Z"), instant_ms("2030-01-31T09:30:00Z")
PERMITS: int = tomllib.loads(PAGE.config)["queues"]["orders"]["concurrency"]


@pytest.fixture
def world(open_world: Open) -> World:
    world = open_world(PAGE)
    world.shell(SCHEDULE)
    return world


def one_call_at_the_new_time(world: World, *, before: int = 0) -> None:
    """At 09:30 the receiver sees version 2, and nothing else since it had seen ``before`` calls."""
    world.pass_until(NEW_MS - MINUTE_MS)
    assert len(world.receiver.of("/notify")) == before, "called at the old time"
    world.pass_until(NEW_MS + 60 * MINUTE_MS)
    *_, call = world.receiver.wait("/notify", before + 1)
    assert len(world.receiver.of("/notify")) == before + 1
    assert (call.version, call.attempt, call.due) == (2, 1, NEW_MS)
    assert NEW_MS <= call.at_ms < NEW_MS + MINUTE_MS
    assert call.body == b'{"order":42}'


@ONCE
def test_the_line_of_json_is_the_same_request(world: World) -> None:
    assert world.send(PAGE.json("schedule"))["duplicate"]


def test_moved_before_its_time(world: World) -> None:
    said = world.shell(MOVE)
    assert masked(said) == masked(PAGE.shown("rescheduled"))
    world.accident()
    assert world.task("order-42", "orders")["state"] == "scheduled"
    one_call_at_the_new_time(world)
    task = world.task("order-42", "orders")
    assert (task["state"], task["version"]) == ("done", 2)
    assert NEW_MS <= task["ended"] < NEW_MS + MINUTE_MS
    shown = world.shell(ASK)
    assert "orders/order-42  done" in shown
    assert "ended" in shown


def test_moved_at_its_time_while_it_waits_for_a_permit(world: World) -> None:
    """Both permits are taken by calls that are not answered; then they are, and order 42 keeps quiet."""
    hold = threading.Event()
    world.receiver.answers["/slow"] = [Answer(hold=hold)]
    url = world.local("http://127.0.0.1:9000/slow")
    for number in range(PERMITS):
        world.ask("schedule", id=f"slow-{number}", queue="orders", url=url, at=OLD_MS - 1, timeout="5m")
    world.plan()
    world.move_to(OLD_MS - 10)
    world.receiver.wait("/slow", PERMITS)
    world.await_state("order-42", "orders", "ready")
    assert world.now_ms >= OLD_MS
    world.shell(MOVE)
    world.accident()
    hold.set()
    world.settle()
    assert world.count("done") == PERMITS
    one_call_at_the_new_time(world)


@pytest.mark.parametrize("answer", [Answer(200), Answer(503), None], ids=["taken", "refused", "never"])
def test_moved_while_it_is_called(world: World, answer: Answer | None) -> None:
    """The call had begun: it is of version 1, it is not made again, and version 2 comes at its own time."""
    hold = threading.Event()
    first = answer or Answer()
    first.hold = hold
    world.receiver.answers["/notify"] = [first, Answer()]
    world.move_to(OLD_MS - 10)
    (call,) = world.receiver.wait("/notify", 1)
    assert (call.version, call.due) == (1, OLD_MS)
    world.shell(MOVE)
    assert world.task("order-42", "orders")["state"] == "running"
    world.accident()
    if answer is None:
        world.move(5 * SECOND_MS)
        world.settle()
    hold.set()
    one_call_at_the_new_time(world, before=1)
    task = world.task("order-42", "orders")
    assert task["state"] == "done"
    outcomes = [(entry["version"], entry["outcome"]) for entry in task["history"]]
    first_outcome = (1, "succeeded" if answer and answer.status == 200 else "failed")
    assert outcomes == ([] if world.killed else [first_outcome]) + [(2, "succeeded")]
    webhook_ids = {call.webhook_id for call in world.receiver.of("/notify")}
    assert len(webhook_ids) == 1, "the message is the same: who only remembers it would drop version 2"


@KILLED
def test_a_move_whose_answer_was_lost_can_be_sent_again(world: World) -> None:
    world.shell(MOVE)
    world.accident()
    said = world.shell(MOVE, code=1)
    assert "version" in said
    assert world.task("order-42", "orders")["version"] == 2


@KILLED
def test_a_move_that_comes_too_late(world: World) -> None:
    world.pass_until(OLD_MS)
    world.receiver.wait("/notify", 1)
    world.settle()
    world.accident()
    assert "done" in world.shell(MOVE, code=1)
    world.pass_until(NEW_MS)
    assert len(world.receiver.of("/notify")) == 1


def test_an_answer_that_does_not_come_is_given_up_after_five_seconds_and_tried_five_times(
    world: World,
) -> None:
    holds = [threading.Event() for _ in range(6)]
    world.receiver.answers["/notify"] = [Answer(hold=hold) for hold in holds]
    calls = 0
    for number in range(1, 6):
        (task,) = world.plan()
        world.move_to(task["next"] - JUST_BEFORE_MS)
        world.receiver.wait("/notify", calls := calls + 1)
        if world.killed and number == 3:
            world.accident()  # the third was in flight: it is made again under its number
            world.receiver.wait("/notify", calls := calls + 1)
        world.move(4_000)
        world.move(1_000)
        world.settle()
    task = world.task("order-42", "orders")
    assert (task["state"], task["error"], task["attempts"]) == ("dead", "attempts_used_up", 5)
    assert all(entry["error"].startswith("timeout: no whole reply") for entry in task["history"])
    assert all(5_000 <= entry["ms"] < 15_000 for entry in task["history"]), "15 s is what nobody asked for"
    seen = world.receiver.of("/notify")
    assert [call.attempt for call in seen] == ([1, 2, 3, 3, 4, 5] if world.killed else [1, 2, 3, 4, 5])
    assert len({call.webhook_id for call in seen}) == 1


@ONCE
@pytest.mark.parametrize("status", tomllib.loads(PAGE.config)["queues"]["orders"]["final_statuses"][:1])
def test_what_it_will_never_take_is_not_tried_again(world: World, status: int) -> None:
    world.receiver.answers["/notify"] = [Answer(status)]
    world.pass_until(OLD_MS + 60 * MINUTE_MS)
    task = world.task("order-42", "orders")
    assert (task["state"], task["error"]) == ("dead", "final_answer")
    assert len(world.receiver.of("/notify")) == 1


@ONCE
def test_a_receiver_that_does_not_accept_is_given_up_after_three_seconds(open_world: Open) -> None:
    world = open_world(PAGE)
    with deaf_listener() as port:
        world.shell(SCHEDULE, at=f"127.0.0.1:{port}")
        world.plan()
        world.move_to(OLD_MS - JUST_BEFORE_MS)
        world.await_state("order-42", "orders", "running")
        world.move(2_000)
        world.move(1_000)
        world.await_state("order-42", "orders", "scheduled")
        (attempt,) = world.task("order-42", "orders")["history"]
        assert attempt["error"] == "timeout: no connection in 3 s, still connecting"
        assert attempt["ms"] >= 3_000
