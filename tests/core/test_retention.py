"""Ended tasks are forgotten in their time, by age on the wheel and by count, and nothing of them stays."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.protocol.limits import Limits

pytestmark = pytest.mark.quick
LIMITS = Limits(keep_done_ms=1000, keep_dead_ms=5000)
BODY = {"n": "x" * 500}


def ended(driver: Driver, id: str, how: str, **fields: Any) -> None:
    """A task that ends now."""
    driver.ask("schedule", id=id, url="http://r/", body=BODY, **{"expires_in": 1} | fields)
    driver.tick()
    if how == "expired":
        driver.pass_ms(1)
        driver.tick()
    elif how == "cancelled":
        driver.ask("cancel", id=id)
    else:
        driver.attempt(f"default/{id}", 200 if how == "done" else 410)
    assert driver.state(f"default/{id}") == how


@pytest.mark.parametrize(
    ("how", "kept_ms"), [("done", 1000), ("cancelled", 1000), ("dead", 5000), ("expired", 5000)]
)
def test_each_end_is_forgotten_when_it_was_kept_long_enough_and_not_before(how: str, kept_ms: int) -> None:
    for restart in (False, True):
        driver = Driver(LIMITS)
        ended(driver, "t", how)
        if restart:
            driver.crash(boot=True)
        driver.pass_ms(kept_ms - 1)
        assert driver.tick() == []
        driver.pass_ns(999_999)
        assert driver.tick() == []
        driver.pass_ns(1)
        assert driver.engine.next_wake_ns(driver.now, 10**9) <= driver.now.elapsed_ns, "a wheel wakes"
        assert driver.tick() == ["default/t"]
        assert driver.ask("get", id="t")["error"] == "not_found"
        check(driver.engine)
        driver.crash()
        assert driver.engine.get("default/t") is None, "forgotten for good"


def test_bodies_go_with_the_end_where_they_are_of_no_more_use() -> None:
    for how, kept in (("done", False), ("cancelled", False), ("dead", True), ("expired", True)):
        driver = Driver(LIMITS)
        ended(driver, "t", how, meta={"m": 1})
        for _ in range(2):
            view = driver.view("default/t")
            assert (view.get("body") == BODY, view["meta"]) == (kept, {"m": 1}), how
            driver.crash()


def test_a_wrong_clock_at_one_end_does_not_keep_what_ended_after_it() -> None:
    """The oldest end was looked at and no other: one from the future held up all that followed."""
    driver = Driver(LIMITS)
    driver.step_wall_ms(86_400_000)
    ended(driver, "future", "done")
    driver.step_wall_ms(-86_400_000)
    ended(driver, "now", "done")
    driver.pass_ms(1000)
    assert set(driver.tick()) == {"default/now", "default/future"}, "what ended a day ahead is as old"


def test_a_task_that_starts_again_is_not_forgotten() -> None:
    driver = Driver(LIMITS)
    for id, how in (("a", "done"), ("b", "dead"), ("c", "expired")):
        ended(driver, id, how)
    driver.ask("schedule", id="a", url="http://r/", delay="1h", on_conflict="replace")
    driver.ask("redrive", id="b")
    driver.ask("redrive", id="c")
    driver.ask("reschedule", id="b", delay="1h", expires_in="1h")
    driver.ask("reschedule", id="c", delay="1h", expires_in="1h")
    driver.pass_ms(6000)
    assert driver.tick() == []
    check(driver.engine)


def test_count_comes_before_age_and_takes_the_oldest() -> None:
    driver = Driver(Limits(keep_done_max=2, keep_dead_max=1))
    for number, how in enumerate(("done", "dead", "cancelled", "expired", "done", "dead")):
        ended(driver, f"{number}", how)
        driver.pass_ms(5)
    driver.watch(driver.forget)
    assert sorted(key for key, _ in driver.engine.table.items()) == ["default/2", "default/4", "default/5"]
    check(driver.engine)


def test_what_is_forgotten_gives_its_memory_back() -> None:
    """Rows, keys, timers, groups, queues, the order of ends: a third wave leaves no more than the second."""
    driver = Driver(LIMITS)

    def wave(first: int) -> int:
        """Memory in use when so many tasks have come, ended and been forgotten."""
        for number in range(first, first + 1000):
            driver.ask(
                "schedule", id=f"t{number}", queue=f"q{number % 50}", url="http://r/", delay="1h", body=BODY,
                group=f"g{number}", on_done="http://h/",
            )  # fmt: skip
        for number in range(first, first + 1000):
            driver.ask("finish" if number % 2 else "cancel", id=f"t{number}", queue=f"q{number % 50}")
        driver.tick()
        for key, _ in list(driver.engine.table.items()):
            if driver.state(key) == "ready":
                driver.attempt(key)
        driver.pass_ms(1000)
        driver.tick(10_000)
        assert len(driver.engine.table) == len(driver.engine.wall) == len(driver.engine.elapsed) == 0
        assert len(driver.engine.kept_wheel) == 0
        assert not driver.engine.groups
        assert not driver.engine.queues
        driver.journal.frames.clear()
        check(driver.engine)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        waves = [wave(10_000 * number) for number in range(3)]
    finally:
        tracemalloc.stop()
    assert waves[2] - waves[1] < 100_000, waves
    assert waves[2] - began < 1_000_000, f"{waves[2] - began} bytes for nothing, of some 4 MB"


def test_forgetting_is_written_and_is_no_event() -> None:
    driver = Driver(LIMITS)
    ended(driver, "t", "done")
    driver.pass_ms(1000)
    (record,) = driver.watch(driver.tick)
    assert record == r.Forgotten(["default/t"], driver.now.wall_ms)


DAY_MS = 86_400_000
YEARS_MS = 50 * 365 * DAY_MS
SLACK_MS = 10  # frames have their wall clock in whole ms


@pytest.mark.parametrize("step_ms", [YEARS_MS, -YEARS_MS, DAY_MS, 3000, -3000])
@pytest.mark.parametrize("how", ["done", "dead"])
@pytest.mark.parametrize("when", ["running", "stopped", "carried", "carried, then stopped"])
def test_a_clock_set_after_boot_moves_no_retention_of_this_boot(step_ms: int, how: str, when: str) -> None:
    """Neither that of what ended before the step, nor after it."""
    driver = Driver(LIMITS)
    kept_ms = 1000 if how == "done" else 5000
    ended(driver, "before", how)
    driver.pass_ms(100)
    if when == "stopped":
        driver.crash(wall_ms=step_ms)
    else:
        driver.step_wall_ms(step_ms)
    driver.pass_ms(100)
    ended(driver, "after", how)
    if when.startswith("carried"):
        upto_lsn = driver.journal.next_lsn - 1
        assert len(driver.carry(upto_lsn, 10)) == 2
        driver.trim(upto_lsn)
    if when.endswith("stopped"):
        driver.crash()
    check(driver.engine)
    driver.pass_ms(kept_ms - 200 - SLACK_MS)
    for id in ("before", "after"):
        driver.tick()
        assert driver.state(f"default/{id}") == how
        driver.pass_ms(2 * SLACK_MS)
        assert driver.tick() == [f"default/{id}"]
        driver.pass_ms(200 - 2 * SLACK_MS)
    check(driver.engine)


def test_an_end_of_an_earlier_boot_goes_by_the_wall_clock_as_it_was_set_later() -> None:
    driver = Driver(LIMITS)
    ended(driver, "t", "dead")
    driver.step_wall_ms(YEARS_MS)
    driver.pass_ms(1000)
    driver.crash(boot=True, down_ms=2000)
    driver.pass_ms(2000 - SLACK_MS)
    assert driver.tick() == []
    driver.pass_ms(2 * SLACK_MS)
    assert driver.tick() == ["default/t"]


def test_an_end_in_the_future_is_kept_from_the_start_on() -> None:
    """The machine begins in 1970, and what it knows ended in 2030."""
    driver = Driver(LIMITS)
    ended(driver, "t", "done")
    driver.crash(boot=True, wall_ms=-YEARS_MS)
    driver.pass_ms(1000 - SLACK_MS)
    assert driver.tick() == []
    driver.step_wall_ms(YEARS_MS)
    driver.pass_ms(2 * SLACK_MS)
    assert driver.tick() == ["default/t"]


def test_a_row_has_no_more_bytes_where_the_clock_was_not_set() -> None:
    driver = Driver(LIMITS)
    ended(driver, "t", "done")
    before = len(driver.engine.table["default/t"])
    for boot in (False, True):
        driver.crash(boot=boot, down_ms=100)
        assert len(driver.engine.table["default/t"]) == before
