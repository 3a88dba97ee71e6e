"""``wheeltimer ping``: exit codes for scripts."""

from __future__ import annotations

import json

from tests.cli.test_main import one_line, run
from tests.client.scripted import ScriptedServer


def test_a_daemon_that_answers_is_0() -> None:
    with ScriptedServer([{"ok": True, "now": 1_767_227_400_000}]) as server:
        result = run("ping", server=server)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{server.address} answers after ")
    assert [request["op"] for request in server.requests] == ["ping"]


def test_json_prints_the_reply() -> None:
    with ScriptedServer([{"ok": True, "now": 7}]) as server:
        result = run("ping", "--json", server=server)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"ok": True, "now": 7})


def test_a_daemon_that_is_not_ready_is_75() -> None:
    reply = {"ok": False, "error": "unavailable", "message": "the journal is being read"}
    with ScriptedServer([reply]) as server:
        result = run("ping", server=server)
    assert result.exit_code == 75
    assert one_line(result) == "wheeltimer: not ready: the journal is being read\n"


def test_another_refusal_is_1() -> None:
    with ScriptedServer([{"ok": False, "error": "unauthorized", "message": "show a token"}]) as server:
        assert run("ping", server=server).exit_code == 1


def test_no_daemon_is_69() -> None:
    result = run("ping", "--server", "127.0.0.1:1")
    assert result.exit_code == 69
    assert "no daemon answers" in one_line(result)
