"""One client's connection: bytes in, slices of work, replies out in the order of the requests.

The reader cuts lines, has a slice of them decided and applied, and puts the replies into the outbox with
the lsn they were decided at. The commit that makes that lsn durable sends them, as far as the socket takes
them; the connection's second nursery task has patience for the rest. What a command does: ``requests.py``.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET

from wheeltimer.core import commands as c
from wheeltimer.core import wire
from wheeltimer.core.access import STRANGER, Visitor, unauthorized
from wheeltimer.core.replies import ErrorReply
from wheeltimer.daemon.farewell import RECEIVE_BYTES, send_last
from wheeltimer.daemon.subscriber import Subscriber
from wheeltimer.daemon.turn import SLICE_LINES_MAX
from wheeltimer.errors import StorageFailed

if TYPE_CHECKING:
    from wheeltimer.daemon.server import Server

DROP_BYTES: Final = 512  # less than that, and no line's end in it, is a drop
DROPS_MAX: Final = 16  # in a row, each a turn of the loop; then more of them are let come together
DROPS_PAUSE_S: Final = 0.2
SEND_BYTES: Final = 65_536  # replies go out in pieces: a client that reads one now and then is alive
# All connections read into it, and copy what came before anybody else has a turn. A piece of its own for each
# read would be cut down to the few bytes of a request, and leave a hole in the heap where that lives on.
_received: Final = memoryview(bytearray(RECEIVE_BYTES))
_log = logging.getLogger("wheeltimer.server")


class Connection:
    """One client's stream; see the module."""

    def __init__(self, stream: trio.SocketStream, server: Server) -> None:
        self._stream = stream
        self._server = server
        self._requests = server.requests
        self._journal = server.journal
        self._limits = server.limits
        self._visitor = Visitor(server.requests.rights.access)
        self._lines = wire.LineReader(server.limits.line_bytes_max)
        self._asked: list[bytes] = []  # the lines that are being answered
        self._answered = 0  # how many of them are
        self._outbox: deque[tuple[int, bytes]] = deque()  # (lsn, replies)
        self._unread_bytes = 0
        self._rest = b""  # durable replies that the socket did not take
        self._stuck = trio.Event()  # there is a rest, or nothing more comes
        self._drained = trio.Event()
        self._closing = False
        self._gone = False  # nobody reads replies any more
        self._reading = trio.CancelScope()
        self._scope: trio.CancelScope | None = None
        self._subscriber: Subscriber | None = None  # from when it subscribed on
        self._last: bytes | None = None  # what is sent before the end; None: nobody would read it

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._write_rest)
            with self._reading:
                await self._read()
            if self._subscriber is not None:
                await self._subscriber.run(self)
            self._closing = True
            self._stuck.set()
        if self._last is not None:
            await send_last(self._stream, self._last)

    async def _read(self) -> None:
        """Read until the client has no more to say, or said something that ends the connection."""
        limits, partial_until_s, drops = self._limits, None, 0
        hello_until_s: float | None = None
        while True:
            if self._visitor.grant is not STRANGER:
                hello_until_s = None
                data = await self._receive(partial_until_s)
            else:
                if hello_until_s is None:
                    hello_until_s = trio.current_time() + limits.hello_ms / 1000
                if not (data := await self._receive_hello(hello_until_s)):
                    return
            if not data:
                if self._lines.partial:
                    self._refuse("the last line has no end, so it was not read")
                return
            lines = self._lines.feed(data)
            await self._answer(lines)
            if self._subscriber is not None:
                return
            if self._lines.overlong:
                text = f"a line has more than line_bytes_max ({limits.line_bytes_max}) bytes"
                self.put(wire.encode(ErrorReply(False, "line_too_long", text)) + b"\n")
                return
            drops = 0 if lines or len(data) >= DROP_BYTES else drops + 1
            if drops > DROPS_MAX:
                await trio.sleep(DROPS_PAUSE_S)
            if not self._lines.partial:
                partial_until_s = None
            elif lines or partial_until_s is None:  # a line that has begun must end in time, however it drips
                partial_until_s = trio.current_time() + limits.partial_line_ms / 1000

    async def _receive(self, partial_until_s: float | None) -> bytes:
        """What the socket holds; empty at the end of the stream, or where a line took too long."""
        if partial_until_s is None:
            return await self._receive_some()
        with trio.CancelScope(deadline=partial_until_s):
            return await self._receive_some()
        self._lines = wire.LineReader(self._limits.line_bytes_max)
        self._refuse(f"a line begun and not ended within {self._limits.partial_line_ms} ms")
        return b""

    async def _receive_hello(self, until_s: float) -> bytes:
        """The same from who has shown no token yet: whatever is sent, it is not waited for longer."""
        with trio.CancelScope(deadline=until_s):
            return await self._receive_some()
        self.put(wire.encode(wire.refusal(unauthorized())) + b"\n")
        return b""

    async def _receive_some(self) -> bytes:
        """What comes next. Waits first: after an answer there is seldom more; an empty read costs 10 us."""
        while True:
            await trio.lowlevel.wait_readable(self._stream.socket)
            try:
                size = os.readv(self._stream.socket.fileno(), (_received,))
                return bytes(_received[:size])
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError("the client is gone") from error

    def _refuse(self, text: str) -> None:
        self.put(wire.encode(ErrorReply(False, "bad_request", text)) + b"\n")

    async def _answer(self, lines: list[bytes]) -> None:
        """Have lines answered in slices; replies go to the outbox after each.

        Short requests may have long replies: no slice is begun, and nothing more read, while too many
        bytes of replies are unread.
        """
        self._asked, self._answered = lines, 0
        while self._answered < len(lines) and not self._gone:  # what was asked and left is not worked off
            while self._unread_bytes >= self._limits.unread_bytes_max:
                self._drained = trio.Event()
                await self._drained.wait()
            some = lines[self._answered : self._answered + SLICE_LINES_MAX]
            try:
                done, replies = await self._requests.answer(some, 0, self._subscribe, self._visitor)
            except StorageFailed as error:
                done, replies = len(some), _storage_refusals(error, some)
            self._answered += done
            if replies:
                self.put(replies)
            if self._subscriber is not None:
                return

    def _subscribe(self, command: c.Subscribe) -> None:
        self._subscriber = self._server.subscriptions.open(command, self._visitor.grant)

    def put(self, replies: bytes, lsn: int | None = None) -> None:
        """Send when ``lsn`` (None: what was decided until now) is durable, behind all that was put before."""
        lsn = self._journal.next_lsn - 1 if lsn is None else lsn
        self._outbox.append((lsn, replies))
        self._unread_bytes += len(replies)
        if lsn <= self._journal.durable_lsn:
            self.push()
        else:
            self._requests.held_bytes += len(replies)
            self._server.waiting.append((lsn, len(replies), self))

    def push(self) -> None:
        """Send what is durable, in order, as far as the socket takes it without waiting."""
        outbox, durable_lsn = self._outbox, self._journal.durable_lsn
        parts = []
        while outbox and outbox[0][0] <= durable_lsn:
            parts.append(outbox.popleft()[1])
        if self._rest or not parts:
            self._rest += b"".join(parts)
        else:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            try:
                sent = os.write(self._stream.socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The client is gone. The reader, who may be waiting for room here, goes on and sees it too.
                self._gone = True
                outbox.clear()
                self._unread_bytes = 0
                self._drained.set()
                self._stuck.set()
                return
            self._unread_bytes -= sent
            self._rest = data[sent:]
            self._drained.set()
        if self._rest or (self._closing and not outbox):
            self._stuck.set()

    @property
    def unread_bytes(self) -> int:
        """What was put and the socket has not taken."""
        return self._unread_bytes

    async def drained(self) -> None:
        """Return when the socket has taken all."""
        while self._unread_bytes:
            self._drained = trio.Event()
            await self._drained.wait()

    async def says_more(self) -> bool:
        """Return when a subscriber sent something more, True, or closed its side, False."""
        data = b"".join(self._asked[self._answered :]) + (b"x" if self._lines.partial else b"")
        while not data.strip():
            if not (data := await self._receive_some()):
                return False
        return True

    def regrant(self) -> None:
        """Tokens were reloaded; who subscribed under rights that are no more is told so, and ends."""
        before = self._visitor.grant
        self._visitor.again(self._server.requests.rights.access)
        after = self._visitor.grant
        same = after is before or (after is not None and after.same_rights(before))
        if self._subscriber is not None and not same:
            self._subscriber.fail(wire.refusal(unauthorized()))

    def end(self) -> None:
        """Read nothing more; what is durable still goes out."""
        self._reading.cancel()

    def fail(self, error: StorageFailed) -> None:
        """Tell every request that waits, with its ``seq``, and end."""
        waiting = b"".join(replies for _, replies in self._outbox).split(b"\n")
        self._last = _storage_refusals(error, waiting + self._asked[self._answered :])
        if self._scope is not None:
            self._scope.cancel()

    async def _write_rest(self) -> None:
        """Send what the socket did not take at once, with patience for a slow client."""
        while True:
            await self._stuck.wait()
            self._stuck = trio.Event()
            while data := self._rest:
                if not await self._send(data):
                    _log.warning("client reads nothing, closed unread_bytes=%d", self._unread_bytes)
                    assert self._scope is not None
                    self._scope.cancel()
                    return
                self._rest = self._rest[len(data) :]
            if self._closing and not self._outbox:
                self._last = b""
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
    for line in filter(bytes.strip, lines):
        seq = wire.seq_of(line)
        reply.seq = UNSET if seq is None else seq
        refusals.append(wire.encode(reply) + b"\n")
    return b"".join(refusals)
