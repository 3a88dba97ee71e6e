"""``wheeltimer bench``: a small load on a running daemon, and its results.

Three parts, one after the other: how many schedules a second, how long one takes, how late callbacks are.
This process makes the load, and Python uses one core: if the daemon could do more, the numbers are those of
one such client. The benchmarks for releases are in ``benchmarks/``.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from wheeltimer.cli import output
from wheeltimer.cli.receiver import Receiver, receiving, signals_unwind
from wheeltimer.cli.session import Session, with_session
from wheeltimer.client import Client
from wheeltimer.client.fields import new_id
from wheeltimer.errors import BadValue, Refused, ServerUnreachable
from wheeltimer.protocol.limits import Limits

TASKS_MAX: Final = Limits().keep_done_max // 10  # cancelled tasks stay known and displace others
PART_MS_MAX: Final = 60_000  # a part ends after that time, and is measured by what was done until then
_NEVER: Final = "1d"  # tasks that are due long after they are cancelled
_FIRST_MS: Final = 1_000  # before the first callback: all are scheduled by then
_GRACE_MS: Final = 10_000  # a callback that is later than this counts as missing
_CLEAR_S: Final = 30  # how long connecting is tried for the cancel at the end
_EXIT_MISSED: Final = 1


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one run."""

    tasks: int
    connections: int
    round_trips: int
    callbacks: int
    rate: int
    queue: str


@click.command()
@click.option(
    "--tasks", type=click.IntRange(1, TASKS_MAX), default=20_000, show_default=True, metavar="N",
    help=f"Tasks to schedule as fast as it goes; at most {TASKS_MAX}.",
)  # fmt: skip
@click.option(
    "--connections", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N",
    help="Connections that do so at once; at most 64.",
)  # fmt: skip
@click.option(
    "--round-trips", type=click.IntRange(1, 10_000), default=500, show_default=True, metavar="N",
    help="Tasks to schedule one after the other; at most 10000.",
)  # fmt: skip
@click.option(
    "--callbacks", type=click.IntRange(0, 10_000), default=500, show_default=True, metavar="N",
    help="Callbacks whose lateness is taken; at most 10000, 0: none.",
)  # fmt: skip
@click.option(
    "--rate", type=click.IntRange(1, 1000), default=100, show_default=True, metavar="N",
    help="How many of them are due in a second; at most 1000.",
)  # fmt: skip
@click.option(
    "--receiver", "host", default="127.0.0.1", show_default=True, metavar="HOST",
    help="Address of this machine at which the daemon can call it.",
)  # fmt: skip
@click.option("--queue", default="bench", show_default=True, metavar="NAME", help="Where its tasks are put.")
@with_session
def bench(session: Session, host: str, **asked: Any) -> int:
    """Measure a daemon that runs: schedules a second, round trip, lateness.

    It puts a load on the daemon for some seconds, and cancels what it scheduled, also when it is stopped.
    Like all that is cancelled its tasks stay known for a while. Callbacks go to a receiver in this command.

    \b
    Examples:
      wheeltimer bench
      wheeltimer bench --tasks 1000 --callbacks 0 --json
    """
    what = Bench(**asked)
    group = f"bench-{new_id()}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_unwind())
        told = stack.enter_context(_told())
        try:
            receiver = stack.enter_context(receiving(host))
        except OSError as error:
            raise BadValue(f"--receiver: {host} is no address of this machine ({error.strerror})") from error
        with session.connect() as client:  # so that a missing daemon, bad name or right is an error first
            client.cancel(group=group, queue=what.queue)
        stack.callback(_clear, session, what.queue, group)
        found = _measure(session, what, group, receiver, told)
    if session.as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    return _EXIT_MISSED if found.get("missing") or found.get("early") else 0


def _measure(
    session: Session, what: Bench, group: str, receiver: Receiver, told: Callable[[str], None]
) -> dict[str, Any]:
    # If this command is killed its tasks come due: each is tried once, with no receiver.
    fields = {"queue": what.queue, "group": group, "url": receiver.url, "retry": "none"}
    told(f"scheduling {what.tasks} tasks over {what.connections} connections")
    found: dict[str, Any] = {"schedules_per_s": _throughput(session, what, fields)}
    with session.connect() as client:
        told(f"scheduling {what.round_trips} more, one at a time")
        found["round_trip_us"] = _round_trips(client, what.round_trips, fields)
        if what.callbacks:
            told(f"waiting for {what.callbacks} callbacks, {what.rate} a second")
            found |= _lateness(client, what, fields, receiver)
    told("cancelling")
    return found


