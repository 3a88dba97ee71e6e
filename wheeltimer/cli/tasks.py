"""``schedule``, ``get``, ``list``, ``cancel``, ``reschedule``: one request each.

``options.py`` reads options, ``output.py`` prints answers.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import click
import msgspec

from wheeltimer.cli import options, output
from wheeltimer.cli.session import Session, with_session
from wheeltimer.protocol.requests import Method
from wheeltimer.protocol.task_view import STATE_WORDS

_F = TypeVar("_F", bound=Callable[..., Any])

_QUEUE = click.option("--queue", metavar="NAME", help="The task's queue.  [default: default]")
_QUEUES = click.option("--queue", metavar="NAME", help="Only tasks of this queue.  [default: all]")
_IF_VERSION = click.option("--if-version", type=int, metavar="N", help="Only if this is its present version.")


def _task_fields(command: _F) -> _F:
    """Adds the options that ``schedule`` and ``reschedule`` share."""
    # An option is sent only if given, so the defaults apply to ``schedule`` alone.
    default = "  [default: {}]".format if command.__name__ == "schedule" else lambda _value: ""
    for option in reversed(_task_options(default)):
        command = option(command)
    return command


def _task_options(default: Callable[[str], str]) -> Sequence[Callable[[_F], _F]]:
    """These options, in the order of the help text."""
    return (
        click.option(
            "--in", "--delay", "delay", multiple=True, callback=options.delay, metavar="DURATION",
            help="How long from now: 90s, 1h30m, 7d.",
        ),
        click.option(
            "--at", callback=options.instant, metavar="INSTANT",
            help="At this time: RFC 3339, or Unix milliseconds; not seconds.",
        ),
        click.option("--body", callback=options.json, metavar="JSON|@FILE|-", help="Sent as it is, as JSON."),
        click.option("--body-text", metavar="TEXT", help="Sent as text/plain instead."),
        click.option("--body-base64", metavar="TEXT", help="Its bytes, as application/octet-stream."),
        click.option(
            "--header", "headers", multiple=True, callback=options.headers, metavar="'NAME: VALUE'",
            help="Repeatable.",
        ),
        click.option(
            "--method", type=click.Choice(get_args(Method)), help=f"The request's.{default('POST')}",
        ),
        click.option(
            "--retry", callback=options.name_or_json, metavar="RULE", help="A rule's name, or one in JSON.",
        ),
        click.option(
            "--timeout", callback=options.duration, metavar="DURATION", help=f"Per attempt.{default('15s')}",
        ),
        click.option(
            "--connect-timeout", callback=options.duration, metavar="DURATION",
            help=f"To connect.{default('3s')}",
        ),
        click.option(
            "--expires-in", callback=options.duration, metavar="DURATION",
            help="How long after it is due to give up.",
        ),
        click.option("--expires-at", callback=options.instant, metavar="INSTANT", help="Give up then."),
        click.option(
            "--success", callback=options.json, metavar="JSON", help='What is done: {"status":["2xx"]}.',
        ),
        click.option(
            "--poll", callback=options.json, metavar="JSON",
            help='Ask until done: {"every":"5s","factor":2,"cap":"1h","max":120}.',
        ),
        click.option("--group", metavar="NAME", help="Shared by tasks to list or cancel together."),
        click.option("--meta", callback=options.json, metavar="JSON", help="Kept, never sent to the URL."),
        click.option("--on-done", metavar="URL", help="Told when the task is done."),
        click.option("--on-dead", metavar="URL", help="Told when the task is dead or expired."),
    )  # fmt: skip


@click.command()
@click.argument("url")
@_task_fields
@click.option("--id", metavar="ID", help="Your name for the task; the same id twice is one task.")
@_QUEUE
@click.option("--on-conflict", type=click.Choice(["error", "keep", "replace"]), help="When the id is known.")
@with_session
def schedule(session: Session, url: str, **fields: Any) -> int:
    """Call URL later, or now.

    Without --in or --at it is called at once. If the task is known already and is dead or expired nothing
    runs: you get a warning, and the exit code is 1.

    \b
    Examples:
      wheeltimer schedule https://example.org/hook --in 30m --body '{"order":42}'
      wheeltimer schedule https://example.org/hook --at 2027-01-01T09:00:00+01:00 --id new-year
    """
    _either(fields, "delay", "at", "--in and --at")
    reply, _ = session.exchange("schedule", url=url, **fields)
    if not session.as_json:
        word = "already known" if reply["duplicate"] else "scheduled"
        click.echo(f"{word}: {output.clean(reply['id'])}")
        now = output.now_ms()
        output.fields(
            [
                ("queue", reply["queue"]),
                ("version", reply["version"]),
                ("state", reply["state"]),
                ("due", output.when(reply["due"], now)),
            ]
        )
    if reply["duplicate"] and reply["state"] in ("dead", "expired"):
        return _nothing_runs(reply, named_queue=fields["queue"] is not None)
    return 0


def _nothing_runs(reply: dict[str, Any], named_queue: bool) -> int:
    """Warn that the task is known and has ended as dead or expired; return the exit code."""
    named = [reply["id"], *(("--queue", reply["queue"]) if named_queue else ())]
    click.echo(
        f"wheeltimer: nothing runs: the task of this id is {reply['state']}; start it again with"
        f" `wheeltimer redrive {output.clean(shlex.join(named))}`, or give --on-conflict replace",
        err=True,
    )
    return 1


@click.command()
@click.argument("id")
@_task_fields
@click.option("--url", help="Call this URL instead.")
@_QUEUE
@_IF_VERSION
@with_session
def reschedule(session: Session, id: str, **fields: Any) -> None:
    """Change when a task is due, or what it sends.

    What is not named stays. Its attempts start anew, under the next version.

    \b
    Examples:
      wheeltimer reschedule order-42 --in 2h
      wheeltimer reschedule order-42 --url https://example.org/other --if-version 3
    """
    _either(fields, "delay", "at", "--in and --at")
    reply = session.ask("reschedule", id=id, **fields)
    if reply is not None:
        click.echo(f"rescheduled: {output.clean(id)}")
        output.fields([("version", reply["version"]), ("due", output.when(reply["due"], output.now_ms()))])


@click.command()
@click.argument("id", required=False)
@click.option("--group", metavar="NAME", help="All tasks of this group instead of one.")
@click.option("--queue", metavar="NAME", help="[default: default; with --group: all queues]")
@_IF_VERSION
@with_session
def cancel(session: Session, id: str | None, group: str | None, **fields: Any) -> None:
    """Cancel a task, or a group. An attempt in flight ends; none follows it.

    \b
    Examples:
      wheeltimer cancel order-42
      wheeltimer cancel --group customer-7 --queue orders
    """
    if (id is None) == (group is None):
        raise click.UsageError("Give either an ID or --group.")
    reply = session.ask("cancel", id=id, group=group, **fields)
    if reply is not None:
        if id is not None and not reply["cancelled"] and not reply["running"]:
            click.echo(f"{output.clean(id)} was cancelled before")
            return
        rest = f", {reply['running']} after the attempt in flight" if reply["running"] else ""
        click.echo(f"cancelled: {reply['cancelled']}{rest}")


@click.command()
@click.argument("id")
@_QUEUE
@with_session
def get(session: Session, id: str, queue: str | None) -> None:
    """Show one task, with its last attempts.

    \b
    Example:
      wheeltimer get order-42 --queue orders
    """
    line = session.ask_line("get", id=id, queue=queue)
    if line is not None:
        _show_task(msgspec.json.decode(line, type=_TaskReply).task, output.now_ms())


@click.command("list")
@_QUEUES
@click.option("--state", type=click.Choice(STATE_WORDS), help="Only tasks in this state.")
@click.option("--group", metavar="NAME", help="Only tasks of this group.")
@click.option("--limit", type=int, metavar="N", help="At most N tasks.  [default: 100, at most 1000]")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier list ended.")
@with_session
def list_(session: Session, **fields: Any) -> None:
    """List tasks, those that go next first.

    Tasks of all queues, unless one is named.

    \b
    Example:
      wheeltimer list --state dead --queue orders
    """
    reply = session.ask("list", **fields)
    if reply is None:
        return
    now = output.now_ms()
    rows = [
        (task["id"], task["queue"], task["state"], _next(task, now), task["attempts"], task["url"])
        for task in reply["tasks"]
    ]
    if not rows:
        click.echo("no such tasks")
        return
    output.table(("id", "queue", "state", "next", "attempts", "url"), rows)
    if reply.get("cursor"):
        click.echo(f"more: --cursor {output.clean(shlex.quote(reply['cursor']))}")


def _either(fields: dict[str, Any], one: str, other: str, shown: str) -> None:
    if fields[one] is not None and fields[other] is not None:
        raise click.UsageError(f"{shown} exclude each other; give one.")


def _next(task: dict[str, Any], now: int) -> str:
    """When the task's next attempt is, or when it ended."""
    if task.get("ended") is not None:
        return output.relative(task["ended"], now)
    return "" if task.get("next") is None else output.relative(task["next"], now)


