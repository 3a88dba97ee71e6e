"""``bench`` against a real daemon: its figures are there, and nothing that it made stays live."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.cli.test_main import one_line, run
from tests.process.conftest import home
from tests.process.daemon import Home, until
from wheeltimer.cli import bench

__all__ = ["home"]  # a fixture of the process tests

SMALL = ("--tasks", "50", "--connections", "2", "--round-trips", "5")


def live(connection: object) -> int:
    tasks = connection.done("stats")["tasks"]  # type: ignore[attr-defined]
    return int(tasks["scheduled"] + tasks["ready"] + tasks["running"])


def test_it_measures_and_leaves_nothing_that_is_live(home: Home) -> None:
    daemon = home.start()
    result = run("bench", *SMALL, "--callbacks", "5", "--rate", "100", "--json", "--server", daemon.listen[0])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schedules_per_s"] > 0
    assert found["callbacks"] == 5
    assert (found["missing"], found["early"]) == (0, 0)
    assert 0 < found["round_trip_us"]["p50"] <= found["round_trip_us"]["p99"]
    assert 0 <= found["lateness_us"]["p50"] <= found["lateness_us"]["max"]
    with daemon.connect() as connection:
        assert (
            connection.done("stats")["tasks"] | {"cancelled": 55, "done": 5}
            == connection.done("stats")["tasks"]
        )
        assert live(connection) == 0


def test_for_people_it_is_three_lines(home: Home) -> None:
    daemon = home.start()
    result = run("bench", *SMALL, "--callbacks", "0", "--server", daemon.listen[0])
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["schedules", "round trip"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_is_stopped_cancels_what_it_made(home: Home, number: signal.Signals) -> None:
    daemon = home.start()
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from wheeltimer.cli import main; main()"
    )
    # The callbacks are a hundred seconds apart from their start to their end: it is stopped while it waits.
    command = [sys.executable, "-c", program, "bench", *SMALL, "--callbacks", "100", "--rate", "1"]
    with (
        daemon.connect() as connection,
        subprocess.Popen([*command, "--server", daemon.listen[0]], stderr=subprocess.PIPE) as child,
    ):
        for _ in until():
            if live(connection) >= 50 + 5 + 95:
                break
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 128 + number
        assert errors.strip() == b""
        assert live(connection) == 0


def test_callbacks_that_never_come_are_told_and_exit_1(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_GRACE_MS", 0)
    daemon = home.start()
    with daemon.connect() as connection:
        connection.done("pause", queue="bench")
    result = run("bench", *SMALL, "--callbacks", "2", "--rate", "1000", "--server", daemon.listen[0])
    assert result.exit_code == 1
    assert "0 callbacks, 0 early, 2 missing" in result.stdout
    with daemon.connect() as connection:
        assert live(connection) == 0


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("--server", "127.0.0.1:1"), 69, "127.0.0.1:1"),
        (("--receiver", "192.0.2.1"), 2, "--receiver"),
        (("--tasks", "0"), 2, "--tasks"),
        (("--tasks", str(bench.TASKS_MAX + 1)), 2, "--tasks"),
        (("--connections", "65"), 2, "--connections"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_line(args: tuple[str, ...], code: int, named: str) -> None:
    result = run("bench", *args)
    assert result.exit_code == code
    assert named in one_line(result)


def test_a_queue_that_is_none_is_refused_before_anything_begins(home: Home) -> None:
    daemon = home.start()
    result = run("bench", "--queue", "a b", "--server", daemon.listen[0])
    assert result.exit_code == 1
    assert "queue" in one_line(result)


def test_a_daemon_that_refuses_is_told_once(home: Home) -> None:
    daemon = home.start("--max-tasks", "20")
    result = run("bench", *SMALL, "--server", daemon.listen[0])
    assert result.exit_code == 1
    assert "refused (full)" in one_line(result)
    with daemon.connect() as connection:
        assert live(connection) == 0
