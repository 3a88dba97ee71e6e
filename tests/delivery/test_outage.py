"""Destinations that are down: who waits, who is told, when it ends; a real engine, a still clock."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.delivery.fakes import NS_PER_S, World, answer, no_answer
from wheeltimer.core.outcome import Answer, rule_of
from wheeltimer.core.task import NS_PER_MS, Task, split_key
from wheeltimer.delivery.outage import LINES_MAX, PRUNE_MIN, SLICE_MAX, rest_ms
from wheeltimer.delivery.window import HOLD_NS
from wheeltimer.protocol.retry import ATTEMPTS_MAX, ExponentialRule, FixedRule, ListRule, budget_ms, resolve
from wheeltimer.runtime.ratelog import QUIET_S

HOLD_MS = HOLD_NS // NS_PER_MS
FIVE = {"kind": "exponential", "base": "5s", "factor": 2, "cap": "1h", "attempts": 5}
LONG = {"kind": "fixed", "every": "60s", "attempts": 11, "jitter": 0}  # ten minutes
SHORT = {"kind": "fixed", "every": "1s", "attempts": 3, "jitter": 0}


def refused(task: Task) -> tuple[int, Answer]:
    return 2, no_answer()


def held_world(**more: Any) -> World:
    """Destination ``a`` is down and held as of now; nothing waits for it."""
    world = World(**more)
    world.receive = refused
    for number in range(10):
        world.schedule(f"opening-{number}", retry="none")
        world.run(5)
    assert world.window().held_ns is not None
    assert not world.flights
    return world


def since_ms(world: World, since_ns: int) -> int:
    return (world.now_ns - since_ns) // NS_PER_MS


def ended_after(world: World, key: str, since_ns: int, within_ms: int) -> int:
    """Run until the task has ended; ms since ``since_ns``."""
    end_ns = world.now_ns + within_ms * NS_PER_MS
    while world.driver.task(key).ended_ms is None:
        assert world.now_ns < end_ns, f"{world.state(key)} after {within_ms} ms"
        world.run(1000)
    ended_ms = world.driver.task(key).ended_ms
    assert ended_ms is not None
    return since_ms(world, since_ns) - (world.driver.now.wall_ms - ended_ms)


# --- destination_down ----------------------------------------------------------------------------


def test_down_for_ever_ends_every_task_in_the_time_of_its_rule() -> None:
    """1,000 tasks of 5 attempts each; nobody waits longer than with attempts that fail at once."""
    world = World(receive=refused)
    hook = "http://hooks/"
    world.receive = lambda task: (1, answer()) if task.url == hook else refused(task)
    keys = []
    for number in range(1000):
        keys.append(world.schedule(f"{number:04}", retry=FIVE, on_dead=hook))
        world.run(10)
    began_ns = world.now_ns
    world.run(600_000)
    assert since_ms(world, began_ns) == 600_000
    latest_ms = budget_ms(resolve(rule_of(world.driver.task(keys[0])), {}), latest=True)
    reasons = []
    for key in keys:
        task = world.driver.task(key)
        assert world.state(key) == "dead"
        assert task.ended_ms is not None
        # A second for attempts that took their time; a rule shorter than the first probe waits for it.
        assert task.ended_ms - task.due_ms <= max(latest_ms, HOLD_MS) + 1000
        assert task.attempts < 5 or task.reason == "attempts_used_up"
        reasons.append(task.reason)
    assert set(reasons) <= {"destination_down", "attempts_used_up"}
    assert reasons.count("destination_down") > 950
    assert len(world.started) < 1000 + 10 + 8 + 1000 // 30, "held tasks use no attempts"
    assert {world.state(f"{key}/dead/1") for key in keys} == {"done"}, "and somebody is told"


def test_hook_says_destination_down() -> None:
    bodies: list[bytes] = []

    def receive(task: Task) -> tuple[int, Answer]:
        if "hooks" not in task.url:
            return refused(task)
        bodies.append(task.body or b"")
        return 1, answer()

    world = held_world()
    world.receive = receive
    key = world.schedule("a", retry="none", on_dead="http://hooks/", meta={"n": 1})
    world.run(HOLD_MS - 1000)
    assert world.state(key) == "ready"
    second = world.schedule("b", retry="none", on_dead="http://hooks/", meta={"n": 1})
    world.run(3000)
    assert world.driver.task(second).reason == "destination_down"
    [body] = [json.loads(each) for each in bodies if json.loads(each)["id"] == "b"]
    assert body["error"] == "destination_down"
    assert (body["type"], body["id"], body["attempts"], body["meta"]) == ("task.dead", "b", 0, {"n": 1})


def test_never_before_a_probe() -> None:
    """A rule without retries would have ended at once; the first probe is 30 s later."""
    world = held_world()
    since_ns = world.now_ns
    keys = [world.schedule(f"{number}", retry="none") for number in range(5)]
    world.run(HOLD_MS - 100)
    assert {world.state(key) for key in keys} == {"ready"}
    world.run(200)
    assert {world.driver.task(key).reason for key in keys} == {"attempts_used_up", "destination_down"}
    assert [key for ns, key in world.started if ns > since_ns] == [keys[0]], "one probe, one attempt"


def test_no_later_than_the_rule_says_where_probes_take_their_time() -> None:
    """A probe that times out after 15 s is in flight when the others are due to end: they wait for none."""
    world = held_world()
    world.receive = lambda task: (15_000, no_answer("timeout"))
    since_ns = world.now_ns
    keys = [world.schedule(f"{number}", retry=LONG) for number in range(20)]
    for key in keys:
        took_ms = ended_after(world, key, since_ns, 680_000)
        task = world.driver.task(key)
        assert task.reason == "destination_down"
        # One that was a probe goes by its own rule while it waits for its next attempt.
        assert took_ms <= 600_000 + 75_000 * (task.attempts > 0)
        assert task.attempts <= 1


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_attempts_that_were_made_count(failures: int) -> None:
    """What is left of the rule is left, not all of it."""
    rule = {"kind": "list", "delays": ["1m", "2m", "3m", "4m"], "jitter": 0}
    world = World()
    key = world.schedule("a", retry=rule)
    world.settle()
    for failed in range(failures):
        world.end(key, answer(500))
        world.run((60_000, 120_000, 180_000, 240_000)[failed])
    world.end(key, answer(500))
    world.receive = refused
    for number in range(10):
        world.schedule(f"opening-{number}", retry="none")
        world.run(5)
    assert world.window().held_ns is not None
    while world.state(key) == "scheduled":
        world.run(100)
    since_ns = world.now_ns
    done = world.driver.task(key).failures
    left_ms = sum((60_000, 120_000, 180_000, 240_000)[done:])
    took_ms = ended_after(world, key, since_ns, left_ms + 60_000)
    assert left_ms - 200 <= took_ms <= max(left_ms, HOLD_MS) + 200


def test_longest_rule_costs_no_pause() -> None:
    rule = ExponentialRule(base="1s", factor=1.001, cap="1h", attempts=ATTEMPTS_MAX)
    assert rest_ms(rule, 0) == budget_ms(rule)


@pytest.mark.parametrize(
    "rule",
    [FixedRule("1s", 1), FixedRule("1s", 7, 1), ExponentialRule(3, 12, 1.7, "1m"), ListRule(("4m", 1, "6h"))],
)
def test_rest_is_what_the_delays_add_up_to(rule: Any) -> None:
    total = budget_ms(rule)
    assert rest_ms(rule, 0) == total
    rests = [rest_ms(rule, failures) for failures in range(8)]
    assert rests == sorted(rests, reverse=True)
    assert rest_ms(rule, 13) == 0


# --- what held tasks may still do ----------------------------------------------------------------


def test_held_tasks_expire_and_can_be_cancelled_finished_moved_and_rescheduled() -> None:
    world = held_world()
    names = ("expires", "cancelled", "finished", "moved", "later", "stays")
    keys = {
        name: world.schedule(name, retry=LONG, expires_in=10_000 if name == "expires" else None)
        for name in names
    }
    wake_ns = world.settle()
    assert {world.state(key) for key in keys.values()} == {"ready"}
    world.check(wake_ns)
    world.ask("cancel", id="cancelled")
    world.ask("finish", id="finished")
    world.ask("reschedule", id="moved", url="http://b/")
    world.ask("reschedule", id="later", delay="20s")
    world.receive = lambda task: (1, answer()) if "//b" in task.url else refused(task)
    world.run(15_000)
    states = {name: world.state(key) for name, key in keys.items()}
    assert states == {
        "expires": "expired", "cancelled": "cancelled", "finished": "done", "moved": "done",
        "later": "scheduled", "stays": "ready",
    }  # fmt: skip
    assert {world.driver.task(key).attempts for name, key in keys.items() if name != "moved"} == {0}
    since_ns = world.now_ns
    assert ended_after(world, keys["stays"], since_ns, 700_000) <= 585_000 + 60_000
    took_ms = ended_after(world, keys["later"], since_ns, 700_000)
    assert 605_000 - 200 <= took_ms <= 605_000 + 61_000, "its time began when it became held"


def test_rescheduled_while_held_it_has_all_its_time_again() -> None:
    world = held_world()
    keys = [world.schedule(f"{number:02}", retry=LONG) for number in range(40)]
    since_ns = world.now_ns
    world.run(500_000)
    world.ask("reschedule", id="39", delay=1000)
    assert ended_after(world, keys[-2], since_ns, 700_000) <= 600_000
    assert 1_100_000 <= ended_after(world, keys[-1], since_ns, 1_300_000) <= 1_170_000


def test_one_success_opens_and_all_that_waited_goes() -> None:
    world = held_world()
    keys = [world.schedule(f"{number:02}", retry=SHORT) for number in range(40)]
    other = world.schedule("other", queue="q", retry=SHORT)
    world.receive = None
    world.run(HOLD_MS + 10)
    assert list(world.flights) == [keys[0]]
    world.end(keys[0])
    world.check(world.settle())
    assert len(world.flights) > 1
    for _ in range(40):
        world.end_all()
    assert {world.state(key) for key in (*keys, other)} == {"done"}
    world.run(100_000)
    assert {world.state(key) for key in (*keys, other)} == {"done"}


def test_success_of_an_attempt_that_began_before_opens() -> None:
    world = World()
    slow = world.schedule("slow")
    world.settle()
    world.receive = refused
    for number in range(10):
        world.schedule(f"{number}", retry="none")
        if number in (6, 9):
            world.run(5)
    assert world.window().held_ns is not None
    waiting = [world.schedule(f"w{number}", retry=SHORT) for number in range(5)]
    world.run(1000)
    assert {world.state(key) for key in waiting} == {"ready"}
    world.receive = None
    world.end(slow)
    world.check(world.settle())
    assert set(world.flights) <= set(waiting)
    assert world.flights


def test_held_again_begins_anew() -> None:
    """What was reckoned in an earlier outage does not end a task in the next one."""
    world = held_world()
    keys = [world.schedule(f"{number}", retry=LONG) for number in range(40)]
    world.run(550_000)
    assert world.counts()["dead"] == 10, "not yet"
    world.receive = None
    world.run(HOLD_MS)
    world.end(next(iter(world.flights)), answer(500))
    world.settle()
    assert world.window().held_ns is None
    while world.window().held_ns is None:
        world.end(next(iter(world.flights)), no_answer())
        world.settle()
    world.receive = refused
    since_ns = world.now_ns
    world.end_all(no_answer())
    world.run(500_000)
    assert all(world.driver.task(key).ended_ms is None for key in keys[-20:])
    assert 590_000 < ended_after(world, keys[-1], since_ns, 900_000) <= 600_000


def test_anew_after_a_restart() -> None:
    world = held_world()
    keys = [world.schedule(f"{number:02}", retry=LONG) for number in range(40)]
    world.run(580_000)
    assert all(world.driver.task(key).ended_ms is None for key in keys)
    world.driver.crash()
    world.restart()
    since_ns = world.now_ns
    assert 590_000 < ended_after(world, keys[-1], since_ns, 700_000) <= 601_000


# --- paused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("from_ms", "to_ms"), [(100_000, 300_000), (590_000, 620_000), (595_000, 3_000_000)])
def test_the_time_of_a_paused_queue_stands_still(from_ms: int, to_ms: int) -> None:
    world = held_world()
    since_ns = world.now_ns
    keys = [world.schedule(f"{number:02}", queue="q", retry=LONG) for number in range(30)]
    world.run(from_ms)
    other = world.schedule("other", retry="none")
    world.pause("q")
    world.check(world.settle())
    world.run(to_ms - from_ms)
    assert all(world.driver.task(key).ended_ms is None for key in keys), "not while paused"
    assert world.state(other) == "dead" or to_ms - from_ms < HOLD_MS
    world.resume("q")
    for key in keys[1:]:
        took_ms = ended_after(world, key, since_ns, 900_000)
        assert took_ms >= 600_000 + to_ms - from_ms
        assert took_ms <= 600_000 + to_ms - from_ms + 61_000 * (world.driver.task(key).attempts > 0)
    world.check(world.settle())


def test_paused_twice_and_other_queues_go_on() -> None:
    world = held_world()
    since_ns = world.now_ns
    paused = world.schedule("x", queue="q", retry=LONG)
    other = world.schedule("x", queue="p", retry=LONG)
    for _ in range(2):
        world.run(100_000)
        world.pause("q")
        world.pause("q")
        world.run(100_000)
        world.resume("q")
        world.resume("q")
    assert ended_after(world, other, since_ns, 900_000) <= 600_000 + 61_000
    took_ms = ended_after(world, paused, since_ns, 900_000)
    assert 800_000 <= took_ms <= 800_000 + 61_000


def test_held_while_paused_counts_from_the_resume() -> None:
    world = World(receive=refused)
    key = world.schedule("x", queue="q", retry=LONG)
    world.pause("q")
    world.run(1000)
    for number in range(10):
        world.schedule(f"opening-{number}", retry="none")
        world.run(5)
    assert world.window().held_ns is not None
    world.run(5_000_000)
    world.resume("q")
    since_ns = world.now_ns
    took_ms = ended_after(world, key, since_ns, 700_000)
    assert 480_000 <= took_ms <= 600_100


def test_a_pause_that_nobody_told_of_is_noticed() -> None:
    """Paused in the journal at the start: no tasks end while it is."""
    world = held_world()
    world.ask("pause", queue="q")
    key = world.schedule("x", queue="q", retry=SHORT)
    world.run(5_000_000)
    assert world.state(key) == "ready"
    world.resume("q")
    world.run(HOLD_MS + 5000)
    assert world.state(key) == "dead"


# --- cost ----------------------------------------------------------------------------------------


def test_no_room_for_the_ends_is_tried_again() -> None:
    world = held_world()
    keys = [world.schedule(f"{number}", retry="none") for number in range(100)]
    world.run(HOLD_MS - 10)
    world.book.room = False
    world.run(60_000)
    assert {world.state(key) for key in keys} == {"ready"}
    world.book.room = True
    world.run(40_000)
    assert {world.state(key) for key in keys} == {"dead"}


def test_a_destination_goes_down_with_many_tasks_in_slices() -> None:
    world = World()
    world.driver.pass_ms(1)
    keys = [world.schedule(f"{number}", retry="none") for number in range(3000)]
    world.settle()
    while world.window().held_ns is None:
        for key in list(world.flights)[:1]:
            world.end(key, no_answer())
        world.pump()
    while world.flights:
        world.end(next(iter(world.flights)), no_answer())
    held = world.dispatcher._held
    world.pump()
    assert len(held) > 2900
    world.receive = refused
    world.driver.pass_ms(HOLD_MS)
    before = world.counts()["dead"]
    world.dispatcher.pump(world._spawn)
    world.end(next(iter(world.flights)), no_answer())
    steps = 0
    while world.counts()["ready"]:
        dead = world.counts()["dead"]
        assert world.dispatcher.pump(world._spawn) == 0 or not world.counts()["ready"]
        assert world.counts()["dead"] - dead <= SLICE_MAX
        steps += 1
    assert steps > 2900 // SLICE_MAX
    assert world.counts()["dead"] - before > 2900
    assert {world.driver.task(key).reason for key in keys} == {"attempts_used_up", "destination_down"}
    assert len(held) == 0


def test_tasks_that_come_and_go_leave_nothing_behind() -> None:
    """Cancelled while held, again and again, each with an hour to go: what is remembered is bounded."""
    world = held_world()
    held = world.dispatcher._held
    most = 0
    for turn in range(60):
        keys = [world.schedule(f"{turn}-{number}", retry="default") for number in range(300)]
        world.settle()
        for key in keys:
            world.ask("cancel", id=split_key(key)[1])
        world.settle()
        most = max(most, len(held))
    assert most <= 2 * PRUNE_MIN
    assert since_ms(world, world.window().held_ns or 0) < HOLD_NS


def test_a_destination_that_comes_and_goes_leaves_nothing_behind() -> None:
    world = World()
    world.driver.pass_ms(1)
    held = world.dispatcher._held
    for number in range(1500):
        world.schedule(f"{number}", retry="default")
    world.settle()
    most = 0
    for _ in range(30):
        while world.window().held_ns is None:
            world.end(next(iter(world.flights)), no_answer())
            world.pump()
        while world.flights:
            world.end(next(iter(world.flights)), no_answer())
        world.pump()
        most = max(most, len(held))
        world.driver.pass_ns(HOLD_NS + NS_PER_S)
        world.settle()
        world.end(next(iter(world.flights)), answer())
        world.pump()
    assert most <= 2 * (1500 + PRUNE_MIN)


# --- what is logged ------------------------------------------------------------------------------


def test_a_thousand_destinations_that_go_down_and_up_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first are named, the others counted; of those that open again likewise."""
    caplog.set_level(logging.INFO)
    world = World(receive=refused)
    hosts = [f"h{number:03}" for number in range(500)]

    def down_and_up(some: list[str]) -> None:
        for host in some:
            for number in range(10):
                world.schedule(f"{host}-{number}", host, retry=SHORT, on_conflict="replace")
        world.receive = refused
        world.run(5_000)
        assert all(world.window(host).held_ns is not None for host in some)
        world.receive = lambda task: (1, answer())
        world.run(HOLD_MS)
        assert all(world.window(host).held_ns is None for host in some)

    down_and_up(hosts)
    downs, opens = (said_of(caplog, word) for word in ("held", "open"))
    assert len(downs) == len(opens) == LINES_MAX
    assert len({*downs, *opens}) == 2 * LINES_MAX, "each is another one"
    caplog.clear()
    world.run(QUIET_S * 1000)
    down_and_up(hosts[:1])
    for word in ("held", "open"):
        assert said_of(caplog, word) == [
            f"{word} destinations that were not named unsaid={len(hosts) - LINES_MAX}",
            f"{word} destination=http://h000 unsaid=0",
        ]


def said_of(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """The lines that begin with ``word``, without what is the same in all."""
    lines = [record.getMessage().partition(";")[0] for record in caplog.records]
    return [line for line in lines if line.startswith(word)]
