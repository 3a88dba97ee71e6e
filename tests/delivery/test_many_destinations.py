"""Ten thousand destinations, one task each: all go out, no look costs more for it, and little is kept."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.delivery.fakes import World, answer, no_answer
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.delivery import lanes
from wheeltimer.delivery.dispatcher import LOOKS_MAX, Dispatcher
from wheeltimer.delivery.lanes import Lane, Lanes

HOSTS = 10_000
MORE = 200
CONCURRENCY = 512


class Looks:
    """Counts the lanes looked at, and notes the most of one pump; fails where the loop is kept too long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all = self.most = self.pumps = 0
        take, pump = Lanes.next, Dispatcher.pump

        def counted(self_: Lanes) -> Lane:
            self.all += 1
            return take(self_)

        def watched(self_: Dispatcher, spawn: object) -> int | None:
            before, self.pumps = self.all, self.pumps + 1
            wake_ns = pump(self_, spawn)  # type: ignore[arg-type]
            self.most = max(self.most, self.all - before)
            return wake_ns

        monkeypatch.setattr(Lanes, "next", counted)
        monkeypatch.setattr(Dispatcher, "pump", watched)


def idle(world: World) -> Lanes:
    """The lanes when all is over: empty, and nothing waits in any line."""
    kept = world.dispatcher._lanes
    assert kept.size == len(world.dispatcher) == 0
    assert not kept.active
    assert not kept.over_share
    assert not kept.queues, "a queue without limits is not kept"
    assert all(not target.lanes and not target.line and not target.going for target in kept.targets.values())
    world.check(None)
    return kept


def test_ten_thousand_destinations_are_all_served_and_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    world = World(CONCURRENCY, receive=lambda task: (20, answer()))
    world.autocommit = False
    keys = [world.schedule(str(number), f"h{number}") for number in range(HOSTS)]
    world.commit()
    world.autocommit = True
    world.run(1000)
    assert Counter(key for _, key in world.started) == Counter(keys)
    assert world.counts()["done"] == HOSTS
    assert 0 < looks.most <= LOOKS_MAX
    assert looks.all <= 2 * HOSTS, (
        "a task alone at its destination costs one look, or one more for its permit"
    )
    # 20 ms each, 512 at a time: nobody waited for anything but a permit.
    last_ns = world.started[-1][0] - world.started[0][0]
    assert last_ns <= 20_000_000 * (HOSTS // CONCURRENCY + 1)
    kept = idle(world)
    assert len(kept.targets) <= lanes.WINDOWS_MAX
    for number in range(HOSTS, HOSTS + MORE):
        world.schedule(str(number), f"h{number}")
    world.run(100)
    assert world.counts()["done"] == HOSTS + MORE
    assert len(idle(world).targets) <= lanes.WINDOWS_MAX


def test_destinations_that_fail_do_not_slow_down_or_outlive_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A third answers, a third cannot be reached, a third is too slow: the same bounds hold."""
    hosts, attempts = 1500, 3
    monkeypatch.setattr(lanes, "WINDOWS_MAX", hosts)
    looks = Looks(monkeypatch)

    def receive(task: Task) -> tuple[int, Answer]:
        number = int(task.url.removeprefix("http://h").rstrip("/"))
        return ((5, answer()), (5, no_answer()), (200, no_answer("timeout")))[number % 3]

    world = World(CONCURRENCY, receive=receive)
    rule = {"kind": "fixed", "every": "100ms", "attempts": attempts, "jitter": 0}
    for number in range(hosts):
        world.schedule(str(number), f"h{number}", retry=rule)
    world.run(10_000)
    assert (world.counts()["done"], world.counts()["dead"]) == (hosts // 3, hosts * 2 // 3)
    assert len(world.started) == hosts // 3 * (1 + 2 * attempts)
    assert 0 < looks.most <= LOOKS_MAX
    assert looks.all <= 2 * len(world.started)
    assert len(idle(world).targets) <= hosts


def test_a_pump_costs_the_same_with_ten_thousand_destinations_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All permits are out: the end of one attempt lets one start, in a look or two, whoever else waits."""
    world = World(concurrency=10)
    world.autocommit = False
    for number in range(HOSTS // 2):
        world.schedule(str(number), f"h{number}")
    world.commit()
    world.autocommit = True
    world.settle()
    assert len(world.flights) == 10
    looks = Looks(monkeypatch)
    for _ in range(100):
        world.end(next(iter(world.flights)))
        world.settle()
        assert len(world.flights) == 10
    assert looks.all <= 2 * 100
    assert looks.pumps <= 2 * 100


def test_destinations_of_a_burst_are_forgotten_when_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WINDOWS_MAX", 100)
    world = World(CONCURRENCY, receive=lambda task: (20, answer()))
    world.autocommit = False
    for number in range(1000):
        world.schedule(str(number), f"h{number}")
    world.commit()
    world.autocommit = True
    world.run(1000)
    assert len(idle(world).targets) == 1000, "all of them waited at once"
    for number in range(1000, 1100):
        world.schedule(str(number), f"h{number}")
    world.run(100)
    assert len(idle(world).targets) <= 200
