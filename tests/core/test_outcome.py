"""What time and receivers bring: judgement, retries, polls, expiry, hooks, recovery; accidents by name."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec
import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.core.task import NS_PER_MS
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import CHANCE_MAX, poll_delay_ms
from wheeltimer.protocol.task_view import State

pytestmark = pytest.mark.quick
KEY = "default/t"
HOOKS: dict[str, Any] = {"on_done": "http://d/", "on_dead": "http://x/"}
FIXED: dict[str, Any] = {"kind": "fixed", "every": 100, "attempts": 3, "jitter": 0}


def ready(policy: Policy | None = None, **fields: Any) -> Driver:
    """A driver with the task ``t``, ready."""
    driver = Driver(policy=policy)
    assert driver.ask("schedule", **{"id": "t", "url": "http://r/", "retry": FIXED} | fields)["ok"]
    driver.tick()
    return driver


def outcome_of(driver: Driver, **answer: Any) -> tuple[str, str]:
    """(what the history says, the task's state) after one attempt with this answer."""
    driver.start(KEY)
    driver.outcome(KEY, Answer(5, 6, 7, **answer))
    return driver.view(KEY)["history"][-1]["outcome"], driver.state(KEY)


POLL = {"poll": {"every": 50, "max": 3}, "success": {"text": "ok"}}
JSON = {"success": {"json": [{"pointer": "/status", "equals": 200}]}}
# (fields of the task, the answer, outcome in the history, state)
JUDGED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {"status": 200}, "succeeded", "done"),
    ({}, {"status": 299}, "succeeded", "done"),
    ({}, {"status": 199}, "failed", "scheduled"),
    ({}, {"status": 300}, "failed", "scheduled"),
    ({}, {"status": 302}, "failed", "scheduled"),  # redirects are failures
    ({}, {"status": 404}, "failed", "scheduled"),
    ({}, {"status": 410}, "failed", "dead"),
    ({}, {"status": 401}, "failed", "scheduled"),
    ({"queue": "default"}, {"status": 422}, "failed", "dead"),  # final in this queue
    ({}, {"status": 500, "stop": True}, "failed", "dead"),
    ({}, {"status": 200, "stop": True}, "succeeded", "done"),  # success beats stop
    ({}, {"error": "dns: no such name"}, "failed", "scheduled"),
    ({}, {"error": "tls: bad certificate"}, "failed", "scheduled"),
    ({}, {"status": 200, "error": "body broke off"}, "failed", "scheduled"),
    ({"success": {"status": [410]}}, {"status": 410}, "succeeded", "done"),  # success beats final
    ({"success": {"status": [404, "5xx"]}}, {"status": 503}, "succeeded", "done"),
    ({"success": {"status": [404]}}, {"status": 200}, "failed", "scheduled"),
    ({"success": {"text": "ok"}}, {"status": 200, "body": b" ok\r\n"}, "succeeded", "done"),
    ({"success": {"text": "ok"}}, {"status": 200, "body": b"OK"}, "failed", "scheduled"),
    ({"success": {"text": "ok"}}, {"status": 500, "body": b"ok"}, "failed", "scheduled"),
    ({"success": {"text": "ok"}}, {"status": 200, "body": b"ok", "truncated": True}, "failed", "scheduled"),
    (JSON, {"status": 200, "body": b'{"status":200}'}, "succeeded", "done"),
    (JSON, {"status": 200, "body": b'{"status":"200"}'}, "failed", "scheduled"),
    (JSON, {"status": 200, "body": b"{"}, "failed", "scheduled"),
    (POLL, {"status": 200, "body": b"ok"}, "succeeded", "done"),
    (POLL, {"status": 200, "body": b"wait"}, "not_yet", "scheduled"),
    (POLL, {"status": 204}, "not_yet", "scheduled"),
    (POLL, {"status": 200, "body": b"ok", "truncated": True}, "not_yet", "scheduled"),
    (POLL, {"status": 302}, "failed", "scheduled"),
    (POLL, {"status": 500, "body": b"ok"}, "failed", "scheduled"),
    (POLL, {"error": "timeout"}, "failed", "scheduled"),
    (POLL, {"status": 200, "error": "body broke off"}, "failed", "scheduled"),
    (POLL, {"status": 410}, "failed", "dead"),
    (POLL, {"status": 200, "stop": True}, "failed", "dead"),  # final beats not yet
    (POLL | {"retry": "none"}, {"status": 500}, "failed", "dead"),
    (POLL | {"retry": "none"}, {"status": 200}, "not_yet", "scheduled"),
]


