"""One connection for ``AsyncClient``: whole lines out, whole lines in, by way of anyio."""

from __future__ import annotations

import ssl
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute

from wheeltimer.client.pipeline import Caller, NoReply, Pipeline
from wheeltimer.client.place import Place
from wheeltimer.client.sync_stream import (
    REPLY_BYTES_MAX,
    keep_alive,
    split_host_port,
    tls_context,
    unreachable,
)
from wheeltimer.errors import ServerUnreachable

READ_BYTES: Final = 1 << 16
GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Lines:
    """One connection: whole lines in, whole lines out. Raises anyio's errors, and ``NoReply`` for a line that
    is too long."""

    def __init__(self, stream: ByteStream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._in = bytearray()
        self._scanned = 0
        self._sending = anyio.Lock()

    async def read(self) -> bytes:
        while (end := self._in.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._in)
            if self._scanned > REPLY_BYTES_MAX:
                raise NoReply(f"a reply of more than {REPLY_BYTES_MAX} bytes")
            self._in += await self._stream.receive(READ_BYTES)
        line = bytes(self._in[:end])
        del self._in[: end + 1]
        self._scanned = 0
        return line

    async def send(self, data: bytes) -> None:
        """Send whole lines, in the order of the calls. Raises anyio's errors, TimeoutError.

        A task that is cancelled meanwhile still sends them: there may be requests of other tasks among them.
        """
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + self._timeout_s):
            async with self._sending:
                await self._stream.send(data)
            return
        await self.close()
        raise TimeoutError("the daemon reads nothing")

    async def close(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    def forget(self) -> None:
        """In a child process: only close(2) of its descriptor."""
        raw = self._stream.extra(SocketAttribute.raw_socket)
        getattr(raw, "_sock", raw).close()  # asyncio wraps it and hides close


async def connect(place: Place) -> Lines:
    """A connection on which the token was shown. Raises ServerUnreachable, Refused, BadValue."""
    try:
        with anyio.fail_after(place.timeout_s):
            lines = Lines(await _open(place.server, place.tls), place.timeout_s)
    except (OSError, UnicodeError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise unreachable(place.server, error) from error
    if place.token is None:
        return lines
    hello, line = Pipeline(place.server), b""
    call = hello.make("hello", {"token": place.token}, Caller())
    hello.fresh.append(call)
    try:
        with anyio.fail_after(place.timeout_s):
            await lines.send(hello.outgoing())
            line = await lines.read()
        hello.take(line)
        call.check()
    except (*GONE, NoReply) as error:
        await lines.close()
        raise hello.no_daemon(line) or ServerUnreachable(f"hello: {error}") from error
    except BaseException:
        with anyio.CancelScope(shield=True):
            await lines.close()
        raise
    return lines


async def _open(server: str, tls: ssl.SSLContext | None) -> ByteStream:
    if server.startswith("unix:"):
        return await anyio.connect_unix(server.removeprefix("unix:"))
    stream: ByteStream
    if server.startswith("tls:"):
        host, port = split_host_port(server.removeprefix("tls:"))
        context = tls or tls_context()
        stream = await anyio.connect_tcp(host, port, ssl_context=context, tls_hostname=host)
    else:
        stream = await anyio.connect_tcp(*split_host_port(server))
    keep_alive(stream.extra(SocketAttribute.raw_socket))
    return stream
