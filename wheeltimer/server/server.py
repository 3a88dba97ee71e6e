"""All connections: which are accepted, and how they end. A single one: ``connection.py``."""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from wheeltimer.core.access import Access
from wheeltimer.core.schedule import RETRY_FULL_MS
from wheeltimer.errors import StorageFailed
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import ErrorReply
from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.server.client_memory import ClientMemory
from wheeltimer.server.connection import Connection
from wheeltimer.server.rejection import CLOSE_GRACE_S, TURNED_AWAY_MAX, Overflow, Rejections
from wheeltimer.server.service import Service
from wheeltimer.server.subscriptions import Subscriptions
from wheeltimer.server.tls import serve_tls
from wheeltimer.settings import Limits

END_GRACE_S: Final = 2.0  # how long all connections together may take to end when the daemon stops
_log = logging.getLogger("wheeltimer.server")


class Server:
    """All connections. Trio's ``serve_listeners`` calls what ``host`` returns."""

    def __init__(
        self, requests: Service, subs: Subscriptions, memory: ClientMemory, limits: Limits,
        access: Access | None = None, tls: ssl.SSLContext | None = None,
        overflow: Overflow | None = None, turned_away_max: int = TURNED_AWAY_MAX,
    ) -> None:  # fmt: skip
        self._requests = requests
        self._subscriptions = subs
        self._memory = memory
        self._limits = limits
        self._open: set[Connection] = set()
        memory.holders = self._open
        self._door = Rejections(turned_away_max)
        self._overflow = overflow or Overflow()
        self._guests = ConnectionCounts(limits)
        self._tls = tls
        requests.rights.reload(access or Access())
        self._stalled = RateLimitedLog(_log, logging.WARNING)
        self._handshakes = RateLimitedLog(_log, logging.INFO)
        self._closed = trio.Event()
        self._ending = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._guests.count

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection, isolated from all others: an unexpected exception closes it and is logged."""
        address = address_of(stream)
        if (text := self._guests.refusal(address)) is not None:
            reply = ErrorReply(False, "full", text, retry_after_ms=RETRY_FULL_MS)
            await self._door.turn_away(stream, wire.encode(reply) + b"\n")
            return
        await self._stay(stream, address, self._talk)

    def host(self, kind: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
        """The method that serves connections of a listener of this kind."""
        return self.serve_tls if kind == "tls" else self.serve

    async def serve_tls(self, stream: trio.SocketStream) -> None:
        """The same behind TLS. A refused client gets no reason, as a reason would cost a handshake."""
        address = address_of(stream)
        if self._guests.refusal(address) is not None:
            await trio.aclose_forcefully(stream)
            return
        assert self._tls is not None, "a tls: listener without [tls] is refused by the settings"
        context = self._tls

        async def behind(stream: trio.SocketStream) -> None:
            patience_ms, turn = self._limits.hello_ms, self._requests.admission.turn
            await serve_tls(stream, context, patience_ms, turn, self._handshakes, self._overflow, self._talk)

        await self._stay(stream, address, behind)

    async def _stay(
        self, stream: trio.SocketStream, address: str, how: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        self._guests.enter(address)
        try:
            await how(stream)
        except* trio.BrokenResourceError:
            pass  # the client disconnected
        except* Exception:  # noqa: BLE001 -- one of the two places that isolate; see the docstring
            _log.exception("connection failed inside")
        finally:
            self._guests.leave(address)
            self._closed.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_GRACE_S):
                await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.SocketStream) -> None:
        connection = Connection(
            stream, self._requests, self._subscriptions, self._memory, self._limits, self._stalled
        )
        self._open.add(connection)
        if self._ending:
            connection.end()
        try:
            await connection.run()
        finally:
            connection.vanished()
            self._open.discard(connection)

    def reload(self, access: Access, tls: ssl.SSLContext | None) -> None:
        """Apply new tokens and rights to every connection, and a new certificate to new connections."""
        self._tls = tls
        self._requests.rights.reload(access)
        for connection in tuple(self._open):
            connection.reauthorize()

    def fail(self, error: StorageFailed) -> None:
        """The storage failed: answer every waiting request that its outcome is unknown."""
        for connection in tuple(self._open):
            connection.fail(error)

    async def end(self, finish: Callable[[], Awaitable[None]]) -> None:
        """The daemon stops: read nothing more, commit what was decided (``finish``), send the replies."""
        self._ending = True
        for connection in tuple(self._open):
            connection.end()
        await finish()
        with trio.move_on_after(END_GRACE_S):
            while self._guests.count:  # also waits until ``tls.py`` has passed on the last replies
                self._closed = trio.Event()
                await self._closed.wait()


# -- how many connections there are, and how many from one address -----------------------------------------


class ConnectionCounts:
    """Counts connections, in all and by address. Unix sockets have no address and count in all only."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()
        self.count = 0

    def refusal(self, address: str) -> str | None:
        """Why one more connection from this address is refused; None if it is not."""
        limits = self._limits
        if self.count >= limits.connections_max:
            return f"connections_max ({limits.connections_max}) are open"
        if address and self._of[address] >= limits.address_connections_max:
            return f"address_connections_max ({limits.address_connections_max}) are open from {address}"
        return None

    def enter(self, address: str) -> None:
        """Count one more."""
        self.count += 1
        self._of[address] += 1

    def leave(self, address: str) -> None:
        """Count one fewer; drop an address without connections."""
        self.count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


def address_of(stream: trio.SocketStream) -> str:
    """The client's IP address; empty for a Unix socket, and for a client that is gone already."""
    try:
        peer = stream.socket.getpeername()
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""
