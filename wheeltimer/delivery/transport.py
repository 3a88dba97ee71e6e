"""Outgoing HTTP: one exchange on a kept or new connection, with two interfaces.

``Transport.request`` is for `Sender`: it takes destination, method, target and ready header lines, so nothing
that stays the same between attempts is parsed or built twice. ``handle_async_request`` makes the same
exchange usable from an ``httpx.AsyncClient``. ``proxy.py`` has the first interface through an egress proxy.

Environment variables are never read (httpx's ``trust_env``), redirects never followed, cookies never kept.
Elsewhere: how many attempts run at once (``dispatcher.py``) and how long one may take (``callback.py``),
address rules (``core/addresses.py``), kept connections (``pool.py``), sockets (``resolve.py``,
``http_connection.py``).
"""

from __future__ import annotations

import math
import re
import socket
import ssl
from collections.abc import Iterable
from functools import lru_cache

import httpx
import msgspec
import trio

from wheeltimer.delivery.http_connection import Connection, show_cut_streams, start_tls
from wheeltimer.delivery.pool import IDLE_MAX, IDLE_PER_DESTINATION_MAX, IDLE_S, Counters, Destination, Pool
from wheeltimer.delivery.reply import AttemptError, Kind, PartialReply, Reply
from wheeltimer.delivery.resolve import (
    Address,
    Check,
    NewSocket,
    Resolver,
    check_all,
    connect,
    raise_if_short,
)
from wheeltimer.delivery.shortage import Shortage, no_memory_is_a_shortage
from wheeltimer.errors import BadValue, TargetBlocked

