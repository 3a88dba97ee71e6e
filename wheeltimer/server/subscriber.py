"""One subscriber: what it has seen, and the events that wait for its connection.

`Subscriptions` gives it events, and reads the journal for a subscriber that begins in the past. The events go
to the connection: at once if the socket takes them, else through a queue of bounded size. If that is full,
the subscriber ends with ``lagged``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from wheeltimer.core import record_events
from wheeltimer.protocol.replies import ErrorReply, Seq


class EventSink(Protocol):
    """What a subscriber needs of its connection."""

    @property
    def unread_bytes(self) -> int:
        """Bytes that were put and that the socket has not taken."""
        ...

    def put(self, data: bytes, lsn: int) -> None:
        """Send once ``lsn`` is durable, behind all that was put before."""
        ...

    async def drained(self) -> None:
        """Return once the socket has taken all; a client that is too slow for that is disconnected."""
        ...

    async def says_more(self) -> bool:
        """Return True once the client has sent something, False once it has closed its side."""
        ...


class Subscriber:
    """``leave`` is called once no more events may be given; ``waiting_bytes_max`` bounds those that wait."""

    def __init__(
        self, wanted: record_events.Filter, seq: Seq,
        leave: Callable[[Subscriber], None], waiting_bytes_max: Callable[[], int],
    ) -> None:  # fmt: skip
        self.wanted = wanted
        self.seq = seq
        self.seen_lsn: int | None = None  # it gets what comes after; None: the journal does not hold that
        self.joined = False  # whether `Subscriptions` gives it new events
        self.over = False  # no more events come
        self.lagged = False
        self.last: ErrorReply | None = None  # the last line, if something went wrong
        self._leave = leave
        self._waiting_bytes_max = waiting_bytes_max
        self._outlet: EventSink | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._wake = trio.Event()

    def give(self, chosen: Sequence[record_events.Event], data: bytes) -> None:
        """Take these events; ``data`` is all of their lines."""
        assert self.seen_lsn is not None
        if self.over:
            return
        if chosen[0].lsn <= self.seen_lsn:  # it joined in the middle of them
            seen_lsn = self.seen_lsn
            # The event of a started attempt has the lsn of the record before it.
            data = b"".join([e.line for e in chosen if e.lsn + (e.type == "attempt.started") > seen_lsn])
        if self._outlet is not None and not self._waiting and not self._outlet.unread_bytes:
            self._outlet.put(data, 0)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._wake.set()
        if self._waiting_bytes > self._waiting_bytes_max():
            self.fail(None)

    def fail(self, reply: ErrorReply | None) -> None:
        """Events are missing from here on: end with ``reply``, or as lagged if it is None."""
        self.lagged, self.last = reply is None, reply
        self._waiting.clear()
        self.end()

    def end(self) -> None:
        """No more events come; those that wait still go out."""
        self.over = True
        self._leave(self)
        self._wake.set()

    async def pass_on(self, outlet: EventSink) -> None:
        """Put the events into ``outlet`` until no more come."""
        self._outlet = outlet
        while True:
            while self._waiting:
                await outlet.drained()
                if self._waiting:
                    data = self._waiting.popleft()
                    self._waiting_bytes -= len(data)
                    outlet.put(data, 0)
            if self.over:
                return
            await self._wake.wait()
            self._wake = trio.Event()
