"""What a command refuses, it refuses with what its own options take."""

from __future__ import annotations

import pytest

from tests.cli.test_main import one_line, run
from tests.client.scripted import ScriptedServer

OK = {"ok": True, "id": "a", "queue": "q", "version": 1, "due": 5, "state": "scheduled", "duplicate": False}
DURATIONS = ["--in", "--delay", "--timeout", "--connect-timeout", "--expires-in"]


@pytest.mark.parametrize("option", DURATIONS)
@pytest.mark.parametrize("text", ["30min", "5 s", "soon", "", "-5s", "1m1h"])
def test_a_refused_duration_names_units_and_no_integer(option: str, text: str) -> None:
    for command in (("schedule", "http://x/"), ("reschedule", "a")):
        result = run(*command, f"{option}={text}")
        assert result.exit_code == 2
        line = one_line(result)
        assert "is not a duration; give units like" in line
        assert "integer" not in line


def test_other_commands_refuse_a_duration_in_the_same_way() -> None:
    for command in (
        ("forecast", "--horizon"),
        ("top", "--every"),
        ("receive", "--delay"),
        ("serve", "--tick"),
    ):
        result = run(command[0], f"{command[1]}=30min")
        assert result.exit_code == 2
        line = one_line(result)
        assert f"{command[1]}: '30min' is not a duration; give units like" in line
        assert "integer" not in line


def test_a_duration_beyond_ten_years_names_the_bound() -> None:
    assert "--in: a duration of at most 3653d is allowed" in one_line(
        run("schedule", "http://x/", "--in", "9999d")
    )


@pytest.mark.parametrize(
    "given",
    [
        ("--in", "30m", "--delay", "1h"),
        ("--delay", "1h", "--in", "30m"),
        ("--in", "30m", "--in", "30m"),
    ],
    ids=" ".join,
)
def test_a_delay_that_is_given_twice_is_refused(given: tuple[str, ...]) -> None:
    for command in (("schedule", "http://x/"), ("reschedule", "a")):
        result = run(*command, *given)
        assert result.exit_code == 2
        assert "--in and --delay are the same option; give it once" in one_line(result)


def test_a_delay_that_is_given_once_is_sent() -> None:
    for option in ("--in", "--delay"):
        with ScriptedServer([OK]) as server:
            assert run("schedule", "http://x/", option, "1h30m", server=server).exit_code == 0
        assert server.requests[0]["delay"] == "1h30m"
    with ScriptedServer([OK]) as server:
        assert run("schedule", "http://x/", server=server).exit_code == 0
    assert "delay" not in server.requests[0]


def test_an_id_with_other_content_names_the_option() -> None:
    message = "queue default has another task with this id; on_conflict says what to do then"
    with ScriptedServer([{"ok": False, "error": "exists", "message": message}]) as server:
        result = run("schedule", "http://x/", "--id", "a", server=server)
    assert result.exit_code == 1
    assert one_line(result).endswith("; that is --on-conflict keep, or --on-conflict replace\n")