# Requests that are sent one right after the other. Sent one by one, each would have to wake its receiver,
# which costs 6 us of 12. The first request waits for the others, about 0.2 ms; if many others go out on new
# connections, until the dispatcher's slice is over, at most 2 ms.
BURST = 8
GIVE_UP = 8  # idle connections that are closed together if there is no descriptor for a new one
_METHOD = re.compile(rb"(?!HEAD$|CONNECT$)[A-Z]{1,16}")
_TARGET = re.compile(rb"[!-~]+")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines for ``Transport.request``; the caller may keep them. Raises BadValue("headers").

    A name must be a token, a value has no control character except tab, so that nothing can end a line early
    (RFC 9110 section 5).
    """
    lines = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadValue(f"header {name!r} has a name or value that HTTP does not allow", "headers")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


@lru_cache(maxsize=4096)
def _host_line(destination: Destination) -> bytes:
    return header_lines([(b"host", destination.authority.encode("ascii"))])


def _message(destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes) -> bytes:
    length = b"" if method == b"GET" and not body else b"content-length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (
        method, target, _host_line(destination), fields, length, body,
    )  # fmt: skip


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 to checked addresses over kept connections. One per daemon, used from one Trio run.

    ``check`` is called for every address of every new connection. ``ssl_context`` is by default the system's
    trust store with names verified. Connections in use are limited by the dispatcher's permits, not here.
    At most ``idle_max`` are kept, and some of them are closed if there is no descriptor for a new one.
    """

    def __init__(
        self,
        check: Check,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        idle_per_destination_max: int = IDLE_PER_DESTINATION_MAX,
        idle_max: int = IDLE_MAX,
        idle_s: float = IDLE_S,
        new_socket: NewSocket = socket.socket,
    ) -> None:
        self.counters = Counters()
        self._check = check
        self._resolver = resolver or Resolver()
        self._ssl_context = ssl_context or ssl.create_default_context()
        show_cut_streams(self._ssl_context)
        self._pool = Pool(idle_per_destination_max, idle_max, idle_s, self.counters)
        self._new_socket = new_socket
        self._begun: list[Connection] = []  # requests that are not sent yet
        self._closed = False

    async def request(
        self,
        destination: Destination,
        method: bytes,
        target: bytes,
        fields: bytes,
        body: bytes,
        connect_timeout_ms: int,
        partial: PartialReply | None = None,
    ) -> Reply:
        """One exchange; ``fields`` from ``header_lines``, without host and content-length, which come from
        ``destination`` and ``body``; ``target`` is path and query, visible ASCII.

        The reply is complete when this returns, and its connection kept or closed. Lookup, connect and TLS
        handshake together have ``connect_timeout_ms``; the caller limits the whole with a cancel scope. A
        request is sent a second time only if a kept connection closed before the first reply byte: once, on
        a new connection, with ``resent`` in the reply. If the caller cancels, ``partial`` holds the part of
        the reply that had come. Raises AttemptError, or Shortage if the request could not be sent.
        """
        message = _message(destination, method, target, fields, body)
        return await self._exchange(destination, message, connect_timeout_ms / 1000, partial)

    def begin(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes
    ) -> KeptExchange | None:
        """``request`` on a kept connection, for a caller that awaits many replies; None if none is kept.

        It is sent together with others: by the next `flush`, or by ``begin`` once there are `BURST` of them.
        Before that no byte was sent, so an attempt that is cut then was not made.
        """
        if len(self._begun) == BURST:
            self.flush()
        connection = self._pool.take(destination, trio.current_time())
        if connection is None:
            return None
        self.counters.reused += 1
        message = _message(destination, method, target, fields, body)
        connection.begin(message)
        self._begun.append(connection)
        return KeptExchange(self, connection, destination, message)

    def flush(self) -> None:
        """Send the requests that were begun."""
        for connection in self._begun:
            connection.push()
        self._begun.clear()

    async def _exchange(
        self, destination: Destination, message: bytes, connect_timeout_s: float,
        partial: PartialReply | None = None,
    ) -> Reply:  # fmt: skip
        kept = self._pool.take(destination, trio.current_time())
        if kept is not None:
            self.counters.reused += 1
            try:
                return await self._use(kept, destination, message, partial)
            except AttemptError as error:
                if error.kind != "reset" or kept.answered:
                    raise
            return await self.resend(destination, message, connect_timeout_s, partial)
        fresh = await self._open(destination, connect_timeout_s)
        return await self._use(fresh, destination, message, partial)

    async def resend(
        self, destination: Destination, message: bytes, connect_timeout_s: float,
        partial: PartialReply | None = None,
    ) -> Reply:  # fmt: skip
        """The one permitted resend, on a new connection. Raises AttemptError, or Shortage: then the request
        was not sent again, and the receiver has not answered the first one."""
        self.counters.resent += 1
        fresh = await self._open(destination, connect_timeout_s)
        reply = await self._use(fresh, destination, message, partial)
        return msgspec.structs.replace(reply, resent=True)

    async def _use(
        self, connection: Connection, destination: Destination, message: bytes, partial: PartialReply | None
    ) -> Reply:
        try:
            reply = await connection.exchange(message)
        except BaseException:  # also if cancelled: a connection in the middle of an exchange cannot be reused
            if partial is not None:
                partial.reply = connection.so_far()
            connection.close()
            raise
        self.give_back(connection, destination)
        return reply

    def give_back(self, connection: Connection, destination: Destination) -> None:
        """Keep a connection after its exchange, or close it."""
        if connection.reusable and not self._closed:
            self._pool.put(connection, destination, trio.current_time())
        else:
            connection.close()

    async def _open(self, destination: Destination, connect_timeout_s: float) -> Connection:
        doing = "looking up the name"
        failures: list[OSError] = []
        with trio.move_on_after(connect_timeout_s), no_memory_is_a_shortage():
            addresses = await self._lookup(destination)
            try:
                check_all(destination.host, addresses, self._check)
            except TargetBlocked as error:
                raise AttemptError("blocked", str(error)) from error
            doing = "connecting"
            sock = await connect(addresses, failures, self._new_socket, self._give_up_some)
            if destination.scheme == "https":
                doing = "in the TLS handshake"
                sock = await start_tls(sock, self._ssl_context, destination.host)
            self.counters.opened += 1
            return Connection(sock, trio.current_time())
        raise_if_short(failures)
        raise AttemptError("timeout", f"no connection in {connect_timeout_s:g} s, still {doing}")

    async def _lookup(self, destination: Destination) -> list[Address]:
        try:
            return await self._resolver.lookup(destination.host, destination.port)
        except Shortage as short:
            if short.reason != "descriptors" or not self._give_up_some():
                raise
        return await self._resolver.lookup(destination.host, destination.port)

    def _give_up_some(self) -> bool:
        return self.give_up_idle(GIVE_UP) > 0

    def give_up_idle(self, count: int) -> int:
        """Close up to ``count`` kept connections, those idle longest first, to free descriptors; return how
        many were closed."""
        return self._pool.give_up(count)

    def keeps(self, destination: Destination) -> bool:
        """Whether a connection is kept, so that the next exchange probably needs no new one."""
        return self._pool.keeps(destination)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The same exchange for httpx; of its timeouts only ``connect`` has an effect.

        The body is at most BODY_BYTES_MAX long. ``response.extensions["truncated"]``: whether there was more,
        ``["resent"]``: whether a kept connection was stale. No HEAD, no CONNECT, no upgrade.
        """
        method, target = request.method.encode("ascii"), request.url.raw_path
        if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
            raise httpx.UnsupportedProtocol(f"cannot send {request.method} {request.url}", request=request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([part async for part in request.stream])
        framing = (b"content-length", b"transfer-encoding")
        headers = [header for header in request.headers.raw if header[0].lower() not in framing]
        if body or method != b"GET":
            headers.append((b"content-length", b"%d" % len(body)))
        try:
            destination = Destination.of(request.url)
            lines = header_lines(headers)
        except BadValue as error:
            raise httpx.LocalProtocolError(str(error), request=request) from error
        timeout_s = request.extensions.get("timeout", {}).get("connect")
        message = b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, lines, body)
        try:
            reply = await self._exchange(destination, message, math.inf if timeout_s is None else timeout_s)
        except AttemptError as error:
            raise _HTTPX_ERRORS[error.kind](str(error), request=request) from error
        except Shortage as short:
            raise httpx.ConnectError(str(short), request=request) from short
        extensions = {"http_version": b"HTTP/1.1", "truncated": reply.truncated, "resent": reply.resent}
        stream = httpx.ByteStream(reply.body)
        return httpx.Response(reply.status, headers=reply.headers, stream=stream, extensions=extensions)

    @property
    def idle(self) -> int:
        """How many connections are kept."""
        return len(self._pool)

    def close_idle(self) -> None:
        """Close connections that were idle for too long. Every exchange does so too; call it now and then, as
        there may be no exchange."""
        self._pool.close_idle(trio.current_time())

    async def aclose(self) -> None:
        """Close idle connections; those in use are closed at the end of their exchange."""
        self._closed = True
        self._pool.close_all()


_HTTPX_ERRORS: dict[Kind, type[httpx.TransportError]] = {
    "blocked": httpx.ConnectError,
    "dns": httpx.ConnectError,
    "connect": httpx.ConnectError,
    "tls": httpx.ConnectError,
    "timeout": httpx.ConnectTimeout,
    "reset": httpx.ReadError,
    "protocol": httpx.RemoteProtocolError,
}


class KeptExchange:
    """One exchange on a kept connection, made by ``Transport.begin``; the caller waits for the socket."""

    __slots__ = ("_destination", "_message", "_transport", "connection")

    def __init__(
        self, transport: Transport, connection: Connection, destination: Destination, message: bytes
    ) -> None:
        self._transport = transport
        self.connection = connection
        self._destination = destination
        self._message = message

    def advance(self) -> Reply | None:
        """The reply once it is complete; the connection is then kept or closed. Raises AttemptError."""
        try:
            reply = self.connection.advance()
        except BaseException:
            self.connection.close()
            raise
        if reply is not None:
            self._transport.give_back(self.connection, self._destination)
        return reply

    @property
    def stale(self) -> bool:
        """Whether a reset that ``advance`` raised permits ``resend``: no reply byte came."""
        return not self.connection.answered

    def cut(self) -> None:
        """End the exchange and close the connection."""
        self.connection.close()

    async def resend(self, connect_timeout_ms: int, partial: PartialReply | None = None) -> Reply:
        """Send again on a new connection; ``partial`` as in ``Transport.request``. Raises AttemptError,
        Shortage."""
        return await self._transport.resend(
            self._destination, self._message, connect_timeout_ms / 1000, partial
        )
