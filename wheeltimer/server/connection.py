"""One client's connection: bytes in, slices of work, replies out in the order of the requests.

The reading nursery task cuts lines, has `Service` decide and apply one slice of them after the other, and
puts the replies into the `SendQueue` with the lsn they were decided at. The commit that makes that lsn
durable sends them, as far as the socket takes them; a second nursery task sends the rest when the client
reads. What a command does: ``service.py``.
"""

from __future__ import annotations

import os
import socket
from typing import Final

import trio
from msgspec import UNSET

from wheeltimer.core.access import Credentials
from wheeltimer.core.schedule_batch import BatchSize
from wheeltimer.errors import StorageFailed
from wheeltimer.protocol import foreign, wire
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.replies import ErrorReply
from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.server.client_memory import ClientMemory
from wheeltimer.server.rejection import RECEIVE_BYTES, send_and_close
from wheeltimer.server.send_queue import SendQueue
from wheeltimer.server.service import Service
from wheeltimer.server.subscriber import Subscriber
from wheeltimer.server.subscriptions import Subscriptions
from wheeltimer.settings import Limits

DROP_BYTES: Final = 512  # a read of fewer bytes without the end of a line is a drop
DROPS_MAX: Final = 4  # drops in a row that take a time slice each; after that, a pause before each read
DROPS_PAUSE_S: Final = 0.005  # one connection after the other: together they get 200 time slices a second
MUCH_BYTES: Final = 4096  # a smaller read is not counted in `ClientMemory`: it is answered at once
# A connection is *interactive* while each of its last 4 reads held at most 16 lines (a new connection is
# too). Interactive connections do not queue behind bulk ones (``light`` in ``runtime/time_slices.py``).
LITTLE_LINES: Final = 16
LITTLE_VISITS: Final = 4
# All connections read into this buffer, and copy the bytes before the next await. A buffer of its own for
# each read would be cut down to the few bytes of a request, and leave a hole in the heap while those live.
_received: Final = memoryview(bytearray(RECEIVE_BYTES))


