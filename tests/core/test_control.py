"""Cancel, finish, redrive, pause, and the counts that all of them change; each accident by its name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import BUILT_IN

pytestmark = pytest.mark.quick
KEY = "default/t"
HOUR_MS = 3_600_000


@pytest.fixture
def driver() -> Driver:
    return Driver()


def scheduled(**fields: Any) -> Driver:
    driver = Driver()
    assert driver.ask("schedule", **{"id": "t", "url": "http://r/"} | fields)["ok"]
    return driver


# -- cancel, finish, redrive ----------------------------------------------------------------------


def test_a_task_cancelled_between_due_and_sent_is_not_sent() -> None:
    """Handed over by the wheel, waiting for its permit, and cancelled there."""
    driver = scheduled(delay=5)
    driver.pass_ms(5)
    assert driver.tick() == [KEY]
    assert driver.ask("cancel", id="t")["cancelled"] == 1
    with pytest.raises(AssertionError):
        driver.start(KEY)
    driver.pass_ms(HOUR_MS)
    assert driver.tick() == []
    assert driver.state(KEY) == "cancelled"
    assert driver.ask("cancel", id="t") == {"ok": True, "cancelled": 0, "running": 0}


def test_a_task_cancelled_while_the_wheel_holds_it_open_is_not_handed_over() -> None:
    """Two tasks of one tick, the first is handed over, the second cancelled."""
    driver = Driver()
    for id, delay in (("a", 3), ("b", 4)):
        driver.ask("schedule", id=id, url="http://r/", delay=delay)
    driver.pass_ms(3)
    assert driver.tick() == ["default/a"]
    driver.ask("cancel", id="b")
    driver.pass_ms(5)
    assert driver.tick() == []
    check(driver.engine)


def test_finish_outdoes_a_stored_cancel_and_nothing_outdoes_a_finish() -> None:
    for ops, state in (
        (("cancel", "finish"), "done"),
        (("finish", "cancel"), "done"),
        (("cancel",), "cancelled"),
    ):
        driver = scheduled(on_done="http://d/")
        driver.tick()
        driver.start(KEY)
        for op in ops:
            reply = driver.ask(op, id="t", **({"reply": 7} if op == "finish" else {}))
            assert reply["running"] == 1
        driver.ask("finish", id="t", reply="the second") if state == "done" else None
        driver.outcome(KEY, Answer(0, 0, 0, 500))
        assert driver.state(KEY) == state
        if state == "done":
            assert driver.view("default/t/done/1")["body"]["reply"] == 7


def test_a_task_that_is_being_stopped_is_not_rescheduled_and_says_what_it_is() -> None:
    for op in ("cancel", "finish"):
        driver = scheduled()
        driver.ask("reschedule", id="t", delay=0)
        driver.tick()
        driver.start(KEY)
        assert driver.ask(op, id="t")["running"] == 1
        refusal = driver.ask("reschedule", id="t", delay=5)
        told = (refusal["error"], refusal["state"], refusal["version"])
        assert told == ("too_late", "running", 2)


def test_replace_while_a_cancel_is_stored_makes_a_task_that_lives() -> None:
    driver = scheduled()
    driver.tick()
    driver.start(KEY)
    driver.ask("cancel", id="t")
    assert driver.ask("schedule", id="t", url="http://n/", on_conflict="replace")["state"] == "running"
    driver.crash()
    assert driver.view(KEY)["url"] == "http://n/"
    assert driver.state(KEY) == "scheduled"


def test_only_the_end_of_a_cancelled_running_task_is_an_event() -> None:
    driver = scheduled()
    driver.tick()
    driver.start(KEY)
    (stopping,) = driver.watch(lambda: driver.ask("cancel", id="t"))
    assert isinstance(stopping, r.Stopping)
    assert driver.watch(lambda: driver.ask("cancel", id="t")) == []
    records = driver.watch(lambda: driver.outcome(KEY, Answer(0, 0, 0, 500)))
    assert [type(record) for record in records] == [r.Attempted, r.Ended]


def test_redrive_begins_anew_from_now() -> None:
    at_ms = Driver().now.wall_ms
    driver = scheduled(delay=20, expires_in=30, retry="none", body=1)
    driver.pass_ms(20)
    driver.tick()
    driver.attempt(KEY, 500)
    assert driver.state(KEY) == "dead"
    driver.pass_ms(5000)
    assert driver.ask("redrive", id="t") == {"ok": True, "redriven": 1}
    view = driver.view(KEY)
    assert (view["version"], view["attempts"], view["due"]) == (2, 0, driver.now.wall_ms)
    assert (view["ended"], view["body"], view["delay"]) == (None, 1, 20)
    assert "error" not in view
    driver.pass_ms(29)
    driver.tick()
    assert driver.state(KEY) == "ready"
    driver.pass_ms(1)
    driver.tick()
    assert driver.state(KEY) == "expired"
    driver = scheduled(expires_at=at_ms + 10)
    driver.pass_ms(10)
    driver.tick()
    assert driver.ask("redrive", id="t")["ok"]
    assert "expires_at" not in driver.view(KEY)
    driver.pass_ms(HOUR_MS)
    driver.tick()
    assert driver.state(KEY) == "ready"


def test_a_redrive_keeps_an_instant_that_is_still_to_come() -> None:
    driver = scheduled(expires_at=Driver().now.wall_ms + 100, retry="none")
    driver.tick()
    driver.attempt(KEY, 500)
    driver.ask("redrive", id="t")
    driver.pass_ms(100)
    driver.tick()
    assert driver.state(KEY) == "expired"


@pytest.mark.parametrize("op", ["cancel", "finish", "redrive"])
def test_a_bulk_call_with_no_filter_is_not_all(op: str) -> None:
    """Neither ``id`` nor ``group``; an empty one is no filter either; both are a mistake."""
    driver = scheduled(group="g")
    for fields, field in (({"group": ""}, "group"), ({"id": ""}, "id"), ({"id": "t", "group": "g"}, "group")):
        reply = driver.ask(op, **{"id": "t"} | fields)
        assert (reply["error"], reply["field"]) == ("bad_request", field)
    assert driver.state(KEY) == "scheduled"


def test_what_touches_several_tasks_leaves_the_ended_alone() -> None:
    driver = Driver()
    for id in ("a", "b", "c", "d"):
        driver.ask("schedule", id=id, url="http://r/", group="g", delay=5 if id == "a" else 0)
    driver.ask("schedule", id="e", queue="q", url="http://r/", group="g")
    driver.tick()
    driver.attempt("default/b")
    driver.start("default/c")
    assert driver.many("cancel", "nobody", None, None) == {"cancelled": 0, "running": 0}
    assert driver.many("cancel", "g", "q", None) == {"cancelled": 1, "running": 0}
    assert driver.many("cancel", "g", None, None) == {"cancelled": 2, "running": 1}
    assert driver.many("finish", "g", None, b"1") == {"finished": 0, "running": 1}
    assert driver.state("default/b") == "done"


def test_the_hook_of_the_longest_id_can_be_asked_for_and_stopped() -> None:
    id = "x" * 256
    driver = Driver()
    driver.ask("schedule", id=id, url="http://r/", on_done="http://d/")
    driver.ask("finish", id=id)
    hook = f"{id}/done/1"
    assert driver.ask("get", id=hook)["task"]["id"] == hook
    assert driver.ask("reschedule", id=hook, delay="1h")["ok"]
    assert driver.ask("cancel", id=hook)["cancelled"] == 1


# -- pause, queues --------------------------------------------------------------------------------


def test_a_paused_queue_is_one_before_and_after_it_holds_tasks(driver: Driver) -> None:
    assert driver.ask("pause", queue="q") == {"ok": True, "queue": "q", "paused": True}
    driver.ask("pause", queue="q")
    assert len(driver.written()) == 1
    driver.ask("schedule", id="t", queue="q", url="http://r/", expires_in=50)
    driver.tick()
    assert driver.state("q/t") == "ready"
    driver.crash()
    assert driver.engine.paused("q")
    driver.ask("cancel", id="t", queue="q")
    assert driver.engine.paused("q")
    driver.ask("resume", queue="q")
    assert not driver.engine.paused("q")
    driver.ask("resume", queue="never")
    assert set(driver.engine.queues) == {"q"}


def test_a_task_in_a_paused_queue_still_expires(driver: Driver) -> None:
    driver.ask("pause", queue="default")
    driver.ask("schedule", id="t", url="http://r/", expires_in=50, on_dead="http://x/")
    driver.pass_ms(50)
    driver.tick()
    assert driver.state(KEY) == "expired"
    assert driver.state("default/t/dead/1") in ("scheduled", "ready")


def test_a_task_keeps_the_rule_as_it_was_when_scheduled() -> None:
    """The configuration changes; what is scheduled does not."""
    old, new = BUILT_IN["alipay"], BUILT_IN["none"]
    policy = Policy(rules={"partner": old}, queues={"q": QueuePolicy(retry=old)})
    driver = Driver(policy=policy)
    driver.ask("schedule", id="named", url="http://r/", retry="partner")
    driver.ask("schedule", id="queued", queue="q", url="http://r/")
    driver.ask("schedule", id="built", queue="q", url="http://r/", retry="default")
    driver.policy = Policy(rules={"partner": new}, queues={"q": QueuePolicy(retry=new)})
    driver.crash(boot=True)
    driver.tick()
    for key in ("default/named", "q/queued", "q/built"):
        driver.attempt(key, 500)
        assert driver.state(key) == "scheduled", key
    assert driver.view("default/named")["retry"] == "partner"
    assert "retry" not in driver.view("q/queued")
    driver.ask("reschedule", id="named", retry="partner")
    driver.tick()
    driver.attempt("default/named", 500)
    assert driver.state("default/named") == "dead"


# -- counts ---------------------------------------------------------------------------------------


def test_the_pending_count_neither_drifts_nor_goes_negative() -> None:
    """Ten thousand steps by chance; the counts are derived again and never below zero."""
    seed = 21
    chance = random.Random(seed)
    driver = Driver(Limits(keep_done_max=5, keep_dead_max=5))
    for step in range(4000):
        id, queue = f"t{chance.randrange(12)}", chance.choice(("q", "p"))
        key = f"{queue}/{id}"
        match chance.randrange(9):
            case 0 | 1 | 2:
                conflict = chance.choice(("error", "keep", "replace"))
                driver.ask(
                    "schedule",
                    id=id,
                    queue=queue,
                    url="http://r/",
                    delay=chance.randrange(9),
                    on_conflict=conflict,
                )
            case 3:
                driver.ask(chance.choice(("cancel", "finish", "redrive", "reschedule")), id=id, queue=queue)
            case 4:
                driver.pass_ms(chance.randrange(6))
                driver.tick()
            case 5 | 6:
                task = driver.engine.get(key)
                if task is not None and driver.state(key) == "ready":
                    driver.start(key)
            case 7:
                task = driver.engine.get(key)
                if task is not None and driver.state(key) == "running":
                    driver.outcome(key, Answer(0, 0, 0, chance.choice((200, 410, 500))))
            case _:
                driver.forget()
        if step % 20 == 0:
            check(driver.engine)
        assert min(driver.engine.counts) >= 0, f"seed {seed}, step {step}"
        assert all(min(queue.counts) >= 0 for queue in driver.engine.queues.values())
        assert sum(driver.engine.counts) == len(driver.engine.table)