class _TaskReply(msgspec.Struct):
    """A task with its members as raw bytes: a body is shown as it was given."""

    task: dict[str, msgspec.Raw]


_TIMES = ("created", "due", "next", "ended")
_FIRST = ("url", "method", *_TIMES, "version", "attempts", "polls")
_HEAD = ("id", "queue", "state", "history")


def _show_task(raw: dict[str, msgspec.Raw], now: int) -> None:
    """Print every field that the daemon sent: the known ones first, others after them."""
    task = {name: msgspec.json.decode(value) for name, value in raw.items()}
    click.echo(f"{output.clean(task['queue'])}/{output.clean(task['id'])}  {output.state(task['state'])}")
    pairs: list[tuple[str, object]] = []
    for name in (*_FIRST, *(name for name in task if name not in _FIRST)):
        value = task.get(name)
        if name in _HEAD or (value is None and name not in ("body", "meta")):
            continue
        if name in _TIMES:
            value = output.when(value, now)
        elif name in ("body", "meta") or not isinstance(value, str | int):
            value = bytes(raw[name]).decode() if name in raw else None
        pairs.append((name, value))
    output.fields(pairs)
    history = task.get("history") or []
    if history:
        click.echo()
        _show_history(history, task["version"])


def _show_history(history: list[dict[str, Any]], version: int) -> None:
    """One row per attempt; versions only if there are several, to fit 80 columns."""
    columns = ["attempt", "started", "late_ms", "ms", "outcome", "status", "error"]
    if any(entry["version"] != version for entry in history):
        columns.insert(1, "version")
    rows = [
        [output.moment(entry["started"]) if name == "started" else entry.get(name) for name in columns]
        for entry in history
    ]
    output.table(columns, rows)
    if history[-1].get("reply"):
        click.echo(f"last reply: {output.clean(history[-1]['reply'])}")


# -- ``finish``, ``redrive``: tasks end from outside, and start again --------------------------------------


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
