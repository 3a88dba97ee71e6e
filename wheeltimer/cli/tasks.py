"""``schedule``, ``get``, ``list``, ``cancel``, ``reschedule``: one request each.

Values go to the daemon as they were typed, it is the one that knows what fits; only what cannot be put
on a line of JSON is refused here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from wheeltimer.cli import show
from wheeltimer.cli.connect import Session, with_session
from wheeltimer.core.task import STATE_WORDS

_F = TypeVar("_F", bound=Callable[..., Any])

_QUEUE = click.option("--queue", metavar="NAME", help="The task's queue.  [default: default]")
_IF_VERSION = click.option("--if-version", type=int, metavar="N", help="Only if this is its present version.")


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | str | None:
    """A duration or an instant: a bare number is milliseconds, the rest is the daemon's to read."""
    return int(text) if text and text.removeprefix("-").isdecimal() else text


def _json(_context: click.Context, _parameter: click.Parameter, text: str | None) -> msgspec.Raw | None:
    """JSON, ``@FILE`` or ``-``: its own bytes, but for line ends, which would end the request."""
    if text is None:
        return None
    try:
        if text == "-":
            raw = sys.stdin.buffer.read()
        elif text.startswith("@"):
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
        msgspec.json.decode(raw)
    except OSError as error:
        raise click.BadParameter(f"cannot read {text[1:]}: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise click.BadParameter(f"not JSON ({error}); a text stands in quotes, as '\"hello\"'.") from error
    # Inside a JSON text line ends are white space only: strings hold them escaped.
    return msgspec.Raw(raw.replace(b"\r", b" ").replace(b"\n", b" ").strip())


def _name_or_json(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    return _json(context, parameter, text) if text and text.startswith("{") else text


def _headers(
    _context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str] | None:
    headers = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon:
            raise click.BadParameter(f"{pair!r} has no colon; write 'NAME: VALUE'.")
        headers[name.strip()] = value.strip()
    return headers or None


def _task_fields(command: _F) -> _F:
    """The options that ``schedule`` and ``reschedule`` share, in the order of the help text."""
    options = (
        click.option(
            "--in", "delay", callback=_moment, metavar="DURATION", help="So long from now: 90s, 1h30m, 7d."
        ),
        click.option(
            "--at", callback=_moment, metavar="INSTANT", help="At this time: RFC 3339, or Unix milliseconds."
        ),
        click.option(
            "--body", callback=_json, metavar="JSON|@FILE|-", help="Sent as it is, as application/json."
        ),
        click.option("--body-text", metavar="TEXT", help="Sent as text/plain instead."),
        click.option(
            "--header",
            "headers",
            multiple=True,
            callback=_headers,
            metavar="'NAME: VALUE'",
            help="Repeatable.",
        ),
        click.option(
            "--method", type=click.Choice(["POST", "GET", "PUT", "PATCH", "DELETE"]), help="[default: POST]"
        ),
        click.option(
            "--retry", callback=_name_or_json, metavar="RULE", help="A rule's name, or one in JSON."
        ),
        click.option("--timeout", callback=_moment, metavar="DURATION", help="Per attempt.  [default: 15s]"),
        click.option("--connect-timeout", callback=_moment, metavar="DURATION", help="[default: 3s]"),
        click.option(
            "--expires-in", callback=_moment, metavar="DURATION", help="Give up so long after it is due."
        ),
        click.option("--expires-at", callback=_moment, metavar="INSTANT", help="Give up at this time."),
        click.option(
            "--success", callback=_json, metavar="JSON", help='What counts as done: {"status":["2xx"]}.'
        ),
        click.option(
            "--poll", callback=_json, metavar="JSON", help='Ask until done: {"every":"5s","max":120}.'
        ),
        click.option(
            "--group", metavar="NAME", help="A name that tasks share, to list or cancel them together."
        ),
        click.option(
            "--meta", callback=_json, metavar="JSON", help="Kept with the task, never sent to the URL."
        ),
        click.option("--on-done", metavar="URL", help="Told when the task is done."),
        click.option("--on-dead", metavar="URL", help="Told when the task is dead or expired."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("url")
@_task_fields
@click.option("--id", metavar="ID", help="Your name for the task; the same id twice is one task.")
@_QUEUE
@click.option("--on-conflict", type=click.Choice(["error", "keep", "replace"]), help="When the id is known.")
@with_session
def schedule(session: Session, url: str, **fields: Any) -> None:
    """Call URL later, or now.

    Without --in or --at it is called at once.

    \b
    Examples:
      wheeltimer schedule https://example.org/hook --in 30m --body '{"order":42}'
      wheeltimer schedule https://example.org/hook --at 2027-01-01T09:00:00+01:00 --id new-year
    """
    _either(fields, "delay", "at", "--in and --at")
    reply = session.ask("schedule", url=url, **fields)
    if reply is not None:
        word = "already known" if reply["duplicate"] else "scheduled"
        click.echo(f"{word}: {show.clean(reply['id'])}")
        now = show.now_ms()
        show.fields(
            [
                ("queue", reply["queue"]),
                ("version", reply["version"]),
                ("state", reply["state"]),
                ("due", show.when(reply["due"], now)),
            ]
        )


@click.command()
@click.argument("id")
@_task_fields
@click.option("--url", help="Call this URL instead.")
@_QUEUE
@_IF_VERSION
@with_session
def reschedule(session: Session, id: str, **fields: Any) -> None:
    """Change when a task is due, or what it sends.

    Its attempts start anew, under the next version.

    \b
    Examples:
      wheeltimer reschedule order-42 --in 2h
      wheeltimer reschedule order-42 --url https://example.org/other --if-version 3
    """
    _either(fields, "delay", "at", "--in and --at")
    reply = session.ask("reschedule", id=id, **fields)
    if reply is not None:
        click.echo(f"rescheduled: {show.clean(id)}")
        show.fields([("version", reply["version"]), ("due", show.when(reply["due"], show.now_ms()))])


@click.command()
@click.argument("id", required=False)
@click.option("--group", metavar="NAME", help="All tasks of this group instead of one.")
@_QUEUE
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
    reply = session.ask("get", id=id, queue=queue)
    if reply is not None:
        _show_task(reply["task"], show.now_ms())


@click.command("list")
@_QUEUE
@click.option("--state", type=click.Choice(STATE_WORDS), help="Only tasks in this state.")
@click.option("--group", metavar="NAME", help="Only tasks of this group.")
@click.option("--limit", type=int, metavar="N", help="At most so many.  [default: 100, at most 1000]")
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
    now = show.now_ms()
    rows = [
        (task["queue"], task["id"], task["state"], _next(task, now), task["attempts"], task["url"])
        for task in reply["tasks"]
    ]
    if not rows:
        click.echo("no such tasks")
        return
    show.table(("queue", "id", "state", "next", "attempts", "url"), rows)
    if reply.get("cursor"):
        click.echo(f"more: --cursor {show.clean(reply['cursor'])}")


def _either(fields: dict[str, Any], one: str, other: str, shown: str) -> None:
    if fields[one] is not None and fields[other] is not None:
        raise click.UsageError(f"{shown} exclude each other; give one.")


def _next(task: dict[str, Any], now: int) -> str:
    """When something happens next, or happened last."""
    if task.get("ended") is not None:
        return f"ended {show.relative(task['ended'], now)}"
    return "" if task.get("next") is None else show.relative(task["next"], now)


_TIMES = ("created", "due", "next", "ended")
_FIRST = ("state", "url", "method", *_TIMES, "version", "attempts", "polls")


def _show_task(task: dict[str, Any], now: int) -> None:
    """Every field the daemon sent: the known ones first, any other after them."""
    click.echo(f"{show.clean(task['queue'])}/{show.clean(task['id'])}  {show.state(task['state'])}")
    pairs: list[tuple[str, object]] = []
    for name in (*_FIRST[1:], *(name for name in task if name not in _FIRST)):
        value = task.get(name)
        if name in ("id", "queue", "state", "history") or value is None:
            continue
        if name in _TIMES:
            value = show.when(value, now)
        elif not isinstance(value, str | int):
            value = msgspec.json.encode(value).decode()
        pairs.append((name, value))
    show.fields(pairs)
    history = task.get("history") or []
    if history:
        columns = ("attempt", "version", "started", "late_ms", "ms", "outcome", "status", "error")
        rows = [
            [show.instant(entry["started"]) if name == "started" else entry.get(name) for name in columns]
            for entry in history
        ]
        click.echo()
        show.table(columns, rows)
        if history[-1].get("reply"):
            click.echo(f"last reply: {show.clean(history[-1]['reply'])}")
