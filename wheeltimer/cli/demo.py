"""``wheeltimer demo``: a daemon, a receiver and ten callbacks in one terminal, in ten seconds.

The daemon is a real one, a child process with a folder of its own; the receiver is a thread of this process.
Both are stopped when the command ends, also after an error or a signal.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import click

from wheeltimer.cli import output
from wheeltimer.cli.receiver import Receiver, receiving, signals_unwind
from wheeltimer.errors import ServerUnreachable

_CALLBACKS: Final = 10
_EVERY_MS: Final = 600
_READY_TIMEOUT_S: Final = 15
_GRACE_S: Final = 10  # a callback that is later than this counts as missing
_STOP_TIMEOUT_S: Final = 5
_EXIT_MISSED: Final = 1
_NS_PER_MS: Final = 1_000_000


@click.command()
def demo() -> int:
    """Watch ten callbacks arrive, in ten seconds.

    It starts a daemon and a receiver of its own, and stops both.
    Nothing is left behind. Exit code 0 when all ten arrived and none was early.

    \b
    Example:
      wheeltimer demo
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_unwind())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wheeltimer-demo-")))
        receiver = stack.enter_context(receiving())
        server = stack.enter_context(_daemon(folder))
        due_ms = _schedule_all(server, receiver.url)
        return _watch(receiver, due_ms)


def _schedule_all(server: str, url: str) -> dict[str, int]:
    """Id to due (Unix ms) of every task, from the daemon's replies."""
    from wheeltimer.client import Client

    due_ms = {}
    with Client(server) as client:
        click.echo(f"daemon on {server}; scheduling {_CALLBACKS} callbacks, one every {_EVERY_MS} ms")
        for number in range(1, _CALLBACKS + 1):
            reply = client.schedule(
                url, id=f"demo-{number}", delay_ms=number * _EVERY_MS, body={"number": number}
            )
            due_ms[reply.id] = reply.due
    return due_ms


def _watch(receiver: Receiver, due_ms: dict[str, int]) -> int:
    """Print every arrival until all have come or the last is overdue; return the exit code."""
    late_ns: dict[str, int] = {}
    again = 0
    end_s = time.monotonic() + max(due_ms.values()) / 1000 - time.time() + _GRACE_S
    while len(late_ns) < len(due_ms):
        try:
            arrival = receiver.arrivals.get(timeout=max(0.0, end_s - time.monotonic()))
        except queue.Empty:
            break
        if arrival.id in late_ns:
            again += 1
        elif arrival.id in due_ms:
            late_ns[arrival.id] = arrival.at_ns - due_ms[arrival.id] * _NS_PER_MS
            late = f"{late_ns[arrival.id] / _NS_PER_MS:.1f} ms late"
            click.echo(
                f"  {output.clean(arrival.id):8}  due {output.instant(due_ms[arrival.id])[11:23]}  {late:>12}"
            )
    return _summary(list(late_ns.values()), len(due_ms), again)


def _summary(late_ns: list[int], expected: int, again: int) -> int:
    early = sum(late < 0 for late in late_ns)
    parts = [f"{len(late_ns)} of {expected} arrived", f"{early or 'none'} early", f"{again or 'none'} twice"]
    if late_ns:
        median_ns = sorted(late_ns)[len(late_ns) // 2]
        parts.append(
            f"median {median_ns / _NS_PER_MS:.1f} ms late, at most {max(late_ns) / _NS_PER_MS:.1f} ms"
        )
    good = len(late_ns) == expected and not early and not again
    click.secho(", ".join(parts), fg="green" if good else "red")
    return 0 if good else _EXIT_MISSED


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[str]:
    """Run a daemon as a child process; yield its address. At the end it is terminated, then killed."""
    # The user's own configuration must not change the demo.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WHEELTIMER_") and name != "STATE_DIRECTORY"
    }
    command = [sys.executable, "-m", "wheeltimer", "serve", "--listen", "127.0.0.1:0"]
    log_path = folder / "log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")], stdout=subprocess.PIPE, stderr=log, env=environ
        )
    try:
        assert child.stdout is not None
        ready = _first_line(child.stdout)
        match = re.search(r" ready listen=(\S+)", ready)
        if match is None:
            log_end = log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise ServerUnreachable(
                f"the demo's daemon did not start: {' '.join(log_end) or ready or 'no output'}"
            )
        yield match[1]
    finally:
        child.terminate()
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also after a second Ctrl-C during the wait
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _first_line(stream: IO[bytes]) -> str:
    """The first line that the child printed; ``""`` if it ended or took too long."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    if not poll.poll(_READY_TIMEOUT_S * 1000):
        return ""
    return stream.readline(4096).decode("utf-8", "replace").strip()
