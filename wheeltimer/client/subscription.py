"""``Subscription``: events as an iterator, over connections of its own that are made anew when they break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

import msgspec

from wheeltimer.client.connection import LineConnection
from wheeltimer.client.pipeline import BACKOFF_FIRST_S, BACKOFF_MAX_S, Call, NoReply, Pipeline, refused
from wheeltimer.client.results import Event
from wheeltimer.core.replies import SubscribeReply
from wheeltimer.errors import Refused, ServerUnreachable

PASSING: Final = ("full", "storage")  # refusals of a reconnect that are tried again
_event: Final = msgspec.json.Decoder(Event).decode
_reply: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Resume:
    """Where a subscription stands, and what a line means for it: the same for both clients."""

    def __init__(self, fields: dict[str, Any], cursor: str | None) -> None:
        self.cursor = cursor
        """Of the last event, or of where it began: what to subscribe from."""
        self._fields = fields
        self._got = False  # whether this connection brought anything

    def request(self) -> Call:
        """The request that goes on from the cursor."""
        self._got = False
        return Pipeline("").add("subscribe", {**self._fields, "from": self.cursor})

    def begun(self, line: bytes) -> None:
        """Take the reply. Raises Refused, NoReply."""
        try:
            reply = _reply(line)
        except msgspec.DecodeError as error:
            raise NoReply(str(error)) from error
        if not reply.get("ok"):
            raise refused(reply)
        self.cursor = msgspec.convert(reply, SubscribeReply, strict=False).cursor

    def event(self, line: bytes) -> Event:
        """Take a line. Raises ConnectionError where it is to be asked for again, NoReply."""
        try:
            if b'"event"' not in line[:10]:
                reply = _reply(line)
                # What a slow reader was not sent is in the journal; where it is not, the next reply says so.
                raise ConnectionError(str(reply.get("message", "")))
            event = _event(line)
        except msgspec.MsgspecError as error:
            raise NoReply(str(error)) from error
        self.cursor = event.cursor
        return event


class Subscription:
    """Yields every event once and in order, over lost connections and restarts of the daemon.

    Ends only by ``close``. Raises ``Refused`` (``lagged``: what comes next is no longer kept; its
    ``extra["cursor"]`` is where to begin anew) and ``ServerUnreachable`` where no connection is to be had
    for ``reconnect_ms``. ``cursor`` is that of the last event that was yielded.
    """

    def __init__(
        self,
        connect: Callable[[], LineConnection],
        fields: dict[str, Any],
        cursor: str | None,
        reconnect_ms: int,
    ) -> None:
        self._connect = connect
        self._reconnect_ms = reconnect_ms
        self._resume = Resume(fields, cursor)
        self._connection: LineConnection | None = None
        self._closed = False
        self.line = b""
        """The event that was yielded last, as it came."""
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
        """Subscribing from here brings what comes after the last event that was yielded."""
        assert self._resume.cursor is not None
        return self._resume.cursor

    def close(self) -> None:
        """Close the connection; the iterator ends."""
        self._closed = True
        self._drop()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
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
                if now_s - lost_s >= self._reconnect_ms / 1000:
                    raise ServerUnreachable(
                        f"subscribe: connection lost ({error}), not back in time"
                    ) from error
                wait_s = min(max(2 * wait_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)
        raise StopIteration

    def _begin(self) -> None:
        connection = self._connect()
        try:
            connection.put(self._resume.request().request)
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