@pytest.mark.parametrize(
    ("fields", "answer", "outcome", "state"), JUDGED, ids=[f"{f} {a}" for f, a, *_ in JUDGED]
)
def test_an_answer_is_judged(
    fields: dict[str, Any], answer: dict[str, Any], outcome: str, state: str
) -> None:
    policy = Policy(queues={"default": QueuePolicy(None, frozenset({422}))})
    driver = ready(policy, **fields)
    assert outcome_of(driver, **answer) == (outcome, state)
    assert driver.engine.outcomes[outcome] == 1
    check(driver.engine)


# -- retries --------------------------------------------------------------------------------------


def run_out(driver: Driver, **answer: Any) -> list[int]:
    """Fail until the task has ended; ms from the first attempt to each."""
    began_ms, starts = driver.now.wall_ms, list[int]()
    while not State(driver.task(KEY).state).ended:
        assert len(starts) < 40
        driver.pass_ms(driver.view(KEY)["next"] - driver.now.wall_ms - 1)
        assert KEY not in driver.tick(), "early"
        driver.pass_ms(1)
        driver.tick()
        starts.append(driver.now.wall_ms - began_ms)
        driver.attempt(KEY, **{"status": 500} | answer)
    return starts


def scheduled_soon(**fields: Any) -> Driver:
    driver = Driver()
    assert driver.ask("schedule", **{"id": "t", "url": "http://r/", "delay": 1} | fields)["ok"]
    return driver


def test_every_failed_attempt_is_counted() -> None:
    """A rule of n attempts makes n, whatever fails and through crashes, and then it is dead."""
    assert run_out(scheduled_soon(retry=FIXED)) == [1, 101, 201]
    assert run_out(scheduled_soon(retry="none")) == [1]
    assert run_out(scheduled_soon(retry={"kind": "list", "delays": [5, "1s"], "jitter": 0})) == [1, 6, 1006]
    linear = {"kind": "linear", "step": 10, "attempts": 4, "jitter": 0}
    assert run_out(scheduled_soon(retry=linear)) == [1, 11, 31, 61]
    growing = {"kind": "exponential", "base": 10, "factor": 3, "cap": 50, "attempts": 5, "jitter": 0}
    assert run_out(scheduled_soon(retry=growing)) == [1, 11, 41, 91, 141]
    assert len(run_out(scheduled_soon())) == 16
    assert len(run_out(scheduled_soon(retry="alipay"))) == 8
    driver = scheduled_soon(retry=FIXED)
    run_out(driver)
    view = driver.view(KEY)
    assert (view["attempts"], view["state"], view["error"]) == (3, "dead", "attempts_used_up")
    assert [entry["attempt"] for entry in view["history"]] == [1, 2, 3]


def test_the_next_attempt_is_never_in_the_past() -> None:
    """Counted from the end of the attempt, picked up, also after a crash."""
    driver = ready()
    driver.start(KEY)
    driver.pass_ms(7000)  # a slow one
    driver.outcome(KEY, Answer(driver.now.wall_ms - 7000, 7000, 0, 500))
    assert driver.view(KEY)["next"] == driver.now.wall_ms + 100
    driver.crash(down_ms=50)
    assert driver.tick() == []
    driver.pass_ms(50)
    assert driver.tick() == [KEY]


