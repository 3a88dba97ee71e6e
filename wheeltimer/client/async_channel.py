"""``AsyncChannel``: an ``AsyncClient``'s connection in one event loop, the calls on it, and their reader.

All tasks send their requests on one connection; one task, the reader, takes the replies and gives each to its
call. The first request starts the reader, as a task of the event loop itself, so that no ``async with`` has
to be open around a client. If a task is cancelled its call stays; the reply is read and dropped.
``pipeline.py`` decides which requests are sent again after a lost connection.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio

from wheeltimer.client.async_stream import GONE, Lines, connect
from wheeltimer.client.channel import OF_THE_PARENT, longer, may_pass
from wheeltimer.client.pipeline import Call, Caller, NoReply, Pipeline, Reply
from wheeltimer.client.place import Place
from wheeltimer.errors import BadValue, ClientMisused, Refused, ServerUnreachable


class AsyncChannel:
    """The connection and the calls of one event loop; safe between tasks, also if they are cancelled."""

    def __init__(self, place: Place, ended: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._place = place
        self._ended = ended  # called when the event loop ends
        self._pipeline = Pipeline(place.server)
        self._lines: Lines | None = None  # None: there is no connection at present
        self._over: ServerUnreachable | None = None  # why no request can be sent any more
        self._lost_s: float | None = None  # when the connection was lost; None after the next answer
        self._wait_s = 0.0  # before the next try to connect
        self._unreached: Exception | None = None  # why the last try failed
        self._heard_s = -math.inf  # when the last reply came
        self._wanted = anyio.Event()  # set by a request while there is no connection
        self._scope = anyio.CancelScope()
        self._finished = anyio.Event()
        self._task = _spawn(self._run)

    async def ask(self, op: str, request: Reply) -> Call:
        """One request and its answer."""
        caller = Caller()
        try:
            return await self.finish(await self.begin(op, request, caller))
        except BaseException:
            caller.left = True
            raise

    async def begin(self, op: str, request: Reply, caller: Caller) -> Call:
        """Send a request; without a connection it is sent on the next one."""
        self._same_process()
        if self._over is not None:
            raise self._over
        call = self._pipeline.make(op, request, caller)
        call.answered = anyio.Event()
        call.told = call.answered.set
        self._pipeline.fresh.append(call)
        self._wanted.set()
        lines = self._lines
        if lines is not None:
            with contextlib.suppress(*GONE):  # the reader meets the same error, and acts on it
                await lines.send(self._pipeline.outgoing())
        return call

    async def finish(self, call: Call) -> Call:
        """Wait for the answer; close a connection on which no reply came for ``timeout_s``."""
        self._same_process()
        wait_s = self._place.timeout_s
        while not call.done:
            with anyio.move_on_after(wait_s):
                await call.answered.wait()
            if call.done:
                break
            quiet_s = anyio.current_time() - self._heard_s
            wait_s = self._place.timeout_s - quiet_s
            if wait_s <= 0:
                wait_s = self._place.timeout_s
                if self._lines is not None:
                    await self._lines.close()
        return call

    async def aclose(self) -> None:
        """Close the connection; calls without an answer end with an error."""
        self._over = self._place.over()
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    def forget(self) -> None:
        """In a child process: close its copy of the socket and send nothing; the parent keeps the
        connection."""
        if self._lines is not None:
            self._lines.forget()

    def _same_process(self) -> None:
        if os.getpid() != self.pid:
            raise ClientMisused(OF_THE_PARENT)

    # -- the reader ------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Read answers, connection after connection, until ``aclose`` or the end of the event loop."""
        try:
            with self._scope:
                while self._over is None:
                    if self._lines is not None:
                        await self._read(self._lines)
                    elif self._pipeline.calls or self._pipeline.fresh:
                        await self._connect()
                    else:
                        self._lost_s, self._wait_s = None, 0.0
                        self._wanted = anyio.Event()
                        await self._wanted.wait()
        finally:
            self._pipeline.give_up("the client was closed")
            if self._over is None:  # the event loop ends
                self._over = self._place.over()
                self._ended()
            self._finished.set()

    async def _read(self, lines: Lines) -> None:
        """Give the replies of one connection to their calls until it is lost."""
        line, final = b"", None
        why: object = "its storage failed"
        try:
            while self._pipeline.take(line := await lines.read()) is not None:
                self._lost_s, self._wait_s = None, 0.0
                self._heard_s = anyio.current_time()
        except GONE as error:
            why = str(error) or "the daemon closed the connection"
        except NoReply as error:
            why, final = f"not a reply: {error}", self._pipeline.no_daemon(line)
        finally:
            self._lines = None
            with anyio.CancelScope(shield=True):
                await lines.close()
        if final is not None or not self._place.reconnect_s:
            self._over = self._place.over()
            self._pipeline.give_up(why, final)
            return
        if self._lost_s is None:
            self._lost_s = anyio.current_time()
        else:  # lost again before any answer
            self._wait_s = longer(self._wait_s)
        self._pipeline.lost(why)

    async def _connect(self) -> None:
        """Try once to connect. After ``reconnect_s`` of failures all calls end; the next one tries again."""
        now_s = anyio.current_time()
        if self._lost_s is None:
            self._lost_s = now_s
        elif now_s - self._lost_s > self._place.reconnect_s:
            self._give_up(self._unreached)
            return
        await anyio.sleep(self._wait_s)
        try:
            lines = await connect(self._place)
        except (ServerUnreachable, Refused, BadValue) as error:
            passing = not isinstance(error, BadValue) and may_pass(error, self._pipeline)
            if not self._place.reconnect_s or not passing:
                self._give_up(error)
                return
            self._unreached = error
            self._wait_s = longer(self._wait_s)
            return
        self._lines, self._heard_s = lines, anyio.current_time()
        with contextlib.suppress(*GONE):  # the reader meets the same error, and acts on it
            # A call that begins meanwhile is sent after these.
            await lines.send(self._pipeline.outgoing())

    def _give_up(self, error: Exception | None) -> None:
        self._pipeline.give_up(f"and not back within {self._place.reconnect_s:g} s", unsent=error)
        self._lost_s, self._wait_s, self._unreached = None, 0.0, None


def event_loop() -> object:
    """The running event loop, as Trio's token or asyncio's loop: a connection belongs to one."""
    if _in_trio():
        import trio

        return trio.lowlevel.current_trio_token()
    import asyncio

    return asyncio.get_running_loop()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def _spawn(run: Callable[[], Any]) -> object:
    """Start a task of the event loop itself; it is cancelled when the loop ends.

    Keep the result: asyncio has only a weak reference to a task.
    """
    if _in_trio():
        import trio

        return trio.lowlevel.spawn_system_task(run)
    import asyncio

    return asyncio.get_running_loop().create_task(run())
