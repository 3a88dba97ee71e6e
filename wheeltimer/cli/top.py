"""``wheeltimer top``: the numbers of ``stats`` on a live screen.

It requests ``stats`` at intervals, which costs the daemon the same with ten tasks and with ten million.
``stats.py`` prints the same numbers once.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from wheeltimer.cli import options, output
from wheeltimer.cli import stats as once
from wheeltimer.cli.session import Session, with_session
from wheeltimer.cli.tail import PATIENCE_S
from wheeltimer.client.pipeline import refused
from wheeltimer.errors import ServerUnreachable
from wheeltimer.protocol.task_view import STATE_WORDS
from wheeltimer.protocol.units import HOUR_MS, parse_duration_ms

if TYPE_CHECKING:
    from rich.console import Group

Stats = dict[str, Any]

EVERY_MS_MIN: Final = 100  # a faster screen could not be read
_LINES_ABOVE_QUEUES: Final = 19  # the head, the two tables and the lines between them
_WORK: Final = ("running", "ready", "scheduled")  # queues are sorted by these counts, in this order


def _every(context: click.Context, parameter: click.Parameter, text: str) -> int:
    options.duration(context, parameter, text)
    return parse_duration_ms(text, "--every", HOUR_MS, min_ms=EVERY_MS_MIN)


@click.command()
@click.option(
    "--every", "every_ms", callback=_every, default="1s", show_default=True, metavar="DURATION",
    help="How often to ask; 100ms to 1h.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N screens.  [default: never]")
@with_session
def top(session: Session, every_ms: int, count: int | None) -> None:
    """Watch queues, attempts and lateness on a live screen, until Ctrl-C.

    The busiest queues come first; "a second" is over the last interval. A daemon that goes away is waited
    for. With --json it prints the reply of `stats`, a line each time.

    \b
    Examples:
      wheeltimer top
      wheeltimer top --every 10s --count 6 --json
    """
    if not session.as_json and not sys.stdout.isatty():
        raise click.UsageError("The screen needs a terminal; in a pipe use --json, or `wheeltimer stats`.")
    try:
        lines = _lines(session, every_ms, count)
        if session.as_json:
            for line in lines:
                if isinstance(line, bytes):
                    click.echo(line)
        else:
            _draw(session.server, lines)
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return


def _lines(session: Session, every_ms: int, count: int | None) -> Iterator[bytes | ServerUnreachable]:
    """The daemon's answers, or why there is none at present. Raises if the first request gets none.

    Each request has a connection of its own, so that a lost one needs no handling.
    """
    answered_s: float | None = None
    for asked in itertools.count(1):
        try:
            with session.connect() as client:
                reply, line = client.exchange("stats")
        except ServerUnreachable as error:
            if answered_s is None or time.monotonic() - answered_s > PATIENCE_S:
                raise
            yield error
        else:
            if not reply["ok"]:
                raise refused(reply, "stats")
            answered_s = time.monotonic()
            yield line
        if asked == count:
            return
        time.sleep(every_ms / 1000)


def _draw(server: str, lines: Iterable[bytes | ServerUnreachable]) -> None:
    from rich.console import Console  # not at the top: --json does not need it
    from rich.live import Live
    from rich.text import Text

    console = Console()
    before: Stats | None = None
    present: Stats | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for line in lines:
            if isinstance(line, bytes):
                before, present = present, msgspec.json.decode(line, type=Stats)
                live.update(screen(server, present, before, console.height), refresh=True)
            else:
                live.update(Text(f"{output.clean(str(line))}\n\ntrying again ..."), refresh=True)


def screen(server: str, present: Stats, before: Stats | None, height: int) -> Group:
    """A whole screen of ``height`` lines; ``before`` is the answer of the previous interval, if any."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if before is not None and before["uptime_ms"] >= present["uptime_ms"]:
        before = None  # the daemon was restarted
    seconds = (present["uptime_ms"] - before["uptime_ms"]) / 1000 if before else 0.0
    late = ", ".join(f"{name} {us / 1000:.1f} ms" for name, us in present["lateness_us"].items())
    # The daemon leaves these out for a token that is limited to some queues.
    head = [
        ("uptime", output.span(present["uptime_ms"])),
        ("connections", f"{present['connections']:,}" if "connections" in present else ""),
        ("lateness", late),
        ("journal", once.journal_line(present["journal"]) if "journal" in present else ""),
    ]

    tasks = _table("tasks", "count")
    for name, count in present["tasks"].items():
        tasks.add_row(Text(name, output.colour(name)), f"{count:,}")
    attempts = _table("attempts", "count", "a second")
    for name, count in present.get("attempts", {}).items():
        rate = f"{(count - before['attempts'][name]) / seconds:,.1f}" if before else ""
        attempts.add_row(Text(name, output.colour(name)), f"{count:,}", rate)
    beside = Table.grid(padding=(0, 4))
    beside.add_row(tasks, attempts if "attempts" in present else "")

    return Group(
        Text.assemble(
            ("wheeltimer ", "bold"), output.clean(server), "  ", output.instant(output.now_ms())[:19]
        ),
        *(
            Text.assemble((f"{name:13}", "bold"), text, no_wrap=True, overflow="ellipsis")
            for name, text in head
            if text
        ),
        "",
        beside,
        "",
        _queues(present["queues"], max(1, height - _LINES_ABOVE_QUEUES)),
    )


def _queues(queues: dict[str, dict[str, Any]], rows: int) -> Group:
    """The busiest ``rows`` queues."""
    from rich.console import Group
    from rich.text import Text

    words = [word for word in STATE_WORDS if any(counts.get(word) for counts in queues.values())]
    table = _table("queue", *words)
    order = sorted(queues.items(), key=lambda item: (*(-item[1].get(word, 0) for word in _WORK), item[0]))
    for name, counts in order[:rows]:
        paused = " (paused)" if counts.get("paused") else ""
        table.add_row(Text.assemble(output.clean(name), (paused, "yellow")), *(
            f"{counts[word]:,}" if counts.get(word) else "" for word in words
        ))  # fmt: skip
    more = f"and {len(queues) - rows} more queues" if len(queues) > rows else ""
    return Group(table, Text(more)) if queues else Group(Text("no queue has a task"))


def _table(first: str, *numbers: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
