"""``Subscription``: events as an iterator, with its own connection, which is replaced if it is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

import msgspec

from wheeltimer.client.channel import OF_THE_PARENT, OwnedLock
from wheeltimer.client.fields import plain
from wheeltimer.client.pipeline import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    NOT_READ,
    PASSING,
    Call,
    Caller,
    NoReply,
    Pipeline,
)
from wheeltimer.client.place import Place
from wheeltimer.client.results import Event
from wheeltimer.client.sync_stream import LineConnection
from wheeltimer.errors import ClientMisused, Refused, ServerUnreachable
from wheeltimer.protocol.replies import SubscribeReply

_event: Final = msgspec.json.Decoder(Event).decode
_reply: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Resume:
    """The cursor of a subscription, its request and how to read its lines: the same for both clients."""

    def __init__(self, fields: dict[str, Any], cursor: str | None) -> None:
        self.cursor = cursor
        """Where to subscribe from: the cursor of the last event, or of the start."""
        self._fields = fields
        self._pipeline = Pipeline("")
        self._call: Call | None = None

    def request(self) -> bytes:
        """The request that resumes from the cursor, for a new connection."""
        self._pipeline = Pipeline("")
        self._call = self._pipeline.make("subscribe", plain({**self._fields, "from": self.cursor}), Caller())
        self._pipeline.fresh.append(self._call)
        return self._pipeline.outgoing()

    def begun(self, line: bytes) -> None:
        """Take the reply. Raises Refused, NoReply."""
        assert self._call is not None
        self._pipeline.take(line)
        self.cursor = self._call.result(SubscribeReply).cursor

    def event(self, line: bytes) -> Event:
        """Take a line. Raises NoReply, or ConnectionError if the caller should subscribe again."""
        try:
            if b'"event"' not in line[:10]:
                reply = _reply(line)
                # The events that a slow reader missed are in the journal; otherwise the next reply is an
                # error.
                raise ConnectionError(str(reply.get("message", "")))
            event = _event(line)
        except NOT_READ as error:
            raise NoReply(str(error)) from error
        self.cursor = event.cursor
        return event


class Subscription:
    """Yields every event once and in order, over lost connections and restarts of the daemon.

    Only ``close`` ends it. Raises ``Refused`` (``lagged``: the next events are no longer kept; begin again at
    its ``extra["cursor"]``) and ``ServerUnreachable`` if no connection can be made for ``reconnect``.
    ``cursor`` is that of the last event that was yielded. If an exception interrupts ``next``, the next call
    connects again and resumes after the last event that was yielded. If threads share one, each event goes to
    one of them. It belongs to the process that made it: in a child process it raises ``ClientMisused``.
    """

    def __init__(self, place: Place, fields: dict[str, Any], cursor: str | None) -> None:
        self._place = place
        self._resume = Resume(fields, cursor)
        self._connection: LineConnection | None = None
        self._closed = False
        self._pid = os.getpid()
        self._owned = OwnedLock()
        self._busy = False  # during ``next``; True between two calls: an exception ended the last one
        self._yielded: str | None = None  # the cursor when ``next`` began
        self.line = b""
        """The line of the event that was yielded last."""
        try:
            self._begin()
        except OSError as error:
            raise ServerUnreachable(f"subscribe: connection lost ({error})") from error

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cursor(self) -> str:
        """Subscribe from here to get the events after the last one that was yielded."""
        cursor = self._yielded if self._busy else self._resume.cursor
        assert cursor is not None
        return cursor

    def close(self) -> None:
        """Close the connection; the iterator ends."""
        self._closed = True
        self._drop()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if os.getpid() != self._pid:
            raise ClientMisused(OF_THE_PARENT)
        entered = self._owned.enter()
        try:
            with self._owned.lock:
                event = self._next_alone()
        finally:
            self._owned.leave(entered)
        if event is None:
            raise StopIteration
        return event

    def _next_alone(self) -> Event | None:
        """The next event, with the lock held; None after ``close``."""
        try:
            self._owned.begin()
            if self._busy:
                self._drop()
                self._resume.cursor = self._yielded
            self._yielded = self._resume.cursor
            self._busy = True
            event = self._next()
            self._busy = False
        finally:
            self._owned.end()
        return event

    def _next(self) -> Event | None:
        lost_s: float | None = None
        wait_s = 0.0
        while not self._closed:
            try:
                if self._connection is None:
                    time.sleep(wait_s)
                    self._begin()
                assert self._connection is not None
                self.line = self._connection.read_line(forever=True)
                return self._resume.event(self.line)
            except (OSError, NoReply, ServerUnreachable, Refused) as error:
                if isinstance(error, Refused) and error.code not in PASSING:
                    raise
                self._drop()
                now_s = time.monotonic()
                lost_s = now_s if lost_s is None else lost_s
                if now_s - lost_s >= self._place.reconnect_s:
                    raise ServerUnreachable(
                        f"subscribe: connection lost ({error}), not back in time"
                    ) from error
                wait_s = min(max(2 * wait_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)
        return None

    def _begin(self) -> None:
        connection = self._place.connect()
        try:
            connection.put(self._resume.request())
            self._resume.begun(connection.read_line())
        except NoReply as error:
            connection.close()
            raise ServerUnreachable(f"subscribe: not a reply: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
