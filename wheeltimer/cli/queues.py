"""``pause``, ``resume``, ``forecast``: commands for queues."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from wheeltimer.cli import options, output
from wheeltimer.cli.session import Session, with_session

_BAR = "\u2588"
_BAR_MAX = 50  # columns of the longest bar, if the terminal is wide enough
_BESIDE_BAR = 36  # columns of the time and the count


@click.command()
@click.argument("queue")
@with_session
def pause(session: Session, queue: str) -> None:
    """Let no attempt of QUEUE start, until it is resumed.

    What is due waits; it can still be cancelled, and still expires. A restart changes nothing.

    \b
    Example:
      wheeltimer pause mail
    """
    if session.ask("pause", queue=queue) is not None:
        click.echo(f"paused: {output.clean(queue)}")


@click.command()
@click.argument("queue")
@with_session
def resume(session: Session, queue: str) -> None:
    """Let attempts of QUEUE start again.

    \b
    Example:
      wheeltimer resume mail
    """
    if session.ask("resume", queue=queue) is not None:
        click.echo(f"resumed: {output.clean(queue)}")


@click.command()
@click.option(
    "--horizon", callback=options.duration, metavar="DURATION", help="How far to look.  [default: 1h]"
)
@click.option("--slices", type=int, metavar="N", help="In how many parts.  [default: 60, at most 1000]")
@click.option("--queue", metavar="NAME", help="Only tasks of this queue.  [default: all]")
@with_session
def forecast(session: Session, **fields: Any) -> None:
    """Show how many tasks fire when.

    \b
    Example:
      wheeltimer forecast --horizon 24h --slices 24
    """
    reply = session.ask("forecast", **fields)
    if reply is None:
        return
    counts = [("overdue", reply["overdue"])] if reply["overdue"] else []
    for number, count in enumerate(reply["counts"]):
        counts.append((output.moment(reply["from"] + number * reply["slice_ms"])[:14], count))
    if reply["later"]:
        counts.append(("later", reply["later"]))
    if not sys.stdout.isatty():
        output.table(("from", "tasks"), counts)
        return
    width = max(1, min(_BAR_MAX, shutil.get_terminal_size().columns - _BESIDE_BAR))
    most = max([count for name, count in counts if name != "later"] or [0])
    digits = max(len(str(count)) for _, count in counts)
    for name, count in counts:
        # No bar for tasks beyond the horizon: their number could dwarf all others.
        length = 0 if name == "later" or not count else max(1, count * width // max(1, most))
        click.echo(f"{name:14}  {count:{digits}}  {click.style(_BAR * length, fg='cyan')}".rstrip())