@contextlib.contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """A status line on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def _clear(session: Session, queue: str, group: str) -> None:
    """Cancel all tasks of the group; if that fails, print the command that does so."""
    try:
        with session.connect(reconnect_s=_CLEAR_S) as client:
            client.cancel(group=group, queue=queue)
    except (Refused, ServerUnreachable) as error:
        click.echo(f"not cancelled ({error}): wheeltimer cancel --queue {queue} --group {group}", err=True)


# --- schedules a second ----------------------------------------------------------------------------


def _throughput(session: Session, what: Bench, fields: dict[str, Any]) -> int:
    """Tasks acknowledged in a second, over all connections, each with many requests ahead of their
    replies."""
    stop = threading.Event()
    done: list[int] = []
    failed: list[Exception] = []

    def run(tasks: int) -> None:
        count = 0
        try:
            with session.connect() as client:
                for result in client.schedule_plain(_tasks(tasks, fields, stop)):
                    if isinstance(result, Exception):
                        raise result
                    count += 1
        except (Refused, ServerUnreachable) as error:
            failed.append(error)
            stop.set()
        done.append(count)

    shares = [len(range(n, what.tasks, what.connections)) for n in range(what.connections)]
    threads = [threading.Thread(target=run, args=(share,)) for share in shares if share]
    begin_ns = time.monotonic_ns()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:  # also after Ctrl-C: all requests must have been sent before the cancel
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    took_ns = time.monotonic_ns() - begin_ns
    if failed:
        raise failed[0]
    return sum(done) * 1_000_000_000 // took_ns


def _tasks(count: int, fields: dict[str, Any], stop: threading.Event) -> Iterator[dict[str, Any]]:
    end_ns = time.monotonic_ns() + PART_MS_MAX * 1_000_000
    for _ in range(count):
        if stop.is_set() or time.monotonic_ns() > end_ns:
            return
        yield {**fields, "delay": _NEVER}


# --- one at a time ---------------------------------------------------------------------------------


def _round_trips(client: Client, count: int, fields: dict[str, Any]) -> dict[str, int]:
    """Time from the call to its answer: a request, one sync of the disk, a reply."""
    took_us = []
    end_ns = time.monotonic_ns() + PART_MS_MAX * 1_000_000
    for _ in range(count):
        begin_ns = time.monotonic_ns()
        client.schedule(**fields, delay=_NEVER)
        now_ns = time.monotonic_ns()
        took_us.append((now_ns - begin_ns) // 1000)
        if now_ns > end_ns:
            break
    return _percentiles(took_us)


# --- how late --------------------------------------------------------------------------------------


def _lateness(client: Client, what: Bench, fields: dict[str, Any], receiver: Receiver) -> dict[str, Any]:
    """Arrivals of callbacks at the receiver, compared with ``due`` in the daemon's replies."""
    first_ms = output.now_ms() + _FIRST_MS
    due_ms: dict[str, int] = {}
    for result in client.schedule_plain(
        {**fields, "at": first_ms + number * 1000 // what.rate} for number in range(what.callbacks)
    ):
        if isinstance(result, Refused | ServerUnreachable):
            raise result
        due_ms[result.id] = result.due
    late_us: dict[str, int] = {}
    end_ms = max(due_ms.values()) + _GRACE_MS
    with contextlib.suppress(queue.Empty):
        while len(late_us) < len(due_ms):
            arrival = receiver.arrivals.get(timeout=max(0, end_ms - output.now_ms()) / 1000)
            if arrival.id in due_ms:
                late_us.setdefault(arrival.id, arrival.at_ns // 1000 - due_ms[arrival.id] * 1000)
    late = [*late_us.values()]
    return {
        "lateness_us": _percentiles(late),
        "callbacks": len(late),
        "missing": len(due_ms) - len(late),
        "early": sum(us < 0 for us in late),
    }


# --- results ---------------------------------------------------------------------------------------


def _percentiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {
        name: ordered[(len(ordered) - 1) * permille // 1000]
        for name, permille in (("p50", 500), ("p99", 990))
    }
    return at | {"max": ordered[-1]}


def _show(found: dict[str, Any]) -> None:
    lateness = None
    if "callbacks" in found:
        lateness = f"{_ms(found['lateness_us'])}; {found['callbacks']} callbacks, {found['early']} early"
        lateness += f", {found['missing']} missing" if found["missing"] else ""
    output.fields(
        [
            ("schedules", f"{found['schedules_per_s']:,} a second"),
            ("round trip", _ms(found["round_trip_us"])),
            ("lateness", lateness),
        ]
    )


def _ms(percentiles: dict[str, int]) -> str:
    return ", ".join(f"{name} {us / 1000:.1f} ms" for name, us in percentiles.items())
