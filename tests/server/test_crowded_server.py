"""One client that asks for a little, beside many that mean harm: what it waits for, and what they cost.

Real sockets on loopback and a real ``Server``; slices are over when the stopwatch of the test says so.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.daemon.worlds import URL, Stopwatch, world
from tests.process.daemon import until
from tests.server.hostile import Threaded
from wheeltimer.runtime.ratelog import QUIET_S, RateLimitedLog
from wheeltimer.runtime.time_slices import SLICE_NS
from wheeltimer.server.client_memory import ClientMemory
from wheeltimer.server.connection import LITTLE_VISITS
from wheeltimer.server.server import Server
from wheeltimer.server.service import Service
from wheeltimer.settings import Limits

PING = b'{"op":"ping"}\n'
BIG = "x" * 60_000


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def served(folder: Path, limits: Limits) -> AsyncIterator[tuple[Server, ClientMemory, int]]:
    """A daemon that listens, what it counts of its clients, and its port."""
    async with world(folder, limits=limits) as daemon, trio.open_nursery() as nursery:
        server = Server(daemon.requests, daemon.subscriptions, daemon.memory, limits)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, server.serve, listeners)
        yield server, daemon.memory, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ask(stream: trio.SocketStream, **request: Any) -> dict[str, Any]:
    await stream.send_all(json.dumps(request).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        more = await stream.receive_some()
        assert more, "the daemon closed the connection"
        data += more
    reply: dict[str, Any] = json.loads(data)
    return reply


@pytest.mark.parametrize("fresh", [False, True], ids=["known", "fresh"])
@trio_test
async def test_a_request_passes_the_backlog_of_forty_clients_that_pipeline(
    tmp_path: Path, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """Also one on a connection of its own, as the command line makes it."""
    decided: list[int] = []
    slice_ = Service._slice

    def counted(self: Service, lines: list[bytes], at: int, *rest: Any) -> Any:
        upto, long = slice_(self, lines, at, *rest)
        decided.append(upto - at)
        return upto, long

    async def floods(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(reads, stream)
            while True:
                await stream.send_all(PING * 5000)

    async def reads(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    monkeypatch.setattr(Service, "_slice", counted)
    async with served(tmp_path, Limits()) as (_, _, port), trio.open_nursery() as nursery:
        quiet = await trio.open_tcp_stream("127.0.0.1", port)
        for number in range(LITTLE_VISITS):
            assert (await ask(quiet, op="ping", seq=number))["ok"]
        for _ in range(40):
            nursery.start_soon(floods, port)
        stopwatch.step_ns = SLICE_NS
        while len(decided) < 200:
            await trio.lowlevel.checkpoint()
        between = []
        for _ in range(20):
            before = len(decided)
            if fresh:
                await quiet.aclose()
                quiet = await trio.open_tcp_stream("127.0.0.1", port)
            assert (await ask(quiet, op="ping"))["ok"]
            between.append(len(decided) - before)
        await quiet.aclose()
        nursery.cancel_scope.cancel()
    assert max(decided) <= 256
    # The client here is in the same loop, and takes a few passes of it to write and to read.
    assert sum(between) / len(between) < 20, f"it stood in line behind the others: {between}"


@trio_test
async def test_beyond_clients_bytes_max_those_who_hold_most_are_cut_and_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Thirty that read nothing, each well within what one client may leave unread."""
    limits = Limits(clients_bytes_max=2 << 20, unread_bytes_max=1 << 20)
    async with served(tmp_path, limits) as (server, memory, port):
        reader = await trio.open_tcp_stream("127.0.0.1", port)
        assert (await ask(reader, op="schedule", id="big", url=URL, delay="1h", body_text=BIG))["ok"]
        deaf = []
        most_bytes = 0
        for _ in range(30):
            sock = trio.socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await sock.connect(("127.0.0.1", port))
            deaf.append(trio.SocketStream(sock))
            await deaf[-1].send_all(b'{"op":"get","id":"big"}\n' * 200)
            assert (await ask(reader, op="ping"))["ok"]
            most_bytes = max(most_bytes, memory.held_bytes)
        while server.connections > 5:
            assert (await ask(reader, op="get", id="big"))["ok"]
            most_bytes = max(most_bytes, memory.held_bytes)
            await trio.sleep(0.001)
        assert most_bytes <= limits.clients_bytes_max
        for stream in deaf:
            await stream.aclose()
        while server.connections > 1:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert memory.held_bytes == 0, "what was counted in was counted out"
        await reader.aclose()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "clients held too much" in said[0]


@pytest.mark.parametrize("sent", [PING * 1000, b'{"op":"stats"}\n{"op":'], ids=["requests", "half a line"])
def test_a_client_that_vanishes_leaves_no_cycles_for_the_collector(tmp_path: Path, sent: bytes) -> None:
    """35 objects of each were left: collecting those of a thousand a second stopped the loop for 0.5 s."""
    with Threaded(tmp_path) as site:
        host, _, port = site.address.rpartition(":")

        def vanish() -> None:
            client = socket.create_connection((host, int(port)))
            client.sendall(sent)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

        def alone() -> None:
            for _ in until():
                if not site.server.connections:
                    return

        vanish()
        alone()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                vanish()
            alone()
            assert site.call(lambda _: gc.collect()) < 50 * 10
        finally:
            gc.enable()


@trio_test
async def test_stats_of_many_queues_lets_others_in_between(tmp_path: Path, stopwatch: Stopwatch) -> None:
    """Queues come with the first task of their name: a client may make as many as tasks."""
    async with world(tmp_path) as daemon:
        for first in range(0, 1000, 100):
            await daemon.ask_all(
                [
                    {"op": "schedule", "id": "a", "queue": f"q{number}", "url": URL, "delay": "1h"}
                    for number in range(first, first + 100)
                ]
            )
        stopwatch.step_ns = SLICE_NS
        passes = 0

        async def count() -> None:
            nonlocal passes
            while True:
                await trio.lowlevel.checkpoint()
                passes += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            stats = await daemon.ask(op="stats", seq=7)
            nursery.cancel_scope.cancel()
    assert passes >= 4
    assert stats["seq"] == 7
    assert stats["queues"] == {f"q{number}": {"paused": False, "scheduled": 1} for number in range(1000)}
    assert stats["tasks"]["scheduled"] == 1000


@trio_test
async def test_what_clients_can_have_logged_is_said_once_and_counted(
    autojump: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line = RateLimitedLog(logging.getLogger("test"), logging.INFO)
    for number in range(1000):
        line.say("no handshake: %s", f"reason {number}")
    await trio.sleep(QUIET_S)
    line.say("no handshake: %s", "again")
    await trio.sleep(QUIET_S / 2)
    line.say("no handshake: %s", "once more")
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(";")[0] for text in said] == [
        "no handshake: reason 0 unsaid=0", "no handshake: again unsaid=999",
    ]  # fmt: skip
