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

from wheeltimer.cli import show
from wheeltimer.cli.connect import Session, with_session
from wheeltimer.errors import Refused, ServerUnreachable

SHOWN_MAX: Final = 20  # lines that went wrong and are named; the rest is counted
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_id: Final = msgspec.json.Decoder(str).decode


@click.command("import")
@click.argument("file", type=click.File("rb"))
@with_session
def import_(session: Session, file: IO[bytes]) -> int:
    """Schedule every task of FILE: one JSON object a line, with the fields of `schedule`.

    Give each an "id": then the same import can be run again, and what is there already is left as it is.
    "-" reads standard input. Lines that are refused are named, and do not end the others.

    \b
    Examples:
      wheeltimer import tasks.ndjson
      generate | wheeltimer import - --json
    """
    work = _Import()
    session.place.connect().close()  # no daemon, a token that is none: said before all begins
    with session.connect(reconnect_s=30) as client, _bar(file) as told:
        for result in client.schedule_plain(work.tasks(file, told)):
            work.took(result)
    if session.as_json:
        click.echo(msgspec.json.encode(work.counts))
    else:
        click.echo(
            ", ".join(
                f"{name}: {count}" for name, count in work.counts.items() if count or name == "scheduled"
            )
        )
    return 1 if work.counts["refused"] else 0


class _Import:
    """Counts, and which line the next result is of."""

    def __init__(self) -> None:
        self.counts = {"scheduled": 0, "known": 0, "refused": 0}
        self._sent: deque[int] = deque()  # numbers of the lines without a result

    def tasks(self, file: IO[bytes], told: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """The tasks of the file; what is none is refused here. ``told`` hears of the bytes read."""
        done = 0
        for number, line in enumerate(file, 1):
            done += len(line)
            told(done)
            if not line.strip():
                continue
            try:
                task: dict[str, Any] = dict(_decode(line))
                if "id" in task:
                    task["id"] = _id(task["id"])
                task.pop("op", None)
            except msgspec.MsgspecError as error:
                self._refuse(number, f"no task: {error}")
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
            self.counts["known" if getattr(result, "duplicate", False) else "scheduled"] += 1

    def _refuse(self, number: int, why: str) -> None:
        self.counts["refused"] += 1
        if self.counts["refused"] <= SHOWN_MAX:
            click.echo(f"line {number}: {show.clean(' '.join(why.split()))}", err=True)
        elif self.counts["refused"] == SHOWN_MAX + 1:
            click.echo("more lines were refused; they are counted only", err=True)


@contextlib.contextmanager
def _bar(file: IO[bytes]) -> Iterator[Callable[[int], None]]:
    """A bar for a person who waits; gone when the file is read."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        total = os.fstat(file.fileno()).st_size or None
    except OSError:  # no file of the system's
        total = None
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)
