"""Hooks: what an end posts, when it is stored, and what happens where its id is taken."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import resolve

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


def test_what_a_hook_posts() -> None:
    driver = Driver()
    driver.ask(
        "schedule", id="订单 7", queue="q", url="http://r/", meta={"o": 1}, group="g", retry="none", **HOOKS
    )
    driver.tick()
    driver.start("q/订单 7")
    driver.outcome("q/订单 7", Answer(1, 2, 3, 502, body=b"bad gateway"))
    hook = driver.view("q/订单 7/dead/1")
    assert hook["body"] == {
        "type": "task.dead", "queue": "q", "id": "订单 7", "version": 1, "group": "g", "meta": {"o": 1},
        "attempts": 1, "status": 502, "error": "attempts_used_up", "reply": "bad gateway",
        "ended": driver.now.wall_ms,
    }  # fmt: skip
    assert (hook["url"], hook["method"], hook["state"], hook["version"]) == (
        "http://x/",
        "POST",
        "scheduled",
        1,
    )
    assert "group" not in hook
    assert "on_dead" not in hook
    assert driver.tick() == ["q/订单 7/dead/1"]


def test_each_end_calls_its_own_hook() -> None:
    for end, word in (
        ("done", "done"),
        ("finish", "done"),
        ("dead", "dead"),
        ("expired", "dead"),
        ("cancel", None),
    ):
        driver = ready(**HOOKS, expires_in=50)
        if end == "expired":
            driver.pass_ms(50)
            driver.tick()
        elif end in ("finish", "cancel"):
            driver.ask(end, id="t")
        else:
            driver.attempt(KEY, 200 if end == "done" else 410)
        keys = {key for key, _ in driver.engine.table.items()} - {KEY}
        assert keys == (set() if word is None else {f"default/t/{word}/1"}), end
        if word is not None:
            body = driver.view(f"default/t/{word}/1")["body"]
            assert body["type"] == f"task.{driver.state(KEY)}"
            assert (body["error"] is None) == (word == "done")


def test_a_hook_is_stored_in_the_same_decision_as_the_end() -> None:
    """The records of one decision are one piece of a frame: an end without its hook is never on disk."""
    driver = ready(**HOOKS)
    driver.start(KEY)
    before = len(driver.journal.frames)
    driver.outcome(KEY, Answer(0, 0, 0, 200))
    (frame,) = driver.journal.frames[before:]
    kinds = [type(record).__struct_config__.tag for record in r.decode_all(frame.payload)]
    assert kinds == ["a", "e", "s"]


def test_the_whole_reply_as_read_reaches_the_hook() -> None:
    for body, expected in (
        (b"", {"reply": None}),
        (b"x" * 65_536, {"reply": "x" * 65_536}),
        ('"\\\n\t订单'.encode() * 1000, {"reply": '"\\\n\t订单' * 1000}),
        (b"\x1b[31mred\x1b[0m\x00\x0c", {"reply": "\x1b[31mred\x1b[0m\x00\x0c"}),
        (b"\x07" * 20_000, {"reply": "\x07" * 20_000}),
        (b"\x07" * 30_000, {"reply_base64": base64.b64encode(b"\x07" * 30_000).decode()}),
        (b"\xff" * 100, {"reply_base64": base64.b64encode(b"\xff" * 100).decode()}),
    ):
        driver = ready(**HOOKS)
        driver.attempt(KEY, 200, body=body)
        shown = driver.view("default/t/done/1")["body"]
        assert {name: shown[name] for name in shown if name.startswith("reply")} == expected


def test_the_hook_of_finish_tells_finish_s_reply_and_nothing_of_the_attempt() -> None:
    for state in ("ready", "running", "crashed"):
        for reply in ({}, {"reply": {"paid": True}}):
            driver = ready(**HOOKS)
            if state != "ready":
                driver.start(KEY)
            driver.ask("finish", id="t", **reply)
            if state == "running":
                driver.outcome(KEY, Answer(0, 0, 0, 500, body=b"late and wrong"))
            elif state == "crashed":
                driver.crash()
            body = driver.view("default/t/done/1")["body"]
            shown = {name: body[name] for name in ("type", "reply", "status", "error")}
            assert shown == {"type": "task.done", "reply": reply.get("reply"), "status": None, "error": None}


def test_hooks_are_outside_the_limits_and_have_the_default_rule() -> None:
    policy = Policy(queues={"default": QueuePolicy(retry=resolve("none", {}))})
    driver = Driver(Limits(tasks_max=1), policy)
    driver.ask("schedule", id="x" * 256, url="http://r/", meta="m" * 4000, **HOOKS)
    driver.tick()
    driver.attempt("default/" + "x" * 256, 200, body=b"\x07" * 65_536)
    hook = f"default/{'x' * 256}/done/1"
    assert len(driver.task(hook).body or b"") > 65_536
    driver.tick()
    driver.attempt(hook, 500)
    assert driver.state(hook) == "scheduled"  # the queue's own rule would have given it up


def test_each_version_has_a_hook_of_its_own() -> None:
    driver = ready(**HOOKS)
    driver.attempt(KEY)
    for _ in range(2):
        driver.ask("schedule", id="t", url="http://r/", on_conflict="replace", **HOOKS)
        driver.tick()
        driver.attempt(KEY)
    hooks = sorted(key for key, _ in driver.engine.table.items() if "/done/" in key)
    assert hooks == ["default/t/done/1", "default/t/done/2", "default/t/done/3"]


def test_a_hook_whose_id_is_taken_replaces_what_has_it() -> None:
    """An id came back after it was forgotten, its hook is still known, and even running."""
    driver = Driver(Limits(keep_done_ms=0))
    driver.ask("schedule", id="t", url="http://r/", **HOOKS)
    driver.tick()
    driver.attempt(KEY, body=b"first")
    assert sorted(driver.tick()) == [KEY, "default/t/done/1"]
    assert driver.engine.get(KEY) is None
    driver.start("default/t/done/1")
    driver.ask("schedule", id="t", url="http://r/", **HOOKS)
    driver.tick()
    driver.attempt(KEY, body=b"second")
    hook = driver.view("default/t/done/1")
    assert (hook["version"], hook["state"], hook["body"]["reply"]) == (2, "running", "second")
    driver.outcome("default/t/done/1", Answer(0, 0, 0, 500))
    check(driver.engine)
    driver.tick()
    driver.attempt("default/t/done/1")
    view = driver.view("default/t/done/1")
    assert [(a["version"], a["attempt"], a["outcome"]) for a in view["history"]] == [
        (1, 1, "failed"),
        (2, 1, "succeeded"),
    ]
