"""What clients ask: identity, room, due times, versions, expiry; each accident by its name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import NS_PER_MS, Now
from wheeltimer.protocol.limits import Limits

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


# -- identity -------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "id": "t", "queue": "q", "url": "http://r/a?b=1", "method": "PUT", "headers": {"a": "1", "b": "2"},
    "body": {"n": [1, 2]}, "meta": {"m": 1}, "delay": "1h", "retry": {"kind": "list", "delays": ["4m"]},
    "timeout": 900, "connect_timeout": "1s", "expires_in": "2h", "success": {"status": [200], "text": "ok"},
    "poll": {"every": "5s"}, "group": "g", "on_done": "http://d/", "on_dead": "http://x/",
}  # fmt: skip
OTHER: list[dict[str, Any]] = [
    {"url": "http://r/a?b=2"}, {"method": "POST"}, {"headers": {"a": "1"}}, {"headers": {"a": "1", "B": "2"}},
    {"body": {"n": [2, 1]}}, {"body": None}, {"meta": {"m": 2}}, {"delay": 3_600_000}, {"retry": "default"},
    {"retry": {"kind": "list", "delays": ["4m"], "jitter": 0}}, {"timeout": "900ms"},
    {"connect_timeout": 1000}, {"expires_in": "120m"}, {"success": {"status": [200]}},
    {"poll": {"every": "5s", "max": 3}},
    {"group": "h"}, {"on_done": "http://d"}, {"on_dead": None},
]  # fmt: skip


def test_the_same_request_again_is_a_duplicate(driver: Driver) -> None:
    first = driver.ask("schedule", **FULL)
    driver.pass_ms(500)  # the same delay, asked for later, is the same content
    assert driver.ask("schedule", seq=4, **FULL) == first | {"duplicate": True, "seq": 4}
    assert driver.ask("schedule", on_conflict="keep", **FULL) == first | {"duplicate": True}
    assert len(driver.written()) == 1


def test_the_order_of_fields_and_headers_is_no_content(driver: Driver) -> None:
    """A client whose maps have no order sends the same request in another order after a timeout."""
    driver.ask("schedule", **FULL)
    turned = dict(reversed(FULL.items())) | {"headers": {"b": "2", "a": "1"}}
    assert driver.ask("schedule", **turned)["duplicate"]
    assert driver.ask("schedule", **FULL | {"on_conflict": "error"})["duplicate"]


@pytest.mark.parametrize("other", OTHER, ids=[str(other) for other in OTHER])
def test_other_content_under_a_known_id_is_refused(driver: Driver, other: dict[str, Any]) -> None:
    first = driver.ask("schedule", **FULL)
    for _ in range(2):  # once against the fields, once against the digest that a reschedule leaves
        reply = driver.ask("schedule", **FULL | other)
        assert reply["error"] == "exists"
        assert {name: reply[name] for name in ("version", "state", "due")} == {
            name: first[name] for name in ("version", "state", "due")
        }
        first |= driver.ask("reschedule", id="t", queue="q")


def test_method_post_said_or_not_is_the_same(driver: Driver) -> None:
    driver.ask("schedule", id="t", url="http://r/")
    assert driver.ask("schedule", id="t", url="http://r/", method="POST")["duplicate"]


def test_a_reschedule_does_not_change_what_a_duplicate_is() -> None:
    driver = scheduled(delay="1h")
    moved = driver.ask("reschedule", id="t", delay="2h", url="http://other/", body=1)
    again = driver.ask("schedule", id="t", url="http://r/", delay="1h")
    assert (again["duplicate"], again["version"], again["due"]) == (True, 2, moved["due"])
    assert driver.ask("schedule", id="t", url="http://other/", delay="2h", body=1)["error"] == "exists"


def test_the_same_id_in_two_queues_is_two_tasks(driver: Driver) -> None:
    assert not driver.ask("schedule", id="t", url="http://r/")["duplicate"]
    assert not driver.ask("schedule", id="t", queue="q", url="http://s/")["duplicate"]
    driver.ask("cancel", id="t", queue="q")
    assert driver.state(KEY) == "scheduled"
    assert driver.ask("get", id="t")["task"]["url"] == "http://r/"


def test_an_id_with_a_slash_is_no_other_queue(driver: Driver) -> None:
    driver.ask("schedule", id="q/t", url="http://r/")
    assert driver.ask("get", id="t", queue="q")["error"] == "not_found"
    assert driver.ask("list", queue="default")["tasks"][0]["id"] == "q/t"


def test_a_wanted_repeat_is_not_swallowed_by_the_dedupe_window() -> None:
    """An ended task answers for its id as long as it is kept; replace re-opens it at once."""
    driver = scheduled(body={"n": 1})
    driver.tick()
    driver.attempt(KEY)
    assert driver.ask("schedule", id="t", url="http://r/", body={"n": 1})["state"] == "done"
    reply = driver.ask("schedule", id="t", url="http://r/", body={"n": 1}, on_conflict="replace")
    assert (reply["duplicate"], reply["state"], reply["version"]) == (False, "scheduled", 2)
    driver.tick()
    assert driver.task(KEY).body == b'{"n": 1}'
    driver.attempt(KEY)
    assert [a["version"] for a in driver.view(KEY)["history"]] == [1, 2]


def test_replace_begins_afresh_and_keeps_history_and_birth() -> None:
    driver = scheduled(group="g", meta=1, retry={"kind": "fixed", "every": 5, "attempts": 9, "jitter": 0})
    driver.tick()
    driver.attempt(KEY, 500)
    driver.pass_ms(10)
    reply = driver.ask("schedule", id="t", url="http://new/", delay=70, on_conflict="replace")
    view = driver.view(KEY)
    assert (reply["version"], view["attempts"], view["next"], view["due"]) == (
        2,
        0,
        reply["due"],
        reply["due"],
    )
    assert "group" not in view
    assert "meta" not in view
    assert len(view["history"]) == 1
    assert driver.task(KEY).failures == 0
    assert not driver.engine.groups


# -- room -----------------------------------------------------------------------------------------


def test_full_refuses_what_adds_a_live_task_and_nothing_else() -> None:
    driver = Driver(Limits(tasks_max=2))
    driver.ask("schedule", id="dead", url="http://r/", retry="none")
    driver.tick()
    driver.attempt("default/dead", 500)
    driver.ask("schedule", id="t", url="http://r/", on_done="http://d/", delay=5)
    driver.ask("schedule", id="u", url="http://r/", delay=5)
    for op, ask in (
        ("schedule", {"id": "v", "url": "http://r/"}),
        ("schedule", {"id": "v", "url": "http://r/", "method": "PUT"}),
        ("schedule", {"id": "dead", "url": "http://r/", "on_conflict": "replace"}),
        ("redrive", {"id": "dead"}),
    ):
        reply = driver.ask(op, **ask)
        assert (reply["error"], reply["retry_after_ms"]) == ("full", 1000), op
        assert "tasks_max (2)" in reply["message"]
    assert driver.ask("schedule", id="u", url="http://r/", delay=5)["duplicate"]
    assert driver.ask("schedule", id="u", url="http://r/", delay=6, on_conflict="replace")["ok"]
    assert driver.ask("reschedule", id="u", delay=7)["ok"]
    assert driver.ask("finish", id="t")["finished"] == 1  # its hook comes in although there is no room
    assert driver.engine.live == 2
    assert driver.ask("cancel", id="u")["cancelled"] == 1
    assert driver.ask("redrive", id="dead")["redriven"] == 1


# -- due ------------------------------------------------------------------------------------------


def test_a_deadline_is_rounded_late_never_early() -> None:
    """A clock between two milliseconds: due is the later one, and the deadline lies exactly on it."""
    seed = 3
    chance = random.Random(seed)
    for _ in range(300):
        driver = Driver()
        driver.now = Now(chance.randrange(10**15), chance.randrange(10**18, 2 * 10**18))
        delay_ms = chance.randrange(5000)
        asked = driver.now
        due_ms = driver.ask("schedule", id="t", url="http://r/", delay=delay_ms)["due"]
        deadline_ns = driver.task(KEY).deadline_ns
        assert deadline_ns is not None
        late_ns = deadline_ns - (asked.elapsed_ns + delay_ms * NS_PER_MS)
        assert 0 <= late_ns < NS_PER_MS, f"seed {seed}"
        assert due_ms * NS_PER_MS == asked.wall_ns + delay_ms * NS_PER_MS + late_ns, f"seed {seed}"


def test_nothing_is_due_one_nanosecond_early() -> None:
    """A ns before, on the boundary, and a ns later."""
    for fields in ({"delay": 20}, {"at": (Driver().now.wall_ns // NS_PER_MS) + 20}):
        driver = scheduled(**fields)
        driver.pass_ns(20 * NS_PER_MS - 1)
        assert driver.tick() == []
        driver.pass_ns(1)
        assert driver.tick() == [KEY]


def test_a_delay_is_immune_to_clock_steps_and_an_instant_follows_them() -> None:
    for step_ms in (HOUR_MS, -HOUR_MS):
        driver = Driver()
        driver.ask("schedule", id="delay", url="http://r/", delay=1000)
        driver.ask("schedule", id="at", url="http://r/", at=driver.now.wall_ms + 1000)
        driver.step_wall_ms(step_ms)
        assert driver.tick() == (["default/at"] if step_ms > 0 else [])
        driver.pass_ms(999)
        assert driver.tick() == []
        driver.pass_ms(1)
        assert driver.tick() == ["default/delay"]
        driver.pass_ms(HOUR_MS)
        assert driver.tick() == ([] if step_ms > 0 else ["default/at"])


def test_past_or_now_is_due_at_once(driver: Driver) -> None:
    for id, fields in (("a", {}), ("b", {"delay": 0}), ("c", {"delay": "0s"}), ("d", {"at": 10**11})):
        assert driver.ask("schedule", id=id, url="http://r/", **fields)["ok"]
    assert sorted(driver.tick()) == [f"default/{id}" for id in "abcd"]


def test_ten_years_of_delay_is_the_most(driver: Driver) -> None:
    assert driver.ask("schedule", id="t", url="http://r/", delay="3650d")["ok"]
    driver.pass_ms(3650 * 86_400_000 - 1)
    assert driver.tick() == []
    driver.pass_ms(1)
    assert driver.tick() == [KEY]


# -- versions -------------------------------------------------------------------------------------


def test_the_timer_of_an_old_version_never_fires() -> None:
    """Moved later before it is due, while it is ready, and while its attempt runs."""
    driver = scheduled(delay=100)
    driver.ask("reschedule", id="t", delay=200)
    driver.pass_ms(100)
    assert driver.tick() == []
    driver.pass_ms(100)
    assert driver.tick() == [KEY]  # ready
    driver.ask("reschedule", id="t", delay=50)
    assert driver.state(KEY) == "scheduled"
    with pytest.raises(AssertionError):
        driver.start(KEY)
    driver.pass_ms(50)
    assert driver.tick() == [KEY]
    driver.start(KEY)
    driver.ask("reschedule", id="t", delay=50)
    driver.pass_ms(60)
    assert driver.tick() == []  # one attempt at a time: the new due waits for the old attempt's end
    driver.outcome(KEY, Answer(0, 0, 0, 200))
    assert driver.state(KEY) == "scheduled"
    assert driver.tick() == [KEY]
    assert [(a["version"], a["outcome"]) for a in driver.view(KEY)["history"]] == [(3, "succeeded")]
    check(driver.engine)


def test_moving_a_task_around_its_due_for_ever_fires_it_once() -> None:
    """Many reschedules, one firing for each version that is let be."""
    seed = 12
    chance = random.Random(seed)
    driver = Driver()
    for n in range(20):
        driver.ask("schedule", id=f"t{n}", url="http://r/", delay=chance.randrange(100))
    fired: list[tuple[str, int]] = []
    for _ in range(500):
        key = driver.ask("reschedule", id=f"t{chance.randrange(20)}", delay=chance.randrange(60))
        assert key["ok"]
        driver.pass_ns(chance.randrange(8) * NS_PER_MS)
        for found in driver.tick():
            task = driver.task(found)
            assert (found, task.version) not in fired, f"seed {seed}"
            fired.append((found, task.version))
            assert task.due_ms * NS_PER_MS <= driver.now.wall_ns, f"seed {seed}"
    check(driver.engine)
    assert len(fired) > 200


def test_reschedule_without_a_time_keeps_the_due_and_starts_the_budget_again() -> None:
    rule = {"kind": "fixed", "every": 1000, "attempts": 2, "jitter": 0}
    driver = scheduled(delay=20, retry=rule)
    due_ms = driver.view(KEY)["due"]
    assert driver.ask("reschedule", id="t")["due"] == due_ms
    driver.pass_ms(19)
    assert driver.tick() == []
    driver.pass_ms(1)
    assert driver.tick() == [KEY]
    driver.attempt(KEY, 500)
    view = driver.view(KEY)
    assert (view["attempts"], view["due"], view["next"]) == (1, due_ms, due_ms + 1000)
    reply = driver.ask("reschedule", id="t", retry=rule)
    view = driver.view(KEY)
    assert (reply["version"], view["attempts"], view["due"], view["next"]) == (3, 0, due_ms, due_ms)
    assert driver.tick() == [KEY]  # its due is past
    driver.attempt(KEY, 500)
    assert driver.state(KEY) == "scheduled"  # two attempts again


def test_an_instant_put_back_by_the_clock_is_not_fired_early_by_a_reschedule() -> None:
    driver = Driver()
    at_ms = driver.now.wall_ms + 10
    driver.ask("schedule", id="t", url="http://r/", at=at_ms, retry="alipay")
    driver.pass_ms(10)
    driver.tick()
    driver.attempt(KEY, 500)
    driver.step_wall_ms(-5000)
    assert driver.ask("reschedule", id="t")["due"] == at_ms
    assert driver.tick() == []
    driver.pass_ms(5000)
    assert driver.tick() == [KEY]


def test_if_version_guards_against_a_change_in_between() -> None:
    driver = scheduled(delay="1h")
    assert driver.ask("reschedule", id="t", if_version=1, delay="2h")["version"] == 2
    for op in ("reschedule", "cancel"):
        for version in (1, 3, 0, -1, 10**30):
            reply = driver.ask(op, id="t", if_version=version)
            assert (reply["error"], reply["version"], reply["state"]) == ("conflict", 2, "scheduled")
    assert driver.ask("cancel", id="t", if_version=2)["cancelled"] == 1


# Fields of a reschedule: what is asked, and what get shows afterwards of a task with all of them.
CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"url": "http://n/"}, {"url": "http://n/"}),
    ({"method": "PATCH"}, {"method": "PATCH"}),
    ({"headers": {}}, {"headers": {}}),
    ({"body": [1]}, {"body": [1]}),
    ({"body_text": ""}, {"body": None, "body_text": ""}),
    ({"body_base64": "AA=="}, {"body": None, "body_base64": "AA=="}),
    ({"meta": 0}, {"meta": 0}),
    ({"retry": "none"}, {"retry": "none"}),
    ({"timeout": 5, "connect_timeout": 6}, {"timeout": 5, "connect_timeout": 6}),
    ({"expires_in": 7}, {"expires_in": 7}),
    ({"expires_at": 10**11}, {"expires_at": 10**11, "expires_in": None}),
    ({"poll": {"every": 1}}, {"poll": {"every": 1, "max": 120}}),
    ({"group": "h"}, {"group": "h"}),
    ({"on_done": "http://n/"}, {"on_done": "http://n/"}),
    ({"on_dead": "http://n/"}, {"on_dead": "http://n/"}),
    ({"at": 10**11}, {"at": 10**11, "delay": None, "due": 10**11, "next": 10**11}),
]


@pytest.mark.parametrize(("change", "shown"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_reschedule_changes_what_is_given_and_nothing_else(
    driver: Driver, change: dict[str, Any], shown: dict[str, Any]
) -> None:
    driver.ask("schedule", **FULL)
    before = driver.view("q/t")
    assert driver.ask("reschedule", id="t", queue="q", **change)["ok"]
    expected = before | {"version": 2} | shown
    assert driver.view("q/t") == {
        name: value for name, value in expected.items() if value is not None or name == "ended"
    }
    check(driver.engine)
    driver.crash()
    assert driver.view("q/t")["version"] == 2


def test_a_refused_reschedule_changes_nothing() -> None:
    driver = scheduled(method="GET", delay="1h")
    before = driver.view(KEY)
    for change in ({"body": 1}, {"url": "x"}, {"retry": "nope"}, {"group": "a b"}, {"delay": 1, "at": 1}):
        assert driver.ask("reschedule", id="t", **change)["error"] == "bad_request"
    assert driver.view(KEY) == before


# -- expires --------------------------------------------------------------------------------------


def test_expires_in_counts_from_the_due_on_the_due_s_own_clock() -> None:
    for due, step_ms, expired in (
        ({"delay": 20}, HOUR_MS, False), ({"delay": 20}, -HOUR_MS, False),
        ({"at": Driver().now.wall_ms + 20}, HOUR_MS, True),
        ({"at": Driver().now.wall_ms + 20}, -HOUR_MS, False),
    ):  # fmt: skip
        driver = scheduled(expires_in=30, **due)
        driver.step_wall_ms(step_ms)
        driver.tick()
        assert (driver.state(KEY) == "expired") == expired
    driver = scheduled(delay=20, expires_in=30)
    driver.pass_ms(20)
    driver.tick()
    driver.pass_ns(30 * NS_PER_MS - 1)
    assert driver.tick() == []
    assert driver.state(KEY) == "ready"
    driver.pass_ns(1)
    assert driver.tick() == [KEY]
    assert driver.state(KEY) == "expired"


def test_expires_in_follows_the_due_when_it_moves_and_expires_at_stays() -> None:
    driver = scheduled(delay=20, expires_in=30)
    driver.ask("reschedule", id="t", delay=100)
    driver.pass_ms(129)
    driver.tick()
    assert driver.state(KEY) == "ready"
    driver.pass_ms(1)
    driver.tick()
    assert driver.state(KEY) == "expired"
    driver = scheduled(delay=20, expires_at=Driver().now.wall_ms + 60)
    driver.ask("reschedule", id="t", delay=100)
    driver.pass_ms(60)
    driver.tick()
    assert driver.state(KEY) == "expired"


def test_expires_in_given_between_two_attempts_counts_from_the_due_too() -> None:
    driver = scheduled(delay=20, retry="alipay")
    driver.pass_ms(20)
    driver.tick()
    driver.attempt(KEY, 500)
    driver.pass_ms(100)
    driver.ask("reschedule", id="t", expires_in=150)
    driver.ask("pause", queue="default")
    driver.tick()
    driver.pass_ms(49)
    driver.tick()
    assert driver.state(KEY) == "ready"
    driver.pass_ms(1)
    driver.tick()
    assert driver.state(KEY) == "expired"


@pytest.mark.parametrize("late_ms", [1000, 365 * 86_400_000])
def test_late_by_a_second_is_not_dropped(late_ms: int) -> None:
    """Nor by a year: a task that the daemon comes to late goes out, unless it says when it expires."""
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", delay=20)
    driver.ask("schedule", id="at", url="http://r/", at=driver.now.wall_ms + 20)
    driver.ask("schedule", id="drop", url="http://r/", delay=20, expires_in="1s")
    driver.crash(down_ms=20 + late_ms)
    driver.tick()
    assert [driver.state(f"default/{id}") for id in ("t", "at", "drop")] == ["ready", "ready", "expired"]
    driver.attempt(KEY)
    assert driver.state(KEY) == "done"
