"""Ids that the server makes, and the callback's webhook-id."""

from __future__ import annotations

import random
import re

import pytest

from tests.core.driver import Driver
from wheeltimer.protocol.ids import make_id, webhook_id
from wheeltimer.protocol.limits import Limits

pytestmark = pytest.mark.quick
JOURNAL = b"0123456789abcdef"
KEY = "default/t"


def test_made_ids_sort_by_time_and_then_by_order() -> None:
    seed = 8
    chance = random.Random(seed)
    moments = sorted((chance.randrange(1 << 42), chance.randrange(1 << 47)) for _ in range(2000))
    made = [make_id(wall_ms, lsn, chance.getrandbits(32)) for wall_ms, lsn in moments]
    assert made == sorted(made), f"seed {seed}"
    assert {len(id) for id in made} == {26}
    assert all(re.fullmatch("[0-9a-hjkmnp-tv-z]{26}", id) for id in made)


def test_made_ids_differ_by_each_of_their_parts() -> None:
    assert (
        len(
            {
                make_id(ms, lsn, bits)
                for ms in (0, 1, 2**50 - 1)
                for lsn in (1, 2, 2**48 - 1)
                for bits in (0, 1)
            }
        )
        == 18
    )
    now = 1_800_000_000_000
    same_lsn = {make_id(now, 5, bits) for bits in range(1000)}  # after a crash an lsn is given again
    assert len(same_lsn) == 1000


def test_two_tasks_without_an_id_are_two() -> None:
    driver = Driver()
    ids = [driver.ask("schedule", url="http://r/")["id"] for _ in range(50)]
    assert len(set(ids)) == 50
    assert ids == sorted(ids)


def test_a_webhook_id_is_wt_and_26_characters_without_dots() -> None:
    for key in (KEY, "q/订单 42", "q/a.b.c", "q/a\x00b"):
        assert re.fullmatch(r"wt_[0-9a-f]{26}", webhook_id(JOURNAL, key, 1, 0))


def test_a_webhook_id_depends_on_each_of_its_parts() -> None:
    made = {
        webhook_id(journal, key, born, revision)
        for journal in (JOURNAL, b"fedcba9876543210")
        for key in (KEY, "default/u", "q/t", "default/t0", "default/t/done/1")
        for born in (1, 2, 11)
        for revision in (0, 1, 11)
    }
    assert len(made) == 2 * 5 * 3 * 3


def webhook(driver: Driver) -> str:
    task = driver.task(KEY)
    return webhook_id(JOURNAL, KEY, task.born, task.revision)


RETRY = {"kind": "fixed", "every": 10, "attempts": 5, "jitter": 0}


def test_the_same_webhook_id_for_every_attempt_change_of_time_and_redrive() -> None:
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", body={"n": 1}, headers={"a": "1"}, retry=RETRY)
    first = webhook(driver)
    driver.tick()
    driver.attempt(KEY, 500)
    assert webhook(driver) == first
    for change in (
        {}, {"delay": 50}, {"at": "2030-01-01T00:00:00Z"}, {"retry": "none"}, {"meta": {"m": 1}},
        {"timeout": 9}, {"group": "g"}, {"on_dead": "http://h/"}, {"expires_in": "2h"},
        {"success": {"text": "x"}},
        {"url": "http://r/", "method": "POST", "headers": {"a": "1"}, "body": {"n": 1}, "delay": 0},
    ):  # fmt: skip
        assert driver.ask("reschedule", id="t", **change)["ok"]
        assert webhook(driver) == first, change
    driver.crash()
    driver.crash(boot=True)
    assert webhook(driver) == first
    driver.tick()
    driver.attempt(KEY, 410)
    assert driver.state(KEY) == "dead"
    assert driver.ask("redrive", id="t")["ok"]
    assert webhook(driver) == first


def test_another_webhook_id_for_whatever_changes_what_is_sent() -> None:
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", body={"n": 1})
    seen = [webhook(driver)]
    for change in (
        {"url": "http://r/x"}, {"method": "PUT"}, {"headers": {"a": "1"}}, {"headers": {"a": "2"}},
        {"body": {"n": 2}}, {"body_text": '{"n":2}'}, {"body_base64": "AAAA"}, {"body": {"n": 1}},
    ):  # fmt: skip
        assert driver.ask("reschedule", id="t", **change)["ok"]
        seen.append(webhook(driver))
    for _ in range(2):  # a replace counts even where nothing differs
        assert driver.ask("schedule", id="t", url="http://r/", body={"n": 1}, on_conflict="replace")["ok"]
        seen.append(webhook(driver))
    assert len(set(seen)) == len(seen)
    driver.crash(boot=True)
    assert webhook(driver) == seen[-1]


def test_the_attempt_in_flight_keeps_the_webhook_id_it_was_sent_with() -> None:
    """A change while an attempt runs is for the next one: what runs was taken from the row before."""
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/")
    driver.tick()
    sent = driver.task(KEY)
    driver.start(KEY)
    driver.ask("reschedule", id="t", url="http://other/")
    assert webhook(driver) != webhook_id(JOURNAL, KEY, sent.born, sent.revision)


@pytest.mark.parametrize("how", ["done", "cancelled", "dead", "expired"])
def test_an_id_that_comes_back_after_its_retention_has_another_webhook_id(how: str) -> None:
    """A receiver that drops duplicates would drop the new event."""
    driver = Driver(Limits(keep_done_ms=1000, keep_dead_ms=1000))
    seen = set()
    for _ in range(3):
        driver.ask("schedule", id="t", url="http://r/", delay=20, expires_in=10)
        assert driver.task(KEY).version == 1
        assert webhook(driver) not in seen
        seen.add(webhook(driver))
        if how == "expired":
            driver.pass_ms(30)
            driver.tick()
        elif how == "cancelled":
            driver.ask("cancel", id="t")
        else:
            driver.pass_ms(20)
            driver.tick()
            driver.attempt(KEY, 200 if how == "done" else 410)
        assert driver.state(KEY) == how
        driver.pass_ms(999)
        assert driver.tick() == []
        driver.pass_ms(1)
        assert driver.tick() == [KEY]
        assert driver.engine.get(KEY) is None
        driver.crash()


def test_a_hook_of_a_second_life_has_another_webhook_id() -> None:
    """Once more: the hook ``t/done/1`` of the second life is another event than the first's."""
    driver = Driver(Limits(keep_done_ms=0))
    seen = set()
    for _ in range(3):
        driver.ask("schedule", id="t", url="http://r/", on_done="http://h/")
        driver.tick()
        driver.attempt(KEY)
        hook = driver.task("default/t/done/1")
        made = webhook_id(JOURNAL, "default/t/done/1", hook.born, hook.revision)
        assert made not in seen
        seen.add(made)
        assert KEY in driver.tick()
        assert driver.engine.get(KEY) is None
