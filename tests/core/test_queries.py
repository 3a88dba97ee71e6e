"""What can be asked without changing anything: get, list and its pages, counts."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from tests.core.driver import Driver
from wheeltimer.core import queries
from wheeltimer.protocol import requests as c

pytestmark = pytest.mark.quick
SAID: dict[str, Any] = {
    "url": "HTTP://R/a?b", "method": "PUT", "headers": {"X-A": "1"}, "meta": [1, {"a": None}],
    "retry": {"kind": "list", "delays": ["4m"], "jitter": 0.1}, "timeout": "3s", "connect_timeout": 900,
    "success": {"status": ["2xx", 304], "text": "ok", "json": [{"pointer": "", "equals": 1}]},
    "expires_in": "2h", "poll": {"every": "5s", "max": 3}, "group": "g", "on_done": "http://d", "on_dead": "http://x",
}  # fmt: skip


@pytest.mark.parametrize(
    "due", [{"delay": "1h30m"}, {"delay": 7}, {"at": "2030-01-31T08:00:00+08:00"}, {"at": 10**11}, {}]
)
@pytest.mark.parametrize(
    "body", [{"body": {"b": [1, "é"]}}, {"body": 0}, {"body_text": "hé\n"}, {"body_base64": "AAH/"}, {}]
)
def test_get_shows_every_field_as_given(due: dict[str, Any], body: dict[str, Any]) -> None:
    driver = Driver()
    reply = driver.ask("schedule", id="订单 7", queue="q", **SAID, **due, **body)
    assert driver.ask("get", id="订单 7", queue="q", seq=1) == {
        "ok": True, "seq": 1,
        "task": SAID | due | body | {
            "id": "订单 7", "queue": "q", "version": 1, "state": "scheduled", "created": driver.now.wall_ms,
            "due": reply["due"], "next": reply["due"], "ended": None, "attempts": 0, "polls": 0,
            "history": [],
        },
    }  # fmt: skip


def test_list_shows_the_same_without_body_and_history() -> None:
    driver = Driver()
    for id, body in (("a", {"body": 1}), ("b", {"body_text": "1"}), ("c", {"body_base64": "AA=="})):
        driver.ask("schedule", id=id, **SAID, **body)
        shown = driver.ask("get", id=id)["task"]
        del shown[next(iter(body))]
        del shown["history"]
        assert driver.ask("list")["tasks"][-1] == shown


def test_json_goes_out_as_it_came_in() -> None:
    """Numbers that no double holds, the order of members, spaces: the bytes are the client's own."""
    driver = Driver()
    raw = b'{"z": 1.10, "a":12345678901234567890123, "z2":1e2, "e":"\\u00e9"}'
    driver.line(b'{"op":"schedule","id":"t","url":"http://r/","body":' + raw + b',"meta":' + raw + b"}")
    assert driver.task("default/t").body == raw
    assert bytes(msgspec.json.encode(queries.get(driver.engine, c.Get(id="t")))).count(raw) == 2
    driver.crash()
    assert driver.task("default/t").meta == raw


def test_times_of_a_task_through_its_life() -> None:
    driver = Driver()
    driver.ask(
        "schedule",
        id="t",
        url="http://r/",
        delay=10,
        retry={"kind": "fixed", "every": 50, "attempts": 2, "jitter": 0},
    )
    created = driver.now.wall_ms
    driver.pass_ms(10)
    driver.tick()
    driver.start("default/t")
    view = driver.view("default/t")
    assert (view["created"], view["due"], view["next"], view["ended"]) == (
        created,
        created + 10,
        created + 10,
        None,
    )
    driver.crash()
    driver.tick()
    driver.attempt("default/t", 500)
    assert driver.view("default/t")["next"] == created + 60
    driver.pass_ms(50)
    driver.tick()
    driver.attempt("default/t", 500)
    view = driver.view("default/t")
    assert (view["due"], view["next"], view["ended"], view["error"]) == (
        created + 10, None, created + 60, "attempts_used_up",
    )  # fmt: skip


