"""finish, redrive, pause, resume, forecast, tail, import: what they send, and what the user sees."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import one_line, run
from tests.client.scripted import Request, ScriptedServer
from tests.client.test_lost import Events, _event, _lines
from tests.process.daemon import Home, until

NOW = 1_767_225_600_000
FORECAST = {"ok": True, "from": NOW, "slice_ms": 60_000, "counts": [4, 0, 1, 2], "overdue": 3, "later": 9000}


@pytest.mark.parametrize(
    ("args", "sent", "reply", "said"),
    [
        (
            ("finish", "a", "--reply", '{"paid": 1.50}'), {"op": "finish", "id": "a", "reply": {"paid": 1.5}},
            {"finished": 1, "running": 0}, "finished: 1\n",
        ),
        (
            ("finish", "--group", "g", "--queue", "q"), {"op": "finish", "group": "g", "queue": "q"},
            {"finished": 2, "running": 1}, "finished: 2, 1 after the attempt in flight\n",
        ),
        (("finish", "a"), {"op": "finish", "id": "a"}, {"finished": 0, "running": 0}, "a was done before\n"),
        (("redrive", "a"), {"op": "redrive", "id": "a"}, {"redriven": 1}, "redriven: 1\n"),
        (("redrive", "--queue", "q"), {"op": "redrive", "queue": "q"}, {"redriven": 0}, "redriven: 0\n"),
        (("pause", "q"), {"op": "pause", "queue": "q"}, {"queue": "q", "paused": True}, "paused: q\n"),
        (("resume", "q"), {"op": "resume", "queue": "q"}, {"queue": "q", "paused": False}, "resumed: q\n"),
    ],
)  # fmt: skip
def test_what_is_sent_and_said(args: tuple[str, ...], sent: Request, reply: Request, said: str) -> None:
    with ScriptedServer([{"ok": True} | reply]) as server:
        result = run(*args, server=server)
    assert (result.exit_code, result.stdout) == (0, said)
    assert server.requests == [sent]
    with ScriptedServer([{"ok": True} | reply]) as server:
        as_json = run(*args, "--json", server=server)
    assert json.loads(as_json.stdout) == {"ok": True} | reply


@pytest.mark.parametrize(
    "args",
    [
        ("finish",),
        ("finish", "a", "--group", "g"),
        ("redrive",),
        ("redrive", "a", "--group", "g"),
        ("pause",),
    ],
)
def test_what_names_nothing_or_two_things_is_a_wrong_usage(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert one_line(result)


# --- forecast --------------------------------------------------------------------------------------


def test_forecast_in_a_pipe_is_a_table() -> None:
    with ScriptedServer([FORECAST]) as server:
        result = run("forecast", "--horizon", "4m", "--slices", "4", server=server)
    assert server.requests == [{"op": "forecast", "horizon": "4m", "slices": 4}]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["FROM", "TASKS"]
    assert [row[-1] for row in rows[1:]] == ["3", "4", "0", "1", "2", "9000"]
    assert (rows[1][0], rows[-1][0]) == ("overdue", "later")


def test_forecast_on_a_terminal_has_bars() -> None:
    with ScriptedServer([FORECAST]) as server:
        shown = on_terminal("forecast", "--server", server.address)
    rows = [line for line in shown.splitlines() if line.strip()]
    assert [row.count("\u2588") for row in rows] == [33, 44, 0, 11, 22, 0], (
        "the largest takes the width of 80"
    )


def on_terminal(*args: str) -> str:
    """What the command writes to a terminal of 80 columns, without colours."""
    main_fd, terminal = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    program = [sys.executable, "-m", "wheeltimer", *args]
    with subprocess.Popen(program, stdin=terminal, stdout=terminal, stderr=terminal, env=environ) as child:
        os.close(terminal)
        data = b""
        while True:
            try:
                part = os.read(main_fd, 65_536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            data += part
        child.wait(60)
    os.close(main_fd)
    return data.decode()


# --- tail ------------------------------------------------------------------------------------------


def tail(server: str, *args: str) -> subprocess.Popen[str]:
    # Ctrl-C is ignored in what a shell starts in the background; pytest may have been.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from wheeltimer.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "tail", "--server", server, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_tail_goes_on_after_a_lost_connection_and_says_where_at_the_end() -> None:
    pieces = (
        _lines({"ok": True, "cursor": "c-0"}, _event(1)),
        _lines({"ok": True, "cursor": "c-1"}, _event(2) | {"id": "a\tb\n"}),
    )
    with Events(*pieces) as server, tail(server.address, "--type", "task.*", "--queue", "q") as child:
        assert child.stdout is not None
        first, second = child.stdout.readline(), child.stdout.readline()
        for _ in until():  # it is done with the second and asks for what comes next
            if len(server.requests) > 2:
                break
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=60)
    assert "task.scheduled" in first
    assert "q/t1  v1" in first
    assert "q/a\\tb\\n  v1" in second, "what comes from elsewhere cannot drive the terminal"
    assert (out, error, child.returncode) == ("", "go on with: --from c-2\n", 0)
    assert server.requests[0] == {"op": "subscribe", "queue": "q", "types": ["task.*"]}
    assert server.requests[1]["from"] == "c-1"


def test_tail_as_json_prints_the_events_own_bytes() -> None:
    event = b'{"event":"task.done","cursor":"c-1","time":1,"queue":"q","id":"a","version":1,"meta":1.50}'
    with (
        Events(_lines({"ok": True, "cursor": "c-0"}) + event + b"\n") as server,
        tail(server.address, "--json", "--from", "c-0") as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == event.decode() + "\n"
        child.kill()
        child.communicate()


def test_tail_whose_cursor_is_gone_says_from_where() -> None:
    lagged = {"ok": False, "error": "lagged", "message": "gone", "cursor": "c-7"}
    with Events(_lines(lagged)) as server:
        result = run("tail", "--from", "c-1", "--server", server.address)
    assert result.exit_code == 1
    assert "--from c-7" in one_line(result)


def test_tail_into_a_pipe_that_is_closed_ends_quietly() -> None:
    many = _lines({"ok": True, "cursor": "c-0"}, *(_event(n) for n in range(1, 5000)))
    with Events(many) as server, tail(server.address) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(60) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


# --- import ----------------------------------------------------------------------------------------


def scheduled(request: Request) -> Any:
    if request["id"] == "bad":
        return {"ok": False, "error": "bad_request", "message": "url: no", "field": "url"}
    known = request["id"] == "known"
    return {
        "ok": True,
        "id": request["id"],
        "queue": "q",
        "version": 1,
        "due": 5,
        "state": "x",
        "duplicate": known,
    }


FILE = b"""{"id":"a","url":"http://x/","body":{"n": 1.50},"delay":"30m"}

