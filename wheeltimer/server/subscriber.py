"""One subscriber: what it has seen, what waits for it, and how it catches up from the journal.

It is handed lines by ``subscriptions.py`` and passes them on to its connection: at once as long as the
socket takes them, else through a queue of ``subscriber_bytes_max``. Beyond that it is told ``lagged``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import trio
from msgspec import Raw
from msgspec.structs import replace

from wheeltimer.core import record_events
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Frame, Trimmed
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import ErrorReply, Seq, SubscribeReply

if TYPE_CHECKING:
    from wheeltimer.server.subscriptions import Subscriptions


_log = logging.getLogger("wheeltimer.subscriptions")
SLICE_RECORDS: Final = 256  # records made into lines between two turns of everybody else: about 1 ms

Numbered = list[tuple[int, Raw]]  # records with their lsns


class Outlet(Protocol):
    """What a subscriber asks of its connection."""

    @property
    def unread_bytes(self) -> int:
        """What was put and the socket has not taken."""
        ...

    def put(self, data: bytes, lsn: int) -> None:
        """Send when ``lsn`` is durable, behind all that was put before."""
        ...

    async def drained(self) -> None:
        """Return when the socket has taken all; a client that is too slow for that is disconnected."""
        ...

    async def says_more(self) -> bool:
        """Return when the client has sent something, True, or closed its side, False."""
        ...


class Subscriber:
    """``run`` it on its connection until it returns; what was put is then still to be sent."""

    def __init__(self, hub: Subscriptions, wanted: record_events.Filter, seq: Seq) -> None:
        self.wanted = wanted
        self.seen_lsn: int | None = None  # it wants what comes after; None: that is not to be had
        self.joined = False  # whether it is given what comes
        self._hub = hub
        self._seq = seq
        self._outlet: Outlet | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._over = False  # nothing more comes
        self._last: ErrorReply | None = None  # why, where something went wrong
        self._lagged = False
        self._stirred = trio.Event()

    # -- what it is given ----------------------------------------------------------------------

    def give(self, chosen: Sequence[record_events.Event], data: bytes) -> None:
        """Take the lines of these events; ``data`` is all of them."""
        assert self.seen_lsn is not None
        if self._over:
            return
        if chosen[0].lsn <= self.seen_lsn:  # it joined in the middle of them
            seen_lsn = self.seen_lsn
            # An attempt that began has the number of the record before it.
            data = b"".join([e.line for e in chosen if e.lsn + (e.type == "attempt.started") > seen_lsn])
        if self._outlet is not None and not self._waiting and not self._outlet.unread_bytes:
            self._outlet.put(data, 0)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._stirred.set()
        if self._waiting_bytes > self._hub.waiting_bytes_max:
            self.fail(None)

    def fail(self, reply: ErrorReply | None) -> None:
        """Something is missing from here on: end with ``reply``, without one as lagged."""
        self._lagged, self._last = reply is None, reply
        self._waiting.clear()
        self.end()

    def end(self) -> None:
        """Nothing more comes; what waits still goes out."""
        self._over = True
        self._hub.leave(self)
        self._stirred.set()

    # -- its nursery task ----------------------------------------------------------------------

    async def run(self, outlet: Outlet) -> None:
        """Reply, catch up, pass on. Raises what the connection raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, outlet, nursery.cancel_scope)
                await self._feed(outlet)
                nursery.cancel_scope.cancel()
            if self._last is not None:
                outlet.put(wire.encode(replace(self._last, seq=self._seq)) + b"\n", 0)
        finally:
            self._over = True
            self._hub.close(self)

    async def _listen(self, outlet: Outlet, scope: trio.CancelScope) -> None:
        if await outlet.says_more():
            self._last = ErrorReply(False, "bad_request", "a subscribed connection takes no further request")
        scope.cancel()

    async def _feed(self, outlet: Outlet) -> None:
        shelf = self._hub.journal.shelf
        try:
            if self.seen_lsn is None or (not self.joined and self.seen_lsn + 1 < await shelf.oldest_lsn()):
                self._lagged = True
            else:
                reply = SubscribeReply(True, self._hub.writer.cursor(self.seen_lsn), self._seq)
                outlet.put(wire.encode(reply) + b"\n", self.seen_lsn)
                await self._catch_up(outlet)
                await self._pass_on(outlet)
            if self._lagged:
                self._last = await self._why_lagged()
        except Trimmed:
            self._last = await self._why_lagged()
        except StorageFailed as error:
            _log.warning("subscriber told storage, the journal cannot be read for it: %s", error)
            self._last = unreadable(error)

    async def _why_lagged(self) -> ErrorReply:
        oldest_lsn = await self._hub.journal.shelf.oldest_lsn()
        return ErrorReply(
            False, "lagged",
            "events are missing: the subscriber was too slow, or the journal no longer holds what comes after"
            " its cursor; cursor is the oldest one to subscribe from",
            cursor=self._hub.writer.cursor(oldest_lsn - 1),
        )  # fmt: skip

    async def _catch_up(self, outlet: Outlet) -> None:
        """Read what happened since its cursor, until it has seen what the others were given."""
        hub = self._hub
        assert self.seen_lsn is not None
        while not self.joined and not self._over:
            if self.seen_lsn >= hub.given_lsn:
                hub.join(self)
                break
            async with hub.replays:
                await self._replay(outlet)
            await outlet.drained()

    async def _replay(self, outlet: Outlet) -> None:
        """Pass on what is durable, as long as the socket takes it."""
        hub, journal = self._hub, self._hub.journal
        assert self.seen_lsn is not None
        follower = await journal.shelf.find(self.seen_lsn + 1)
        while frames := await follower.read(journal.durable_lsn):
            for records in numbered(frames, self.seen_lsn):
                began_ns = await hub.turn.take()
                lines = [e.line for e in hub.writer.events(records) if self.wanted.passes(e)]
                if lines:
                    outlet.put(b"".join(lines), 0)
                self.seen_lsn = records[-1][0]
                hub.turn.spent(began_ns)
                if outlet.unread_bytes:
                    return
        self.seen_lsn = max(self.seen_lsn, follower.next_lsn - 1)
        if self.seen_lsn < hub.given_lsn:  # it came first, and what was decided by then is not yet durable
            await journal.wait_durable(hub.given_lsn)

    async def _pass_on(self, outlet: Outlet) -> None:
        """Hand over what was given, and go on until nothing more comes."""
        self._outlet = outlet
        while True:
            while self._waiting:
                await outlet.drained()
                if self._waiting:
                    data = self._waiting.popleft()
                    self._waiting_bytes -= len(data)
                    outlet.put(data, 0)
            if self._over:
                return
            await self._stirred.wait()
            self._stirred = trio.Event()


def numbered(frames: Sequence[Frame], seen_lsn: int) -> Iterator[Numbered]:
    """The records behind ``seen_lsn`` with their lsns, ``SLICE_RECORDS`` at a time."""
    some: Numbered = []
    for frame in frames:
        for lsn, raw in enumerate(record_events.split(frame.payload), frame.first_lsn):
            if lsn > seen_lsn:
                some.append((lsn, raw))
                if len(some) == SLICE_RECORDS:
                    yield some
                    some = []
    if some:
        yield some


def unreadable(error: StorageFailed) -> ErrorReply:
    """Told where the journal cannot be read."""
    return ErrorReply(False, "storage", f"{error}; subscribe again from the last cursor")
