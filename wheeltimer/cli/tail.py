"""``tail``: events as they happen, over lost connections and restarts of the daemon."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from wheeltimer.cli import output
from wheeltimer.cli.session import Session, with_session
from wheeltimer.client.results import Event
from wheeltimer.errors import Refused
from wheeltimer.protocol.events import TYPES

PATIENCE_S: Final = 300  # how long connecting is tried again before the command fails


@click.command()
@click.option("--queue", metavar="NAME", help="Only events of this queue.  [default: all]")
@click.option("--group", metavar="NAME", help="Only events of this group.")
@click.option(
    "--type", "types", multiple=True, metavar="NAME",
    help="Only these: task.done, attempt.failed, task.*, ...; repeatable.",
    shell_complete=lambda _context, _parameter, typed: [
        name for name in (*TYPES, "task.*", "attempt.*") if name.startswith(typed)
    ],
)  # fmt: skip
@click.option("--from", "from_", metavar="CURSOR", help="What came after it first.  [default: from now on]")
@with_session
def tail(
    session: Session, queue: str | None, group: str | None, types: tuple[str, ...], from_: str | None
) -> None:
    """Show events as they happen, until Ctrl-C.

    A lost connection is made anew and goes on where it was; only attempt.started may then be missing.

    \b
    Examples:
      wheeltimer tail --queue orders --type 'task.*'
      wheeltimer tail --json | jq .id
    """
    cursor = from_
    try:
        with (
            session.connect(reconnect_s=PATIENCE_S) as client,
            client.subscribe(from_=from_, queue=queue, group=group, types=types or None) as events,
        ):
            cursor = events.cursor
            for event in events:
                click.echo(events.line if session.as_json else _shown(event))
                cursor = event.cursor
    except Refused as error:
        if error.code == "lagged":
            raise Refused(
                error.code,
                f"{error.message}; see what is left with --from {error.extra.get('cursor')}",
                **error.extra,
            ) from error
        raise
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if cursor is not None:
            click.echo(f"go on with: --from {output.clean(cursor)}", err=True)


def _shown(event: Event) -> str:
    """An event as one line of text."""
    kind, _, word = event.event.partition(".")
    said = [
        output.moment(event.time),
        f"{kind}.{output.state(word)}" + " " * max(0, 17 - len(event.event)),
        f"{output.clean(event.queue)}/{output.clean(event.id)}",
        f"v{event.version}",
    ]
    if event.due is not None:
        said.append(f"due {output.relative(event.due, event.time)}")
    if event.attempt is not None:
        said.append(f"attempt {event.attempt}")
    if event.late_ms is not None:
        said.append(f"{event.late_ms} ms late, took {event.ms} ms")
    if event.status is not None:
        said.append(f"status {event.status}")
    if event.error is not None:
        said.append(output.clean(event.error))
    return "  ".join(said)