def test_what_was_handed_over_and_not_recorded_is_handed_over_again() -> None:
    """Where the journal has no room for an expiry, its key must not be lost between wheel and record."""
    driver = Driver()
    assert driver.ask("schedule", id="t", url="http://r/", delay=5)["ok"]
    assert driver.ask("schedule", id="wall", url="http://r/", at=driver.now.wall_ms + 5)["ok"]
    driver.pass_ms(5)
    engine = driver.engine
    for _ in range(3):
        assert engine.take_due(driver.now, 64) == [KEY, "default/wall"]
        check(engine)
    assert engine.next_wake_ns(driver.now, NS_PER_MS) == driver.now.elapsed_ns
    assert engine.take_due(driver.now, 64) == [KEY, "default/wall"]
    assert driver.ask("cancel", id="t")["ok"]  # between the wheel and the record
    check(engine)
    assert engine.take_due(driver.now, 64) == ["default/wall"]
    assert driver.tick() == ["default/wall"]
    assert engine.next_wake_ns(driver.now, NS_PER_MS) > driver.now.elapsed_ns


def test_a_crash_does_not_count_the_attempt_that_it_cut() -> None:
    driver = ready()
    for _ in range(5):
        driver.start(KEY)
        driver.crash()
        view = driver.view(KEY)
        assert (view["state"], view["attempts"], view["history"]) == ("scheduled", 0, [])
        driver.tick()
    assert len(run_out_from_ready(driver)) == 3
    assert driver.state(KEY) == "dead"


def run_out_from_ready(driver: Driver) -> list[int]:
    numbers = []
    while driver.state(KEY) == "ready":
        driver.attempt(KEY, 500)
        numbers.append(driver.view(KEY)["history"][-1]["attempt"])
        driver.crash()
        driver.pass_ms(100)
        driver.tick()
    return numbers


