"""Who goes when: fairness, limits, and that nothing is forgotten; over a real engine, on a still clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from trio.testing import trio_test

from tests.delivery.fakes import NS_PER_S, Config, World, answer, never, no_answer
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now, Task, split_key
from wheeltimer.delivery.callback import Again, Landing
from wheeltimer.delivery.dispatcher import LOOKS_MAX, ROOM_RETRY_NS, Dispatcher
from wheeltimer.delivery.lanes import STALE_MIN
from wheeltimer.protocol.task_view import State

MANY: dict[str, Any] = {"retry": {"kind": "fixed", "every": "1s", "attempts": 1000, "jitter": 0}}


def fill(world: World, count: int, host: str = "a", first: int = 0, **fields: Any) -> list[str]:
    """So many tasks that are due now; where dues are equal the wheel goes by the key."""
    return [world.schedule(f"{host}-{number:05}", host, **fields) for number in range(first, first + count)]


def number_of(key: str) -> int:
    return int(key.rpartition("-")[2])


# --- nothing is forgotten ------------------------------------------------------------------------


def test_cancelled_task_at_the_head_does_not_strand_those_behind_it() -> None:
    """Two queues wait for one permit of a destination; the one that is woken has nothing to send any more."""
    world = World(config=Config(hosts={"a": (1, None)}))
    first = world.schedule("first", queue="p")
    world.settle()
    world.schedule("second", queue="q")
    third = world.schedule("third", queue="r")
    world.settle()
    world.ask("cancel", id="second", queue="q")
    world.end(first)
    wake_ns = world.settle()
    assert list(world.flights) == [third]
    world.check(wake_ns)


def test_grown_window_is_used_by_every_queue() -> None:
    """A success frees a place and adds one: lanes of one task each must pass the second place on."""
    world = World()
    for number in range(200):
        world.schedule("one", queue=f"q{number}")
    world.settle()
    most = [len(world.flights)]
    while world.flights:
        world.end(next(iter(world.flights)))
        world.check(world.settle())
        most.append(len(world.flights))
    assert max(most) == 8 + (200 - 8) // 2


def test_rate_of_one_queue_does_not_hold_up_another() -> None:
    """A lane that waits an hour for its queue's rate lets the others go to the same destination."""
    world = World(config=Config({"slow": (None, (1, 3_600_000))}, {"a": (1, None)}))
    world.schedule("first", queue="slow")
    world.settle()
    world.schedule("second", queue="slow")
    other = world.schedule("other", queue="fast")
    world.settle()
    world.end("slow/first")
    wake_ns = world.settle()
    assert list(world.flights) == [other]
    world.check(wake_ns)


def test_a_queue_at_its_limit_does_not_hold_up_another() -> None:
    world = World(config=Config({"narrow": (1, None)}, {"a": (2, None), "b": (1, None)}))
    world.schedule("first", "b", queue="narrow")
    world.settle()
    fill(world, 2, "a", queue="narrow")
    wide = fill(world, 3, "a", first=10, queue="wide")
    world.check(world.settle())
    assert set(world.flights) == {"narrow/first", *wide[:2]}
    world.end("narrow/first")
    world.check(world.settle())
    world.end(wide[0])
    world.check(world.settle())
    assert len(world.flights) == 2
    assert world.to_hosts() == {"a": 2}


def test_woken_by_a_destination_and_stopped_by_its_queue_lets_the_next_go() -> None:
    """Its queue's rate was used up elsewhere while it stood in the destination's line."""
    world = World(config=Config({"q": (None, (1, 3_600_000))}, {"a": (1, None)}))
    first = world.schedule("first")
    world.settle()
    world.schedule("stopped", queue="q")
    world.settle()
    other = world.schedule("other", queue="r")
    world.settle()
    elsewhere = world.schedule("elsewhere", "b", queue="q")
    world.settle()
    world.end(elsewhere)
    world.end(first)
    world.check(world.settle())
    assert list(world.flights) == [other]


def test_woken_by_a_queue_and_stopped_by_its_destination_lets_the_next_go() -> None:
    """Its destination was filled by another queue while it stood in its own queue's line."""
    world = World(config=Config({"q": (1, None)}, {"b": (1, None)}))
    first = world.schedule("first", "a", queue="q")
    world.settle()
    world.schedule("stopped", "b", queue="q")
    world.settle()
    other = world.schedule("other", "c", queue="q")
    world.settle()
    filling = world.schedule("filling", "b", queue="r")
    world.settle()
    assert set(world.flights) == {first, filling}
    world.end(first)
    world.check(world.settle())
    assert set(world.flights) == {filling, other}


