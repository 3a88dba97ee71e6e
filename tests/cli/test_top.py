"""``top``: a screen for whoever looks, lines for a pipe, and patience with a daemon that is away."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from tests.cli.test_main import one_line, run
from tests.client.scripted import CLOSE, ScriptedServer
from tests.process.conftest import home
from tests.process.daemon import Home, until
from wheeltimer.cli import top
from wheeltimer.protocol.task_view import STATE_WORDS

__all__ = ["home"]  # a fixture of the process tests


def stats(uptime_ms: int, succeeded: int, queues: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "ok": True, "tasks": dict.fromkeys(STATE_WORDS, 0) | {"scheduled": 1_234_567},
        "queues": {"orders": {"paused": False, "scheduled": 5}} if queues is None else queues,
        "attempts": {"succeeded": succeeded, "failed": 0, "not_yet": 0}, "connections": 3,
        "journal": {"bytes": 1 << 28, "live_bytes": 1 << 20, "commits": 17},
        "lateness_ms": {"p50": 1, "p99": 1, "max": 1},
        "lateness_us": {"p50": 335, "p99": 575, "p999": 580, "max": 600}, "uptime_ms": uptime_ms,
    }  # fmt: skip


def drawn(*arguments: Any, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(top.screen("127.0.0.1:8463", *arguments))
    return capture.get()


def rates(shown: str) -> list[str]:
    """What stands behind the counts of attempts."""
    return re.findall(r"(?:succeeded|failed|not_yet) +\d+ *([\d.]*) *$", shown, re.MULTILINE)


def test_what_is_counted_a_second_is_of_the_last_interval_by_the_daemons_own_clock() -> None:
    shown = drawn(stats(12_500, 150), stats(10_000, 100), 40)
    assert rates(shown) == ["20.0", "0.0", "0.0"]
    assert "1,234,567" in shown
    assert "p99 0.6 ms" in shown


def test_no_rate_is_made_of_what_another_daemon_counted() -> None:
    """It was started anew: fewer attempts than before would be a rate below zero."""
    assert rates(drawn(stats(900, 4), stats(60_000, 100), 40)) == ["", "", ""]
    assert rates(drawn(stats(900, 4), None, 40)) == ["", "", ""]


def test_a_screen_of_little_height_has_the_busiest_queues_and_counts_the_others() -> None:
    queues = {f"q{n}": {"paused": False, "scheduled": n} for n in range(50)}
    queues |= {"busy": {"paused": False, "running": 1}, "held": {"paused": True, "ready": 7}}
    shown = drawn(stats(1000, 0, queues), None, 24)
    assert len(shown.splitlines()) <= 24
    rows = shown[shown.index("queue") :].splitlines()[2:]
    assert [row.split()[0] for row in rows if row.strip()] == ["busy", "held", "q49", "q48", "q47", "and"]
    assert "held (paused)" in shown
    assert "and 47 more queues" in shown


def test_a_token_of_some_queues_sees_a_screen_without_what_counts_everybodys() -> None:
    own = stats(1000, 0)
    for name in ("attempts", "connections", "journal"):
        del own[name]
    shown = drawn(own, own | {"uptime_ms": 500}, 40)
    assert "orders" in shown
    assert not re.search("succeeded|connections|journal", shown)


def test_in_a_pipe_it_says_what_to_use_instead() -> None:
    result = run("top")
    assert result.exit_code == 2
    assert "--json" in one_line(result)


def test_as_json_it_is_the_daemons_reply_a_line_each_time() -> None:
    replies = [stats(1000, 0), stats(1100, 3)]
    with ScriptedServer(replies) as server:
        result = run("top", "--json", "--count", "2", "--every", "100ms", server=server)
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == replies
    assert [request["op"] for request in server.requests] == ["stats", "stats"]


def test_a_refusal_ends_it() -> None:
    refusal = {"ok": False, "error": "forbidden", "message": "no"}
    with ScriptedServer([stats(1000, 0), refusal]) as server:
        result = run("top", "--json", "--every", "100ms", server=server)
    assert result.exit_code == 1
    assert result.stderr == "wheeltimer: refused (forbidden): no\n"


@pytest.mark.parametrize("text", ["0s", "99ms", "2h", "fast"])
def test_an_interval_out_of_bounds_is_refused(text: str) -> None:
    result = run("top", "--json", "--every", text)
    assert result.exit_code == 2
    assert "--every" in one_line(result)


def test_a_daemon_that_goes_away_is_waited_for() -> None:
    with ScriptedServer([stats(1000, 0), CLOSE, stats(50, 0)]) as server:
        result = run("top", "--json", "--count", "3", "--every", "100ms", server=server)
    assert [json.loads(line)["uptime_ms"] for line in result.stdout.splitlines()] == [1000, 50]
    assert result.exit_code == 0


def test_on_a_terminal_it_follows_the_daemon_over_a_restart_and_gives_the_screen_back(home: Home) -> None:
    daemon = home.start()
    where = daemon.listen[0]
    terminal, child_side = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from wheeltimer.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "top", "--every", "100ms", "--server", where]
    with subprocess.Popen(
        command, stdin=child_side, stdout=child_side, stderr=child_side, env=environ
    ) as child:
        os.close(child_side)
        seen = b""

        def wait_for(text: bytes) -> None:
            nonlocal seen
            seen = seen[-1:]
            end_s = time.monotonic() + 60
            while text not in seen:
                assert select.select([terminal], [], [], max(0, end_s - time.monotonic()))[0], seen
                seen += os.read(terminal, 65_536)

        try:
            wait_for(b"no queue has a task")
            with daemon.connect() as client:
                client.done("schedule", queue="orders", delay="1h", url="http://127.0.0.1:9/")
            wait_for(b"orders")
            daemon.stop()
            wait_for(b"trying again")
            home.start(listen=(where,))
            wait_for(b"orders")
            child.send_signal(signal.SIGINT)
            wait_for(b"\x1b[?1049l")  # back from the alternate screen
            for _ in until():
                if child.poll() is not None:
                    break
            assert child.returncode == 0
        finally:
            child.kill()
            os.close(terminal)
