"""``Client``: the protocol as methods, over one blocking connection that is made anew when it breaks.

A method for each ``op`` with the protocol's own field names, and ``request`` for whoever wants a reply as it
came. What is sent again after a lost connection is decided in ``pipeline.py``; lines and sockets are in
``connection.py``.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from wheeltimer.client import results
from wheeltimer.client.connection import LineConnection
from wheeltimer.client.pipeline import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    DEPTH,
    Call,
    NoReply,
    Pipeline,
    Reply,
    with_id,
)
from wheeltimer.client.subscription import Subscription
from wheeltimer.errors import Refused, ServerUnreachable

Span = int | str | timedelta
"""A duration: ms, text with units, or a ``timedelta``."""
Moment = int | str | datetime
"""An instant: Unix ms, RFC 3339, or a ``datetime`` with a time zone."""


class Client:
    """A connection to the daemon; a context manager. Not safe between threads.

    ``server``: ``HOST:PORT``, ``[::1]:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``. ``token``: shown with
    ``hello`` before anything else. ``tls``: for ``tls:`` servers; the system's authorities unless given.
    ``timeout_ms``: for connecting, and for a stretch without a single byte.
    ``reconnect_ms``: for how long a connection that was lost is tried anew before requests fail; 0: never.
    Every method raises ``Refused`` (with the daemon's ``code``), ``ServerUnreachable`` or ``OutcomeUnknown``,
    and ``BadValue`` before anything is sent for a value that the protocol has no form for.
    """

    def __init__(
        self,
        server: str = "127.0.0.1:8463",
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_ms: int = 30_000,
        reconnect_ms: int = 30_000,
    ) -> None:
        self.server = server
        self._token = token
        self._tls = tls
        self._timeout_ms = timeout_ms
        self._reconnect_ms = reconnect_ms
        self._pipeline = Pipeline(server)
        self._over: ServerUnreachable | None = None  # why nothing can be asked any more
        self._lost_s: float | None = None  # when the connection was lost, until the next answer
        self._connection = self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._over = ServerUnreachable(f"the connection to {self.server} is closed; make a new client")
        self._connection.close()

    # -- requests as they are -------------------------------------------------------------------

    def request(self, op: str, **fields: Any) -> Reply:
        """Send one request and return its reply; a field that is None is left out."""
        return self._finish(self._begin(op, fields)).check()

    def exchange(self, op: str, **fields: Any) -> tuple[Reply, bytes]:
        """The same with the line that the reply came in, its own bytes; a refusal is returned, not raised."""
        return self._finish(self._begin(op, fields)).raw()

    def request_many(self, requests: Iterable[Reply], depth: int = DEPTH) -> Iterator[Reply]:
        """Send requests (each with its ``op``) up to ``depth`` ahead; yield the replies in order.

        A refusal is yielded as it is (``ok`` false): one bad item does not end the others. Memory is
        bounded by ``depth`` requests and replies; ``requests`` is read as replies come in.
        """
        for call in self._stream(requests, depth):
            yield call.raw()[0]

    # -- one method for each op -----------------------------------------------------------------

    def hello(self, *, token: str | None = None) -> results.Hello:
        """Who is there, and its limits."""
        return self._ask(results.Hello, "hello", token=token)

    def ping(self) -> results.PingReply:
        """``now``, Unix ms."""
        return self._ask(results.PingReply, "ping")

    def schedule(
        self, url: str, *, delay: Span | None = None, at: Moment | None = None, **fields: Any
    ) -> results.ScheduleReply:
        """``id queue version due state duplicate``; stored when this returns, and only once.

        ``fields``: ``id queue on_conflict`` and every task field of the protocol. Without ``id`` one is made
        here, so that the request can be sent again.
        """
        fields = with_id({"url": url, "delay": delay, "at": at, **fields})
        return self._ask(results.ScheduleReply, "schedule", **fields)

    def schedule_many(
        self, tasks: Iterable[Mapping[str, Any]], depth: int = DEPTH
    ) -> Iterator[results.ScheduleReply | Refused | ServerUnreachable]:
        """Schedule tasks, each the fields of one ``schedule``; yields what became of each, in order.

        A refusal, or an outcome that stays unknown, is that item's result and does not end the others.
        Memory is bounded by ``depth`` tasks; ``tasks`` is read as replies come in.
        """
        given = ({"op": "schedule", **with_id(task)} for task in tasks)
        for call in self._stream(given, depth):
            try:
                yield call.result(results.ScheduleReply)
            except (Refused, ServerUnreachable) as error:
                yield error

    def get(self, id: str, *, queue: str | None = None) -> results.TaskInfo:
        """The task itself."""
        return self._ask(results.GetReply, "get", id=id, queue=queue).task

    def cancel(
        self,
        id: str | None = None,
        *,
        group: str | None = None,
        queue: str | None = None,
        if_version: int | None = None,
    ) -> results.CancelReply:
        """``cancelled running``: how many ended at once, how many end after the attempt in flight."""
        fields = {"id": id, "group": group, "queue": queue, "if_version": if_version}
        return self._ask(results.CancelReply, "cancel", **fields)

    def reschedule(
        self, id: str, *, delay: Span | None = None, at: Moment | None = None, **fields: Any
    ) -> results.RescheduleReply:
        """``version due``. ``fields``: ``queue if_version`` and every task field."""
        return self._ask(results.RescheduleReply, "reschedule", id=id, delay=delay, at=at, **fields)

    def finish(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None, reply: Any = None
    ) -> results.FinishReply:
        """``finished running``: ended as ``done`` from outside; ``reply`` goes to ``on_done``."""
        return self._ask(results.FinishReply, "finish", id=id, group=group, queue=queue, reply=reply)

    def redrive(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None
    ) -> results.RedriveReply:
        """``redriven``: how many dead or expired tasks start again."""
        return self._ask(results.RedriveReply, "redrive", id=id, group=group, queue=queue)

    def pause(self, queue: str) -> results.PauseReply:
        """No attempt of this queue starts until ``resume``."""
        return self._ask(results.PauseReply, "pause", queue=queue)

    def resume(self, queue: str) -> results.PauseReply:
        """Attempts of this queue start again."""
        return self._ask(results.PauseReply, "resume", queue=queue)

    def list(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        group: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> results.TaskList:
        """``tasks``, soonest first, and ``cursor`` when there are more."""
        fields = {"queue": queue, "state": state, "group": group, "limit": limit, "cursor": cursor}
        return self._ask(results.TaskList, "list", **fields)

    def forecast(
        self, *, horizon: Span | None = None, slices: int | None = None, queue: str | None = None
    ) -> results.ForecastReply:
        """``from_ slice_ms counts overdue later``: what fires when."""
        return self._ask(results.ForecastReply, "forecast", horizon=horizon, slices=slices, queue=queue)

    def stats(self) -> results.Stats:
        """Counts, journal, lateness."""
        return self._ask(results.Stats, "stats")

    def subscribe(
        self,
        *,
        from_: str | None = None,
        queue: str | None = None,
        group: str | None = None,
        types: Iterable[str] | None = None,
    ) -> Subscription:
        """Events as they happen, on a connection of its own; an iterator that resumes where it was.

        ``from_``: a cursor; without it, from now on. Raises ``Refused`` with code ``lagged`` where the
        journal no longer holds what comes next.
        """
        fields = {"queue": queue, "group": group, "types": None if types is None else [*types]}
        return Subscription(self._connect, fields, from_, self._reconnect_ms)

    # -- calls on their way ---------------------------------------------------------------------

    def _ask(self, kind: type[results.R], op: str, **fields: Any) -> results.R:
        return self._finish(self._begin(op, fields)).result(kind)

    def _begin(self, op: str, fields: Reply) -> Call:
        """Put a request in line; on a lost connection it goes out with the next one."""
        if self._over is not None:
            raise self._over
        if not self._pipeline.calls and not self._connection.closed and self._connection.gone:
            self._lose("the daemon closed the connection")  # while nothing was asked, so nothing is lost
            if self._over is not None:
                raise self._over
        call = self._pipeline.add(op, fields)
        if not self._connection.closed:
            self._connection.put(call.request)
            call.sent = True
        return call

    def _finish(self, call: Call) -> Call:
        """Read until this call has its answer."""
        while not call.done:
            if self._connection.closed:
                self._reconnect()
                continue
            line = b""
            try:
                line = self._connection.read_line()
                if self._pipeline.take(line) is None:
                    self._lose("its storage failed")
                else:
                    self._lost_s = None
            except OSError as error:
                self._lose(error)
            except NoReply as error:
                self._lose(f"not a reply: {error}", self._pipeline.no_daemon(line))
        return call

    def _stream(self, requests: Iterable[Mapping[str, Any]], depth: int) -> Iterator[Call]:
        assert depth > 0
        ahead: deque[Call] = deque()
        for request in requests:
            fields = dict(request)
            ahead.append(self._begin(str(fields.pop("op")), fields))
            if len(ahead) >= depth:
                yield self._finish(ahead.popleft())
        while ahead:
            yield self._finish(ahead.popleft())

    def _lose(self, why: object, final: ServerUnreachable | None = None) -> None:
        """The connection is gone: a late answer would be taken for the next request's."""
        self._connection.close()
        if final is not None or not self._reconnect_ms:
            self.close()
            self._pipeline.give_up(why, final)
            return
        if self._lost_s is None:
            self._lost_s = time.monotonic()
        self._pipeline.lost(why)

    def _reconnect(self) -> None:
        """Try until there is a connection or it took too long; then all that waits goes out, or ends."""
        if self._lost_s is None:
            self._lost_s = time.monotonic()
        wait_s = BACKOFF_FIRST_S
        while True:
            if time.monotonic() - self._lost_s > self._reconnect_ms / 1000:
                self._pipeline.give_up(f"and not back within {self._reconnect_ms / 1000:g} s")
                self._lost_s = None  # the next request tries anew
                return
            try:
                self._connection = self._connect()
            except ServerUnreachable:
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_MAX_S)
                continue
            self._connection.put(self._pipeline.outgoing())
            return

    def _connect(self) -> LineConnection:
        """A connection on which the token was shown. Raises ServerUnreachable, Refused."""
        connection = LineConnection(self.server, self._timeout_ms, self._tls)
        if self._token is not None:
            hello = Pipeline(self.server)
            call = hello.add("hello", {"token": self._token})
            connection.put(call.request)
            line = b""
            try:
                line = connection.read_line()
                hello.take(line)
                call.check()
            except (OSError, NoReply) as error:
                connection.close()
                raise hello.no_daemon(line) or ServerUnreachable(f"hello: {error}") from error
            except BaseException:
                connection.close()
                raise
        return connection
