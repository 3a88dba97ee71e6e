"""``AsyncClient``: the same protocol for Trio and asyncio. Any number of tasks may share one.

All tasks use one connection, see ``async_channel.py``. The methods are those of ``sync_client.Client``.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Unpack

import anyio

from wheeltimer.client import results
from wheeltimer.client.async_channel import AsyncChannel, event_loop
from wheeltimer.client.async_stream import GONE, connect
from wheeltimer.client.fields import (
    RescheduleFields,
    ScheduleFields,
    ScheduleItem,
    Span,
    plain,
    typed,
    with_id,
)
from wheeltimer.client.pipeline import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    DEPTH,
    PASSING,
    Call,
    Caller,
    NoReply,
    Reply,
)
from wheeltimer.client.place import SERVER_DEFAULT, Seconds, from_environment, place
from wheeltimer.client.subscription import Resume
from wheeltimer.errors import NotFound, Refused, ServerUnreachable


class AsyncClient:
    """The daemon as methods, for Trio and asyncio: see ``Client`` for the arguments and the errors.

    It connects at first use: making one does no I/O. ``async with`` or ``aclose`` closes it. Tasks may share
    one; each event loop and each process has its own connection. A task that is cancelled does not disturb
    the replies of others.
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
        self._channels: dict[tuple[int, object], AsyncChannel] = {}  # by process and event loop
        self._closed = False

    @classmethod
    def from_env(cls, *, timeout: Seconds | None = None, reconnect: Seconds | None = None) -> AsyncClient:
        """A client by ``WHEELTIMER_SERVER WHEELTIMER_TOKEN WHEELTIMER_CA_FILE WHEELTIMER_CERT_FILE``.

        The command line reads them the same way. Raises BadValue for a wrong address or file.
        """
        found = from_environment()
        return cls(found.server, token=found.token, tls=found.tls, timeout=timeout, reconnect=reconnect)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        channel = self._channels.get((os.getpid(), event_loop()))
        if channel is not None:
            await channel.aclose()

    # -- requests as they are -------------------------------------------------------------------

    async def request(self, op: str, **fields: Any) -> Reply:
        """Send one request and return its reply, a dict; a refusal is raised."""
        return (await self._channel().ask(op, plain(fields))).check()

    # -- one method for each op -----------------------------------------------------------------

    async def hello(self, *, token: str | None = None) -> results.Hello:
        """The daemon's version and limits."""
        return await self._ask(results.Hello, "hello", plain({"token": token}))

    async def ping(self) -> results.PingReply:
        """``now``, Unix ms."""
        return await self._ask(results.PingReply, "ping", {})

    async def schedule(self, url: str, **fields: Unpack[ScheduleFields]) -> results.ScheduleReply:
        """``id queue version due state duplicate``; once this returns the task is stored, and only once."""
        return await self._ask(results.ScheduleReply, "schedule", with_id({"url": url, **fields}))

    async def schedule_many(
        self, tasks: Iterable[ScheduleItem] | AsyncIterable[ScheduleItem], depth: int = DEPTH
    ) -> AsyncIterator[results.ScheduleReply | Refused | ServerUnreachable]:
        """Schedule tasks, each the fields of one ``schedule``; yields the result of each, in order."""
        channel = self._channel()
        stream = Caller(single=False)
        ahead: deque[Call] = deque()
        try:
            async with contextlib.aclosing(_each(tasks)) as each:
                async for task in each:
                    ahead.append(await channel.begin("schedule", with_id(task), stream))
                    if len(ahead) >= depth:
                        yield await _scheduled(channel, ahead.popleft())
            while ahead:
                yield await _scheduled(channel, ahead.popleft())
        finally:
            stream.left = True

    async def get(self, id: str, *, queue: str | None = None) -> results.TaskInfo:
        """The task itself."""
        return (await self._ask(results.GetReply, "get", plain({"id": id, "queue": queue}))).task

    async def cancel(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None,
        if_version: int | None = None, missing_ok: bool = False,
    ) -> results.CancelReply:  # fmt: skip
        """``cancelled running``: how many ended at once, how many end after the attempt in flight.

        ``missing_ok``: an id that is not known counts 0, and is not raised as ``NotFound``.
        """
        fields = {"id": id, "group": group, "queue": queue, "if_version": if_version}
        try:
            return await self._ask(results.CancelReply, "cancel", plain(fields))
        except NotFound:
            if not missing_ok:
                raise
            return results.CancelReply(True, 0, 0)

    async def reschedule(self, id: str, **fields: Unpack[RescheduleFields]) -> results.RescheduleReply:
        """``version due``: another instant, other fields, or both."""
        return await self._ask(results.RescheduleReply, "reschedule", typed({"id": id, **fields}))

    async def finish(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None, reply: Any = None
    ) -> results.FinishReply:
        """``finished running``: ended as ``done`` from outside; ``reply`` goes to ``on_done``."""
        fields = {"id": id, "group": group, "queue": queue, "reply": reply}
        return await self._ask(results.FinishReply, "finish", plain(fields))

    async def redrive(
        self, id: str | None = None, *, group: str | None = None, queue: str | None = None
    ) -> results.RedriveReply:
        """``redriven``: how many dead or expired tasks start again."""
        fields = {"id": id, "group": group, "queue": queue}
        return await self._ask(results.RedriveReply, "redrive", plain(fields))

    async def pause(self, queue: str) -> results.PauseReply:
        """No attempt of this queue starts until ``resume``."""
        return await self._ask(results.PauseReply, "pause", {"queue": queue})

    async def resume(self, queue: str) -> results.PauseReply:
        """Attempts of this queue start again."""
        return await self._ask(results.PauseReply, "resume", {"queue": queue})

    async def list(
        self, *, queue: str | None = None, state: str | None = None, group: str | None = None,
        limit: int | None = None, cursor: str | None = None,
    ) -> results.TaskList:  # fmt: skip
        """``tasks``, soonest first, and ``cursor`` if there are more."""
        fields = {"queue": queue, "state": state, "group": group, "limit": limit, "cursor": cursor}
        return await self._ask(results.TaskList, "list", plain(fields))

    async def forecast(
        self, *, horizon: Span | None = None, horizon_ms: int | None = None, slices: int | None = None,
        queue: str | None = None,
    ) -> results.ForecastReply:  # fmt: skip
        """``from_ slice_ms counts overdue later``: how many tasks fire when."""
        fields = {"horizon": horizon, "horizon_ms": horizon_ms, "slices": slices, "queue": queue}
        return await self._ask(results.ForecastReply, "forecast", typed(fields))

    async def stats(self) -> results.Stats:
        """Counts, journal, lateness."""
        return await self._ask(results.Stats, "stats", {})

    async def subscribe(
        self, *, from_: str | None = None, queue: str | None = None, group: str | None = None,
        types: Iterable[str] | None = None,
    ) -> AsyncIterator[results.Event]:  # fmt: skip
        """Events as they happen, on a connection of its own; resumes where it was, as ``Client.subscribe``.

        Pass an event's ``cursor`` as ``from_`` to go on after it. Close the generator
        (``contextlib.aclosing``) if you leave it before its end.
        """
        resume = Resume({"queue": queue, "group": group, "types": None if types is None else [*types]}, from_)
        first, lost_s, wait_s = True, math.inf, 0.0
        while True:
            lines = None
            try:
                lines = await connect(self._place)
                await lines.send(resume.request())
                with anyio.fail_after(self._place.timeout_s):
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
                if first or time.monotonic() - lost_s >= self._place.reconnect_s:
                    raise ServerUnreachable(f"subscribe: connection lost ({error!r})") from error
            finally:
                if lines is not None:
                    with anyio.CancelScope(shield=True):
                        await lines.close()
            await anyio.sleep(wait_s)
            wait_s = min(max(2 * wait_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)

    # -- calls on their way ---------------------------------------------------------------------

    def _channel(self) -> AsyncChannel:
        """The channel of this process and event loop. A forked child drops its copies of the parent's."""
        key = (os.getpid(), event_loop())
        channel = self._channels.get(key)
        if channel is None:
            if self._closed:
                raise self._place.over()
            for other in [*self._channels]:
                if other[0] != key[0] and (inherited := self._channels.pop(other, None)) is not None:
                    inherited.forget()
            channel = AsyncChannel(self._place, functools.partial(self._ended, key))
            self._channels[key] = channel
        return channel

    def _ended(self, key: tuple[int, object]) -> None:
        self._channels.pop(key, None)

    async def _ask(self, kind: type[results.R], op: str, request: Reply) -> results.R:
        return (await self._channel().ask(op, request)).result(kind)


async def _scheduled(
    channel: AsyncChannel, call: Call
) -> results.ScheduleReply | Refused | ServerUnreachable:
    try:
        return (await channel.finish(call)).result(results.ScheduleReply)
    except (Refused, ServerUnreachable) as error:
        return error


async def _each(tasks: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task