def filled(count: int, seed: int) -> Driver:
    chance = random.Random(seed)
    driver = Driver()
    for n in range(count):
        driver.ask(
            "schedule", id=f"t{n}", queue=chance.choice(("a", "b")), url="http://r/",
            delay=chance.randrange(6), **({"group": "g"} if chance.random() < 0.3 else {}),
        )  # fmt: skip
    driver.pass_ms(3)
    for key in driver.tick()[: count // 3]:
        driver.attempt(key, chance.choice((200, 500, 410)))
    return driver


def pages(driver: Driver, **ask: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        reply = driver.ask("list", **ask, **cursor)
        assert len(reply["tasks"]) <= ask.get("limit", 100)
        found += reply["tasks"]
        if "cursor" not in reply:
            return found
        assert len(reply["tasks"]) == ask.get("limit", 100)
        cursor = {"cursor": reply["cursor"]}


def test_pages_put_together_are_the_whole_list_in_order() -> None:
    seed = 9
    driver = filled(120, seed)
    whole = driver.ask("list", limit=1000)["tasks"]
    assert len(whole) == 120
    live = [task for task in whole if task["next"] is not None]
    assert whole[: len(live)] == live, "ended tasks come last"
    order = [(task["next"] or 0, task["queue"], task["id"]) for task in live]
    assert order == sorted(order), f"seed {seed}"
    for limit in (1, 7, 119, 120, 121):
        assert pages(driver, limit=limit) == whole
    for ask, keep in (
        ({"queue": "a"}, lambda task: task["queue"] == "a"),
        ({"group": "g"}, lambda task: task.get("group") == "g"),
        ({"state": "done"}, lambda task: task["state"] == "done"),
        ({"queue": "b", "group": "g", "state": "scheduled"},
         lambda task: (task["queue"], task.get("group"), task["state"]) == ("b", "g", "scheduled")),
    ):  # fmt: skip
        expected = [task for task in whole if keep(task)]
        assert expected
        assert pages(driver, limit=5, **ask) == expected
    assert driver.ask("list", queue="nobody")["tasks"] == []
    assert driver.ask("list", group="nobody")["tasks"] == []


def test_a_page_is_full_exactly_and_there_is_no_more() -> None:
    driver = Driver()
    for id in "abc":
        driver.ask("schedule", id=id, url="http://r/")
    assert "cursor" not in driver.ask("list", limit=3)
    assert "cursor" in driver.ask("list", limit=2)


def test_a_cursor_survives_ids_with_slashes_and_a_task_that_has_gone() -> None:
    driver = Driver()
    for id in ("a", "a/b", "a//", "/", "订单"):
        driver.ask("schedule", id=id, url="http://r/", delay=5)
    first = driver.ask("list", limit=2)
    driver.ask("schedule", id=first["tasks"][-1]["id"], url="http://r/", delay=900, on_conflict="replace")
    rest = driver.ask("list", cursor=first["cursor"])["tasks"]
    assert [task["id"] for task in rest] == ["a//", "a/b", "订单", "a"]


def test_a_list_sees_one_slice_at_a_time_while_tasks_change() -> None:
    """Whoever scans gives way between slices; the rows that stay are all in the page."""
    driver = Driver()
    for n in range(300):
        driver.ask("schedule", id=f"t{n:03}", url="http://r/", delay=n)
    listing = queries.Listing(c.List(limit=1000))
    for rows in listing.rows(driver.engine, 16):
        assert len(rows) <= 16
        listing.feed(rows)
        n = driver.journal.next_lsn
        driver.ask("schedule", id=f"new{n}", url="http://r/")
        if n % 5 == 0:
            driver.ask("cancel", id=f"t{n % 100 + 200:03}")
    ids = [task["id"] for task in listing.reply().tasks]
    assert len(ids) == len(set(ids))
    assert {f"t{n:03}" for n in range(200)} <= set(ids)


def test_counts_and_queues_are_read_not_derived() -> None:
    driver = filled(60, 4)
    counts = queries.counts(driver.engine)
    assert sum(counts.values()) == 60
    by_queue = queries.queues(driver.engine)
    assert set(by_queue) == {"a", "b"}
    for state, count in counts.items():
        assert sum(int(str(queue.get(state, 0))) for queue in by_queue.values()) == count
    driver.ask("pause", queue="c")
    assert queries.queues(driver.engine)["c"] == {"paused": True}


def test_no_carriage_return_of_a_callers_json_stands_in_a_reply() -> None:
    """Some readers end a line there: half a reply, and the rest of it taken for the next."""
    driver = Driver()
    line = b'{"op":"schedule","id":"a","url":"http://r/","body":[1,\r2],"meta":{"m":\r1}}'
    assert driver.line(line)["ok"]
    for request in (c.Get(id="a"), c.List()):
        reply = msgspec.json.encode(driver._decide(request))
        assert b"\r" not in reply
        assert b'{"m": 1}' in reply


def test_a_page_of_long_tasks_ends_before_its_limit_and_the_cursor_leads_on() -> None:
    """One short line asked for 20 MB."""
    driver = Driver()
    for n in range(300):
        driver.ask("schedule", id=f"t{n}", url="http://r/" + "x" * 8000, delay=n, body_text="y" * 9000)
    seen, pages, cursor = list[str](), 0, None
    while pages == 0 or cursor:
        page = driver.ask("list", limit=1000, **({"cursor": cursor} if cursor else {}))
        assert len(json.dumps(page)) < 2 * queries.PAGE_BYTES_MAX
        seen += [task["id"] for task in page["tasks"]]
        pages, cursor = pages + 1, page.get("cursor")
    assert seen == [f"t{n}" for n in range(300)]
    assert pages == 3
