"""Copies that compaction makes, and the trim after them: what a start finds is what was there before."""

from __future__ import annotations

import pytest

from tests.core.driver import Driver
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer

pytestmark = pytest.mark.quick
KEY = "default/t"


def compact(driver: Driver) -> None:
    upto_lsn = driver.journal.next_lsn - 1
    driver.carry(upto_lsn, 100)
    driver.trim(upto_lsn)


@pytest.mark.parametrize(("op", "end"), [("cancel", "cancelled"), ("finish", "done")])
def test_a_stop_that_was_acknowledged_is_not_lost_with_the_segment_it_stood_in(op: str, end: str) -> None:
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", on_done="http://d/")
    driver.tick()
    driver.start(KEY)
    assert driver.ask(op, id="t", **({"reply": [7]} if op == "finish" else {}))["running"] == 1
    compact(driver)
    driver.crash()
    assert driver.state(KEY) == end
    if op == "finish":
        assert driver.view("default/t/done/1")["body"]["reply"] == [7]


def test_counts_of_attempts_outlive_the_segments_they_were_made_in() -> None:
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", poll={"every": "1s", "max": 9}, success={"text": "yes"})
    for status, body in ((500, b""), (200, b"no"), (200, b"no"), (200, b"yes")):
        driver.pass_ms(3_600_000)
        driver.tick()
        driver.start(KEY)
        driver.outcome(KEY, Answer(driver.now.wall_ms, 0, 0, status, body=body))
    counts = {"succeeded": 1, "failed": 1, "not_yet": 2}
    assert driver.engine.outcomes == counts
    compact(driver)
    driver.crash()
    assert driver.engine.outcomes == counts
    check(driver.engine)


def test_a_paused_queue_stays_paused_when_the_segment_it_was_paused_in_is_gone() -> None:
    driver = Driver()
    for queue in ("a", "b", "c"):
        driver.ask("pause", queue=queue)
    driver.ask("resume", queue="b")
    compact(driver)
    driver.crash()
    assert [driver.engine.paused(queue) for queue in ("a", "b", "c")] == [True, False, True]
