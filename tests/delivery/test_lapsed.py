"""Attempts that were not made after all: permits, windows, order and pauses, on a still clock."""

from __future__ import annotations

import logging
import random
from collections import Counter

import pytest

from tests.delivery.fakes import Config, World, answer, no_answer
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.delivery.shortage import PAUSE_MIN_NS, Shortage
from wheeltimer.delivery.window import HOLD_NS, SHORT_MAX_NS, WINDOW_FIRST

MS = 1_000_000
SHORT = Shortage("descriptors", "as told")


def test_a_lapsed_attempt_uses_nothing_up() -> None:
    """The permits, the window, the rate and the task are as before, and the next attempt has its number."""
    world = World(config=Config(hosts={"a": (8, (1, 3_600_000))}))  # one an hour
    key = world.schedule("t", retry="none")
    world.settle()
    before = (world.window().size, world.dispatcher.in_flight)
    world.lapse(key)
    view = world.driver.view(key)
    assert (view["state"], view["attempts"], view["history"]) == ("ready", 0, [])
    world.check(world.pump())
    world.driver.pass_ns(PAUSE_MIN_NS)
    world.check(world.pump())
    assert list(world.flights) == [key], "the token of its rate was given back"
    assert (world.window().size, world.dispatcher.in_flight) == before
    world.end(key)
    (entry,) = world.driver.view(key)["history"]
    assert (world.state(key), entry["attempt"], entry["outcome"]) == ("done", 1, "succeeded")


def test_attempts_that_lapse_together_go_again_in_the_order_of_their_start() -> None:
    world = World()
    keys = [world.schedule(f"t{number:02}") for number in range(12)]
    world.settle()
    started = list(world.flights)
    assert started == keys[:WINDOW_FIRST]
    for key in random.Random(1).sample(started, len(started)):  # nursery tasks end in any order
        world.lapse(key)
    world.started.clear()
    world.run(5_000, lambda: [world.end(key) for key in list(world.flights)])
    assert [key for _, key in world.started] == keys


def test_while_something_is_short_nothing_new_starts_but_on_kept_connections() -> None:
    world = World()
    keys = {host: [world.schedule(f"{host}{n:02}", host=host) for n in range(12)] for host in "abc"}
    world.settle()
    for key in list(world.flights):
        world.lapse(key)
    wake_ns = world.settle()
    world.check(wake_ns)
    assert not world.flights
    assert wake_ns == world.now_ns + PAUSE_MIN_NS
    world.kept = {"b"}
    world.settle()
    assert world.to_hosts() == Counter(b=WINDOW_FIRST)
    assert list(world.flights) == keys["b"][:WINDOW_FIRST]
    world.check(world.settle())


def test_a_shortage_that_stays_neither_spins_nor_stops() -> None:
    """Ten minutes without a descriptor: about one attempt a second is tried, by every destination in turn;
    then all go within seconds.
    """
    tried: Counter[str] = Counter()
    short = True

    def receive(task: Task) -> tuple[int, Answer | Shortage]:
        tried[task.url] += short
        return (0, SHORT) if short else (5, answer())

    world = World(receive=receive)
    for n in range(40):
        world.schedule(f"t{n}", host=f"h{n}", expires_in="1h", retry="none")
    world.run(600_000)
    assert sum(tried.values()) < 700
    assert world.pumps < 5_000
    assert len(tried) == 40
    assert max(tried.values()) - min(tried.values()) <= 2, "they take turns"
    assert world.counts()["ready"] == 40
    assert world.dispatcher.lapses["descriptors"] == sum(tried.values())
    short = False
    world.run(3_000)
    assert world.counts()["done"] == 40


def test_room_for_a_hundred_is_used_by_a_hundred() -> None:
    """A thousand receivers that take 2 s, and descriptors for a hundred: they all go, a hundred at a time."""
    lapses = 0

    def receive(task: Task) -> tuple[int, Answer | Shortage]:
        nonlocal lapses
        if len(world.flights) <= 100:
            return 2_000, answer()
        lapses += 1
        return 0, SHORT

    world = World(receive=receive)
    for n in range(1_000):
        world.schedule(f"t{n}", host=f"h{n}", retry="none")
    world.run(26_000)
    assert world.counts()["done"] == 1_000, "in ten rounds of 2 s, and some pauses"
    assert lapses < 512 + 200


