"""``import``: tasks from a file, one JSON object a line, streamed with a bar."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import click
import msgspec

from wheeltimer.cli import options, output
from wheeltimer.cli.session import Session, with_session
from wheeltimer.errors import BadValue, Refused, ServerUnreachable
from wheeltimer.protocol import wire
from wheeltimer.protocol.twice import check_names

SHOWN_MAX: Final = 20  # failed lines that are printed; further ones are only counted
_OBJECT: Final = "one JSON object on a line expected"
_SHOWN: Final = {"known_dead": "of these dead or expired"}
_id: Final = msgspec.json.Decoder(str).decode


@click.command("import")
@click.argument("file", type=click.File("rb"))
@with_session
def import_(session: Session, file: IO[bytes]) -> int:
    """Schedule every task of FILE: one JSON object a line, with the fields of `schedule`.

    Give each an "id": then the same import can be run again, and what is there already is left as it is.
    "-" reads standard input. Lines that are refused are named, and do not end the others; so are lines
    whose task is known and dead or expired, for which nothing runs. With one of either the exit code is 1.

    \b
    Examples:
      wheeltimer import tasks.ndjson
      generate | wheeltimer import - --json
    """
    work = _Import()
    session.place.connect().close()  # so that a missing daemon or a wrong token is an error first
    with session.connect(reconnect_s=30) as client, _bar(file) as told:
        for result in client.schedule_plain(work.tasks(file, told)):
            work.took(result)
    if session.as_json:
        click.echo(msgspec.json.encode(work.counts))
    else:
        click.echo(
            ", ".join(
                f"{_SHOWN.get(name, name)}: {count}"
                for name, count in work.counts.items()
                if count or name == "scheduled"
            )
        )
    if work.counts["known_dead"]:
        click.echo(
            "wheeltimer: dead and expired tasks start again with `wheeltimer redrive`,"
            ' or where their lines have "on_conflict":"replace"',
            err=True,
        )
    return 1 if work.counts["refused"] or work.counts["known_dead"] else 0


def _task_of(line: bytes) -> dict[str, Any]:
    """The fields of the task on a line, each except the id as raw bytes.

    Raises BadValue for mistakes that the daemon cannot detect, as it gets the fields in another line.
    """
    if line.startswith(b"["):
        raise BadValue(f"{_OBJECT}, no array")
    try:
        if not line.isascii():
            line.decode()
        task: dict[str, Any] = dict(check_names(line))
        if "op" in task and msgspec.json.decode(task.pop("op")) != "schedule":
            raise BadValue("op: only schedule can be imported", "op")
    except msgspec.ValidationError as error:
        raise BadValue(f"{_OBJECT}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if line.strip() == b"{":  # an object on several lines
            raise BadValue(f"{_OBJECT}; this one goes on behind the line") from error
        raise wire.no_json(line, error) from error
    if "id" in task:
        try:
            task["id"] = _id(task["id"])
        except msgspec.ValidationError as error:
            raise BadValue(f"id: {error}", "id") from error
        except msgspec.DecodeError as error:
            raise wire.no_json(line, error) from error
    return task


class _Import:
    """Counts results, and keeps the line number of each task without one."""

    def __init__(self) -> None:
        self.counts = {"scheduled": 0, "known": 0, "known_dead": 0, "refused": 0}
        self._complaints = 0
        self._sent: deque[int] = deque()  # numbers of the lines without a result

    def tasks(self, file: IO[bytes], told: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """The tasks of the file; other lines are refused here. Calls ``told`` with the bytes read."""
        done = 0
        for number, line in enumerate(file, 1):
            done += len(line)
            told(done)
            # In front of any line, as files may have been joined with `cat`.
            line = line.removeprefix(options.BOM).lstrip()
            if not line:
                continue
            try:
                task = _task_of(line)
            except BadValue as error:
                self._refuse(number, str(error))
                continue
            self._sent.append(number)
            yield task

    def took(self, result: object) -> None:
        number = self._sent.popleft()
        if isinstance(result, Refused):
            self._refuse(number, f"{result.code}: {result.message}")
        elif isinstance(result, ServerUnreachable):
            self._refuse(number, f"unknown: {result}")
        else:
            known, state = getattr(result, "duplicate", False), getattr(result, "state", "")
            self.counts["known" if known else "scheduled"] += 1
            if known and state in ("dead", "expired"):
                self.counts["known_dead"] += 1
                self._complain(number, f"nothing runs, the task of this id is {state}")

    def _refuse(self, number: int, why: str) -> None:
        self.counts["refused"] += 1
        self._complain(number, why)

    def _complain(self, number: int, why: str) -> None:
        self._complaints += 1
        if self._complaints <= SHOWN_MAX:
            click.echo(f"line {number}: {output.clean(' '.join(why.split()))}", err=True)
        elif self._complaints == SHOWN_MAX + 1:
            click.echo("more lines like these are counted only", err=True)


@contextlib.contextmanager
def _bar(file: IO[bytes]) -> Iterator[Callable[[int], None]]:
    """A progress bar, if standard error is a terminal; removed once the file is read."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        total = os.fstat(file.fileno()).st_size or None
    except OSError:  # not a file with a descriptor
        total = None
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)
