"""TLS in front of a connection: the handshake, and a pipe from the plain side to the encrypted one.

`Connection` reads and writes a descriptor. Behind TLS it gets one end of a socket pair, and two nursery tasks
copy bytes between the other end and the client. So plain TCP pays nothing for TLS, and all limits of a
connection hold behind it. The price is two more descriptors and a copy.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from wheeltimer.errors import SettingsError
from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.rejection import CLOSE_GRACE_S, NONE_LEFT, Overflow
from wheeltimer.settings import Tls

PIECE_BYTES: Final = 65_536
HANDSHAKE_NS: Final = 1_000_000  # what a handshake takes of the loop, with an RSA key of 2,048 bits


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and later; with ``client_ca``, clients need a certificate by it. Raises SettingsError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key, password="")  # not None: OpenSSL would ask on the terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingsError(
            f"tls.cert ({tls.cert}), tls.key ({tls.key}): not a PEM certificate and its key"
            f" without a password: {error}"
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(f"tls.client_ca ({tls.client_ca}): no PEM certificates: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve_tls(
    stream: trio.SocketStream,
    context: ssl.SSLContext,
    patience_ms: int,
    turn: TimeSlices,
    failed: RateLimitedLog,
    overflow: Overflow,
    talk: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """Shake hands within ``patience_ms``, then have ``talk`` serve the plain side.

    A handshake is about a millisecond of arithmetic, so it takes a time slice. ``failed`` logs one that
    fails. Without descriptors for the plain side the client is closed before the handshake.
    """
    pair = _pair(overflow)
    if pair is None:
        await trio.aclose_forcefully(stream)
        return
    secure = trio.SSLStream(_HalfClosing(stream), context, server_side=True)
    try:
        with trio.move_on_after(patience_ms / 1000) as patience:
            await trio.lowlevel.wait_readable(stream.socket)
            await turn.take()
            turn.charge(HANDSHAKE_NS)
            await secure.do_handshake()
    except trio.BrokenResourceError as error:
        failed.say("no TLS handshake: %s", error.__cause__ or error)
    else:
        if not patience.cancelled_caught:
            await _between(secure, stream, *pair, talk)
    finally:
        for plain in pair:
            plain.close()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


class _HalfClosing(trio.abc.Stream):
    """The client's stream; ``aclose`` ends the sending side only.

    Closing a socket with unread input resets the connection, and the client could lose the last reply.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()


def _pair(overflow: Overflow) -> tuple[trio.socket.SocketType, trio.socket.SocketType] | None:
    """Both plain ends; None if there are no descriptors even after kept connections were closed."""
    while True:
        try:
            return trio.socket.socketpair()
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            if not overflow.relieved(error):
                return None


async def _between(
    secure: trio.SSLStream[_HalfClosing], stream: trio.SocketStream, ours: trio.socket.SocketType,
    theirs: trio.socket.SocketType, talk: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:  # fmt: skip
    inside, outside = trio.SocketStream(ours), trio.SocketStream(theirs)
    async with inside, outside, trio.open_nursery() as nursery:
        last, said = trio.Event(), trio.Event()
        nursery.start_soon(_inwards, secure, stream, inside, last)
        nursery.start_soon(_outwards, inside, secure, last, said)
        await talk(outside)
        await trio.aclose_forcefully(outside)
        with trio.move_on_after(CLOSE_GRACE_S):
            await said.wait()
        nursery.cancel_scope.cancel()


async def _inwards(
    secure: trio.SSLStream[_HalfClosing],
    stream: trio.SocketStream,
    inside: trio.SocketStream,
    last: trio.Event,
) -> None:
    """Copy the client's bytes to the plain side, and end that side with the client's, or if it is broken.

    Once ``last`` is set, bytes are read and dropped, as in ``send_and_close``, with the same limit.
    """
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await secure.receive_some(PIECE_BYTES):
            await inside.send_all(data)
    if last.is_set():
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(PIECE_BYTES):
                pass
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it is over too
        await inside.send_eof()


async def _outwards(
    inside: trio.SocketStream, secure: trio.SSLStream[_HalfClosing], last: trio.Event, said: trio.Event
) -> None:
    """Copy the replies to the client, then TLS's own end of the stream (close_notify)."""
    try:
        while data := await inside.receive_some(PIECE_BYTES):
            await secure.send_all(data)
        last.set()
        await secure.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client is gone
    said.set()