class Connection:
    """One client's stream; see the head of this file."""

    def __init__(
        self, stream: trio.SocketStream, requests: Service, subscriptions: Subscriptions,
        memory: ClientMemory, limits: Limits, stalled: RateLimitedLog,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._requests = requests
        self._admission = requests.admission
        self._turn = requests.admission.turn
        self._subscriptions = subscriptions
        self._memory = memory
        self._limits = limits
        self._visitor = Credentials(requests.rights.access)
        self._lines = wire.LineReader(limits.line_bytes_max)
        self._batch_size = BatchSize()
        self._asked: list[bytes] = []  # the lines that are being answered
        self._answered = 0  # how many of them are answered
        self._opened = False  # a byte that is no white space has come
        self._speaks_http = False  # that byte was not {
        self._small_reads = LITTLE_VISITS  # reads in a row of at most LITTLE_LINES; begins as interactive
        self._began_ns = 0  # the time slice that was taken for reading
        self._read_bytes = 0  # received and not answered; 0 below MUCH_BYTES
        self._outbox = SendQueue(stream, subscriptions.journal, memory, limits.unread_ms, stalled)
        self._reading = trio.CancelScope()
        self._scope: trio.CancelScope | None = None
        self._subscriber: Subscriber | None = None  # set by a subscribe request
        self._last: bytes | None = None  # sent before the stream ends; None: the client would not read it

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._send)
            with self._reading:
                await self._read()
            if self._subscriber is not None:
                await self._subscriptions.serve(self._subscriber, self)
            self._outbox.close()
        if self._last is not None and not self._outbox.gone:
            await send_and_close(self._stream, self._last)

    async def _read(self) -> None:
        """Read until the client ends the stream, or sends something that ends the connection."""
        limits, partial_until_s, drops = self._limits, None, 0
        hello_until_s: float | None = None
        while True:
            light = self._small_reads >= LITTLE_VISITS
            if not self._visitor.unknown:
                hello_until_s = None
            elif hello_until_s is None:
                hello_until_s = trio.current_time() + limits.hello_ms / 1000
            data = await self._receive(light, hello_until_s or partial_until_s)
            if data is None:
                self._say_late(hello_until_s is not None)
                return
            if not data:
                if self._lines.rest.strip(foreign.BLANK) and not self._outbox.gone:
                    self._refuse("the last line has no end, so it was not read")
                return
            size, taking_in = len(data), self._take_in(data, light)
            data = b""  # not kept while this waits for a slice or for more bytes
            lines = await taking_in
            if self._subscriber is not None or self._speaks_http or self._outbox.gone:
                return
            if self._lines.overlong:
                text = f"a line has more than line_bytes_max ({limits.line_bytes_max}) bytes"
                self.put(wire.encode(ErrorReply(False, "line_too_long", text)) + b"\n")
                return
            drops = 0 if lines or size >= DROP_BYTES else drops + 1
            if drops:
                self._small_reads = 0
            if drops > DROPS_MAX:
                async with self._admission.slow_lines:
                    await trio.sleep(DROPS_PAUSE_S)
            if not self._lines.partial:
                partial_until_s = None
            elif lines or partial_until_s is None:  # further drops of a line do not extend its deadline
                partial_until_s = trio.current_time() + limits.partial_line_ms / 1000

    async def _take_in(self, data: bytes, light: bool) -> int:
        """Cut lines and have them answered, a slice at a time; return how many there were.

        The first slice is the one that was taken for reading. Only the lines of one slice are cut at a time:
        a read with 100,000 requests must not become 100,000 objects.
        """
        turn, count, slices = self._turn, 0, 0
        if not self._opened and not self._open_with(data):
            turn.release(self._began_ns, light=light)
            return 0
        if len(data) >= MUCH_BYTES:
            self._hold(len(self._lines.rest) + len(data))
        while (slices == 0 or self._lines.more) and not self._outbox.gone:
            lines = self._lines.feed(data, turn.lines_max)
            data = b""
            if lines:
                count += len(lines)
                slices += await self._answer(lines, light)
                if self._subscriber is not None:
                    break
            else:
                turn.release(self._began_ns, light=light)
                slices += 1
            self._began_ns, light = 0, False
        if (left_bytes := len(self._lines.rest)) or self._read_bytes:
            self._hold(left_bytes)
        if count:
            self._small_reads = self._small_reads + 1 if slices == 1 and count <= LITTLE_LINES else 0
        return count

    def _open_with(self, data: bytes) -> bool:
        """Whether the connection goes on: its first byte that is no white space must be {.

        A web page can make a browser send lines of its choice to this machine, but only after the bytes of
        another protocol, and none of those begins with {. So the first byte decides, before any line ends,
        and if it is another one nothing is read as lines.
        """
        first = data.lstrip(foreign.BLANK)
        self._opened = bool(first)
        self._speaks_http = self._opened and first[:1] != b"{"
        if self._speaks_http:
            self._refuse(foreign.opening(first))
        return not self._speaks_http

    async def _receive(self, light: bool = False, until_s: float | None = None) -> bytes | None:
        """The next bytes, with a time slice taken; empty at the end of the stream, None if none came in time.

        Waits before it reads: after an answer there is seldom more to read, and a read that gets nothing
        costs 10 us.
        """
        sock = self._stream.socket
        try:
            while not self._outbox.gone:
                if until_s is None:
                    await trio.lowlevel.wait_readable(sock)
                else:
                    with trio.CancelScope(deadline=until_s) as patience:
                        await trio.lowlevel.wait_readable(sock)
                    if patience.cancelled_caught:
                        return None
                # The connection was reset: what the client sent before is worth no time slice.
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    break
                self._began_ns = await self._turn.take(light=light)
                if not light and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    break
                try:
                    size = os.readv(sock.fileno(), (_received,))
                    return bytes(_received[:size])
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError):
            pass
        self.vanished()
        return b""

    def _say_late(self, hello: bool) -> None:
        """Reply that no token was shown, or a line not ended, in time; drop what was read of that line."""
        self._lines = wire.LineReader(self._limits.line_bytes_max)
        if hello:
            self.put(wire.encode(wire.refusal(self._visitor.unauthorized())) + b"\n")
        else:
            self._refuse(f"a line begun and not ended within {self._limits.partial_line_ms} ms")

    def _refuse(self, text: str) -> None:
        self.put(wire.encode(ErrorReply(False, "bad_request", text)) + b"\n")

    async def _answer(self, lines: list[bytes], light: bool) -> int:
        """Have lines answered in slices; return the number of slices. Each puts its replies into the queue.

        Short requests may have long replies: while ``unread_bytes_max`` of replies are unread, no slice is
        begun and nothing more is read.
        """
        self._asked, self._answered, slices = lines, 0, 0
        began_ns = self._began_ns
        # If the client is gone, its remaining requests are dropped.
        while self._answered < len(lines) and not self._outbox.gone:
            if self._outbox.unread_bytes >= self._limits.unread_bytes_max:
                await self._outbox.room(self._limits.unread_bytes_max)
                began_ns = 0
                continue
            try:
                self._answered, replies = await self._requests.answer(
                    lines, self._answered, self._subscribe, self._visitor, began_ns, light, self._batch_size
                )
            except StorageFailed as error:
                replies = _storage_refusals(error, lines[self._answered :])
                self._answered = len(lines)
            slices, began_ns, light = slices + 1, 0, False
            if replies:
                self.put(replies)
                replies = b""  # not kept while the client does not read
            if self._admission.debt_ns:
                await self._admission.rest()
            if self._subscriber is not None:
                return slices
        self._asked, self._answered = [], 0
        return slices

    def _subscribe(self, command: c.Subscribe) -> None:
        self._subscriber = self._subscriptions.open(command, self._visitor.grant)

    async def _send(self) -> None:
        if await self._outbox.run():
            self._last = b""
        else:
            self.cut()

    def put(self, replies: bytes, lsn: int | None = None) -> None:
        """Send once ``lsn`` (None: the last lsn given out) is durable, behind all that was put before."""
        self._outbox.put(replies, lsn)

    def vanished(self) -> None:
        """The client is gone: free all that is kept for it.

        A flag, not an exception: exceptions leave reference cycles, and with a thousand clients a second
        the collector's passes over those stop the loop.
        """
        self._lines, self._asked, self._answered = wire.LineReader(self._limits.line_bytes_max), [], 0
        self._hold(0)
        self._outbox.vanished()

    def cut(self) -> None:
        """End the connection at once and free what it holds; this wakes tasks that wait for its socket."""
        self.vanished()
        self._stream.socket.close()

    def _hold(self, read_bytes: int) -> None:
        more, self._read_bytes = read_bytes - self._read_bytes, read_bytes
        if more:
            self._memory.hold(more)

    @property
    def held_bytes(self) -> int:
        """Bytes held for the client: replies that it has not read, and requests that are not answered."""
        return self._outbox.unread_bytes + self._read_bytes

    @property
    def unread_bytes(self) -> int:
        """Bytes that were put and that the socket has not taken."""
        return self._outbox.unread_bytes

    async def drained(self) -> None:
        """Return once the socket has taken all replies."""
        await self._outbox.room(1)

    async def says_more(self) -> bool:
        """Return True once a subscriber has sent anything but blanks, False once it has closed its side."""
        data: bytes | None = b"".join(self._asked[self._answered :]) + self._lines.rest
        while not (data and data.strip()):
            if not (data := await self._receive()):
                return False
        return True

    def reauthorize(self) -> None:
        """Call after a reload of the tokens. A subscription ends with an error if its rights have changed."""
        before = self._visitor.grant
        self._visitor.again(self._requests.rights.access)
        if self._subscriber is not None and not self._visitor.keeps(before):
            self._subscriber.fail(wire.refusal(self._visitor.unauthorized()))

    def end(self) -> None:
        """Read nothing more; replies still go out once they are durable."""
        self._reading.cancel()

    def fail(self, error: StorageFailed) -> None:
        """Answer every waiting request with an error that has its ``seq``, and end the connection."""
        waiting = self._outbox.undurable().split(b"\n") + self._asked[self._answered :]
        waiting += self._lines.rest.split(b"\n")[:-1]
        if not self._outbox.stuck:  # else half a line may be out, and no line can follow it
            self._last = _storage_refusals(error, waiting)
        if self._scope is not None:
            self._scope.cancel()


def _storage_refusals(error: StorageFailed, lines: list[bytes]) -> bytes:
    """One refusal, with its ``seq``, for each request or uncommitted reply in ``lines``."""
    reply = ErrorReply(False, "storage", f"{error}; whether it is stored is unknown: send the same id again")
    refusals = []
    for line in filter(bytes.strip, lines):
        seq = wire.seq_of(line)
        reply.seq = UNSET if seq is None else seq
        refusals.append(wire.encode(reply) + b"\n")
    return b"".join(refusals)
