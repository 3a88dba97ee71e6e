"""Printing of answers: tables, times relative to now, states in colour.

On a terminal rich draws tables; in a pipe the same cells are plain aligned text, one row a line, for ``awk``
and ``grep``. Nothing here calls the daemon. Control characters are escaped: a receiver's reply must not
control the user's terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import click

_COLOURS: Final = {
    "scheduled": "cyan",
    "ready": "yellow",
    "running": "blue",
    "done": "green",
    "dead": "red",
    "expired": "magenta",
    "cancelled": "bright_black",
    "succeeded": "green",
    "failed": "red",
    "not_yet": "yellow",
}
_COLOURED_COLUMNS: Final = frozenset(("state", "outcome", "tasks", "attempts"))
_BENDING_COLUMNS: Final = frozenset(("url", "error"))
_BENT_WIDTH: Final = 8
_UNITS_MS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def now_ms() -> int:
    """Unix ms by this machine's clock, not the daemon's: good enough for relative times on a screen."""
    return time.time_ns() // 1_000_000


def span(ms: int) -> str:
    """A duration, rounded to its two largest units: ``3d 4h``, ``29m 58s``, ``1.7s``, ``250ms``."""
    if ms < 1000:
        return f"{ms}ms"
    if ms < 9_950:
        return f"{ms / 1000:.1f}s"
    largest = next(at for at, (_, length_ms) in enumerate(_UNITS_MS) if ms >= length_ms)
    _, finest_ms = _UNITS_MS[min(largest + 1, len(_UNITS_MS) - 1)]
    left_ms = (ms + finest_ms // 2) // finest_ms * finest_ms
    parts: list[str] = []
    for unit, length_ms in _UNITS_MS:
        count, left_ms = divmod(left_ms, length_ms)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def relative(instant_ms: int, now: int) -> str:
    """``in 29m 58s``, ``2h 4m ago``, ``now``."""
    ahead_ms = instant_ms - now
    if ahead_ms == 0:
        return "now"
    return f"in {span(ahead_ms)}" if ahead_ms > 0 else f"{span(-ahead_ms)} ago"


def instant(instant_ms: int) -> str:
    """Local time, to the millisecond, with its offset."""
    whole, ms = divmod(instant_ms, 1000)
    try:
        local = datetime.fromtimestamp(whole).astimezone()
    except (ValueError, OverflowError, OSError):  # outside the range of the C library
        return f"{instant_ms} ms"
    return f"{local:%Y-%m-%d %H:%M:%S}.{ms:03d} {local:%z}"


def moment(instant_ms: int) -> str:
    """The same for a narrow column: without year and offset, ``03-01 12:00:00.000``."""
    return instant(instant_ms)[5:23]


def when(instant_ms: int | None, now: int) -> str:
    """Absolute and relative: ``2026-03-01 12:00:00.000 +0100 (in 29m 58s)``."""
    return "" if instant_ms is None else f"{instant(instant_ms)} ({relative(instant_ms, now)})"


def clean(value: object) -> str:
    """A value as printable text on one line."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def colour(name: str) -> str:
    """The colour of a state or outcome, by its name in rich and click; "" for none."""
    return _COLOURS.get(name, "")


def state(name: str) -> str:
    """A state or outcome in its colour; click removes the colour if there is no terminal."""
    return click.style(clean(name), fg=colour(name) or None)


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Names on the left, values on the right; a value that is None or empty is left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {clean(value)}")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows under their columns; numbers are right-aligned, states and outcomes in colour."""
    cells = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _rich_table(columns, cells, right)
        return
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [[column.upper() for column in columns], *cells]:
        line = "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        click.echo(line.rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich import box  # 0.1 s of imports that only a terminal needs
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Only _BENDING_COLUMNS shrink on a narrow terminal: an id on two lines cannot be copied.
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    console = Console()
    least = [max(len(row[at]) for row in [columns, *cells]) for at in range(len(columns))]
    for at, column in enumerate(columns):
        if column in _BENDING_COLUMNS:
            least[at] = min(least[at], _BENT_WIDTH)
    needed = sum(least) + 2 * (len(columns) - 1)
    if needed > console.width and columns[-1] == "url":  # the least important; `get` shows it
        columns, cells, needed = columns[:-1], [row[:-1] for row in cells], needed - least[-1] - 2
    for column, is_right, width in zip(columns, right, least, strict=False):
        drawn.add_column(
            column,
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=column not in _BENDING_COLUMNS,
            min_width=width,
        )
    for row in cells:
        styles = (
            colour(cell) if column in _COLOURED_COLUMNS else ""
            for column, cell in zip(columns, row, strict=True)
        )
        # Text, not str: rich would read markup from a str. A URL is cut, so that a task is one line.
        drawn.add_row(
            *(
                Text(cell, style, overflow="ellipsis", no_wrap=True) if column == "url" else Text(cell, style)
                for column, cell, style in zip(columns, row, styles, strict=True)
            )
        )
    console.width = max(console.width, needed)
    console.print(drawn, crop=False)


@contextlib.contextmanager
def reading_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar while the journal is read, if standard error is a terminal; removed at the end.

    Call the result with bytes done and bytes in all. Text written to ``sys.stderr`` appears above the bar.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading the journal"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    shown_permille = -1

    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=1000)

        def progress(done_bytes: int, total_bytes: int) -> None:
            nonlocal shown_permille
            permille = 1000 * done_bytes // max(1, total_bytes)
            if permille != shown_permille:
                shown_permille = permille
                bar.update(task, completed=permille)
            if done_bytes >= total_bytes:
                bar.stop()

        yield progress
