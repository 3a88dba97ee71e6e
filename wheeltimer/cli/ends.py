"""``finish``, ``redrive``: tasks end from outside, and start again."""

from __future__ import annotations

from typing import Any

import click

from wheeltimer.cli import options, output
from wheeltimer.cli.session import Session, with_session


@click.command()
@click.argument("id", required=False)
@click.option("--group", metavar="NAME", help="All tasks of this group instead of one.")
@click.option("--queue", metavar="NAME", help="[default: default; with --group: all queues]")
@click.option("--reply", callback=options.json, metavar="JSON|@FILE|-", help="Handed to on_done.")
@with_session
def finish(session: Session, id: str | None, group: str | None, **fields: Any) -> None:
    """End a task, or a group, as done: what it waited for came another way.

    \b
    Examples:
      wheeltimer finish payment-1 --reply '{"paid":true}'
      wheeltimer finish --group customer-7
    """
    if (id is None) == (group is None):
        raise click.UsageError("Give either an ID or --group.")
    reply = session.ask("finish", id=id, group=group, **fields)
    if reply is not None:
        if id is not None and not reply["finished"] and not reply["running"]:
            click.echo(f"{output.clean(id)} was done before")
            return
        rest = f", {reply['running']} after the attempt in flight" if reply["running"] else ""
        click.echo(f"finished: {reply['finished']}{rest}")


@click.command()
@click.argument("id", required=False)
@click.option("--group", metavar="NAME", help="The dead and expired tasks of this group.")
@click.option("--queue", metavar="NAME", help="Those of this queue; with ID: the task's.  [default: default]")
@with_session
def redrive(session: Session, id: str | None, group: str | None, queue: str | None) -> None:
    """Start a dead or expired task again, or all of a group or queue.

    They are due at once, under a new version.

    \b
    Examples:
      wheeltimer redrive report-1
      wheeltimer redrive --queue nightly
    """
    if id is not None and group is not None:
        raise click.UsageError("ID and --group exclude each other; give one.")
    if id is None and group is None and queue is None:
        raise click.UsageError("Give an ID, --group or --queue.")
    reply = session.ask("redrive", id=id, group=group, queue=queue)
    if reply is not None:
        click.echo(f"redriven: {reply['redriven']}")
