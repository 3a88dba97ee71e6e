"""The process and its system: the service manager, standard output, signals, file descriptors.

The service manager gets ready, reloading, stopping and still alive (sd_notify(3), Type=notify-reload), as
datagrams to the Unix socket that ``NOTIFY_SOCKET`` names; without that nothing is sent. A datagram that
cannot be sent is one line of the log and has no other effect.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Final, NamedTuple

import msgspec
import trio

from wheeltimer.core.task import NS_PER_MS
from wheeltimer.delivery.pool import IDLE_MAX
from wheeltimer.errors import SettingsError
from wheeltimer.runtime.clock import monotonic_us
from wheeltimer.runtime.log_writer import write_all
from wheeltimer.server.rejection import TURNED_AWAY_MAX
from wheeltimer.settings import Settings

WATCHES: Final = 2  # signs of life sent in one watchdog timeout, as systemd recommends
_log = logging.getLogger("wheeltimer.notify")


class Notifier:
    """Sends the daemon's state to the service manager that the environment names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An @ stands for the NUL of the abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "") if watched else ""
        self._watchdog_ms = int(usec) // 1000 if usec.isascii() and usec.isdigit() else 0

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Wrap a reload, successful or not, in its two notifications."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")
        try:
            yield
        finally:
            self._send("READY=1")

    async def watch(self, alive_ns: Callable[[], int], now_ns: Callable[[], int]) -> None:
        """Send signs of life while the ticker runs; without them the manager restarts the daemon."""
        if not (self._address and self._watchdog_ms):
            return
        while True:
            if now_ns() - alive_ns() < self._watchdog_ms * NS_PER_MS:
                self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_ms / 1000 / WATCHES)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a manager that does not read must not block the loop
                sock.sendto(text.encode(), self._address)
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
            _log.warning("service manager not told state=%s: %s", text.partition("\n")[0], error)


async def say(line: str) -> None:
    """Write a line to standard output, in a thread: a pipe without a reader must not block the loop.

    Logs a warning if it cannot be written (disk full, reader gone, no thread left).
    """
    data = f"{line}\n".encode(errors="surrogateescape")
    try:
        await trio.to_thread.run_sync(write_all, 1, data, abandon_on_cancel=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread could be started
        _log.warning("standard output cannot be written: %s", error)


# -- SIGTERM and SIGINT before and after the daemon listens for them ---------------------------------------
# In between, a signal starts the drain (``run.py``). Neither signal ever has the system's default action: if
# the process ends by itself, a late signal must not replace its exit code, which gives the reason.

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once(unless: Callable[[], bool]) -> None:
    """Let a signal end the process as by default, except while ``unless()`` is true.

    A signal stays ignored if the parent process has set it to be ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if unless():
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def ignore_signals() -> None:
    """Ignore SIGTERM and SIGINT from here on.

    The exit code is known: a signal must not replace it while the interpreter shuts down.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


# -- file descriptors --------------------------------------------------------------------------------------
# All that the system allows are shared among attempts, kept connections and clients. Each share is fixed at
# the start, so that none can take another's. If descriptors run out nevertheless (the whole system's limit is
# reached, or a limit was lowered), see ``server/rejection.py`` and ``journal/spare_descriptors.py``.

LEAST: Final = 64  # with fewer, HELD and OWN leave nothing to share
OWN: Final = 128  # HELD, listeners, and short-lived ones: clients turned away, lookups
# Standard streams 3; locks of file, folder and path 3, folder, segment and 3 spares 5, reserved for the
# journal 5, readers of the journal 2, eventfd 1; epoll and wake-ups of Trio 5; timers 3; epoll of replies 1;
# service manager 1; reserved for a client 1.
HELD: Final = 30
PER_LISTENER: Final = 2  # a name may have an IPv4 and an IPv6 address
PER_TLS: Final = 3  # a client behind TLS: its socket, and the socket pair to the plain side
_log = logging.getLogger("wheeltimer")


class Share(NamedTuple):
    """Bounds by descriptors: attempts in flight, connections kept after them, clients, and clients that are
    being turned away."""

    concurrency: int
    idle_max: int
    connections_max: int
    turned_away_max: int


def share(limit: int, settings: Settings) -> Share:
    """Share out ``limit`` descriptors.

    If they do not suffice for the settings, attempts get up to a half, kept connections and clients up to a
    quarter each, and what one of the three does not need goes to the others.
    """
    held = HELD + PER_LISTENER * len(settings.listen)
    own = min(OWN, held + max(0, limit - held) // 4)
    room = max(3, limit - own)
    each = PER_TLS if any(address.kind == "tls" for address in settings.listen) else 1
    wanted, clients = settings.concurrency, settings.limits.connections_max
    concurrency = min(wanted, max(room // 2, room - room // 4 - clients * each))
    left = room - concurrency
    connections = max(1, min(clients, max(left // 2, left - concurrency) // each))
    idle = max(1, min(IDLE_MAX, left - connections * each))
    return Share(concurrency, idle, connections, max(1, min(TURNED_AWAY_MAX, (own - held) * 2 // 3)))


def ample(settings: Settings) -> Share:
    """The bounds of the settings, unchanged."""
    return Share(settings.concurrency, IDLE_MAX, settings.limits.connections_max, TURNED_AWAY_MAX)


def fit(settings: Settings) -> tuple[Settings, Share]:
    """Raise the soft limit to the hard one; lower ``concurrency`` and ``connections_max`` if that is too low.

    Raises SettingsError if fewer than `LEAST` are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST:
        raise SettingsError(
            f"descriptors: {hard} are allowed, {LEAST} are needed; raise LimitNOFILE (ulimit -n)"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = ample(settings)
    if hard == resource.RLIM_INFINITY:
        return settings, given
    found = share(hard, settings)
    lowered = [
        f"{name}={now} instead of {before}"
        for name, now, before in (
            ("concurrency", found.concurrency, given.concurrency),
            ("connections_max", found.connections_max, given.connections_max),
        )
        if now < before
    ]
    if not lowered:
        return settings, found
    _log.warning(
        "descriptors=%d are too few for the settings: %s, and at most %d connections kept after attempts;"
        " raise LimitNOFILE (ulimit -n), or lower connections_max or concurrency",
        hard, ", ".join(lowered), found.idle_max,
    )  # fmt: skip
    limits = msgspec.structs.replace(settings.limits, connections_max=found.connections_max)
    return msgspec.structs.replace(settings, concurrency=found.concurrency, limits=limits), found