def test_what_has_a_kept_connection_goes_on_behind_many_that_have_none() -> None:
    """All lanes are looked at, some at a time."""
    world = World(receive=lambda task: (0, SHORT) if task.url != "http://kept/" else (1, answer()))
    for n in range(500):
        world.schedule(f"t{n}", host=f"h{n}", expires_in="1h")
    world.run(20_000)
    world.kept = {"kept"}
    key = world.schedule("u", host="kept")
    pumps = world.pumps
    world.run(100)
    assert world.state(key) == "done"
    assert world.pumps - pumps < 100


@pytest.mark.parametrize("op", ["reschedule", "replace", "cancel", "finish"])
def test_what_was_asked_during_an_attempt_that_lapses_is_done(op: str) -> None:
    world = World()
    key = world.schedule("t")
    world.settle()
    if op == "replace":
        world.schedule("t", delay=5_000, on_conflict="replace")
    else:
        world.ask(op, id="t", **({"delay": 5_000} if op == "reschedule" else {}))
    world.lapse(key)
    world.check(world.settle())
    ends = {"cancel": "cancelled", "finish": "done"}
    assert world.state(key) == ends.get(op, "scheduled")
    world.run(5_000)
    if op not in ends:
        assert (list(world.flights), world.driver.task(key).version) == ([key], 2)
    assert world.driver.task(key).history is None


def test_a_task_whose_attempts_lapse_still_expires() -> None:
    world = World()
    key = world.schedule("t", expires_in=5_000)
    world.run(4_900, lambda: [world.lapse(key) for key in list(world.flights)])
    assert world.state(key) == "ready"
    world.run(1_000, lambda: [world.lapse(key) for key in list(world.flights)])
    view = world.driver.view(key)
    assert (view["state"], view["attempts"], view["history"]) == ("expired", 0, [])


def test_ports_are_short_for_one_destination_only() -> None:
    """No local port to one destination: it waits, all others go on."""
    world = World()
    bad = [world.schedule(f"a{n}", host="a") for n in range(4)]
    world.settle()
    for key in bad:
        world.lapse(key, "ports")
    good = [world.schedule(f"b{n}", host="b") for n in range(4)]
    world.check(world.settle())
    assert list(world.flights) == good
    world.kept = {"a"}
    world.check(world.settle())
    assert list(world.flights) == good + bad, "and what needs no port goes there too"


