"""Listeners and connections: bytes in, slices of work, replies out in the order of the requests.

A connection is two nursery tasks. The reader cuts lines, has a slice of them decided and applied, and
puts the replies into the outbox with the lsn they were decided at; the writer sends them when that lsn
is on disk. What a command does is in ``requests.py`` and below.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import trio
from msgspec import UNSET

from wheeltimer.core import wire
from wheeltimer.core.replies import ErrorReply
from wheeltimer.daemon.requests import Requests
from wheeltimer.daemon.turn import SLICE_LINES_MAX
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.settings import Limits

RECEIVE_BYTES: Final = 131_072
SEND_BYTES: Final = 65_536  # replies go out in pieces: a client that reads one now and then is alive
CLOSE_GRACE_S: Final = 1.0  # how long the last reply may take to arrive before the connection is closed
_log = logging.getLogger("wheeltimer.server")


class Server:
    """All connections; ``serve`` is given to Trio's listeners."""

    def __init__(self, requests: Requests, journal: Journal, limits: Limits) -> None:
        self._requests = requests
        self._journal = journal
        self._limits = limits
        self.connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, kept apart from all others: a bug in it closes it and is logged."""
        if self.connections >= self._limits.connections_max:
            reply = ErrorReply(False, "full", f"connections_max ({self._limits.connections_max}) are open")
            await _send_last(stream, wire.encode(reply) + b"\n")
            return
        self.connections += 1
        try:
            await _Connection(stream, self._requests, self._journal, self._limits).run()
        except* trio.BrokenResourceError:
            pass  # the client went away in the middle: nobody is left to tell
        except* Exception:  # noqa: BLE001 -- one of the two places that isolate; see the docstring
            _log.exception("connection failed inside")
        finally:
            self.connections -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_GRACE_S):
                await trio.aclose_forcefully(stream)


class _Connection:
    """One client's stream; see the module."""

    def __init__(
        self, stream: trio.SocketStream, requests: Requests, journal: Journal, limits: Limits
    ) -> None:
        self._stream = stream
        self._requests = requests
        self._journal = journal
        self._limits = limits
        self._lines = wire.LineReader(limits.line_bytes_max)
        self._asked: list[bytes] = []  # the lines that are being answered
        self._answered = 0  # how many of them are
        self._outbox: deque[tuple[int, bytes]] = deque()  # (lsn, replies)
        self._unread_bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._closing = False
        self._last: bytes | None = None  # what is sent before the end; None: nobody would read it

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            await self._read()
            self._closing = True
            self._filled.set()
        if self._last is not None:
            await _send_last(self._stream, self._last)

    async def _read(self) -> None:
        """Read until the client has no more to say, or said something that ends the connection."""
        limits, partial_until = self._limits, None
        while True:
            data = await self._receive(partial_until)
            if not data:
                return
            lines = self._lines.feed(data)
            await self._answer(lines)
            if self._lines.overlong:
                text = f"a line has more than line_bytes_max ({limits.line_bytes_max}) bytes"
                self._put(wire.encode(ErrorReply(False, "line_too_long", text)) + b"\n")
                return
            if not self._lines.partial:
                partial_until = None
            elif lines or partial_until is None:  # a line that has begun must end in time, however it drips
                partial_until = trio.current_time() + limits.partial_line_ms / 1000

    async def _receive(self, partial_until: float | None) -> bytes:
        """What the socket holds; empty at the end of the stream, or where a line took too long."""
        if partial_until is None:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        with trio.CancelScope(deadline=partial_until):
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        text = f"a line begun and not ended within {self._limits.partial_line_ms} ms"
        self._put(wire.encode(ErrorReply(False, "bad_request", text)) + b"\n")
        return b""

    async def _answer(self, lines: list[bytes]) -> None:
        """Have lines answered in slices; replies go to the outbox after each.

        Short requests may have long replies: no slice is begun, and nothing more read, while too many
        bytes of replies are unread.
        """
        self._asked, self._answered = lines, 0
        while self._answered < len(lines):
            while self._unread_bytes >= self._limits.unread_bytes_max:
                self._drained = trio.Event()
                await self._drained.wait()
            some = lines[self._answered : self._answered + SLICE_LINES_MAX]
            try:
                done, replies = await self._requests.answer(some, 0)
            except StorageFailed as error:
                done, replies = len(some), _storage_refusals(error, some)
            self._answered += done
            if replies:
                self._put(replies)

    def _put(self, replies: bytes) -> None:
        self._outbox.append((self._journal.next_lsn - 1, replies))
        self._unread_bytes += len(replies)
        self._filled.set()

    async def _write(self, scope: trio.CancelScope) -> None:
        """Send what is durable, in order, as one write."""
        while True:
            while not self._outbox:
                if self._closing:
                    self._last = b""
                    return
                self._filled = trio.Event()
                await self._filled.wait()
            lsn = self._outbox[0][0]
            if lsn > self._journal.durable_lsn:
                try:
                    await self._journal.wait_durable(lsn)
                except StorageFailed as error:
                    waiting = b"".join(replies for _, replies in self._outbox).splitlines()
                    waiting += self._asked[self._answered :]
                    self._last = _storage_refusals(error, waiting)
                    scope.cancel()
                    return
            parts = []
            while self._outbox and self._outbox[0][0] <= self._journal.durable_lsn:
                parts.append(self._outbox.popleft()[1])
            if not await self._send(b"".join(parts)):
                _log.warning("client reads nothing, closed unread_bytes=%d", self._unread_bytes)
                scope.cancel()
                return

    async def _send(self, data: bytes) -> bool:
        """Send replies; False where the client read nothing for too long."""
        for start in range(0, len(data), SEND_BYTES):
            piece = data[start : start + SEND_BYTES]
            with trio.move_on_after(self._limits.unread_ms / 1000) as patience:
                await self._stream.send_all(piece)
            if patience.cancelled_caught:
                return False
            self._unread_bytes -= len(piece)
            self._drained.set()
        return True


def _storage_refusals(error: StorageFailed, lines: list[bytes]) -> bytes:
    """One refusal for each request, or reply that never became true, in ``lines``; with its ``seq``."""
    reply = ErrorReply(False, "storage", f"{error}; whether it is stored is unknown: send the same id again")
    refusals = []
    for line in lines:
        if line.strip():
            seq = wire.seq_of(line)
            reply.seq = UNSET if seq is None else seq
            refusals.append(wire.encode(reply) + b"\n")
    return b"".join(refusals)


async def _send_last(stream: trio.SocketStream, data: bytes) -> None:
    """Send the last bytes of a connection and its end, and wait a moment until they are read.

    What the client still sends is read and dropped: closing a socket with unread input resets the
    connection, and the client might lose the very reply that tells it why.
    """
    with trio.move_on_after(CLOSE_GRACE_S):
        try:
            await stream.send_all(data)
            await stream.send_eof()
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        except trio.BrokenResourceError:
            pass  # the client is gone