{"op":"schedule","id":"known","url":"http://x/"}
{"id":"bad","url":"no"}
not json
[1]
{"id":5,"url":"http://x/"}
{"id":"b","url":"http://x/","meta":null}
"""


def test_import_takes_every_line_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_bytes(FILE)
    with ScriptedServer(scheduled) as server:
        result = run("import", str(path), server=server)
    assert (result.exit_code, result.stdout) == (1, "scheduled: 2, known: 1, refused: 4\n")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "line 5", "line 6", "line 7", "line 4",
    ]  # fmt: skip
    assert b'"body":{"n": 1.50}' in server.raw[0], "a body's own bytes"
    assert [request["id"] for request in server.requests] == ["a", "known", "bad", "b"]
    with ScriptedServer(scheduled) as server:
        as_json = run("import", "-", "--json", server=server, stdin='{"id":"a","url":"http://x/"}\n')
    counts = {"scheduled": 1, "known": 0, "known_dead": 0, "refused": 0}
    assert (as_json.exit_code, json.loads(as_json.stdout)) == (0, counts)


def test_import_of_much_that_is_wrong_does_not_flood_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_bytes(b"junk\n" * 1000)
    with ScriptedServer(scheduled) as server:
        result = run("import", str(path), server=server)
    assert result.stdout == "scheduled: 0, refused: 1000\n"
    assert len(result.stderr.splitlines()) == 21


def test_import_on_a_terminal_has_a_bar(tmp_path: Path) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_bytes(b'{"id":"a","url":"http://x/"}\n' * 2)
    with ScriptedServer(scheduled) as server:
        shown = on_terminal("import", str(path), "--server", server.address)
    assert "importing" in shown
    assert "scheduled: 2" in shown


def test_an_import_goes_on_over_a_kill_of_the_daemon_and_doubles_nothing(tmp_path: Path) -> None:
    count = 30_000
    path = tmp_path / "tasks.ndjson"
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"t{number}", "url": "http://127.0.0.1:9/", "delay": "1h"}) + "\n")
    with Home(tmp_path / "home") as home:
        home.folder.mkdir()
        config = "[journal]\nsegment_bytes = 16777216\n"
        daemon = home.start(config=config)
        address = daemon.listen[0]
        command = [sys.executable, "-m", "wheeltimer", "import", str(path), "--server", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for _ in until():
                with daemon.connect() as connection:
                    if connection.done("stats")["tasks"]["scheduled"] > 1000:
                        break
            daemon.kill()
            time.sleep(0.1)
            daemon = home.start(config=config, listen=(address,))
            out, _ = child.communicate(timeout=60)
        assert child.returncode == 0, out
        with daemon.connect() as connection:
            assert connection.done("stats")["tasks"]["scheduled"] == count
        words = dict(part.split(": ") for part in out.strip().split(", "))
        assert int(words["scheduled"]) + int(words.get("known", "0")) == count
