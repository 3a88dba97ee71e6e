"""A start keeps rows and derives the rest once; an end waits until all is read. Each way to get that wrong.

That a restart finds what was there after any story at all is ``test_engine_model.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.errors import JournalDamaged
from wheeltimer.protocol.limits import Limits

pytestmark = pytest.mark.quick
KEY = "default/t"
HOUR_MS = 3_600_000
LIMITS = Limits(keep_done_max=0)
Story = Callable[[Driver], object]


def schedule(driver: Driver, id: str = "t", **fields: Any) -> None:
    reply = driver.ask("schedule", **{"id": id, "url": "http://r/", "delay": HOUR_MS} | fields)
    assert reply["ok"], reply


def cancel(driver: Driver) -> None:
    assert driver.ask("cancel", id="t")["cancelled"] == 1


def forget(driver: Driver) -> None:
    assert driver.forget() == 1


def deliver(driver: Driver, status: int = 200) -> None:
    driver.tick()
    driver.attempt(KEY, status)


def copy(driver: Driver) -> None:
    """Compaction's copy, while what it was made of is still there."""
    assert KEY in driver.carry(driver.journal.next_lsn - 1, 1_000)


def at_once(driver: Driver) -> None:
    schedule(driver, delay=0)


def replace(driver: Driver) -> None:
    schedule(driver, on_conflict="replace")


def fail(driver: Driver) -> None:
    deliver(driver, 500)


def die(driver: Driver) -> None:
    deliver(driver, 410)


def redrive(driver: Driver) -> None:
    assert driver.ask("redrive", id="t")["redriven"] == 1


def finish(driver: Driver) -> None:
    assert driver.ask("finish", id="t")["finished"] == 1


def give_up(driver: Driver) -> None:
    driver.tick()
    driver.give_up(KEY)


def in_a_group(driver: Driver) -> None:
    schedule(driver, group=f"g{driver.journal.next_lsn}", expires_in=HOUR_MS)


def short_lived(driver: Driver) -> None:
    """It expires before its second attempt."""
    schedule(driver, delay=0, expires_in=500)


def short_lived_by_the_wall(driver: Driver) -> None:
    schedule(driver, delay=0, expires_at=driver.now.wall_ms + 500)


STORIES: dict[tuple[Story, ...], str] = {
    (schedule, cancel): "cancelled",
    (schedule, cancel, forget): "unknown",
    (schedule, cancel, forget, schedule): "scheduled",
    (schedule, cancel, forget, schedule, cancel): "cancelled",
    (schedule, cancel, replace): "scheduled",
    (schedule, cancel, replace, cancel): "cancelled",
    (at_once, deliver): "done",
    (at_once, deliver, forget, schedule): "scheduled",
    (at_once, deliver, replace): "scheduled",
    (at_once, die, redrive): "ready",
    (at_once, die, redrive, die): "dead",
    (at_once, give_up): "dead",
    (at_once, fail, finish): "done",
    (schedule, copy, cancel): "cancelled",
    (schedule, cancel, copy): "cancelled",
    (schedule, cancel, copy, forget): "unknown",
    (schedule, cancel, copy, replace): "scheduled",
    (in_a_group, cancel, forget, in_a_group): "scheduled",
    (short_lived, fail): "scheduled",
    (short_lived_by_the_wall, fail): "scheduled",
}


def seen(driver: Driver) -> tuple[object, ...]:
    """Everything of an engine but what is volatile."""
    engine = driver.engine
    views = {key: driver.view(key) for key, _ in engine.table.items()}
    groups = {name: set(members) for name, members in engine.groups.items()}
    queues = {name: queue.counts for name, queue in engine.queues.items()}
    return (
        views,
        engine.counts,
        groups,
        queues,
        list(engine.kept_done),
        list(engine.kept_dead),
        engine.outcomes,
    )


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: "-".join(step.__name__ for step in story))
def test_a_restart_finds_what_the_story_led_to(story: tuple[Story, ...], same_boot: bool) -> None:
    driver = Driver(LIMITS)
    schedule(driver, "bystander", group="g")
    for step in story:
        step(driver)
        driver.pass_ms(1)
    driver.tick()
    assert (driver.state(KEY) if driver.engine.get(KEY) else "unknown") == STORIES[story]
    before = seen(driver)
    driver.crash(boot=not same_boot)
    driver.tick()  # back to ready, what was
    check(driver.engine)
    assert seen(driver) == before


