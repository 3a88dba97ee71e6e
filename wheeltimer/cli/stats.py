"""``wheeltimer stats``: counts of tasks and attempts, lateness, the journal. ``wheeltimer ping``."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from wheeltimer.cli import output
from wheeltimer.cli.session import Session, with_session
from wheeltimer.errors import Refused

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command()
@with_session
def stats(session: Session) -> None:
    """Show counts, lateness and the journal.

    \b
    Example:
      wheeltimer stats --json
    """
    reply = session.ask("stats")
    if reply is None:
        return
    lateness: dict[str, Any] = reply["lateness_ms"]
    # The daemon leaves these out for a token that is limited to some queues.
    connections = [("connections", reply["connections"])] if "connections" in reply else []
    journal = [("journal", journal_line(reply["journal"]))] if "journal" in reply else []
    output.fields(
        [
            ("uptime", output.span(reply["uptime_ms"])),
            *connections,
            ("lateness", ", ".join(f"{name} {value} ms" for name, value in lateness.items())),
            *journal,
        ]
    )
    for title in ("tasks", "attempts"):
        if title not in reply:
            continue
        click.echo()
        output.table((title, "count"), list(reply[title].items()))
    if reply["queues"]:
        click.echo()
        _queues(reply["queues"])


def journal_line(journal: dict[str, Any]) -> str:
    """Size and commits, as one line."""
    live = [f"{_size(journal['live_bytes'])} of it live"] if "live_bytes" in journal else []
    slow = [f"{journal['slow_syncs']} slow syncs"] if journal.get("slow_syncs") else []
    return ", ".join([f"{_size(journal['bytes'])} on disk", *live, f"{journal['commits']} commits", *slow])


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_SIZES) - 1)
    return f"{count / 1024**power:.1f} {_SIZES[power]}"


def _queues(queues: dict[str, Any]) -> None:
    """One row per queue; a column for each count that any queue has."""
    columns = list(dict.fromkeys(name for counts in queues.values() for name in counts))
    output.table(
        ("queue", *columns),
        [(queue, *(_cell(counts.get(column, 0)) for column in columns)) for queue, counts in queues.items()],
    )


def _cell(value: Any) -> Any:
    """``paused`` as "yes" or ""; counts stay numbers."""
    return ("yes" if value else "") if isinstance(value, bool) else value


# -- ``wheeltimer ping``: whether a daemon answers, for people and for scripts that wait until it does -----

_EXIT_NOT_READY: Final = 75  # EX_TEMPFAIL of sysexits.h


@click.command()
@with_session
def ping(session: Session) -> int:
    """Ask the daemon whether it answers.

    Exit code 0 when it does, 69 when nothing answers, 75 when a daemon answers that is not ready yet.

    \b
    Examples:
      wheeltimer ping
      until wheeltimer ping; do sleep 1; done
    """
    began_ns = time.monotonic_ns()
    try:
        reply = session.ask("ping")
    except Refused as error:
        if error.code != "unavailable":
            raise
        click.echo(f"wheeltimer: not ready: {output.clean(error.message)}", err=True)
        return _EXIT_NOT_READY
    if reply is not None:
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        clock = output.instant(reply["now"])
        click.echo(f"{output.clean(session.server)} answers after {took_ms:.1f} ms; its clock: {clock}")
    return 0