def test_who_comes_last_does_not_take_the_place_that_a_success_adds() -> None:
    world = World()
    fill(world, 8)
    world.settle()
    waiting = []
    for name in ("p", "q"):
        waiting.append(world.schedule("x", "a", queue=name))
        world.settle()
    world.end(next(iter(world.flights)))
    world.schedule("x", "a", queue="late")
    world.check(world.settle())
    assert len(world.flights) == 9
    assert set(waiting) < set(world.flights)


def test_a_task_that_comes_again_and_again_is_kept_once() -> None:
    """Rescheduled behind a paused queue, it becomes ready each time; its older keys are dropped."""
    world = World()
    world.pause("default")
    keys = fill(world, 4)
    for _ in range(STALE_MIN):
        for key in keys:
            world.ask("reschedule", id=split_key(key)[1], delay=0)
        world.settle()
    assert len(world.dispatcher) <= STALE_MIN + 16
    world.resume("default")
    world.settle()
    assert sorted(world.flights) == keys


def test_new_queues_do_not_go_past_those_that_wait() -> None:
    """One permit and ever new queues: who waits longest is next."""
    world = World(config=Config(hosts={"a": (1, None)}))
    order: list[str] = []
    for number in range(50):
        for letter in "pq":
            world.driver.pass_ms(1)
            world.schedule("x", queue=f"{letter}{number}")
        world.settle()
        [key] = world.flights
        order.append(key)
        world.end(key)
        world.settle()
    expected = [f"{letter}{number}/x" for number in range(50) for letter in "pq"][:50]
    assert order == expected


def test_no_room_in_the_journal_is_tried_again() -> None:
    world = World()
    fill(world, 20)
    world.book.room = False
    wake_ns = world.settle()
    assert wake_ns == world.now_ns + ROOM_RETRY_NS
    assert not world.flights
    world.check(wake_ns)
    world.book.room = True
    world.run(1000)
    assert list(world.flights) == [f"default/a-{number:05}" for number in range(8)]
    world.book.room = False
    world.end("default/a-00000")  # its commit may have brought room: it is tried before the second is over
    world.book.room = True
    world.commit()
    world.check(world.settle())
    assert len(world.flights) == 9


def test_order_is_kept_when_there_was_no_room() -> None:
    world = World(config=Config(hosts={"a": (1, None)}))
    world.driver.pass_ms(100_000)
    keys = [world.schedule(f"old-{number}", at=world.driver.now.wall_ms - 90_000 + number, delay=None)
            for number in range(5)]  # fmt: skip
    world.book.room = False
    world.settle()
    world.run(3000)
    world.book.room = True
    world.run(1000)
    order: list[str] = []
    while world.flights:
        order += world.end_all()
    assert order == keys


def test_nothing_goes_out_before_its_record_is_durable() -> None:
    """Also a later version of a task that was, and also where its key came first."""
    world = World()
    world.schedule("a")
    world.autocommit = False
    world.schedule("b")
    world.settle()
    assert list(world.flights) == ["default/a"]
    world.end("default/a")
    world.check(world.settle())
    assert not world.flights
    world.commit()
    world.check(world.settle())
    assert list(world.flights) == ["default/b"]


def test_what_waited_for_the_disk_goes_before_what_comes_due_after_it() -> None:
    """The other took the queue's only permit: its record was on disk when it was handed over."""
    world = World()
    world.autocommit = False
    first = world.schedule("first")
    world.tick()
    second = world.schedule("second")
    world.commit()
    world.tick()
    world.pump()
    assert [key for _, key in world.started] == [first, second]


def test_replaced_while_it_waits_goes_out_once_and_when_durable() -> None:
    world = World(config=Config(hosts={"a": (1, None)}))
    world.schedule("first")
    world.settle()
    world.schedule("b")
    world.settle()
    world.autocommit = False
    world.schedule("b", on_conflict="replace", body=2)
    world.settle()  # ready again, its new record not durable; its old key is in the lane
    world.end("default/first")
    world.check(world.settle())
    assert not world.flights
    world.commit()
    world.settle()
    assert world.flights["default/b"].task.version == 2
    world.end("default/b")
    world.commit()
    world.settle()
    assert world.state("default/b") == "done"
    assert Counter(key for _, key in world.started) == {"default/first": 1, "default/b": 1}


def test_cancelled_between_due_and_sent_is_not_sent() -> None:
    """Ready, and cancelled before its turn came."""
    world = World()
    keys = fill(world, 30)
    world.tick()
    for key in keys[::2]:
        world.ask("cancel", id=split_key(key)[1])
    world.pump()
    while world.flights:
        world.end_all()
    assert {key for _, key in world.started} == set(keys[1::2])


def test_moved_to_another_destination_while_it_waits() -> None:
    world = World(config=Config(hosts={"a": (1, None)}))
    world.schedule("first")
    world.schedule("second")
    world.settle()
    world.ask("reschedule", id="second", url="http://b/")
    world.check(world.settle())
    assert world.to_hosts() == {"a": 1, "b": 1}
    world.end("default/first")
    world.check(world.settle())
    assert world.to_hosts() == {"b": 1}


