"""Replies on their way out: in order, each once its lsn is durable, as fast as the client reads.

Unread bytes are counted here, and for all clients together in ``client_memory.py``. ``connection.py`` reads
and answers requests; ``rejection.py`` sends the last bytes of a connection.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

import trio

from wheeltimer.journal import Journal
from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.server.client_memory import ClientMemory

SEND_BYTES: Final = 65_536  # ``unread_ms`` is the time for one piece: a client that reads slowly is kept


class SendQueue:
    """``put`` adds replies, ``push`` sends the durable ones, ``run`` sends what the socket did not take."""

    def __init__(
        self,
        stream: trio.SocketStream,
        journal: Journal,
        memory: ClientMemory,
        unread_ms: int,
        stalled: RateLimitedLog,
    ) -> None:
        self._stream = stream
        self._journal = journal
        self._memory = memory
        self._unread_ms = unread_ms
        self._stalled = stalled
        self._waiting: deque[tuple[int, bytes]] = deque()  # (lsn, replies)
        self._rest = b""  # durable replies that the socket did not take
        self._stuck = trio.Event()  # there is a rest, or nothing more comes
        self._drained = trio.Event()
        self._closing = False
        self.unread_bytes = 0  # put, and not taken by the socket
        self.gone = False  # the client is gone

    def put(self, replies: bytes, lsn: int | None = None) -> None:
        """Send once ``lsn`` (None: the last lsn given out) is durable, behind all that was put before."""
        lsn = self._journal.next_lsn - 1 if lsn is None else lsn
        self._waiting.append((lsn, replies))
        if lsn <= self._journal.durable_lsn:
            self.unread_bytes += len(replies)
            self.push(len(replies))
        else:
            self._count(len(replies))
            self._memory.await_commit(lsn, len(replies), self.push)

    def push(self, new_bytes: int = 0) -> None:
        """Send what is durable, in order, as far as the socket takes it without waiting.

        ``new_bytes`` of it are not counted yet: bytes that the socket takes at once are never counted.
        """
        waiting, durable_lsn = self._waiting, self._journal.durable_lsn
        parts = []
        while waiting and waiting[0][0] <= durable_lsn:
            parts.append(waiting.popleft()[1])
        sent = 0
        if self._rest or not parts:
            self._rest += b"".join(parts)
        else:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            try:
                sent = os.write(self._stream.socket.fileno(), data)
            except BlockingIOError:
                pass
            except OSError:
                self._memory.hold(new_bytes)
                self.vanished()
                return
            self._rest = data[sent:]
        self.unread_bytes -= new_bytes
        self._count(new_bytes - sent)
        if sent:
            self._drained.set()
        if self._rest or (self._closing and not waiting):
            self._stuck.set()

    def _count(self, more: int) -> None:
        self.unread_bytes += more
        if more:
            self._memory.hold(more)

    def vanished(self) -> None:
        """The client is gone: free all replies, and wake `room` and `run`, which then return."""
        self.gone = True
        self._waiting.clear()
        self._rest = b""
        self._count(-self.unread_bytes)
        self._drained.set()
        self._stuck.set()

    async def room(self, bytes_max: int) -> None:
        """Return once fewer than ``bytes_max`` bytes are unread, or the client is gone."""
        while self.unread_bytes >= bytes_max:
            self._drained = trio.Event()
            await self._drained.wait()

    def close(self) -> None:
        """Call after the last ``put``: ``run`` ends once all is sent."""
        self._closing = True
        self._stuck.set()

    @property
    def stuck(self) -> bool:
        """Whether the socket has not taken all durable replies; the first of them may be sent in part."""
        return bool(self._rest)

    def undurable(self) -> bytes:
        """Replies that wait for a commit."""
        return b"".join(replies for _, replies in self._waiting)

    async def run(self) -> bool:
        """Send what the socket did not take at once. True after `close`; False if the client does not read,
        or is gone."""
        while True:
            await self._stuck.wait()
            self._stuck = trio.Event()
            while data := self._rest:
                if not await self._send(data):
                    self._stalled.say("client reads nothing, closed unread_bytes=%d", self.unread_bytes)
                    return False
                self._rest = self._rest[len(data) :]
            if self.gone:
                return False
            if self._closing and not self._waiting:
                return True

    async def _send(self, data: bytes) -> bool:
        """Send replies; False if the client did not read a piece within ``unread_ms``."""
        for start in range(0, len(data), SEND_BYTES):
            piece = data[start : start + SEND_BYTES]
            with trio.move_on_after(self._unread_ms / 1000) as patience:
                try:
                    await self._stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.vanished()
            if patience.cancelled_caught:
                return False
            if self.gone:
                return True
            self._count(-len(piece))
            self._drained.set()
        return True
