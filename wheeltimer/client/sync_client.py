"""``Client``: the protocol as methods, over one blocking connection, which is replaced if it is lost.

There is a method for each ``op`` with the protocol's own field names, and ``request`` for replies as plain
dicts. ``pipeline.py`` decides which requests are sent again after a lost connection; lines and sockets are in
``sync_stream.py``.
"""

from __future__ import annotations

import os
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Unpack

from wheeltimer.client import results
from wheeltimer.client.channel import Channel
from wheeltimer.client.fields import (
    RescheduleFields,
    ScheduleFields,
    ScheduleItem,
    Span,
    plain,
    typed,
    with_id,
    with_new_id,
)
from wheeltimer.client.pipeline import DEPTH, Call, Caller, Reply
from wheeltimer.client.place import SERVER_DEFAULT, Seconds, from_environment, place
from wheeltimer.client.subscription import Subscription
from wheeltimer.errors import NotFound, Refused, ServerUnreachable


class Client:
    """The daemon as methods; a context manager. It connects at first use: making one does no I/O.

    ``server``: ``HOST:PORT``, ``[::1]:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``. ``token``: shown with
    ``hello`` before anything else. ``tls``: for ``tls:`` servers; the system's authorities unless given.
    ``timeout``: for connecting, and for a time without a single byte; seconds or a ``timedelta``, 30 s.
    ``reconnect``: how long connecting is tried again, if there is no daemon or the connection was lost,
    before requests fail; 0: not at all. ``timeout_ms`` and ``reconnect_ms`` are their deprecated names, in
    ms. Every method raises ``Refused`` (with the daemon's ``code``), ``ServerUnreachable`` or
    ``OutcomeUnknown``, and ``BadValue``, before it sends anything, for a value that the protocol has no form
    for.

    Threads and greenlets may share one; a request waits for that of another. A child process makes a
    connection of its own. If an exception interrupts a request (also one of a signal handler), the request
    ends, and the next one connects again. A second request inside the first one, from a signal handler or a
    finalizer, raises ``ClientMisused``; so does an iterator that a child process inherited.
    """

    def __init__(
        self,
        server: str = SERVER_DEFAULT,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: Seconds | None = None,
        reconnect: Seconds | None = None,
        timeout_ms: int | None = None,
        reconnect_ms: int | None = None,
    ) -> None:
        self.server = server
        self._place = place(server, token, tls, timeout, reconnect, timeout_ms, reconnect_ms)
        self._channels: dict[int, Channel] = {}  # by process id; just after a fork also the parent's
        self._closed = False

    @classmethod
    def from_env(cls, *, timeout: Seconds | None = None, reconnect: Seconds | None = None) -> Client:
        """A client by ``WHEELTIMER_SERVER WHEELTIMER_TOKEN WHEELTIMER_CA_FILE WHEELTIMER_CERT_FILE``.

        The command line reads them the same way. Raises BadValue for a wrong address or file.
        """
        found = from_environment()
        return cls(found.server, token=found.token, tls=found.tls, timeout=timeout, reconnect=reconnect)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        channel = self._channels.get(os.getpid())
        if channel is not None:
            channel.close()

    # -- requests as they are -------------------------------------------------------------------

    def request(self, op: str, **fields: Any) -> Reply:
        """Send one request and return its reply; a field that is None is left out."""
        return self._channel().ask(op, plain(fields)).check()

    def exchange(self, op: str, **fields: Any) -> tuple[Reply, bytes]:
        """The same, with the line of the reply, byte for byte; a refusal is returned, not raised."""
        return self._channel().ask(op, plain(fields)).raw()

    def request_many(self, requests: Iterable[Reply], depth: int = DEPTH) -> Iterator[Reply]:
        """Send requests (each with its ``op``) up to ``depth`` ahead; yield the replies in order.

        A refusal is yielded as a reply (``ok`` false): one bad item does not end the others. Memory is
        bounded by ``depth`` requests and replies; ``requests`` is read as replies come in.
        """
        for call in self._stream(map(_split, requests), depth):
            yield call.raw()[0]

    # -- one method for each op -----------------------------------------------------------------

    def hello(self, *, token: str | None = None) -> results.Hello:
        """The daemon's version and limits."""
        return self._ask(results.Hello, "hello", plain({"token": token}))

    def ping(self) -> results.PingReply:
        """``now``, Unix ms."""
        return self._ask(results.PingReply, "ping", {})

    def schedule(self, url: str, **fields: Unpack[ScheduleFields]) -> results.ScheduleReply:
        """``id queue version due state duplicate``; once this returns the task is stored, and only once.

        Without ``id`` one is made here, so that the request can be sent again.
        """
        return self._ask(results.ScheduleReply, "schedule", with_id({"url": url, **fields}))

    def schedule_many(
        self, tasks: Iterable[ScheduleItem], depth: int = DEPTH
    ) -> Iterator[results.ScheduleReply | Refused | ServerUnreachable]:
        """Schedule tasks, each the fields of one ``schedule``; yields the result of each, in order.

        A refusal, or an outcome that stays unknown, is that item's result and does not end the others.
        ``BadValue`` for an item is raised, and ends them. Memory is bounded by ``depth`` tasks; ``tasks`` is
        read as replies come in.
        """
        return self._schedule(map(with_id, tasks), depth)

    def schedule_plain(
        self, tasks: Iterable[Mapping[str, Any]], depth: int = DEPTH
    ) -> Iterator[results.ScheduleReply | Refused | ServerUnreachable]:
        """``schedule_many`` for the protocol's own fields, in which integers are ms, as in a file of
        tasks."""
        return self._schedule(map(with_new_id, map(plain, tasks)), depth)

    def _schedule(
        self, tasks: Iterable[Reply], depth: int
    ) -> Iterator[results.ScheduleReply | Refused | ServerUnreachable]:
        for call in self._stream((("schedule", task) for task in tasks), depth):
            try:
                yield call.result(results.ScheduleReply)
            except (Refused, ServerUnreachable) as error:
                yield error

    def get(self, id: str, *, queue: str | None = None) -> results.TaskInfo:
        """The task itself."""
        return self._ask(results.GetReply, "get", plain({"id": id, "queue": queue})).task

    def cancel(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None,
        if_version: int | None = None, missing_ok: bool = False,
    ) -> results.CancelReply:  # fmt: skip
        """``cancelled running``: how many ended at once, how many end after the attempt in flight.

        ``missing_ok``: an id that is not known counts 0, and is not raised as ``NotFound``.
        """
        fields = {"id": id, "group": group, "queue": queue, "if_version": if_version}
        try:
            return self._ask(results.CancelReply, "cancel", plain(fields))
        except NotFound:
            if not missing_ok:
                raise
            return results.CancelReply(True, 0, 0)

    def reschedule(self, id: str, **fields: Unpack[RescheduleFields]) -> results.RescheduleReply:
        """``version due``: another instant, other fields, or both."""
        return self._ask(results.RescheduleReply, "reschedule", typed({"id": id, **fields}))

    def finish(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None, reply: Any = None
    ) -> results.FinishReply:
        """``finished running``: ended as ``done`` from outside; ``reply`` goes to ``on_done``."""
        fields = {"id": id, "group": group, "queue": queue, "reply": reply}
        return self._ask(results.FinishReply, "finish", plain(fields))

    def redrive(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None
    ) -> results.RedriveReply:
        """``redriven``: how many dead or expired tasks start again."""
        fields = {"id": id, "group": group, "queue": queue}
        return self._ask(results.RedriveReply, "redrive", plain(fields))

    def pause(self, queue: str) -> results.PauseReply:
        """No attempt of this queue starts until ``resume``."""
        return self._ask(results.PauseReply, "pause", {"queue": queue})

    def resume(self, queue: str) -> results.PauseReply:
        """Attempts of this queue start again."""
        return self._ask(results.PauseReply, "resume", {"queue": queue})

    def list(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        group: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> results.TaskList:
        """``tasks``, soonest first, and ``cursor`` if there are more."""
        fields = {"queue": queue, "state": state, "group": group, "limit": limit, "cursor": cursor}
        return self._ask(results.TaskList, "list", plain(fields))

    def forecast(
        self, *, horizon: Span | None = None, horizon_ms: int | None = None, slices: int | None = None,
        queue: str | None = None,
    ) -> results.ForecastReply:  # fmt: skip
        """``from_ slice_ms counts overdue later``: how many tasks fire when."""
        fields = {"horizon": horizon, "horizon_ms": horizon_ms, "slices": slices, "queue": queue}
        return self._ask(results.ForecastReply, "forecast", typed(fields))

    def stats(self) -> results.Stats:
        """Counts, journal, lateness."""
        return self._ask(results.Stats, "stats", {})

    def subscribe(
        self,
        *,
        from_: str | None = None,
        queue: str | None = None,
        group: str | None = None,
        types: Iterable[str] | None = None,
    ) -> Subscription:
        """Events as they happen, on a connection of its own; an iterator that resumes where it was.

        ``from_``: a cursor; without it, from now on. Raises ``Refused`` with code ``lagged`` if the journal
        no longer holds the next events.
        """
        fields = {"queue": queue, "group": group, "types": None if types is None else [*types]}
        return Subscription(self._place, fields, from_)

    # -- calls on their way ---------------------------------------------------------------------

    def _channel(self) -> Channel:
        """The channel of this process. A forked child closes its copy of the parent's."""
        pid = os.getpid()
        channel = self._channels.get(pid)
        if channel is None:
            if self._closed:
                raise self._place.over()
            channel = self._channels.setdefault(pid, Channel(self._place))  # one for all threads
            for other in [*self._channels]:
                if other != pid and (inherited := self._channels.pop(other, None)) is not None:
                    inherited.forget()
        return channel

    def _ask(self, kind: type[results.R], op: str, request: Reply) -> results.R:
        return self._channel().ask(op, request).result(kind)

    def _stream(self, requests: Iterable[tuple[str, Reply]], depth: int) -> Iterator[Call]:
        assert depth > 0
        channel = self._channel()
        stream = Caller(single=False)
        ahead: deque[Call] = deque()
        try:
            for op, request in requests:
                ahead.append(channel.begin(op, request, stream))
                if len(ahead) >= depth:
                    yield channel.finish(ahead.popleft())
            while ahead:
                yield channel.finish(ahead.popleft())
        finally:
            stream.left = True


def _split(request: Mapping[str, Any]) -> tuple[str, Reply]:
    fields = plain(request)
    return str(fields.pop("op")), fields