# --- fairness ------------------------------------------------------------------------------------


def test_one_slow_destination_delays_no_other() -> None:
    """A backlog to one that answers in 15 s, a task each 10 ms to one that answers in 1 ms."""
    late: list[int] = []

    def receive(task: Task) -> tuple[int, Answer]:
        if "//slow" in task.url:
            return 15_000, answer()
        late.append(world.driver.now.wall_ms - task.due_ms)
        return 1, answer()

    world = World(concurrency=32, receive=receive)
    fill(world, 3000, "slow")
    world.run(10_000)
    for number in range(200):
        world.schedule(str(number), "fast")
        world.run(10)
    assert len(late) == 200
    assert max(late) <= 1


def test_a_dead_destination_changes_nothing_for_the_others() -> None:
    """The same starts at the same instants, with and without 500 tasks to one that never answers."""

    def starts(dead: bool) -> list[tuple[int, str]]:
        def receive(task: Task) -> tuple[int, Answer]:
            return (3000, no_answer("timeout")) if "//dead" in task.url else (50, answer())

        world = World(receive=receive)
        if dead:
            fill(world, 500, "dead", **MANY)
        for number in range(400):
            world.schedule(str(number), "live", delay=number * 5)
        world.run(60_000)
        assert world.counts()["done"] == 400
        return [(ns, key) for ns, key in world.started if "dead" not in key]

    alone = starts(False)
    assert [key for _, key in alone] == [f"default/{number}" for number in range(400)]
    assert starts(True) == alone


@pytest.mark.parametrize("slow_ms", [15_000, 700])
def test_a_hundred_slow_destinations_beside_a_fast_one(slow_ms: int) -> None:
    late: list[int] = []

    def receive(task: Task) -> tuple[int, Answer]:
        if "//slow" in task.url:
            return slow_ms, answer()
        late.append(world.driver.now.wall_ms - task.due_ms)
        return 1, answer()

    world = World(receive=receive)
    for number in range(100):
        fill(world, 40, f"slow{number}")
    world.run(1000)
    assert len(world.flights) > 400, "permits are for use"
    assert max(world.to_hosts().values()) <= (6 if slow_ms > 1000 else 16), "a share, and soon the same one"
    for number in range(1000):
        world.schedule(str(number), "fast")
        world.run(2)
    assert len(late) == 1000
    assert max(late) <= 2


@pytest.mark.parametrize("slow", [3, 12, 15, 20, 31])
@pytest.mark.parametrize("together", [False, True])
def test_the_last_permit_is_for_a_destination_that_has_none(slow: int, together: bool) -> None:
    """Whether the slow ones come together, or each finds what those before it have left."""
    world = World(concurrency=200)
    for number in range(slow):
        fill(world, 40, f"slow{number}")
        if not together:
            world.settle()
    world.settle()
    assert len(world.flights) >= min(8 * slow, 150)
    for number in range(20):
        key = world.schedule(str(number), "fast")
        world.check(world.settle())
        assert key in world.flights
        world.end(key)
        world.settle()


@pytest.mark.parametrize("queue", ["default", "other"])
def test_the_end_of_an_attempt_lets_its_destination_go_on_past_a_hundred_in_the_crowd(queue: str) -> None:
    """The lane of the first was empty and gone by then, and another had come: it waited for its turn among
    all the others, 40 ms, and what came meanwhile waited with it."""
    world = World()
    for number in range(100):
        fill(world, 20, f"slow{number}")
    world.check(world.settle())
    keys = [world.schedule(f"first{number}", "fast") for number in range(4)]
    world.settle()
    keys.append(world.schedule("second", "fast", queue=queue))
    world.settle()
    assert [key in world.flights for key in keys] == [True] * 4 + [False], "its share is a few permits"
    world.end(keys[0])
    world.check(world.pump())
    assert keys[-1] in world.flights


@pytest.mark.parametrize(("slow", "at_once"), [(60, 4), (100, 4), (150, 3), (300, 1), (400, 1), (500, 1)])
def test_a_few_that_come_due_together_go_out_together_beside_many_slow(slow: int, at_once: int) -> None:
    """Beside a hundred slow destinations a fast one had a permit or two: what came due in the same
    millisecond waited for the reply to what went before it. More slow ones leave less of the reserve."""
    world = World()
    for number in range(slow):
        fill(world, 20, f"slow{number}")
    world.check(world.settle())
    fast = fill(world, 20, "fast")
    world.check(world.settle())
    assert sum(key in world.flights for key in fast) == at_once
    assert 512 - len(world.flights) > (20 if slow <= 400 else 10), "there are permits for whoever comes next"


