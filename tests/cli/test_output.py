"""Drawing: spans, instants, tables on a terminal and in a pipe."""

from __future__ import annotations

import sys

import click
import pytest

from wheeltimer.cli import output

S, M, H, D = 1000, 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"), (1, "1ms"), (999, "999ms"), (1000, "1.0s"), (9_949, "9.9s"), (9_950, "10s"),
        (59_499, "59s"), (59_500, "1m"), (M, "1m"), (29 * M + 58 * S + 400, "29m 58s"), (30 * M - 40, "30m"),
        (H - 1, "1h"), (H, "1h"), (H + 29 * S, "1h"), (H + 4 * M, "1h 4m"), (3 * D + 4 * H + 29 * M, "3d 4h"),
        (D - S, "1d"), (D + 59 * M, "1d 1h"), (3650 * D, "3650d"),
    ],
)  # fmt: skip
def test_span(ms: int, text: str) -> None:
    assert output.span(ms) == text


def test_relative() -> None:
    assert output.relative(5 * M, 0) == "in 5m"
    assert output.relative(0, 5 * M) == "5m ago"
    assert output.relative(7, 7) == "now"


def test_an_instant_keeps_its_milliseconds_and_one_beyond_the_calendar_is_shown_raw() -> None:
    assert ".007 " in output.instant(1_800_000_000_007)
    assert output.instant(10**18) == f"{10**18} ms"


def test_a_terminal_gets_a_table_in_colour_and_no_cell_is_read_as_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.table(("id", "state"), [("[red]dead[/red]", "dead")])
    text = capsys.readouterr().out
    assert "[red]dead[/red]" in text
    assert "\x1b[31mdead" in text
    assert "\x1b[31m[red]" not in text


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, a terminal of 80 columns without colour."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("length", [26, 120])
def test_an_id_is_never_cut_in_two(
    length: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch)
    row = ("x" * length, "default", "scheduled", "29m 58s ago", 0, "https://example.org/" + "y" * 60)
    output.table(("id", "queue", "state", "next", "attempts", "url"), [row])
    text = click.unstyle(capsys.readouterr().out)
    assert "QUEUE" not in text, "it is drawn"
    assert "x" * length in text
    assert text.count("\n") == 3, "one task, one line"
    if length == 26:
        assert max(map(len, text.splitlines())) <= 80


def test_a_history_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(monkeypatch)
    started = output.moment(1_800_000_000_007)
    columns = ("attempt", "started", "late_ms", "ms", "outcome", "status", "error")
    rows = [(1, started, 3, 15000, "succeeded", 200, None), (2, started, 0, 1, "failed", None, "connect: no")]
    output.table(columns, rows)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert sum(started in line for line in lines) == 2
    assert max(map(len, lines)) <= 80
