"""Drawing: spans, instants, tables on a terminal and in a pipe."""

from __future__ import annotations

import sys

import pytest

from wheeltimer.cli import show

S, M, H, D = 1000, 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"), (1, "1ms"), (999, "999ms"), (1000, "1.0s"), (9_999, "10.0s"), (10_000, "10s"),
        (59_999, "59s"), (M, "1m"), (29 * M + 58 * S + 900, "29m 58s"), (H, "1h"), (H + 5 * S, "1h"),
        (H + 4 * M, "1h 4m"), (3 * D + 4 * H + 59 * M, "3d 4h"), (D + 59 * M, "1d"), (3650 * D, "3650d"),
    ],
)  # fmt: skip
def test_span(ms: int, text: str) -> None:
    assert show.span(ms) == text


def test_relative() -> None:
    assert show.relative(5 * M, 0) == "in 5m"
    assert show.relative(0, 5 * M) == "5m ago"
    assert show.relative(7, 7) == "now"


def test_an_instant_keeps_its_milliseconds_and_one_beyond_the_calendar_is_shown_raw() -> None:
    assert ".007 " in show.instant(1_800_000_000_007)
    assert show.instant(10**18) == f"{10**18} ms"


def test_a_terminal_gets_a_table_in_colour_and_no_cell_is_read_as_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    show.table(("id", "state"), [("[red]dead[/red]", "dead")])
    text = capsys.readouterr().out
    assert "[red]dead[/red]" in text
    assert "\x1b[31mdead" in text
    assert "\x1b[31m[red]" not in text