def test_jitter_is_what_chance_says_and_no_more() -> None:
    for chance, wait_ms in ((0, 800), (CHANCE_MAX, 1200), (CHANCE_MAX // 2, 1000)):
        driver = ready(retry={"kind": "fixed", "every": "1s", "attempts": 2})
        driver.attempt(KEY, 500, chance)
        assert driver.view(KEY)["next"] - driver.now.wall_ms == wait_ms


HOURLY = {"kind": "fixed", "every": "1h", "attempts": 2, "jitter": 0}


@pytest.mark.parametrize(
    ("asked_ms", "wait_ms"), [(0, 1000), (999, 1000), (1001, 1001), (7_200_000, 7_200_000)]
)
def test_retry_after_counts_instead_of_the_rule_s_wait_and_may_be_sooner(asked_ms: int, wait_ms: int) -> None:
    driver = ready(retry=HOURLY)
    driver.attempt(KEY, 503, retry_after_ms=asked_ms)
    assert driver.view(KEY)["next"] == driver.now.wall_ms + wait_ms


def test_retry_after_of_nothing_does_not_use_up_the_attempts_at_once() -> None:
    """``Retry-After: 0`` from a receiver in trouble used up all attempts within milliseconds."""
    for asked_ms, wait_ms in ((0, 100), (99, 100), (101, 101), (86_400_000, 86_400_000)):
        driver = ready(retry=FIXED)
        driver.attempt(KEY, 503, retry_after_ms=asked_ms)
        assert driver.view(KEY)["next"] == driver.now.wall_ms + wait_ms
        driver.pass_ms(wait_ms)
        assert driver.tick() == [KEY]
        driver.attempt(KEY, 503)
        driver.pass_ms(100)
        driver.tick()
        driver.attempt(KEY, 429, retry_after_ms=asked_ms)
        assert driver.state(KEY) == "dead"
    driver = ready(retry="none")
    driver.attempt(KEY, 429, retry_after_ms=5)
    assert driver.state(KEY) == "dead"


# -- polls ----------------------------------------------------------------------------------------


def test_not_yet_is_no_failure_and_refills_the_budget() -> None:
    driver = scheduled_soon(**POLL | {"poll": {"every": 50, "max": 99}}, retry=FIXED)
    for _ in range(3):
        for status in (500, 500, 204):  # two failures of three allowed, then one not yet
            driver.pass_ms(100)
            driver.tick()
            driver.attempt(KEY, status)
            assert driver.state(KEY) == "scheduled"
    view = driver.view(KEY)
    assert (view["attempts"], view["polls"], view["next"]) == (9, 3, driver.now.wall_ms + 50)
    for _ in range(3):
        driver.pass_ms(100)
        driver.tick()
        driver.attempt(KEY, 500)
    assert driver.state(KEY) == "dead"


def test_too_many_not_yet_end_it_as_dead() -> None:
    driver = scheduled_soon(**POLL, on_dead="http://x/")
    for _ in range(3):
        driver.pass_ms(50)
        driver.tick()
        driver.attempt(KEY, 200, body=b"wait")
    view = driver.view(KEY)
    assert (view["state"], view["polls"], view["error"]) == ("dead", 3, "polls_used_up")
    assert driver.view("default/t/dead/1")["body"]["reply"] == "wait"


@pytest.mark.parametrize(
    ("poll", "waits_ms"),
    [
        ({"every": 50, "factor": 2, "cap": 300}, [50, 100, 200, 300, 300]),
        ({"every": "1s", "factor": 2}, [1000, 2000, 4000, 8000, 16_000]),
        ({"every": 10, "factor": 1.5, "cap": "1h"}, [10, 15, 23, 34, 51]),  # rounded up
        ({"every": "2h"}, [7_200_000] * 5),  # without growth there is no cap
        ({"every": "2h", "factor": 1, "cap": "1s"}, [7_200_000] * 5),
        (
            {"every": "90m", "factor": 10, "cap": "2h"},
            [5_400_000, 7_200_000, 7_200_000, 7_200_000, 7_200_000],
        ),
    ],
)
def test_poll_backs_off_without_counting_as_failed(poll: dict[str, Any], waits_ms: list[int]) -> None:
    driver = scheduled_soon(poll=poll, success={"text": "ok"}, retry=FIXED)
    driver.pass_ms(100)
    for number, wait_ms in enumerate(waits_ms, 1):
        driver.tick()
        driver.attempt(KEY, 200, body=b"wait")
        view = driver.view(KEY)
        assert (view["polls"], view["next"] - driver.now.wall_ms) == (number, wait_ms)
        assert driver.task(KEY).failures == 0
        driver.pass_ms(wait_ms)
    driver.tick()
    driver.attempt(KEY, 500)
    assert driver.view(KEY)["next"] - driver.now.wall_ms == 100  # a failure has its own rule
    driver.pass_ms(100)
    driver.tick()
    driver.attempt(KEY, 200, body=b"ok")
    assert driver.state(KEY) == "done"


def test_wait_of_a_poll_is_bounded_however_often_it_was_asked() -> None:
    assert poll_delay_ms(1, 1.001, "10d", 1000) == poll_delay_ms(1, 1.001, "10d", 10**9)
    assert poll_delay_ms(1, 10, "10d", 10**9) == 864_000_000


def test_body_that_a_rule_cannot_be_compared_with_is_named_also_where_it_counts_as_not_yet() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"body": b"x" * 65_536, "truncated": True}, "the body is over 65536 bytes"),
        ({"body": b"\x1f\x8b", "undecoded": "the body is no gzip"}, "the body is no gzip"),
        ({"body": b"o", "truncated": True}, "the body is not whole"),
    ]
    for answer, text in cases:
        for fields, outcome in ((POLL, "not_yet"), ({"success": {"text": "ok"}}, "failed")):
            driver = ready(**fields)
            assert outcome_of(driver, status=200, **answer)[0] == outcome
            made = driver.view(KEY)["history"][-1]
            assert made["status"] == 200
            assert made["error"].startswith(f"success: {text}")
        driver = ready()
        assert outcome_of(driver, status=200, **answer) == ("succeeded", "done")  # no rule has to read it
        assert "error" not in driver.view(KEY)["history"][-1]


MISSED: list[tuple[dict[str, Any], bytes, str]] = [
    (JSON, b'{"status":"200"}', '/status is "200", 200 expected'),
    (JSON, b'{"status":true}', "/status is true, 200 expected"),
    (JSON, b'{"status":200.5}', "/status is 200.5, 200 expected"),
    (JSON, b'{"code":200}', "/status is missing"),
    (JSON, b"<html>", "the body is no JSON"),
    (JSON, '{"status":200}'.encode("utf-16"), "the body is no UTF-8"),
    ({"success": {"text": "success"}}, b" fail\n", 'text is "fail", "success" expected'),
]