def test_the_end_of_an_earlier_task_does_not_meet_the_next_of_its_id() -> None:
    """Forgotten in one run, scheduled anew in the next: the end that waited would have taken the new task."""
    driver = Driver(LIMITS)
    for _ in range(3):
        schedule(driver)
        cancel(driver)
        driver.crash()
        forget(driver)
        driver.crash()
        assert driver.engine.get(KEY) is None
    schedule(driver)
    driver.crash()
    driver.pass_ms(HOUR_MS)
    assert driver.tick() == [KEY]


def test_an_end_of_what_compaction_gave_up_is_passed_over() -> None:
    """The beginning is gone; the end that is left is of nobody, also when the id comes back."""
    driver = Driver(LIMITS)
    schedule(driver)
    beginning = len(driver.journal.frames)
    cancel(driver)
    forget(driver)
    schedule(driver)
    del driver.journal.frames[:beginning]
    driver.crash()
    check(driver.engine)
    assert driver.state(KEY) == "scheduled"


def test_a_live_copy_after_an_end_is_what_counts() -> None:
    """So a repair writes it where the record between the two was lost."""
    driver = Driver()
    schedule(driver)
    schedule(driver, "done")
    task = driver.task(KEY)
    cancel(driver)
    driver.ask("finish", id="done")
    driver.journal.append(driver._clocks(), [r.Carried(KEY, driver.now.wall_ms, task)])
    driver.crash()
    check(driver.engine)
    assert driver.state(KEY) == "scheduled"
    assert list(driver.engine.kept_done) == ["default/done"]


def test_a_crowd_in_one_tick_is_found_again_whole() -> None:
    """More keys in a bucket than a chain takes, in the run of all that is put in at once."""
    driver = Driver()
    ids = [f"t{number:03}" for number in range(40)]
    for id in ids:
        schedule(driver, id)
    for id in ids[::2]:
        driver.ask("cancel", id=id)
    driver.crash()
    check(driver.engine)
    driver.ask("cancel", id="t001")
    driver.pass_ms(HOUR_MS)
    assert driver.tick() == [f"default/{id}" for id in ids[3::2]]


@pytest.mark.parametrize("record", [
    r.RawScheduled(KEY, 1, msgspec.Raw(b"\x93\x01\x02\x03")),
    r.RawCarried(KEY, 1, msgspec.Raw(msgspec.msgpack.encode({"S": "x"}))),
    r.RawScheduled(KEY, 1, msgspec.Raw(msgspec.msgpack.encode({"w": "soon"}))),
])  # fmt: skip
def test_a_row_that_is_none_ends_the_start(record: object) -> None:
    """A frame that verifies holds something else than a task: told, and not taken for one without a timer."""
    driver = Driver()
    schedule(driver, "other")
    driver.journal.append(driver._clocks(), [record])  # type: ignore[list-item]
    with pytest.raises(JournalDamaged, match="of this version"):
        driver.crash()


def test_rows_are_the_bytes_that_a_live_engine_has() -> None:
    """Ends carried out late, rows taken as they were written: no byte differs, so none is packed again."""
    driver = Driver(Limits(keep_done_max=3))
    for number in range(8):
        schedule(
            driver, f"t{number}", body={"n": number}, meta=[number] if number % 2 else None, delay=number
        )
    driver.ask("cancel", id="t0")
    driver.ask("finish", id="t5", reply=1)
    driver.pass_ms(3)
    driver.tick()
    driver.attempt("default/t1", 200, body=b"ok")
    driver.attempt("default/t2", 410)
    driver.tick()
    driver.attempt("default/t3", 500)
    driver.carry(5, 1)
    before = dict(driver.engine.table.items())
    driver.crash()
    assert dict(driver.engine.table.items()) == before