def test_a_lane_that_the_crowd_let_go_in_vain_lets_the_next_of_its_destination_go() -> None:
    """The last end let one lane of the destination go on, whose queue is paused, and nobody woke the others:
    with nothing in flight they waited for the end of somebody else's attempt, or for ever."""
    world = World(concurrency=16)
    for host in range(10):
        world.schedule(f"first{host}", f"h{host}", queue="q")
    world.settle()
    for queue in ("p0", "p1", "p2", "other"):
        for host in range(10):
            for number in range(3):
                world.schedule(f"{host}-{number}", f"h{host}", queue=queue)
        world.settle()
    for queue in ("p0", "p1", "p2"):
        world.pause(queue)
    for _ in range(100):
        for key in list(world.flights):  # all answers come in one turn of the loop
            world.end(key)
        world.check(world.settle())
    assert {world.state(key) for key in world.known() if key.startswith("other/")} == {"done"}


@pytest.mark.parametrize("gone", ["cancelled", "paused"])
def test_a_lane_of_a_large_crowd_that_goes_in_vain_lets_the_next_of_its_destination_go(gone: str) -> None:
    """Its only task was cancelled, or its queue is paused."""
    world = World(concurrency=100)
    for host in range(80):
        fill(world, 40, f"slow{host}")
    world.settle()
    world.schedule("first", "fast", queue="qa")
    world.settle()
    world.schedule("second", "fast", queue="qa")
    world.settle()
    for number in range(6):
        world.schedule(f"b{number}", "fast", queue="qb")
    world.settle()
    if gone == "cancelled":
        world.ask("cancel", id="second", queue="qa")
    else:
        world.pause("qa")
    done = []
    while fast := [key for key, flight in world.flights.items() if "//fast" in flight.task.url]:
        world.end(fast[0])
        world.check(world.settle())
        done.append(fast[0])
    assert done == ["qa/first", *(f"qb/b{number}" for number in range(6))]


def test_who_was_held_back_by_others_goes_when_those_turn_out_to_wait_for_something_else() -> None:
    """Those others were lanes in the crowd whose queues are paused: they left it, and nobody looked again."""
    world = World(concurrency=12)
    for host in "xbcdefg":
        fill(world, 1, host)
    world.settle()
    fill(world, 20, "a")
    fill(world, 1, "x")
    world.settle()
    for host in "bcdefg":
        world.schedule(f"next-{host}", host, queue=f"q{host}")
    world.settle()
    assert world.to_hosts()["a"] == 4
    for host in "bcdefg":
        world.pause(f"q{host}")
    for key, flight in list(world.flights.items()):
        if flight.lane.target.destination.host == "x":
            world.end(key)
    world.check(world.settle())
    assert world.to_hosts()["a"] == 5


def test_a_burst_for_a_fast_destination_passes_a_hundred_slow_ones() -> None:
    """All permits but the last are out for long: what has one at a time gets the next as soon as that ends,
    not when its turn has come among a hundred that wait for more."""
    world = World(receive=lambda task: (1 if "//fast" in task.url else 5000, answer()))
    for number in range(100):
        fill(world, 60, f"slow{number}")
    world.run(12_000)
    assert len(world.flights) > 400
    fast = fill(world, 500, "fast")
    world.run(1_000)
    assert {world.state(key) for key in fast} == {"done"}


def test_no_more_than_a_quarter_while_others_wait() -> None:
    world = World(concurrency=32)
    for host in "ab":
        fill(world, 500, host)
    world.settle()
    for _ in range(30):
        world.end_all()
        assert world.to_hosts() == {"a": 8, "b": 8}
    for key in [key for key in world.known() if key.startswith("default/b")]:
        world.ask("cancel", id=split_key(key)[1])
    for _ in range(10):
        world.end_all()
    assert world.to_hosts() == {"a": 24}, "alone it may have more, and leaves some for who comes next"


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 5, 8, 32])
def test_few_permits_are_used_too(concurrency: int) -> None:
    world = World(concurrency=concurrency)
    fill(world, 300)
    world.settle()
    for _ in range(12):
        world.end_all()
    assert len(world.flights) == {1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 8: 6, 32: 24}[concurrency]
    fill(world, 1, "b")
    world.settle()
    if concurrency > 3:
        assert world.to_hosts()["b"] == 1


def test_a_thousand_destinations_share_all_permits() -> None:
    world = World(concurrency=100)
    for number in range(1000):
        fill(world, 3, f"h{number}")
    world.settle()
    seen = Counter[str]()
    for _ in range(28):
        assert len(world.flights) == 100
        assert max(world.to_hosts().values()) <= 2
        seen.update(world.to_hosts())
        world.end_all()
    assert len(seen) == 1000