@pytest.mark.parametrize(("fields", "body", "why"), MISSED)
def test_body_that_is_another_one_than_expected_is_shown_in_history(
    fields: dict[str, Any], body: bytes, why: str
) -> None:
    for more, outcome in ((POLL, "not_yet"), ({}, "failed")):
        driver = ready(**{**more, **fields, "on_dead": "http://h/", "retry": "none"})
        assert outcome_of(driver, status=200, body=body)[0] == outcome
        assert driver.view(KEY)["history"][-1]["error"] == f"success: {why}"
    hook = driver.view("default/t/dead/1")["body"]
    assert (hook["status"], hook["error"]) == (200, "attempts_used_up")  # it has the whole body
    driver = ready(**fields)
    outcome_of(driver, status=500, body=body)
    assert "error" not in driver.view(KEY)["history"][-1]


def test_nothing_of_a_reply_is_shown_where_history_keeps_none() -> None:
    driver = Driver(limits=Limits(history_reply_bytes_max=0))
    driver.ask("schedule", id="t", url="http://r/", **JSON)
    driver.tick()
    outcome_of(driver, status=200, body=b'{"status":"secret"}')
    assert driver.view(KEY)["history"][-1]["error"] == "success: /status is another value, 200 expected"


def test_limit_of_the_setting_is_the_one_that_is_named() -> None:
    driver = Driver(limits=Limits(reply_bytes_max=10))
    driver.ask("schedule", id="t", url="http://r/", success={"text": "ok"})
    driver.tick()
    outcome_of(driver, status=200, body=b"ok         ")
    assert driver.view(KEY)["history"][-1]["error"].startswith("success: the body is over 10 bytes")


def test_status_that_came_stands_beside_the_error_in_history_and_hook() -> None:
    driver = ready(retry="none", **HOOKS)
    answer = {"status": 200, "error": "reset: closed in the reply body, after 2 bytes", "body": b"ok"}
    assert outcome_of(driver, **answer, truncated=True) == ("failed", "dead")
    made = driver.view(KEY)["history"][-1]
    assert {name: made[name] for name in ("status", "error", "reply")} == {
        "status": 200, "error": answer["error"], "reply": "ok",
    }  # fmt: skip
    hook = driver.view("default/t/dead/1")["body"]
    assert (hook["status"], hook["error"], hook["reply"]) == (200, answer["error"], "ok")


def test_status_beside_an_error_may_be_final() -> None:
    for answer in ({"status": 410}, {"status": 500, "stop": True}):
        driver = ready()
        assert outcome_of(driver, error="reset: closed in the reply body", **answer) == ("failed", "dead")


def test_bom_is_left_out_of_the_reply_that_is_shown() -> None:
    driver = ready(retry="none", success={"text": "success"}, **HOOKS)
    assert outcome_of(driver, status=200, body=b"\xef\xbb\xbfsuccess") == ("succeeded", "done")
    assert driver.view(KEY)["history"][-1]["reply"] == "success"
    assert driver.view("default/t/done/1")["body"]["reply"] == "success"


def test_an_attempt_is_judged_by_the_version_it_was_sent_for() -> None:
    """A change of what success means, while the attempt runs, is for the next one."""
    for old, new, body, expected in (
        ({"success": {"text": "a"}}, {"success": {"text": "b"}}, b"a", "succeeded"),
        ({"success": {"text": "a"}}, {"success": {"text": "b"}}, b"b", "failed"),
        (POLL, {"success": {"text": "wait"}}, b"wait", "not_yet"),
        ({}, POLL, b"wait", "succeeded"),
    ):
        for op in ("reschedule", "schedule"):
            driver = ready(**old)
            driver.attempt(KEY, 500)
            driver.pass_ms(100)
            driver.tick()
            driver.start(KEY)
            extra = {"url": "http://r/", "on_conflict": "replace"} if op == "schedule" else {}
            for _ in range(2):  # also when a third version takes the second's place
                assert driver.ask(op, id="t", delay=500, **new, **extra)["ok"]
            driver.outcome(KEY, Answer(0, 0, 0, 200, body=body))
            last = driver.view(KEY)["history"][-1]
            assert (last["outcome"], last["version"], last["attempt"]) == (expected, 1, 2)
            assert (driver.state(KEY), driver.view(KEY)["attempts"]) == ("scheduled", 0)
            check(driver.engine)


