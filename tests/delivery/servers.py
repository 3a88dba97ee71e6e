"""Receivers of callbacks for the tests, well-behaved and hostile, on loopback and in the test's own Trio run.

``Arena`` starts them, makes transports, and at the end asserts that no socket was left open by anybody.
A receiver is an async function of one connection; the factories below make the usual kinds from raw bytes.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import trio

from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import Reply
from wheeltimer.delivery.transport import Transport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def allow_all(address: IPv4Address | IPv6Address) -> None:
    return None


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@dataclass
class Server:
    """A receiver under test; ``requests`` holds what it read, whole, in order of arrival."""

    port: int
    scheme: str = "http"
    host: str = "127.0.0.1"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    sent_bytes: int = 0

    @property
    def destination(self) -> Destination:
        return Destination(self.scheme, self.host, self.port)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.destination.authority}/"


class Wire:
    """One accepted connection: Trio's stream and a buffer to read whole requests with."""

    def __init__(self, stream: trio.abc.Stream, server: Server, number: int) -> None:
        self.stream = stream
        self.server = server
        self.number = number  # of the connection, from 1
        self._buffer = b""

    async def request(self) -> bytes | None:
        """The next whole request, or None when the other side closed."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._more():
                return None
        head = self._buffer[: end + 4]
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        while len(self._buffer) < len(head) + length:
            if not await self._more():
                return None
        request = self._buffer[: len(head) + length]
        self._buffer = self._buffer[len(request) :]
        self.server.requests.append(request)
        return request

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65_536)
        self._buffer += data
        return bool(data)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)
        self.server.sent_bytes += len(data)

    def reset(self) -> None:
        """Make the close that follows a RST."""
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


Handler = Callable[[Wire], Awaitable[None]]


def answering(*replies: bytes) -> Handler:
    """Answer each request of a connection with the next of ``replies``, then close; the last one again
    and again when there is only one."""

    async def handle(wire: Wire) -> None:
        turn = 0
        while await wire.request() is not None:
            await wire.send(replies[min(turn, len(replies) - 1)])
            turn += 1
            if turn == len(replies) > 1:
                return

    return handle


def once(reply: bytes) -> Handler:
    """Answer one request and close."""

    async def handle(wire: Wire) -> None:
        if await wire.request() is not None:
            await wire.send(reply)

    return handle


def endless(head: bytes, more: bytes, pause_s: float = 0) -> Handler:
    """Answer with ``head`` and then ``more`` for ever."""

    async def handle(wire: Wire) -> None:
        await wire.request()
        await wire.send(head)
        while True:
            await wire.send(more)
            await trio.sleep(pause_s)

    return handle


def closing_on_second_request(first_bytes: bytes = b"", reset: bool = False) -> Handler:
    """Keeps its first connection, reads the second request there and closes without (or in) the reply;
    its other connections answer."""

    async def handle(wire: Wire) -> None:
        while await wire.request() is not None:
            if wire.number == 1 and len(wire.server.requests) == 2:
                await wire.send(first_bytes) if first_bytes else None
                if reset:
                    wire.reset()
                return
            await wire.send(OK)

    return handle


@contextmanager
def deaf_listener() -> Iterator[int]:
    """The port of a listener whose queue of connections is full: it neither accepts nor refuses."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for queued in (first, second):
            queued.setblocking(False)
            with suppress(BlockingIOError):
                queued.connect(listener.getsockname())
        yield listener.getsockname()[1]


class Arena:
    """Servers and transports of one test, ended together."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._transports: list[Transport] = []

    async def serve(
        self, handler: Handler, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1",
        port: int = 0,
    ) -> Server:  # fmt: skip
        listener = (await trio.open_tcp_listeners(port, host=host, backlog=512))[0]
        server = Server(listener.socket.getsockname()[1], "https" if ssl_context else "http", host)

        async def connection(raw: trio.SocketStream) -> None:
            server.connections += 1
            stream: trio.abc.Stream = raw
            if ssl_context is not None:
                stream = trio.SSLStream(raw, ssl_context, server_side=True, https_compatible=True)
            wire = Wire(stream, server, server.connections)
            try:
                await handler(wire)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the transport closed on us: what most of these receivers are for
            finally:
                await trio.aclose_forcefully(stream) if _is_reset(raw) else await stream.aclose()

        self._nursery.start_soon(trio.serve_listeners, connection, [listener])
        return server

    def transport(self, **options: object) -> Transport:
        options.setdefault("check", allow_all)
        options.setdefault("ssl_context", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        transport = Transport(**options)  # type: ignore[arg-type]
        self._transports.append(transport)
        return transport

    async def close(self) -> None:
        for transport in self._transports:
            await transport.aclose()


def _is_reset(stream: trio.SocketStream) -> bool:
    return stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER) != 0


@asynccontextmanager
async def arena() -> AsyncIterator[Arena]:
    """Ends everything and asserts that no socket is left, whichever way the test's body went."""
    before = open_sockets()
    async with trio.open_nursery() as nursery:
        instance = Arena(nursery)
        yield instance
        await instance.close()
        nursery.cancel_scope.cancel()
    assert open_sockets() == before, "a socket was left open"


async def post(
    transport: Transport,
    destination: Destination,
    body: bytes = b"{}",
    *,
    fields: bytes = b"",
    connect_timeout_ms: int = 2_000,
) -> Reply:
    """POST / through the dispatcher's door."""
    return await transport.request(destination, b"POST", b"/", fields, body, connect_timeout_ms)
