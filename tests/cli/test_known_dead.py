"""A nightly job with a fixed id is dead: the next night's ``schedule`` does not look like success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.client.scripted import Request, ScriptedServer

URL = "http://x/"
DEAD = ("dead", "expired")
OTHERS = ("scheduled", "ready", "running", "done", "cancelled")


def known(state: str, **fields: Any) -> dict[str, Any]:
    return {
        "ok": True, "id": "nightly", "queue": "default", "version": 1, "due": 5, "state": state,
        "duplicate": True,
    } | fields  # fmt: skip


@pytest.mark.parametrize("state", DEAD)
@pytest.mark.parametrize("args", [(), ("--on-conflict", "keep")])
def test_schedule_of_a_known_dead_task_warns_and_exits_1(state: str, args: tuple[str, ...]) -> None:
    with ScriptedServer([known(state)]) as server:
        result = run("schedule", URL, "--id", "nightly", *args, server=server)
    assert result.exit_code == 1
    assert result.stdout.startswith("already known: nightly\n")
    assert result.stderr == (
        f"wheeltimer: nothing runs: the task of this id is {state}; start it again with"
        " `wheeltimer redrive nightly`, or give --on-conflict replace\n"
    )


@pytest.mark.parametrize("state", DEAD)
def test_with_json_the_reply_is_printed_all_the_same(state: str) -> None:
    with ScriptedServer([known(state, id="it's \x1b[1m", queue="q")]) as server:
        result = run("schedule", URL, "--id", "x", "--queue", "q", "--json", server=server)
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, state)
    assert result.stderr.count("\n") == 1
    assert "--queue q`" in result.stderr, "redrive has to find it"
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("reply", [*map(known, OTHERS), *(known(state, duplicate=False) for state in DEAD)])
@pytest.mark.parametrize("args", [(), ("--json",)])
def test_nothing_is_said_of_any_other(reply: dict[str, Any], args: tuple[str, ...]) -> None:
    with ScriptedServer([reply]) as server:
        result = run("schedule", URL, "--id", "nightly", *args, server=server)
    assert (result.exit_code, result.stderr) == (0, "")


def test_import_counts_known_dead_tasks_names_their_lines_and_exits_1(tmp_path: Path) -> None:
    def reply(request: Request) -> dict[str, Any]:
        state, _, number = request["id"].partition("-")
        return known(state, id=request["id"], duplicate=number != "new")

    path = tmp_path / "tasks.ndjson"
    ids = ("dead-1", "done-2", "expired-3", "scheduled-4", "scheduled-new")
    path.write_text("".join(json.dumps({"id": id, "url": URL}) + "\n" for id in ids))
    with ScriptedServer(reply) as server:
        result = run("import", str(path), server=server)
        as_json = run("import", str(path), "--json", server=server)
    assert (result.exit_code, as_json.exit_code) == (1, 1)
    assert result.stdout == "scheduled: 1, known: 4, of these dead or expired: 2\n"
    assert json.loads(as_json.stdout) == {"scheduled": 1, "known": 4, "known_dead": 2, "refused": 0}
    first, second, way_out = result.stderr.splitlines()
    assert first == "line 1: nothing runs, the task of this id is dead"
    assert second == "line 3: nothing runs, the task of this id is expired"
    assert "`wheeltimer redrive`" in way_out
    assert '"on_conflict":"replace"' in way_out


def test_import_of_many_known_dead_tasks_does_not_flood_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_text(f'{{"id":"nightly","url":"{URL}"}}\n' * 100)
    with ScriptedServer(lambda _: known("dead")) as server:
        result = run("import", str(path), server=server)
    assert result.stdout == "scheduled: 0, known: 100, of these dead or expired: 100\n"
    assert len(result.stderr.splitlines()) == 22


@pytest.mark.parametrize("command", [("schedule", URL), ("reschedule", "a")])
def test_delay_is_another_name_of_in(command: tuple[str, ...]) -> None:
    reply = known("scheduled", duplicate=False)
    with ScriptedServer([reply, reply]) as server:
        for option in ("--in", "--delay"):
            assert run(*command, option, "30m", server=server).exit_code == 0
    assert server.requests[0] == server.requests[1]
    assert server.requests[1]["delay"] == "30m"
    assert "--in, --delay DURATION" in run(command[0], "--help").stdout
    twice = run(*command, "--delay", "5")
    assert (twice.exit_code, "has no unit" in twice.stderr) == (2, True)
