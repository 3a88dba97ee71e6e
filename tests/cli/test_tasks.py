"""The client commands: what goes over the wire, and what the user reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.client.scripted import ScriptedServer
from wheeltimer.cli import output

NOW_MS = 1_800_000_000_000
URL = "https://example.org/hook"
SCHEDULED = {
    "ok": True, "id": "order-42", "queue": "orders", "version": 1, "due": NOW_MS + 1_798_000,
    "state": "scheduled", "duplicate": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "now_ms", lambda: NOW_MS)


def sent(*args: str, reply: dict[str, Any], stdin: str | None = None) -> dict[str, Any]:
    """The one request that a command sends."""
    with ScriptedServer([reply]) as server:
        result = run(*args, server=server, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    (request,) = server.requests
    return request


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ((), {}),
        (("--in", "30m"), {"delay": "30m"}),
        (("--in", "1500ms"), {"delay": "1500ms"}),
        (("--at", "2027-01-01T09:00:00+01:00"), {"at": "2027-01-01T09:00:00+01:00"}),
        (("--at", "1800000000000"), {"at": 1_800_000_000_000}),
        (("--id", "a b", "--queue", "q"), {"id": "a b", "queue": "q"}),
        (("--body", '{"a": 1.50}'), {"body": {"a": 1.5}}),
        (("--body", "null"), {"body": None}),
        (("--body-text", "null"), {"body_text": "null"}),
        (("--body-base64", "AAE="), {"body_base64": "AAE="}),
        (("--header", "X-A: b:c", "--header", "X-B:d"), {"headers": {"X-A": "b:c", "X-B": "d"}}),
        (("--method", "PUT", "--group", "g"), {"method": "PUT", "group": "g"}),
        (("--retry", "standard"), {"retry": "standard"}),
        (("--retry", '{"kind":"fixed","every":"3s"}'), {"retry": {"kind": "fixed", "every": "3s"}}),
        (("--timeout", "5s", "--connect-timeout", "250ms"), {"timeout": "5s", "connect_timeout": "250ms"}),
        (("--expires-in", "1h"), {"expires_in": "1h"}),
        (("--expires-at", "100000000000"), {"expires_at": 10**11}),
        (("--success", '{"status":[200]}'), {"success": {"status": [200]}}),
        (("--poll", '{"every":"5s"}'), {"poll": {"every": "5s"}}),
        (("--meta", "[1,2]"), {"meta": [1, 2]}),
        (
            ("--on-done", "http://d/", "--on-dead", "http://e/"),
            {"on_done": "http://d/", "on_dead": "http://e/"},
        ),
        (("--on-conflict", "replace"), {"on_conflict": "replace"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_schedule_sends_what_was_typed(args: tuple[str, ...], fields: dict[str, Any]) -> None:
    assert sent("schedule", URL, *args, reply=SCHEDULED) == {"op": "schedule", "url": URL, **fields}


def test_a_body_keeps_its_own_bytes() -> None:
    """Numbers, order, spaces: a signature over the body must hold at the receiver."""
    body = '{"b": 1.50, "a": 1e2, "a": 12345678901234567890}'
    with ScriptedServer([SCHEDULED]) as server:
        run("schedule", URL, "--body", body, server=server)
    assert body.encode() in server.raw[0]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_body_of_several_lines_stays_one_request(tmp_path: Path, newline: str) -> None:
    body = f'{{{newline}  "text": "one\\ntwo"{newline}}}{newline}'
    file = tmp_path / "body.json"
    file.write_bytes(body.encode())
    for args, stdin in ((("--body", f"@{file}"), None), (("--body", "-"), body)):
        request = sent("schedule", URL, *args, reply=SCHEDULED, stdin=stdin)
        assert request["body"] == {"text": "one\ntwo"}


@pytest.mark.parametrize(
    ("args", "request_"),
    [
        (("get", "a", "--queue", "q"), {"op": "get", "id": "a", "queue": "q"}),
        (("cancel", "a", "--if-version", "3"), {"op": "cancel", "id": "a", "if_version": 3}),
        (("cancel", "--group", "g", "--queue", "q"), {"op": "cancel", "group": "g", "queue": "q"}),
        (("reschedule", "a", "--in", "2h"), {"op": "reschedule", "id": "a", "delay": "2h"}),
        (
            ("reschedule", "a", "--url", URL, "--body", "1", "--if-version", "3"),
            {"op": "reschedule", "id": "a", "url": URL, "body": 1, "if_version": 3},
        ),
        (("list",), {"op": "list"}),
        (
            ("list", "--state", "dead", "--group", "g", "--limit", "7", "--cursor", "c"),
            {"op": "list", "state": "dead", "group": "g", "limit": 7, "cursor": "c"},
        ),
        (("stats",), {"op": "stats"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_other_commands_send_what_was_typed(args: tuple[str, ...], request_: dict[str, Any]) -> None:
    assert sent(*args, "--json", reply={"ok": True}) == request_


# --- what the user reads ---------------------------------------------------------------------------


def shown(*args: str, reply: dict[str, Any]) -> str:
    with ScriptedServer([reply]) as server:
        result = run(*args, server=server)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_schedule_says_when() -> None:
    text = shown("schedule", URL, "--in", "30m", reply=SCHEDULED)
    assert text.startswith("scheduled: order-42\n")
    assert "(in 29m 58s)" in text


def test_schedule_says_that_the_task_was_already_there() -> None:
    text = shown("schedule", URL, reply=SCHEDULED | {"duplicate": True})
    assert text.startswith("already known: order-42\n")


def test_cancel_counts_what_still_runs() -> None:
    assert shown("cancel", "a", reply={"ok": True, "cancelled": 1, "running": 0}) == "cancelled: 1\n"
    text = shown("cancel", "--group", "g", reply={"ok": True, "cancelled": 2, "running": 1})
    assert text == "cancelled: 2, 1 after the attempt in flight\n"


def test_cancel_of_what_was_cancelled_says_so() -> None:
    reply = {"ok": True, "cancelled": 0, "running": 0}
    assert shown("cancel", "a", reply=reply) == "a was cancelled before\n"
    assert shown("cancel", "--group", "g", reply=reply) == "cancelled: 0\n"


def test_reschedule_says_the_new_due() -> None:
    text = shown("reschedule", "a", "--in", "1h", reply={"ok": True, "version": 2, "due": NOW_MS + 3_600_000})
    assert "version  2" in text
    assert "(in 1h)" in text


def _task(**fields: Any) -> dict[str, Any]:
    return {
        "id": "order-42", "queue": "orders", "url": URL, "method": "POST", "version": 1,
        "state": "scheduled", "created": NOW_MS, "due": NOW_MS + 5000, "next": NOW_MS + 5000,
        "ended": None, "attempts": 0, "polls": 0,
    } | fields  # fmt: skip


def test_list_is_aligned_text_in_a_pipe() -> None:
    tasks = [
        _task(next=NOW_MS + 1_798_000),
        _task(id="b", queue="q", state="done", next=None, ended=NOW_MS - 90_000, attempts=12),
    ]
    assert shown("list", reply={"ok": True, "tasks": tasks, "cursor": "5/q/it's b"}).splitlines() == [
        "ID        QUEUE   STATE      NEXT        ATTEMPTS  URL",
        "order-42  orders  scheduled  in 29m 58s         0  https://example.org/hook",
        "b         q       done       1m 30s ago        12  https://example.org/hook",
        """more: --cursor '5/q/it'"'"'s b'""",
    ]


def test_an_empty_list_says_so() -> None:
    assert shown("list", reply={"ok": True, "tasks": []}) == "no such tasks\n"


def test_get_shows_every_field_and_the_history() -> None:
    history = [
        {
            "attempt": 1,
            "version": 1,
            "started": NOW_MS,
            "late_ms": 3,
            "ms": 17,
            "outcome": "failed",
            "error": "connect: refused",
        },
        {
            "attempt": 2,
            "version": 1,
            "started": NOW_MS,
            "late_ms": 0,
            "ms": 4,
            "outcome": "succeeded",
            "status": 200,
            "reply": "fine",
        },
    ]
    task = _task(body={"a": [1]}, group="g", history=history, brand_new_field="x")
    text = shown("get", "order-42", reply={"ok": True, "task": task})
    lines = text.splitlines()
    assert lines[0] == "orders/order-42  scheduled"
    for needle in (
        "(in 5.0s)",
        '{"a": [1]}',  # as it came
        "group",
        "brand_new_field",
        "connect: refused",
        "last reply: fine",
    ):
        assert needle in text
    assert "meta" not in text
    assert [line.split()[0] for line in lines if line.strip()[:1].isdigit()] == ["1", "2"]


def test_a_receivers_reply_cannot_drive_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J[bold]\u202e"
    entry = {"attempt": 1, "version": 1, "started": 1, "late_ms": 0, "ms": 0, "outcome": "failed"}
    task = _task(history=[entry | {"error": evil, "reply": evil}], group=evil)
    text = shown("get", "order-42", reply={"ok": True, "task": task})
    for character in "\x1b\x07\u202e":
        assert character not in text
    assert r"\x1b[2J[bold]" in text


def test_stats() -> None:
    reply = {
        "ok": True,
        "tasks": {"scheduled": 3, "done": 1},
        "queues": {"default": {"paused": False, "scheduled": 3}, "slow": {"paused": True, "done": 1}},
        "attempts": {"succeeded": 1, "failed": 0},
        "connections": 2,
        "journal": {"bytes": 67_108_864, "live_bytes": 1000, "commits": 9},
        "lateness_ms": {"p50": 0, "p99": 1, "max": 12},
        "uptime_ms": 93_784_000,
    }
    text = shown("stats", reply=reply)
    assert "uptime       1d 2h\n" in text
    assert "p50 0 ms, p99 1 ms, max 12 ms" in text
    assert "64.0 MiB on disk, 1000 B of it live, 9 commits" in text
    assert text.splitlines()[-3:] == [
        "QUEUE    PAUSED  SCHEDULED  DONE",
        "default                  3     0",
        "slow     yes             0     1",
    ]


@pytest.mark.parametrize("command", [("list",), ("get", "a"), ("stats",), ("cancel", "a")])
def test_json_is_for_every_command(command: tuple[str, ...]) -> None:
    assert json.loads(shown(*command, "--json", reply={"ok": True, "x": [1]})) == {"ok": True, "x": [1]}


def test_get_shows_a_body_as_it_was_given() -> None:
    body = '{"b":  1.50, "a": 12345678901234567890, "n": [ ]}'
    line = json.dumps({"ok": True, "task": _task(body="BODY")}).replace('"BODY"', body)
    with ScriptedServer([line.encode()[:-1] + b',"seq":$SEQ}\n']) as server:
        result = run("get", "order-42", server=server)
    assert f"  {body}\n" in result.stdout


def test_a_body_beyond_the_daemons_limit_is_refused_before_it_is_sent() -> None:
    """A line that is too long could only be answered by hanging up."""
    limits = {"ok": True, "limits": {"body_bytes_max": 70_000}}
    large = '"' + "x" * 199_998 + '"'
    for option, text, size in (("--body", large, 200_000), ("--body-text", "ä" * 40_000, 80_000)):
        with ScriptedServer([limits]) as server:
            result = run("schedule", URL, option, text, server=server)
        assert result.exit_code == 2
        assert result.stderr == f"wheeltimer: {option}: at most 70000 bytes; these are {size}\n"
    with ScriptedServer([limits, SCHEDULED]) as server:
        assert run("schedule", URL, "--body-text", "x" * 70_000, server=server).exit_code == 0
    assert [request["op"] for request in server.requests] == ["hello", "schedule"]