# -- history --------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 20])
def test_the_history_holds_the_last_attempts_and_the_last_reply(most: int) -> None:
    driver = Driver(Limits(history_max=most))
    driver.ask("schedule", id="t", url="http://r/", retry={"kind": "fixed", "every": 1, "attempts": 50})
    for number in range(1, 31):
        driver.pass_ms(2)
        driver.tick()
        driver.attempt(KEY, 500, body=b"reply %d" % number)
        history = driver.view(KEY)["history"]
        assert [entry["attempt"] for entry in history] == list(range(max(1, number - most + 1), number + 1))
        assert [entry.get("reply") for entry in history] == [None] * (len(history) - 1) + [f"reply {number}"]
    driver.crash()
    assert driver.view(KEY)["history"] == history


def test_a_long_reply_and_a_long_error_are_cut_in_the_history() -> None:
    driver = ready()
    driver.attempt(KEY, 500, body="é".encode() * 2000)
    assert driver.view(KEY)["history"][-1]["reply"] == "é" * 512
    driver.pass_ms(100)
    driver.tick()
    driver.attempt(KEY, None, error="x" * 5000)
    last = driver.view(KEY)["history"][-1]
    assert len(last["error"]) == 300
    assert "status" not in last


def test_bytes_that_are_no_text_do_not_break_a_reply() -> None:
    driver = ready()
    driver.attempt(KEY, 500, body=b"\xff\xfe\x00" + "é".encode()[:1])
    assert json.loads(msgspec.json.encode(driver.ask("get", id="t")))["ok"]


# -- expiry and recovery --------------------------------------------------------------------------


def test_expiry_found_at_start_gives_the_same_event_and_hook() -> None:
    """The daemon was away when the task expired."""
    records = []
    for down in (False, True):
        driver = Driver()
        driver.ask("schedule", id="t", url="http://r/", delay=10, expires_in=20, meta=1, **HOOKS)
        if down:
            driver.crash(down_ms=5000)
        else:
            driver.pass_ms(5000)
        ended, _ = driver.watch(driver.tick)
        assert isinstance(ended, r.Ended)
        assert (ended.state, ended.reason, ended.meta) == (State.EXPIRED, "expired", b"1")
        assert driver.tick() == []
        records.append(r.encode(ended))
        shown = driver.view("default/t/dead/1")
        assert (shown["body"]["type"], shown["state"]) == ("task.expired", "ready")
    assert records[0] == records[1]


def test_a_stored_stop_found_at_start_ends_the_task_with_event_and_hook() -> None:
    """The attempt that a cancel or finish waited for was cut by the crash."""
    for op, kinds in (("cancel", "e"), ("finish", "es")):
        for newer in (False, True):
            driver = ready(**HOOKS)
            driver.start(KEY)
            if newer:
                driver.ask("reschedule", id="t", delay=500)
            driver.ask(op, id="t")
            found = driver.watch(partial(driver.crash, boot=True))
            # "f": what every boot writes before anything is served.
            assert "".join(str(type(one).__struct_config__.tag) for one in found) == f"f{kinds}"
            assert driver.state(KEY) == ("cancelled" if op == "cancel" else "done")
            assert driver.watch(driver.crash) == []


def test_a_running_attempt_decides_by_its_outcome_when_it_expires() -> None:
    for status, state in ((200, "done"), (500, "expired"), (410, "expired")):
        driver = ready(expires_in=50, **HOOKS)
        driver.start(KEY)
        driver.pass_ms(60)
        assert driver.tick() == []
        driver.outcome(KEY, Answer(0, 0, 0, status))
        assert driver.state(KEY) == state


def test_a_retry_that_would_come_after_the_expiry_is_not_made() -> None:
    driver = ready(expires_in=50, retry=FIXED)
    driver.attempt(KEY, 500)
    driver.pass_ms(50)
    driver.tick()
    assert driver.state(KEY) == "expired"
    driver.pass_ms(100)
    assert driver.tick() == []


