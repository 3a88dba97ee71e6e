"""Events to subscribers: each once, in order, when its record is durable, in bounded memory.

One follower reads the journal behind the commits and makes each event's line once; subscribers with the same
filter get the same bytes. A subscriber that begins in the past has a follower of its own until it has caught
up. So live events and those read again after a reconnect come from the same bytes on disk, deciding a request
does no work for subscribers, and the journal is the only buffer for subscribers that are behind.

``core/record_events.py`` writes events, ``journal/follower.py`` finds durable records.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio
from msgspec import Raw
from msgspec.structs import replace

from wheeltimer.core import record_events
from wheeltimer.core import records as r
from wheeltimer.core.access import Grant
from wheeltimer.core.schedule import RETRY_FULL_MS
from wheeltimer.errors import Refused, StorageFailed
from wheeltimer.journal import Follower, Frame, Journal, Trimmed
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import ErrorReply, SubscribeReply
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.subscriber import EventSink, Subscriber
from wheeltimer.settings import Limits
from wheeltimer.shard.durable import DurableEngine

ROUND_S: Final = 0.01  # pause between two rounds: the events of 10 ms go out together
REST_FACTOR: Final = 4  # after work t at least 4 t of rest: subscriptions take at most a fifth of the loop
REPLAYS_MAX: Final = 4  # subscribers that read the journal at the same time; each holds a piece of it
STARTS_MAX: Final = 10_000  # started attempts that wait for a round; live events only, so the oldest may go
SLICE_RECORDS: Final = 256  # records made into lines in one time slice: about 1 ms
_log = logging.getLogger("wheeltimer.subscriptions")

Numbered = list[tuple[int, Raw]]  # records with their lsns


class Subscriptions:
    """All subscribers of a daemon. The journal calls ``committed`` after every commit; ``run`` is a nursery
    task."""

    def __init__(self, ledger: DurableEngine, turn: TimeSlices, limits: Limits) -> None:
        self.journal: Journal = ledger.journal
        self.turn = turn
        self.writer = record_events.Writer(self.journal.journal_id)
        self.replays = trio.Semaphore(REPLAYS_MAX)
        self._ledger = ledger
        self._limits = limits
        self._open: set[Subscriber] = set()
        self._channels: dict[record_events.Filter, dict[Subscriber, None]] = {}  # joined subscribers
        self._follower: Follower | None = None  # None without subscribers
        self._unobserve: Callable[[], None] = lambda: None
        self._starts: deque[record_events.Event] = deque(maxlen=STARTS_MAX)
        self.published_lsn = 0  # events up to here were given to all channels
        self._worked_ns = 0  # since the last rest
        self._stirred = trio.Event()
        self._ending = trio.Event()
        self._ended = trio.Event()

    # -- coming and going -----------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many subscribers there are."""
        return len(self._open)

    def _waiting_bytes_max(self) -> int:
        """How much may wait for one subscriber. Subscribers with the same filter hold the same bytes, so the
        clients' memory is divided by the number of filters."""
        limits = self._limits
        return min(limits.subscriber_bytes_max, limits.clients_bytes_max // max(1, len(self._channels)))

    def open(self, command: c.Subscribe, grant: Grant | None = None) -> Subscriber:
        """A new subscriber, for the queues that its token sees. Raises BadValue, Refused."""
        wanted = record_events.Filter.of(command, grant)
        if command.from_ is not None:
            self.writer.lsn_of(command.from_)
        limits = self._limits
        if len(self._open) >= limits.subscribers_max:
            reason = f"subscribers_max ({limits.subscribers_max}) are subscribed"
            raise Refused("full", reason, retry_after_ms=RETRY_FULL_MS)
        if not self._open:
            self._follow()
            self._unobserve = self._ledger.observe(r.Started, self._started)
        last_lsn = self.journal.next_lsn - 1
        from_lsn = last_lsn if command.from_ is None else self.writer.lsn_of(command.from_)
        subscriber = Subscriber(wanted, command.reply_seq, self.leave, self._waiting_bytes_max)
        self._open.add(subscriber)
        if command.from_ is None:
            subscriber.seen_lsn = last_lsn
            self.join(subscriber)
        elif from_lsn is not None and from_lsn <= last_lsn:
            subscriber.seen_lsn = from_lsn
        return subscriber

    def join(self, subscriber: Subscriber) -> None:
        """Give it new events from now on. It must have seen all up to ``published_lsn``."""
        subscriber.joined = True
        self._channels.setdefault(subscriber.wanted, {})[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Give it no more events; may be called twice."""
        if subscriber.joined:
            subscriber.joined = False
            members = self._channels[subscriber.wanted]
            del members[subscriber]
            if not members:
                del self._channels[subscriber.wanted]

    def close(self, subscriber: Subscriber) -> None:
        """The subscriber is gone. After the last one the journal is not read any more."""
        self.leave(subscriber)
        self._open.discard(subscriber)
        if not self._open and self._follower is not None:
            self._follower = None
            self._starts.clear()
            self._unobserve()

    # -- one of them ----------------------------------------------------------------------------

    async def serve(self, subscriber: Subscriber, outlet: EventSink) -> None:
        """Reply, catch up and pass on events until the subscription ends. ``outlet`` may still hold the last.

        Raises what the connection raises.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, subscriber, outlet, nursery.cancel_scope)
                await self._feed(subscriber, outlet)
                nursery.cancel_scope.cancel()
            if subscriber.last is not None:
                outlet.put(wire.encode(replace(subscriber.last, seq=subscriber.seq)) + b"\n", 0)
        finally:
            subscriber.over = True
            self.close(subscriber)

    async def _listen(self, subscriber: Subscriber, outlet: EventSink, scope: trio.CancelScope) -> None:
        if await outlet.says_more():
            text = "a subscribed connection takes no further request"
            subscriber.last = ErrorReply(False, "bad_request", text)
        scope.cancel()

    async def _feed(self, subscriber: Subscriber, outlet: EventSink) -> None:
        shelf = self.journal.shelf
        try:
            seen_lsn = subscriber.seen_lsn
            if seen_lsn is None or (not subscriber.joined and seen_lsn + 1 < await shelf.oldest_lsn()):
                subscriber.lagged = True
            else:
                reply = SubscribeReply(True, self.writer.cursor(seen_lsn), subscriber.seq)
                outlet.put(wire.encode(reply) + b"\n", seen_lsn)
                await self._catch_up(subscriber, outlet)
                await subscriber.pass_on(outlet)
            if subscriber.lagged:
                subscriber.last = await self._why_lagged()
        except Trimmed:
            subscriber.last = await self._why_lagged()
        except StorageFailed as error:
            _log.warning("subscriber told storage, the journal cannot be read for it: %s", error)
            subscriber.last = unreadable(error)

    async def _why_lagged(self) -> ErrorReply:
        oldest_lsn = await self.journal.shelf.oldest_lsn()
        return ErrorReply(
            False, "lagged",
            "events are missing: the subscriber was too slow, or the journal no longer holds what comes after"
            " its cursor; cursor is the oldest one to subscribe from",
            cursor=self.writer.cursor(oldest_lsn - 1),
        )  # fmt: skip

    async def _catch_up(self, subscriber: Subscriber, outlet: EventSink) -> None:
        """Read the journal from its cursor on, until it has seen all up to ``published_lsn``."""
        assert subscriber.seen_lsn is not None
        while not subscriber.joined and not subscriber.over:
            if subscriber.seen_lsn >= self.published_lsn:
                self.join(subscriber)
                break
            async with self.replays:
                await self._replay(subscriber, outlet)
            await outlet.drained()

    async def _replay(self, subscriber: Subscriber, outlet: EventSink) -> None:
        """Pass on what is durable, while the socket takes it."""
        journal = self.journal
        assert subscriber.seen_lsn is not None
        follower = await journal.shelf.find(subscriber.seen_lsn + 1)
        while frames := await follower.read(journal.durable_lsn):
            for records in numbered(frames, subscriber.seen_lsn):
                began_ns = await self.turn.take()
                lines = [e.line for e in self.writer.events(records) if subscriber.wanted.passes(e)]
                if lines:
                    outlet.put(b"".join(lines), 0)
                subscriber.seen_lsn = records[-1][0]
                self.turn.release(began_ns)
                if outlet.unread_bytes:
                    return
        subscriber.seen_lsn = max(subscriber.seen_lsn, follower.next_lsn - 1)
        if subscriber.seen_lsn < self.published_lsn:
            # The first subscriber: what was decided before it came is not durable yet.
            await journal.wait_durable(self.published_lsn)

    # -- what happens ---------------------------------------------------------------------------

    def committed(self, lsn: int) -> None:
        """Everything up to ``lsn`` is on disk: wake `run`."""
        if self._open:
            self._stirred.set()

    def _started(self, record: r.Started) -> None:
        self._starts.append(self.writer.started(self.journal.next_lsn - 1, record))
        self._stirred.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish what is durable, round by round, until ``end``."""
        task_status.started()
        while True:
            await self._stirred.wait()
            self._stirred = trio.Event()
            ending = self._ending.is_set()
            if self._follower is not None:
                await self._round(self._follower)
            if ending:
                break
            await self._rest(ROUND_S)
        for subscriber in tuple(self._open):
            subscriber.end()
        self._ended.set()

    async def end(self) -> None:
        """Call after the last commit: publish the last events, then end all subscribers."""
        self._ending.set()
        self._stirred.set()
        await self._ended.wait()

    def _follow(self) -> None:
        """Begin behind the last lsn given out."""
        self._follower = self.journal.follow()
        self.published_lsn = self.journal.next_lsn - 1

    async def _round(self, follower: Follower) -> None:
        """Publish everything that is durable now.

        ``follower`` may have been replaced, or dropped with the last subscriber, while a read was under way;
        then the result of that read is discarded.
        """
        upto_lsn = self.journal.durable_lsn
        try:
            while frames := await follower.read(upto_lsn):
                for records in numbered(frames, self.published_lsn):
                    await self._give(follower, records)
            if self._starts:
                await self._give(follower, [])
        except Trimmed:
            self._fail(follower, None)
        except StorageFailed as error:
            _log.critical("events cannot be read: %s", error)
            self._fail(follower, unreadable(error))

    def _fail(self, follower: Follower, reply: ErrorReply | None) -> None:
        """``follower`` cannot go on: end all joined subscribers, with ``reply`` or (None) as lagged."""
        if self._follower is follower:
            for members in tuple(self._channels.values()):
                for subscriber in tuple(members):
                    subscriber.fail(reply)
            self._follow()

    async def _rest(self, least_s: float = 0.0) -> None:
        """Sleep in proportion to the work since the last rest (`REST_FACTOR`); not once the daemon stops."""
        rest_s = REST_FACTOR * self._worked_ns / 1e9
        self._worked_ns = 0
        with trio.move_on_after(max(least_s, rest_s)):
            await self._ending.wait()

    async def _give(self, follower: Follower, records: Numbered) -> None:
        """Make lines of at most ``SLICE_RECORDS`` records and give them to the subscribers that match."""
        if self._worked_ns > self.turn.slice_ns:
            await self._rest()
        began_ns = await self.turn.take()
        if self._follower is not follower:
            return
        lsn = records[-1][0] if records else self.published_lsn
        found = self._with_starts(list(self.writer.events(records)), lsn)
        # A subscriber that joins from here on must have read these events from the journal before.
        self.published_lsn = lsn
        channels = [(wanted, tuple(members)) for wanted, members in self._channels.items()]
        for wanted, members in channels if found else ():
            chosen = (
                found if wanted == record_events.ALL else [event for event in found if wanted.passes(event)]
            )
            if not chosen:
                continue
            data = b"".join([event.line for event in chosen])
            for subscriber in members:
                subscriber.give(chosen, data)
                if self.turn.over(began_ns):
                    self._spent(began_ns)
                    await self._rest()
                    began_ns = await self.turn.take()
        self._spent(began_ns)

    def _spent(self, began_ns: int) -> None:
        self._worked_ns += self.turn.release(began_ns)

    def _with_starts(self, found: list[record_events.Event], lsn: int) -> list[record_events.Event]:
        """The events up to ``lsn``, with the starts of attempts in between."""
        starts, both = self._starts, []
        if not starts or starts[0].lsn > lsn:
            return found
        for event in found:
            while starts and starts[0].lsn < event.lsn:
                both.append(starts.popleft())
            both.append(event)
        while starts and starts[0].lsn <= lsn:
            both.append(starts.popleft())
        return both


def numbered(frames: Sequence[Frame], seen_lsn: int) -> Iterator[Numbered]:
    """The records after ``seen_lsn`` with their lsns, ``SLICE_RECORDS`` at a time."""
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
    """The reply if the journal cannot be read."""
    return ErrorReply(False, "storage", f"{error}; subscribe again from the last cursor")
