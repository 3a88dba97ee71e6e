"""The production daemon for one cell of the table: its own sockets, its own HTTP, a clock that leaps.

It is the simulated world (``tests/simulation/world.py``) with one thing more that is real: callbacks go
through production's transport, over a socket pair, to a receiver that reads them as they stand on the wire.
Ledger, journal, ticker, dispatcher, connections, subscriptions, recovery and drain are production's, started
by its composition root; only the disk, the clock and the far ends of the sockets belong to the test.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec
import trio
import trio.testing

from tests.simulation.checks import Stories
from tests.simulation.clients import Lines
from tests.simulation.disk import SimDisk
from tests.simulation.fake_environment import SimClock
from tests.simulation.history import History
from tests.simulation.world import LIMITS, SimDaemon, World, in_place
from tests.simulation.world_facts import Facts
from wheeltimer.core.invariants import check
from wheeltimer.core.task import Now
from wheeltimer.daemon import run
from wheeltimer.delivery import transport
from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.resolve import Address
from wheeltimer.delivery.shortage import Shortage
from wheeltimer.settings import Settings
from wheeltimer.settings.definitions import Journal as JournalKnobs
from wheeltimer.settings.definitions import Queue

SHORT_S: Final = 40
KEEP_S: Final = 300  # how long ended tasks stay known here
OK: Final = (200, b"ok", b"")
_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, and dear to make
Reply = dict[str, Any]


class Call(NamedTuple):
    """A request as its receiver saw it."""

    at: Now
    path: str
    headers: dict[str, str]
    body: Reply


class Cell(World):
    """One daemon, or two in a row, and all that was seen of the task ``t``.

    ``answers``: what the next callbacks of ``t`` are answered, (status, body, more header lines) or None for
    never; then ``OK``. Until ``held`` is set, those of ``t`` and ``other`` wait. While ``down`` nobody can
    connect to 127.0.0.1. With ``short`` no connection is kept, and from the input on, for ``SHORT_S``, none
    can be made for our own shortage; one that is held is found to be such when it is let go.
    """

    def __init__(self) -> None:
        clock = SimClock()
        super().__init__(
            1, SimDisk(1), clock, Stories(Facts(History(clock.true_ns))), told=False,
            limits=msgspec.structs.replace(
                LIMITS, drain_ms=30_000, history_max=20, keep_done_ms=KEEP_S * 1000,
                keep_dead_ms=KEEP_S * 1000,
            ),
        )  # fmt: skip
        self.zero_ms = 0  # the wall clock when the input came
        self.events: list[Reply] = []
        self.calls: list[Call] = []
        self.answers: list[tuple[int, bytes, bytes] | None] = []
        self.held = trio.Event()
        self.held.set()
        self.down = False
        self.short = False
        self._cursor: str | None = None
        self._wires: list[socket.socket] = []  # the daemon's ends of the connections to the receiver
        self.outside: trio.Nursery | None = None  # of all that is no part of the daemon

    def now_ms(self) -> int:
        return self.clock.now().wall_ms

    def _settings(self) -> Settings:
        return Settings(
            listen=(), data_dir=super()._settings().data_dir, wheel_size=64, limits=self.limits,
            queues={"one": Queue(concurrency=1)}, journal=JournalKnobs(segment_bytes=131_072),
        )  # fmt: skip

    def _look(self, daemon: SimDaemon) -> None:
        check(daemon.engine)

    # -- a life ---------------------------------------------------------------------------------

    async def serve(self, body: Callable[[], Awaitable[None]]) -> int | None:
        """A process until ``body`` returns, which is a kill -9, or until it ends by itself: its exit code."""

        async def both(world: World, nursery: trio.Nursery) -> None:
            await nursery.start(self._subscribe)
            await body()

        try:
            return await self.live(both)
        finally:  # the end of a process closes what it had open
            for wire in self._wires:
                wire.close()

    async def settle(self, limit_s: float = 0.05) -> None:
        """Until nothing moves any more without the clock, and what was decided is on disk and was told."""
        await trio.sleep(limit_s)

    async def _subscribe(self, task_status: trio.TaskStatus[None]) -> None:
        """Hear the events, from where the last life's ended."""
        async with self.door.connect() as stream:
            lines = Lines(stream)
            asked = {"op": "subscribe"} if self._cursor is None else {"op": "subscribe", "from": self._cursor}
            await stream.send_all(json.dumps(asked).encode() + b"\n")
            reply = await lines.next()
            assert reply["ok"], reply
            task_status.started()
            with contextlib.suppress(EOFError, trio.BrokenResourceError):
                while True:
                    event = await lines.next()
                    self._cursor = event["cursor"]
                    self.events.append(event)

    # -- the receiver ---------------------------------------------------------------------------

    async def connect(self, addresses: list[Address]) -> socket.socket:
        """In the place of ``resolve.connect``."""
        await trio.lowlevel.checkpoint()
        if self.short and not self.held.is_set():
            await self.held.wait()
        if self.short and self.zero_ms and self.now_ms() < self.zero_ms + SHORT_S * 1000:
            raise Shortage("descriptors", "Too many open files")
        if self.down and addresses[0].sockaddr[0] == "127.0.0.1":
            raise AttemptError("connect", "Connection refused")
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        self._wires.append(ours)
        assert self.outside is not None
        self.outside.start_soon(self._receive, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
        return ours

    async def _receive(self, stream: trio.SocketStream) -> None:
        """HTTP as it comes, one request after the other."""
        data = b""
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                while part := await stream.receive_some():
                    data += part
                    head, end, rest = data.partition(b"\r\n\r\n")
                    first, *lines = head.decode("ascii").split("\r\n")
                    headers = dict(line.split(": ", 1) for line in lines) if end else {}
                    if not end or len(rest) < int(headers["content-length"]):
                        continue
                    data = b""
                    answer = await self._answer(first.split(" ")[1], headers, json.loads(rest))
                    if answer is None:
                        await trio.sleep_forever()
                        return
                    status, body, more = answer
                    await stream.send_all(
                        b"HTTP/1.1 %d Told\r\n%bcontent-length: %d\r\n\r\n%b"
                        % (status, more, len(body), body)
                    )

    async def _answer(
        self, path: str, headers: dict[str, str], body: Reply
    ) -> tuple[int, bytes, bytes] | None:
        self.calls.append(Call(self.clock.now(), path, headers, body))
        id = headers["wheeltimer-id"]
        await trio.sleep(0.001)
        if id not in ("t", "other"):
            return OK
        await self.held.wait()
        return self.answers.pop(0) if id == "t" and self.answers else OK

    # -- what is asked --------------------------------------------------------------------------

    async def put(self, request: Reply) -> Reply:
        """One request and its reply."""
        async with self.door.connect() as stream:
            await stream.send_all(json.dumps(request).encode() + b"\n")
            return await Lines(stream).next()

    async def task(self, queue: str) -> Reply | None:
        """``t`` as ``get`` shows it."""
        reply = await self.put({"op": "get", "id": "t", "queue": queue})
        assert reply["ok"] or reply["error"] == "not_found"
        return reply.get("task")

    async def until(self, after_s: float) -> None:
        """Sleep until so long after the input."""
        await trio.sleep(max(0.0, (self.zero_ms - self.now_ms()) / 1000 + after_s))


@contextlib.contextmanager
def _placed(cell: Callable[[], Cell]) -> Iterator[None]:
    with (
        in_place(cell, 1),
        patch.object(
            run,
            "transport_of",
            lambda settings, rule, idle_max: transport.Transport(
                rule.check, ssl_context=_TLS, idle_max=0 if cell().short else idle_max
            ),
        ),
        patch.object(transport, "connect", lambda addresses, *given: cell().connect(addresses)),
    ):
        yield


def play(story: Callable[[Cell], Awaitable[None]]) -> Cell:
    """One cell's world, from an empty disk to the end of the story."""
    made: list[Cell] = []

    async def run_it() -> None:
        with _placed(lambda: made[0]):
            made.append(cell := Cell())
            async with trio.open_nursery() as cell.outside:
                await story(cell)
                cell.outside.cancel_scope.cancel()

    trio.run(run_it, clock=trio.testing.MockClock(autojump_threshold=0))
    return made[0]