def test_giving_up_on_a_destination_names_it() -> None:
    driver = ready(**HOOKS)
    driver.give_up(KEY)
    assert (driver.state(KEY), driver.view(KEY)["error"]) == ("dead", "destination_down")
    assert driver.view("default/t/dead/1")["body"]["error"] == "destination_down"
    assert driver.ask("redrive", id="t")["redriven"] == 1


# -- deadlines over a restart ---------------------------------------------------------------------


def test_a_delay_survives_a_restart_on_the_same_boot_whatever_the_wall_clock_does() -> None:
    """Not one ms is added for the time of the restart, and a stepped clock changes nothing."""
    for wall_ms in (0, 3_600_000, -3_600_000):
        driver = Driver()
        driver.ask("schedule", id="t", url="http://r/", delay=1000)
        driver.pass_ms(300)
        driver.crash(down_ms=400, wall_ms=wall_ms)
        driver.pass_ms(299)
        assert driver.tick() == []
        driver.pass_ms(1)
        assert driver.tick() == [KEY]


def test_a_delay_survives_another_boot_through_the_wall_clock() -> None:
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", delay=1000, expires_in=500)
    driver.ask("schedule", id="at", url="http://r/", at=driver.now.wall_ms + 1000)
    driver.pass_ms(300)
    driver.crash(boot=True, down_ms=400)
    driver.pass_ms(299)
    assert driver.tick() == []
    driver.pass_ms(2)  # one ms for the reading's rounding: late, never early
    assert set(driver.tick()) == {KEY, "default/at"}
    driver.pass_ms(499)
    driver.tick()
    assert driver.state(KEY) == "ready"
    driver.pass_ms(1)
    driver.tick()
    assert driver.state(KEY) == "expired"


def test_a_wall_clock_that_was_wrong_over_a_boot_cannot_put_a_delay_off_for_ever() -> None:
    for wall_ms, wait_ms in ((-365 * 86_400_000, 1000), (365 * 86_400_000, 0)):
        driver = Driver()
        driver.ask("schedule", id="t", url="http://r/", delay=1000)
        driver.crash(boot=True, wall_ms=wall_ms)
        if wait_ms:
            driver.pass_ms(wait_ms - 1)
            assert driver.tick() == []
            driver.pass_ms(1)
        assert driver.tick() == [KEY]


def test_a_retry_waits_its_time_over_another_boot() -> None:
    driver = ready()
    driver.attempt(KEY, 500)
    driver.crash(boot=True, down_ms=40)
    driver.pass_ms(59)
    assert driver.tick() == []
    driver.pass_ms(2)
    assert driver.tick() == [KEY]
    deadline_ns = driver.task(KEY).deadline_ns
    assert deadline_ns is not None
    assert 0 <= driver.now.elapsed_ns - deadline_ns <= NS_PER_MS


# -- room -----------------------------------------------------------------------------------------


def test_the_largest_outcome_fits_its_reservation() -> None:
    """``Driver.outcome`` asserts it for every outcome; here are the largest that can be made."""
    long_url = "http://r/" + "x" * 8183
    for body in (
        b'"' * 65_536,
        b"\\" * 65_536,
        b"\x01" * 65_536,
        b"\x01" * 21_845,
        b"\x01" * 1000 + b'"' * 62_536,
        "é".encode() * 32_768,
        b"\xff" * 65_536,
        b"\t" * 65_536,
    ):
        for status in (200, 500):
            driver = Driver()
            driver.ask(
                "schedule", id="单" * 85, url="http://r/", meta="m" * 4090, on_done=long_url,
                on_dead=long_url, retry="none", group="g" * 128, queue="q" * 128,
            )  # fmt: skip
            driver.tick()
            key = "q" * 128 + "/" + "单" * 85
            driver.start(key)
            driver.outcome(key, Answer(2**42, 10**9, 10**9, status, body=body))
    for op in ("finish", "cancel"):
        driver.ask("schedule", id="t", url="http://r/", on_done=long_url, meta="m" * 4090)
        driver.tick()
        driver.start(KEY)
        driver.ask(op, id="t", **({"reply": "é" * 32_000} if op == "finish" else {}))
        driver.outcome(KEY, Answer(0, 0, 0, None, "单" * 300))
        driver.ask("schedule", id="t", url="http://r/", on_conflict="replace")