def test_a_destination_to_which_there_is_never_a_port_does_not_lapse_for_ever() -> None:
    """After twice the time for which a port rests the failure is the destination's."""
    world = World()
    key = world.schedule("t", retry={"kind": "fixed", "every": 100, "attempts": 3, "jitter": 0})
    tried = 0

    def lapse() -> None:
        nonlocal tried
        for key in list(world.flights):
            tried += 1
            world.lapse(key, "ports")

    world.run(SHORT_MAX_NS // MS - 1_000, lapse)
    assert (world.state(key), tried < 150) == ("ready", True)
    world.run(5_000, lapse)
    view = world.driver.view(key)
    assert view["state"] == "dead"
    assert [entry["error"] for entry in view["history"]] == ["connect: as told"] * 3


def test_a_port_that_is_free_again_begins_the_count_anew() -> None:
    world = World()
    key = world.schedule("t", retry={"kind": "fixed", "every": 50_000, "attempts": 9, "jitter": 0})
    for _ in range(4):
        world.run(50_000, lambda: [world.lapse(key, "ports") for key in list(world.flights)])
        world.run(2_000)
        world.end(key, answer(500))
    assert world.driver.task(key).attempts == 4


def test_the_probe_of_a_held_destination_that_lapses_neither_opens_nor_fails_it() -> None:
    world = World()
    for n in range(10):
        world.schedule(f"d{n}", retry="none")
    world.settle()
    while world.flights:
        world.end_all(no_answer())
    held_ns = world.window().held_ns
    assert held_ns is not None
    key = world.schedule("t", retry={"kind": "fixed", "every": "10s", "attempts": 6, "jitter": 0})
    world.run(HOLD_NS // MS + 1)
    assert list(world.flights) == [key]
    world.lapse(key)
    assert (world.window().held_ns, world.window().probes) == (held_ns, 0)
    world.run(PAUSE_MIN_NS // MS)
    assert list(world.flights) == [key], "another probe goes as soon as one can"
    world.run(30_000)  # the task's own time comes while its probe is under way
    world.lapse(key)
    world.run(PAUSE_MIN_NS // MS)
    world.end(key, no_answer())
    world.run(11_000)
    assert (world.state(key), world.driver.task(key).attempts) == ("dead", 1)


def test_a_destination_that_goes_down_while_an_attempt_lapses_gives_the_task_up_in_time() -> None:
    world = World()
    key = world.schedule("t", retry={"kind": "fixed", "every": "10s", "attempts": 3, "jitter": 0})
    world.settle()
    for n in range(10):
        world.schedule(f"d{n}", retry="none")
    world.settle()
    for down in [flight for flight in world.flights if flight != key]:
        world.end(down, no_answer())
    while others := [flight for flight in world.flights if flight != key]:
        for down in others:
            world.end(down, no_answer())
        world.settle()
    world.run(1_000)
    for down in [flight for flight in world.flights if flight != key]:
        world.end(down, no_answer())
    assert world.window().held_ns is not None
    world.lapse(key)
    world.run(HOLD_NS // MS + 1_000)
    world.end(key, no_answer())
    world.run(90_000)
    assert world.state(key) == "dead"


def test_tasks_that_lapse_after_their_destination_went_down_are_given_up_as_all_that_are_held() -> None:
    """They were in flight when the others were taken in, so nobody else would give them up."""
    world = World()
    rule = {"kind": "fixed", "every": "10s", "attempts": 3, "jitter": 0}
    first, *others = keys = [world.schedule(f"t{n}", retry=rule) for n in range(3)]
    world.settle()
    for n in range(10):
        world.schedule(f"d{n}", retry="none")
    world.settle()
    while down := [flight for flight in world.flights if flight not in keys]:
        for key in down:
            world.end(key, no_answer())
        world.settle()
    assert world.window().held_ns is not None
    for key in keys:
        world.lapse(key)
    world.run(HOLD_NS // MS + 1)
    assert list(world.flights) == [first], "one of them is the probe"
    world.end(first, no_answer())
    world.run(20_000)
    for key in others:
        view = world.driver.view(key)
        assert (view["state"], view["attempts"], view["history"]) == ("dead", 0, [])


def test_shares_are_of_what_there_is() -> None:
    """While descriptors are short a slow destination has no more than its part of what is left."""
    world = World(concurrency=512, config=Config(hosts={"slow": (128, None)}))
    world.kept = set()
    for n in range(100):
        world.schedule(f"o{n}", host=f"o{n}")
    world.settle()
    world.schedule("x", host="x")
    world.settle()
    world.lapse("default/x")
    assert world.dispatcher._lapses.in_flight_limit.limit == 100
    for key in list(world.flights):
        world.end(key)
    for n in range(200):
        world.schedule(f"s{n}", host="slow")
    for n in range(300):
        world.schedule(f"p{n}", host=f"p{n}")
    world.settle()
    window = world.window("slow")
    window.size = 128
    world.settle()
    assert world.to_hosts()["slow"] <= 25


def test_many_destinations_lapse_at_random_and_all_is_kept() -> None:
    """Whatever lapses when, nothing is forgotten, and every count is right."""
    chance = random.Random(7)
    world = World(concurrency=32, config=Config(queues={"q": (3, None)}, hosts={"h1": (8, (5, 1_000))}))
    for n in range(300):
        queue = chance.choice(("default", "q", "r"))
        world.schedule(f"t{n}", host=f"h{chance.randrange(9)}", queue=queue, delay=chance.randrange(3_000))

    def turn() -> None:
        world.kept = {f"h{n}" for n in range(9) if chance.random() < 0.2}
        for key in list(world.flights):
            if chance.random() < 0.4:
                world.lapse(key, chance.choice(("descriptors", "threads", "ports", "memory", "watches")))
            elif chance.random() < 0.7:
                world.end(key)

    for _ in range(4_000):
        world.driver.pass_ms(chance.choice((1, 5, 40)))
        wake_ns = world.settle()
        world.check(wake_ns)
        turn()
        if world.counts()["done"] == 300:
            break
    assert world.counts()["done"] == 300
    assert all(len(world.driver.task(key).history or ()) == 1 for key in world.known())


def test_what_is_short_is_said_once_a_minute_with_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "wheeltimer.delivery")
    world = World()
    world.schedule("t", expires_in="1h")
    world.run(150_000, lambda: [world.lapse(key) for key in list(world.flights)])
    lines = [record.getMessage() for record in caplog.records if "not made" in record.getMessage()]
    assert 2 <= len(lines) <= 3
    assert all("LimitNOFILE" in line for line in lines)
