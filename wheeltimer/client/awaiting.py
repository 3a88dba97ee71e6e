"""``AsyncClient``: the same protocol for Trio and asyncio. Any number of tasks may share one.

Requests of all tasks go out on one connection, each as it comes; one nursery task reads the answers and hands
them to whoever waits. What is sent again after a lost connection is decided in ``pipeline.py``. The methods
are those of ``blocking.Client``.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from wheeltimer.client import results
from wheeltimer.client.blocking import Moment, Span
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
from wheeltimer.client.stream import GONE, Lines, connect
from wheeltimer.client.subscription import PASSING, Resume
from wheeltimer.errors import Refused, ServerUnreachable


class AsyncClient:
    """``async with AsyncClient() as client``: see ``Client`` for the arguments and what is raised."""

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
        self._lines: Lines | None = None  # None: there is no connection just now
        self._over: ServerUnreachable | None = None  # why nothing can be asked any more
        self._lost_s: float | None = None  # when the connection was lost, until the next answer
        self._wanted: anyio.Event  # somebody asks while there is no connection
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> AsyncClient:
        assert self._group is None, "a client is entered once"
        lines = await connect(self.server, self._token, self._timeout_ms, self._tls)
        self._wanted = anyio.Event()
        self._group = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self._run, lines)
        self._lines = lines
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = ServerUnreachable(f"the connection to {self.server} is closed; make a new client")
        assert self._group is not None
        self._group.cancel_scope.cancel()
        self._group.cancel_scope.shield = True
        # The block's own exception stays what it is; a task group would wrap it.
        await self._group.__aexit__(None, None, None)
        self._pipeline.give_up("the client was closed")

    # -- requests as they are -------------------------------------------------------------------

    async def request(self, op: str, **fields: Any) -> Reply:
        """Send one request and return its reply as it came; a refusal is raised."""
        return (await self._finish(await self._begin(op, fields))).check()

    # -- one method for each op -----------------------------------------------------------------

    async def hello(self, *, token: str | None = None) -> results.Hello:
        """Who is there, and its limits."""
        return await self._ask(results.Hello, "hello", token=token)

    async def ping(self) -> results.PingReply:
        """``now``, Unix ms."""
        return await self._ask(results.PingReply, "ping")

    async def schedule(
        self, url: str, *, delay: Span | None = None, at: Moment | None = None, **fields: Any
    ) -> results.ScheduleReply:
        """``id queue version due state duplicate``; stored when this returns, and only once."""
        fields = with_id({"url": url, "delay": delay, "at": at, **fields})
        return await self._ask(results.ScheduleReply, "schedule", **fields)

    async def schedule_many(
        self, tasks: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]], depth: int = DEPTH
    ) -> AsyncIterator[results.ScheduleReply | Refused | ServerUnreachable]:
        """Schedule tasks, each the fields of one ``schedule``; yields what became of each, in order."""
        ahead: deque[Call] = deque()
        async for task in _each(tasks):
            ahead.append(await self._begin("schedule", with_id(task)))
            if len(ahead) >= depth:
                yield await self._scheduled(ahead.popleft())
        while ahead:
            yield await self._scheduled(ahead.popleft())

    async def get(self, id: str, *, queue: str | None = None) -> results.TaskInfo:
        """The task itself."""
        return (await self._ask(results.GetReply, "get", id=id, queue=queue)).task

    async def cancel(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None,
        if_version: int | None = None,
    ) -> results.CancelReply:  # fmt: skip
        """``cancelled running``: how many ended at once, how many end after the attempt in flight."""
        fields = {"id": id, "group": group, "queue": queue, "if_version": if_version}
        return await self._ask(results.CancelReply, "cancel", **fields)

    async def reschedule(
        self, id: str, *, delay: Span | None = None, at: Moment | None = None, **fields: Any
    ) -> results.RescheduleReply:
        """``version due``. ``fields``: ``queue if_version`` and every task field."""
        return await self._ask(results.RescheduleReply, "reschedule", id=id, delay=delay, at=at, **fields)

    async def finish(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None, reply: Any = None
    ) -> results.FinishReply:
        """``finished running``: ended as ``done`` from outside; ``reply`` goes to ``on_done``."""
        return await self._ask(results.FinishReply, "finish", id=id, group=group, queue=queue, reply=reply)

    async def redrive(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None
    ) -> results.RedriveReply:
        """``redriven``: how many dead or expired tasks start again."""
        return await self._ask(results.RedriveReply, "redrive", id=id, group=group, queue=queue)

    async def pause(self, queue: str) -> results.PauseReply:
        """No attempt of this queue starts until ``resume``."""
        return await self._ask(results.PauseReply, "pause", queue=queue)

    async def resume(self, queue: str) -> results.PauseReply:
        """Attempts of this queue start again."""
        return await self._ask(results.PauseReply, "resume", queue=queue)

    async def list(
        self, *, queue: str | None = None, state: str | None = None, group: str | None = None,
        limit: int | None = None, cursor: str | None = None,
    ) -> results.TaskList:  # fmt: skip
        """``tasks``, soonest first, and ``cursor`` when there are more."""
        fields = {"queue": queue, "state": state, "group": group, "limit": limit, "cursor": cursor}
        return await self._ask(results.TaskList, "list", **fields)

    async def forecast(
        self, *, horizon: Span | None = None, slices: int | None = None, queue: str | None = None
    ) -> results.ForecastReply:
        """``from_ slice_ms counts overdue later``: what fires when."""
        return await self._ask(results.ForecastReply, "forecast", horizon=horizon, slices=slices, queue=queue)

    async def stats(self) -> results.Stats:
        """Counts, journal, lateness."""
        return await self._ask(results.Stats, "stats")

    async def subscribe(
        self, *, from_: str | None = None, queue: str | None = None, group: str | None = None,
        types: Iterable[str] | None = None,
    ) -> AsyncIterator[results.Event]:  # fmt: skip
        """Events as they happen, on a connection of its own; resumes where it was, as ``Client.subscribe``.

        An event's ``cursor`` is where to go on after it: ``from_``. Close it (``contextlib.aclosing``) where
        it is left before its end.
        """
        resume = Resume({"queue": queue, "group": group, "types": None if types is None else [*types]}, from_)
        first, lost_s, wait_s = True, math.inf, 0.0
        while True:
            lines = None
            try:
                lines = await connect(self.server, self._token, self._timeout_ms, self._tls)
                await lines.send(resume.request().request)
                with anyio.fail_after(self._timeout_ms / 1000):
                    resume.begun(await lines.read())
                first = False
                while True:
                    event = resume.event(await lines.read())
                    lost_s, wait_s = math.inf, 0.0
                    yield event
            except (*GONE, NoReply, ServerUnreachable, Refused) as error:
                if isinstance(error, Refused) and (first or error.code not in PASSING):
                    raise
                lost_s = min(lost_s, time.monotonic())
                if first or time.monotonic() - lost_s >= self._reconnect_ms / 1000:
                    raise ServerUnreachable(f"subscribe: connection lost ({error!r})") from error
            finally:
                if lines is not None:
                    with anyio.CancelScope(shield=True):
                        await lines.close()
            await anyio.sleep(wait_s)
            wait_s = min(max(2 * wait_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)

    # -- calls on their way ---------------------------------------------------------------------

    async def _ask(self, kind: type[results.R], op: str, **fields: Any) -> results.R:
        return (await self._finish(await self._begin(op, fields))).result(kind)

    async def _begin(self, op: str, fields: Reply) -> Call:
        """Send a request; on a lost connection it goes out with the next one."""
        if self._over is not None:
            raise self._over
        assert self._group is not None, "a client is used inside its `async with`"
        answered = anyio.Event()
        call = self._pipeline.add(op, fields, answered.set)
        call.answered = answered
        self._wanted.set()
        lines = self._lines
        if lines is not None:
            call.sent = True
            with contextlib.suppress(*GONE):  # whoever reads sees it too, and what to do then
                await lines.send(call.request)
        return call

    async def _finish(self, call: Call) -> Call:
        """Wait for the answer; a connection that brings nothing for too long is given up."""
        while not call.done:
            with anyio.move_on_after(self._timeout_ms / 1000):
                await call.answered.wait()
            if not call.done and self._lines is not None:
                await self._lines.close()
                await checkpoint()
        return call

    async def _scheduled(self, call: Call) -> results.ScheduleReply | Refused | ServerUnreachable:
        try:
            return (await self._finish(call)).result(results.ScheduleReply)
        except (Refused, ServerUnreachable) as error:
            return error

    async def _run(self, lines: Lines | None) -> None:
        """Read answers, connection after connection."""
        while True:
            if lines is not None:
                try:
                    await self._read(lines)
                finally:
                    with anyio.CancelScope(shield=True):
                        await lines.close()
            if self._over is not None:
                return
            if not self._pipeline.calls:
                self._lost_s = None
                self._wanted = anyio.Event()
                await self._wanted.wait()
            lines = await self._reconnect()

    async def _read(self, lines: Lines) -> None:
        """Hand out the answers of one connection until it is lost."""
        line, final = b"", None
        why: object = "its storage failed"
        try:
            while self._pipeline.take(line := await lines.read()) is not None:
                self._lost_s = None
        except GONE as error:
            why = str(error) or "the daemon closed the connection"
        except NoReply as error:
            why, final = f"not a reply: {error}", self._pipeline.no_daemon(line)
        self._lines = None
        if final is not None or not self._reconnect_ms:
            self._over = ServerUnreachable(f"the connection to {self.server} is closed; make a new client")
            self._pipeline.give_up(why, final)
            return
        if self._lost_s is None:
            self._lost_s = time.monotonic()
        self._pipeline.lost(why)

    async def _reconnect(self) -> Lines | None:
        """Try until there is a connection or it took too long; then all that waits goes out, or ends."""
        if self._lost_s is None:
            self._lost_s = time.monotonic()
        wait_s = BACKOFF_FIRST_S
        while time.monotonic() - self._lost_s <= self._reconnect_ms / 1000:
            try:
                lines = await connect(self.server, self._token, self._timeout_ms, self._tls)
            except (ServerUnreachable, Refused):
                await anyio.sleep(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_MAX_S)
                continue
            self._lines = lines
            with contextlib.suppress(*GONE):  # whoever reads sees it too
                # A call that begins while this is sent comes after it.
                await lines.send(self._pipeline.outgoing())
            return lines
        self._pipeline.give_up(f"and not back within {self._reconnect_ms / 1000:g} s")
        self._lost_s = None  # the next request tries anew
        return None


async def _each(tasks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task
