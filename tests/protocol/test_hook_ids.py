"""Ids that a hook may get are not for users: the hook would take the user's task away, as by replace."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.protocol.ids import is_hook_id

pytestmark = pytest.mark.quick

IDS = (
    "o1/done/1",
    "o1/dead/1",
    "x/done/0",
    "x/dead/007",
    "/done/1",
    "a/done/1/dead/22",
    "\u8ba2\u5355/done/9",
)
OTHERS = (
    "o1/done/", "o1/done", "done/1", "o1/done/1a", "o1/done/-1", "o1/done/+1", "o1/done/1/", "o1/Done/1",
    "o1/d/1", "o1done/1", "o1/done1", "o1/done/1.0", "o1/done/\u0661", "o1/expired/1", "o1/done/ 1",
    "/d", "o1/dead//1",
)  # fmt: skip


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("how", ["error", "keep", "replace"])
def test_an_id_that_a_hook_may_get_is_refused_where_it_is_not_known(id: str, how: str) -> None:
    driver = Driver()
    for fields in ({}, {"delay": 5}, {"delay": "1h", "group": "g"}, {"queue": "q"}):
        reply = driver.ask("schedule", id=id, url="http://r/", on_conflict=how, **fields)
        assert (reply["error"], reply["field"]) == ("bad_request", "id")
        assert "/done/NUMBER" in reply["message"]
    assert not driver.written()
    for op in ("get", "cancel", "finish", "redrive", "reschedule"):
        assert driver.ask(op, id=id)["error"] == "not_found", "all else about such ids is as before"


@pytest.mark.parametrize("id", OTHERS)
def test_ids_that_no_hook_gets_are_taken(id: str) -> None:
    assert not is_hook_id(id)
    assert Driver().ask("schedule", id=id, url="http://r/")["ok"]


def test_a_hook_takes_no_task_of_a_user_away() -> None:
    """``o1/done/1`` was scheduled for later, ``o1`` ended as done, and the task was the hook."""
    driver = Driver()
    assert not driver.ask("schedule", id="o1/done/1", url="http://mine/", delay="1h")["ok"]
    assert driver.ask("schedule", id="o1", url="http://r/", on_done="http://d/", delay="1h")["ok"]
    assert driver.ask("finish", id="o1")["ok"]
    hook = driver.view("default/o1/done/1")
    assert (hook["url"], hook["version"]) == ("http://d/", 1)


def test_all_works_on_the_hook_that_has_the_id() -> None:
    driver = Driver()
    for id in ("o1", "o2"):
        driver.ask("schedule", id=id, url="http://r/", on_done="http://d/", delay="1h")
        driver.ask("finish", id=id)
    same: dict[str, Any] = {"id": "o1/done/1", "url": "http://d/"}
    assert driver.ask("schedule", **same)["error"] == "exists"
    assert driver.ask("schedule", **same, on_conflict="keep")["duplicate"]
    assert driver.ask("reschedule", id="o1/done/1", delay="2h")["version"] == 2
    assert driver.ask("schedule", **same, on_conflict="replace")["version"] == 3
    assert driver.ask("schedule", **same)["duplicate"]
    assert driver.ask("cancel", id="o1/done/1")["cancelled"] == 1
    assert driver.ask("finish", id="o2/done/1")["finished"] == 1


@pytest.mark.parametrize(
    ("ids", "is_run"),
    [
        (["a", "o/done/1"], False),
        (["o/dead/22", "a"], False),
        (["a/", "done/1"], True),  # not one id, but two
        (["a/delivery/1", "b/dead/x"], True),
    ],
)
def test_a_run_of_plain_requests_has_no_such_id(ids: list[str], is_run: bool) -> None:
    driver = Driver()
    driver.ask("schedule", id="first", url="http://r/", delay=5)  # queue and origin are known from here on
    lines = [b'{"op":"schedule","id":"%s","url":"http://r/","delay":5}' % id.encode() for id in ids]
    assert bool(driver.run(lines)) is is_run
    if not is_run:
        assert [driver.line(line)["ok"] for line in lines] == [not is_hook_id(id) for id in ids]
