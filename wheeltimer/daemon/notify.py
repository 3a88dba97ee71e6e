"""What a service manager is told: ready, reloading, stopping, still alive (sd_notify(3), Type=notify-reload);
and what is said on standard output.

Datagrams to the Unix socket that ``NOTIFY_SOCKET`` names; without it nothing is sent. The daemon does not
depend on anybody hearing it: what cannot be sent is one line of the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import trio

from wheeltimer.core.task import NS_PER_MS
from wheeltimer.daemon.clock import monotonic_us
from wheeltimer.daemon.logs import write_all

WATCHES: Final = 2  # signs of life in the time that the manager waits for one, as systemd recommends
_log = logging.getLogger("wheeltimer.notify")


class Notifier:
    """Tells the manager that the environment names; see the module."""

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
        """Around a reload, whichever way it ends."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")
        try:
            yield
        finally:
            self._send("READY=1")

    async def watch(self, alive_ns: Callable[[], int], now_ns: Callable[[], int]) -> None:
        """Say that the ticker lives, as long as it does: where it stands still, the manager restarts us."""
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
                sock.setblocking(False)  # a manager that does not listen must not hold the loop
                sock.sendto(text.encode(), self._address)
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
            _log.warning("service manager not told state=%s: %s", text.partition("\n")[0], error)


async def say(line: str) -> None:
    """Write a line to standard output, in a thread: a pipe that nobody reads must not block the loop.

    A line that cannot be written (the disk is full, the reader has ended, the system has no thread left) is a
    warning in the log.
    """
    data = f"{line}\n".encode(errors="surrogateescape")
    try:
        await trio.to_thread.run_sync(write_all, 1, data, abandon_on_cancel=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread is to be had
        _log.warning("standard output cannot be written: %s", error)
