"""Opens the addresses of ``listen`` (errors name the address), and accepts clients at a bounded rate."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from wheeltimer.errors import ListenError
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.rejection import FULL, NONE_LEFT, Overflow
from wheeltimer.settings import Address

BACKLOG: Final = 1024


class Paced(trio.abc.Listener[trio.SocketStream]):
    """Accepts connections at a bounded rate, so that a storm of connects cannot delay timers.

    Each accept waits in ``TimeSlices.enter``. If there is no descriptor for a client, it gets ``full`` and is
    closed.
    """

    def __init__(
        self, listener: trio.SocketListener, turn: TimeSlices, overflow: Overflow, full: bytes = FULL
    ) -> None:
        self._listener = listener
        self._turn = turn
        self._overflow = overflow
        self._full = full

    async def accept(self) -> trio.SocketStream:
        while True:
            await trio.lowlevel.wait_readable(self._listener.socket)
            await self._turn.enter()
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in NONE_LEFT:
                    raise
                again = self._overflow.relieved(error)
            if not again:
                await self._overflow.turn_away(self._listener, self._full)

    async def aclose(self) -> None:
        await self._listener.aclose()


async def open_listeners(
    addresses: Sequence[Address], turn: TimeSlices, overflow: Overflow, unix_mode: int = 0o600
) -> tuple[list[tuple[Paced, str]], list[str]]:
    """The listeners with their kinds, and the name of each address with its actual port.

    A client of a ``tls:`` address that is turned away gets no reason, as there was no handshake.
    """
    overflow.take()
    listeners: list[tuple[Paced, str]] = []
    names: list[str] = []
    for address in addresses:
        try:
            opened = (
                [_open_unix(address.path, unix_mode)] if address.kind == "unix" else await _open_tcp(address)
            )
        except OSError as error:
            why = f"cannot be used ({error.strerror}); mend that"
            if error.errno == errno.EADDRINUSE:
                why = "is in use; stop what holds it"
            raise ListenError(f"listen {address} {why}, or choose another address") from error
        full = b"" if address.kind == "tls" else FULL
        listeners += [(Paced(listener, turn, overflow, full), address.kind) for listener in opened]
        if address.kind == "unix":
            names.append(str(address))
        else:
            port = opened[0].socket.getsockname()[1]
            names.append(str(Address(address.kind, address.host, port)))
    return listeners, names


async def _open_tcp(address: Address) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{address.host} is no address of this machine") from error


def _open_unix(path: str, mode: int) -> trio.SocketListener:
    """A Unix socket with permissions ``mode``. Replaces a socket file to which no process listens."""
    _remove_stale(Path(path))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.ENOTSOCK, "something that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a process listens, and its queue of connections is full
    raise OSError(errno.EADDRINUSE, "a daemon answers there")