def test_a_look_costs_the_same_however_many_wait() -> None:
    """Attempts end one by one while 5 or 500 destinations have their share and wait for more."""

    def pumps(hosts: int) -> int:
        world = World(concurrency=4 * hosts)
        for number in range(hosts):
            fill(world, max(20, 500 // hosts), f"h{number}")
        world.settle()
        before, ends = world.pumps, 200
        lanes = world.dispatcher._lanes
        looks = 0
        original = lanes.next

        def counting() -> Any:
            nonlocal looks
            looks += 1
            return original()

        lanes.next = counting  # type: ignore[method-assign]
        for _ in range(ends):
            world.end(next(iter(world.flights)))
            world.settle()
        assert world.pumps - before <= 2 * ends
        return looks

    assert pumps(500) <= 2 * pumps(5) + 200


def test_many_queues_at_one_rate_do_not_all_look_for_each_token() -> None:
    """Gates are woken, not lanes: with 300 lanes behind a rate a token costs a look or two, not 300."""
    world = World(config=Config({"q": (None, (10, 1000))}))
    for number in range(300):
        world.schedule(str(number), f"h{number}", queue="q")
    world.settle()
    lanes = world.dispatcher._lanes
    looks, original = 0, lanes.next

    def counting() -> Any:
        nonlocal looks
        looks += 1
        return original()

    lanes.next = counting  # type: ignore[method-assign]
    world.run(20_000)
    assert len(world.started) == 210
    assert looks < 3 * 200


def test_backlog_goes_out_in_due_order_interleaved_with_what_is_on_time() -> None:
    world = World(config=Config(hosts={"a": (1, None)}))
    world.driver.pass_ms(3_600_000)
    now_ms = world.driver.now.wall_ms
    dues = [now_ms - 3_600_000 + number * 1000 for number in range(300)]
    shuffled = dues[:]
    random.Random(3).shuffle(shuffled)
    for due in shuffled:
        world.schedule(f"old-{due}", at=due, delay=None)
    world.tick()
    fresh = fill(world, 50)
    order: list[str] = []
    world.settle()
    while world.flights:
        order += world.end_all()
    assert [key for key in order if "old" in key] == [f"default/old-{due}" for due in dues]
    assert [key for key in order if "old" not in key] == fresh
    assert order.index(fresh[-1]) <= 2 * 50 + 1, "one of each in turn"


def test_one_look_is_bounded() -> None:
    """A million overdue tasks are keys in lanes, not nursery tasks; one pump starts a bounded number."""
    world = World(concurrency=2000)
    for number in range(500):
        fill(world, 2, f"h{number}")
    world.tick()
    assert len(world.dispatcher) == 1000
    assert world.dispatcher.pump(world._spawn) == 0
    assert len(world.flights) <= LOOKS_MAX


# --- limits that the operator sets ---------------------------------------------------------------


def test_queue_concurrency_holds_over_all_destinations() -> None:
    world = World(config=Config({"q": (3, None)}))
    for number in range(10):
        fill(world, 3, f"h{number}", queue="q")
    fill(world, 2, "other")
    world.settle()
    order: list[str] = []
    while world.flights:
        assert sum(key.startswith("q/") for key in world.flights) == 3 or len(order) >= 25
        order += [split_key(key)[1].split("-")[0] for key in world.end_all() if key.startswith("q/")]
    assert set(order[:10]) == {f"h{number}" for number in range(10)}, "destinations take turns"


@pytest.mark.parametrize("which", ["queue", "destination"])
def test_rate_is_kept_and_used(which: str) -> None:
    rate = (7, 1000)
    config = Config({"q": (None, rate)}) if which == "queue" else Config(hosts={"a": (128, rate)})
    world = World(config=config, receive=lambda task: (3, answer()))
    fill(world, 50, "a", queue="q")
    fill(world, 20, "b", queue="q" if which == "queue" else "p")
    world.run(4000)
    starts = [ns for ns, key in world.started if which == "queue" or "/a" in key]
    assert len(starts) == 7 + 4 * 7
    start_ns = starts[0]
    for number, ns in enumerate(starts):
        ideal_ns = start_ns + Fraction(max(0, number - 6) * NS_PER_S, 7)
        assert ideal_ns <= ns <= ideal_ns + 1


def test_pause_stops_at_once_and_resume_starts_at_once() -> None:
    world = World()
    fill(world, 20, queue="q")
    other = fill(world, 3, "b", queue="p")
    world.pause("q")
    world.check(world.settle())
    assert set(world.flights) == set(other)
    world.resume("q")
    world.check(world.settle())
    assert world.to_hosts() == {"a": 8, "b": 3}
    world.pause("q")
    world.end_all()
    assert not world.flights
    world.resume("q")
    world.pause("q")
    world.check(world.settle())
    assert not world.flights


def test_resume_starts_all_destinations_of_the_queue() -> None:
    world = World()
    world.pause("q")
    for number in range(100):
        world.schedule(str(number), f"h{number}", queue="q")
    world.settle()
    world.resume("q")
    world.check(world.settle())
    assert len(world.flights) == 100


def test_new_limits_hold_at_once() -> None:
    world = World(config=Config({"q": (2, None)}, {"b": (8, (1, 3_600_000))}))
    fill(world, 30, "a", queue="q")
    fill(world, 30, "b")
    world.settle()
    assert world.to_hosts() == {"a": 2, "b": 1}
    world.reconfigure(Config({"q": (5, None)}))
    world.check(world.settle())
    assert world.to_hosts() == {"a": 5, "b": 8}
    world.reconfigure(Config({"q": (1, None)}, {"b": (2, None)}))
    world.check(world.settle())
    for key in [key for key in world.flights if "/a" in key][:4]:
        world.end(key)
        world.check(world.settle())
    assert world.to_hosts() == {"a": 1, "b": 8}
    for key in [key for key in world.flights if "/b" in key][:7]:
        world.end(key)
        world.check(world.settle())
    assert world.to_hosts() == {"a": 1, "b": 2}


def test_drain_starts_nothing_more() -> None:
    world = World()
    fill(world, 20)
    world.settle()
    world.dispatcher.draining = True
    while world.flights:
        world.end_all()
    assert len(world.started) == 8


# --- memory --------------------------------------------------------------------------------------


def test_cancelled_tasks_do_not_pile_up_behind_a_paused_queue() -> None:
    world = World()
    world.pause("default")
    world.autocommit = False
    for number in range(3 * STALE_MIN):
        world.schedule(str(number), group="g")
        if number % 64 == 63:
            world.commit()
            world.settle()
            world.driver.many("cancel", "g", None, None)
            world.settle()
            assert len(world.dispatcher) <= STALE_MIN + 64
    world.autocommit = True
    kept = fill(world, 10, "a")
    world.settle()
    assert next(iter(world.dispatcher._lanes.targets.values())).lanes["default"].waiting
    world.resume("default")
    while world.settle() is not None or world.flights:
        world.end_all()
    assert {key for _, key in world.started} == set(kept)


def test_keys_come_in_order_while_stale_ones_are_dropped() -> None:
    """The pass is cut into slices: what is taken and what comes meanwhile stays in order."""
    world = World(config=Config(hosts={"a": (1, None)}))
    count = 3 * STALE_MIN
    keys = fill(world, count)
    world.settle()
    for key in keys[1:]:
        if number_of(key) % 3:
            world.ask("cancel", id=split_key(key)[1])
    order: list[str] = []
    last = count
    while world.flights or len(world.dispatcher):
        world.tick()
        world.dispatcher.pump(world._spawn)  # one slice at a time
        order += list(world.flights)
        for key in list(world.flights):
            world.end(key)
        if last < count + 50:
            keys += fill(world, 1, first=last)
            last += 1
    assert order == [key for key in keys if number_of(key) % 3 == 0 or number_of(key) >= count]


def test_idle_destinations_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wheeltimer.delivery.lanes.WINDOWS_MAX", 50)
    world = World(receive=lambda task: (1, no_answer() if "//down" in task.url else answer()))
    for number in range(300):
        world.schedule(str(number), f"h{number}", retry="none")
        fill(world, 10, f"down{number}", retry="none")
        world.run(5)
    assert len(world.dispatcher._lanes.targets) <= 50
    assert len(world.dispatcher._lanes.queues) <= 1


# --- the Trio part -------------------------------------------------------------------------------


class Bug(Exception):
    """Something that nobody foresaw."""


@trio_test
async def test_one_bad_task_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An attempt that raises is a failed attempt, logged; all others go on."""
    world = World()
    done = []

    async def send(key: str, task: Task) -> Answer:
        await trio.lowlevel.checkpoint()
        if "bad" in key:
            raise Bug
        done.append(key)
        return answer()

    world.dispatcher = Dispatcher(world.book, send, lambda: world.durable_lsn, 4)
    world.schedule("bad", retry="none")
    keys = fill(world, 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        with trio.fail_after(30):
            while world.counts()["done"] < 20 or world.counts()["dead"] < 1:
                world.commit()
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sorted(done) == sorted(keys)
    assert world.state("default/bad") == "dead"
    assert "attempt failed inside key=default/bad" in [record.message for record in caplog.records]
    assert world.dispatcher.in_flight == 0


@trio_test
async def test_attempt_that_cannot_even_begin_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What flies begins in the dispatcher's own time: a bug there fails the attempt like any other."""
    world = World()

    def begin(key: str, task: Task, now: Now, landed: Callable[[Landing], None]) -> Again | None:
        if "bad" in key:
            raise Bug
        begun.append(landed)
        return None

    def flush() -> None:
        """What was begun is sent, and answered at once."""
        while begun:
            begun.pop()(answer())

    begun: list[Callable[[Landing], None]] = []
    world.dispatcher = Dispatcher(world.book, never, lambda: world.durable_lsn, 4, begin=begin, flush=flush)
    world.schedule("bad", retry="none")
    fill(world, 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        with trio.fail_after(30):
            while world.counts()["done"] < 20 or world.counts()["dead"] < 1:
                world.commit()
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert world.state("default/bad") == "dead"
    assert "attempt failed inside key=default/bad" in [record.message for record in caplog.records]
    assert world.dispatcher.in_flight == 0


@trio_test
async def test_attempts_cut_short_were_not_made() -> None:
    world = World()
    dropped: list[str] = []
    world.book.dropped = dropped.append  # type: ignore[method-assign, assignment]

    async def send(key: str, task: Task) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    world.dispatcher = Dispatcher(world.book, send, lambda: world.durable_lsn, 4)
    keys = fill(world, 3)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        while world.dispatcher.in_flight < 3:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sorted(dropped) == keys
    assert world.dispatcher.in_flight == 0
    assert [world.driver.task(key).attempts for key in keys] == [0, 0, 0]


@trio_test
async def test_flight_to_be_sent_again_after_the_dispatcher_ended_was_not_made() -> None:
    """Its reset arrives in the pass in which all work is cancelled: no nursery is left to go on in."""
    world = World()
    dropped: list[str] = []
    world.book.dropped = dropped.append  # type: ignore[method-assign, assignment]
    landings: list[Callable[[Landing], None]] = []

    async def again() -> Answer:
        raise AssertionError("sent again after the end")

    def begin(key: str, task: Task, now: Now, landed: Callable[[Landing], None]) -> None:
        landings.append(landed)

    world.dispatcher = Dispatcher(
        world.book, lambda key, task: again(), lambda: world.durable_lsn, 4, begin=begin
    )
    (key,) = fill(world, 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        nursery.cancel_scope.cancel()
    (landed,) = landings
    landed(again)
    assert dropped == [key]
    assert world.dispatcher.in_flight == 0


@trio_test
async def test_drain_waits_for_what_is_in_flight() -> None:
    world = World()
    gate = trio.Event()

    async def send(key: str, task: Task) -> Answer:
        await gate.wait()
        return answer()

    world.dispatcher = Dispatcher(world.book, send, lambda: world.durable_lsn, 2)
    fill(world, 5)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        while world.dispatcher.in_flight < 2:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.01) as patience:
            await world.dispatcher.drain()
        assert patience.cancelled_caught
        gate.set()
        with trio.fail_after(5):
            await world.dispatcher.drain()
        nursery.cancel_scope.cancel()
    assert world.counts()["done"] == 2


@trio_test
async def test_an_instant_that_a_gate_waits_for_wakes_the_loop() -> None:
    world = World(config=Config({"default": (None, (20, 1000))}))
    sent = []

    async def send(key: str, task: Task) -> Answer:
        await trio.lowlevel.checkpoint()
        sent.append(key)
        return answer()

    world.dispatcher = Dispatcher(world.book, send, lambda: world.durable_lsn, 4, world.config.queue_of)
    fill(world, 21)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.dispatcher.run)
        world.tick()
        world.dispatcher.dispatch_now()
        while len(sent) < 20:
            world.commit()
            await trio.lowlevel.checkpoint()
        world.driver.pass_ms(50)  # and nobody says a word: the loop's own clock brings it
        with trio.fail_after(5):
            while len(sent) < 21:  # noqa: ASYNC110 -- real time must pass for the loop
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


# --- all of it at once ---------------------------------------------------------------------------

HOSTS = ("a", "b", "c", "d")
QUEUES = ("default", "p", "q")
RATES = (None, None, (3, 1000), (7, 60_000))
ANSWERS = (
    answer(), answer(), answer(), answer(500), answer(404), answer(429, retry_after_ms=700), answer(503),
    answer(502), no_answer(), no_answer("timeout"), no_answer("reset"), answer(410),
    answer(400, stop=True),
)  # fmt: skip
RETRIES = (
    "none", {"kind": "fixed", "every": "50ms", "attempts": 4},
    {"kind": "fixed", "every": "7s", "attempts": 6},
)  # fmt: skip


def configs() -> st.SearchStrategy[Config]:
    rates = st.sampled_from(RATES)
    return st.builds(
        Config,
        st.dictionaries(st.sampled_from(QUEUES), st.tuples(st.sampled_from((None, None, 1, 3)), rates)),
        st.dictionaries(st.sampled_from(HOSTS), st.tuples(st.sampled_from((1, 2, 16, 128)), rates)),
    )


class Machine(RuleBasedStateMachine):
    """Anything that can happen, in any order; after each step all that must hold does."""

    @initialize(config=configs(), concurrency=st.sampled_from((1, 2, 5, 16, 512)))
    def begin(self, config: Config, concurrency: int) -> None:
        self.world = World(concurrency, config)
        self.down: set[str] = set()
        self.count = 0
        self.wake_ns: int | None = None

    def _pump(self) -> None:
        self.wake_ns = self.world.settle()

    @rule(
        count=st.integers(1, 25), host=st.sampled_from(HOSTS), queue=st.sampled_from(QUEUES),
        delay=st.sampled_from((0, 0, 0, 30, 2000)), retry=st.sampled_from(RETRIES),
        expires=st.sampled_from((None, None, 40, 5000)), hook=st.booleans(),
    )  # fmt: skip
    def schedule(
        self, count: int, host: str, queue: str, delay: int, retry: Any, expires: int | None, hook: bool
    ) -> None:
        more: dict[str, Any] = {"on_dead": f"http://{host}/hook"} if hook else {}
        if expires is not None:
            more["expires_in"] = expires
        for _ in range(count):
            self.count += 1
            self.world.schedule(str(self.count), host, delay, queue=queue, retry=retry, group=host, **more)
        self._pump()

    def _some(self, chance: int, *states: State) -> str | None:
        keys = [key for key in self.world.known() if self.world.driver.task(key).state in states]
        return keys[chance % len(keys)] if keys else None

    @rule(chance=st.integers(0, 1 << 16), op=st.sampled_from(("cancel", "reschedule", "move", "replace")))
    def change(self, chance: int, op: str) -> None:
        key = self._some(chance, State.SCHEDULED, State.READY, State.RUNNING)
        if key is None or key.count("/") > 1:
            return
        queue, id = split_key(key)
        if op == "cancel":
            self.world.ask("cancel", id=id, queue=queue)
        elif op == "replace":
            self.world.ask("schedule", id=id, queue=queue, url="http://b/", on_conflict="replace")
        else:
            more = {"url": "http://c/"} if op == "move" else {"delay": 20}
            self.world.ask("reschedule", id=id, queue=queue, **more)
        self._pump()

    @rule(group=st.sampled_from(HOSTS))
    def cancel_group(self, group: str) -> None:
        self.world.driver.many("cancel", group, None, None)
        self._pump()

    @rule(count=st.integers(1, 12), chance=st.integers(0, 1 << 16), told=st.sampled_from(ANSWERS))
    def end(self, count: int, chance: int, told: Answer) -> None:
        for number in range(count):
            keys = list(self.world.flights)
            if not keys:
                break
            key = keys[(chance + number) % len(keys)]
            dead = self.world.flights[key].lane.target.destination.host in self.down
            self.world.end(key, no_answer() if dead else told)
            if chance % 2:
                self._pump()
        self._pump()

    @rule(host=st.sampled_from(HOSTS))
    def goes_down_or_comes_back(self, host: str) -> None:
        self.down ^= {host}

    @rule(ms=st.sampled_from((1, 10, 333, 1000, 7000, 30_000, 45_000)))
    def time_passes(self, ms: int) -> None:
        self.world.run(ms, lambda: self.world.check(None, forgotten=False))
        self._pump()

    @rule(queue=st.sampled_from(QUEUES), pause=st.booleans())
    def pause(self, queue: str, pause: bool) -> None:
        (self.world.pause if pause else self.world.resume)(queue)
        self._pump()

    @rule(config=configs())
    def reconfigure(self, config: Config) -> None:
        self.world.reconfigure(config)
        self._pump()

    @rule(on=st.booleans())
    def commits(self, on: bool) -> None:
        self.world.autocommit = on
        if on:
            self.world.commit()
        self._pump()

    @rule(room=st.booleans())
    def journal(self, room: bool) -> None:
        self.world.book.room = room
        self.world.commit()
        self._pump()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check(self.wake_ns)

    def teardown(self) -> None:
        """Let everything go well for a while: nothing that can be sent is left."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.autocommit = world.book.room = True
        world.commit()
        for queue in QUEUES:
            world.resume(queue)
        for _ in range(3000):
            for key in list(world.flights):
                world.end(key)
            world.run(1000 if len(world.dispatcher) else 7000)
            counts = world.counts()
            if not counts["scheduled"] + counts["ready"] + counts["running"]:
                break
        else:
            raise AssertionError(f"left over: {world.counts()}")
        check(world.book.engine)
        assert world.dispatcher.in_flight == 0


def test_whatever_happens_nothing_is_forgotten_and_no_limit_is_passed(thorough: bool) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2000 if thorough else 60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,) if not thorough else tuple(Phase),
        ),
    )
