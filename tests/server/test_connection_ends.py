"""Clients that vanish at the worst moment: nothing of them stays open, and nobody else is held up.

Real sockets on loopback, a real ``Server``, and a disk that is slow when the test says so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import trio_test

from tests.daemon import worlds
from tests.daemon.worlds import URL, World, settle, world
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import InlineWorker
from wheeltimer.journal.worker import Job
from wheeltimer.server import connection
from wheeltimer.server.server import Server
from wheeltimer.settings import Limits

WITHIN_S = 10.0  # for what takes a few turns of the loop, on a machine that is busy
UNREAD_BYTES_MAX = 1000
BIG = "x" * 60_000


class SlowDisk(InlineWorker):
    """Commits are done at once, or, while it is ``slow``, not before ``catch_up``."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self._late: list[Job] = []

    def submit(self, job: Job) -> None:
        if self.slow:
            self._late.append(job)
        else:
            super().submit(job)

    def end_one(self) -> None:
        """The oldest of what waits is done; the disk stays slow."""
        super().submit(self._late.pop(0))

    def catch_up(self) -> None:
        self.slow = False
        while self._late:
            super().submit(self._late.pop(0))


class Client:
    """A client that reads only when it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def send(self, *requests: dict[str, Any]) -> None:
        await self.stream.send_all(b"".join(json.dumps(request).encode() + b"\n" for request in requests))

    async def reply(self) -> dict[str, Any]:
        while b"\n" not in self._data:
            data = await self.stream.receive_some()
            assert data, "the daemon closed the connection"
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def ask(self, **request: Any) -> dict[str, Any]:
        await self.send(request)
        return await self.reply()

    async def reset(self) -> None:
        """Go away with a RST, as a client that crashed."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.stream.aclose()


@dataclass
class Site:
    """A daemon that listens; ``connect`` gives it one more client."""

    daemon: World
    disk: SlowDisk
    server: Server
    connect: Callable[[], Any]

    def only(self) -> Any:
        """The server's end of the one connection there is."""
        (connection,) = self.server._open
        return connection


@asynccontextmanager
async def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A daemon without its clients; all that is left at the end must go by itself, and in time."""
    disk = SlowDisk()
    monkeypatch.setattr(worlds, "InlineWorker", lambda: disk)
    with trio.fail_after(WITHIN_S):
        limits = Limits(unread_bytes_max=UNREAD_BYTES_MAX)
        async with world(folder, limits=limits) as daemon, trio.open_nursery() as nursery:
            server = Server(daemon.requests, daemon.subscriptions, daemon.memory, limits)
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            await nursery.start(trio.serve_listeners, server.serve, listeners)

            async def connect() -> Client:
                return Client(await trio.open_tcp_stream("127.0.0.1", port))

            yield Site(daemon, disk, server, connect)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Sockets are not the loop's: what happens there is waited for, within the time of ``site``."""
    while not condition():  # noqa: ASYNC110 -- nothing tells the loop of it
        await trio.sleep(0.001)


def left_over(connection: Any) -> bool:
    """Whether lines came that are not answered."""
    return connection._lines.more or connection._answered < len(connection._asked)


def schedule(id: str, **fields: Any) -> dict[str, Any]:
    return {"op": "schedule", "id": id, "url": URL, "delay": "1h"} | fields


async def goes_on(here: Site) -> None:
    """Others are served, to the disk and back, and nobody stays behind them."""
    before = here.server.connections
    other = await here.connect()
    assert (await other.ask(**schedule("other")))["ok"]
    assert here.server.connections == before + 1
    await other.stream.aclose()
    await until(lambda: here.server.connections == before)


@pytest.fixture(autouse=True)
def _no_bug(caplog: pytest.LogCaptureFixture) -> Any:
    """A client that vanishes is no bug, so nothing is logged as one."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("last_words", ["none", "half closed"])
@trio_test
async def test_a_client_reset_while_its_reply_waits_for_the_disk_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_words: str
) -> None:
    """Its reader sees it go; where the client had said that it has no more to say, only the commit does."""
    async with site(tmp_path, monkeypatch) as here:
        here.disk.slow = True
        client = await here.connect()
        await client.send(schedule("a"), schedule("b"))
        await until(lambda: here.daemon.memory.waiting > 0)
        if last_words == "half closed":
            connection = here.only()
            await client.stream.send_eof()
            await until(lambda: connection._outbox._closing)
            await client.reset()
            await settle()
            assert here.server.connections == 1, "its replies are not thrown away before the disk is done"
        else:
            await client.reset()
            await until(lambda: here.server.connections == 0)
        here.disk.catch_up()
        await until(lambda: not here.server.connections and not here.daemon.memory.waiting)
        await goes_on(here)
        assert (await here.daemon.ask(op="get", id="b"))["ok"], "what was asked is done, read or not"


@trio_test
async def test_a_client_reset_with_too_many_replies_waiting_for_the_disk_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader waits for room and so does not look at the socket: the commit tells it."""
    async with site(tmp_path, monkeypatch) as here:
        here.disk.slow = True
        client = await here.connect()
        # Longer than a slice, so that what is left over waits until replies are read.
        await client.send(*(schedule(f"t{n}") for n in range(700)))
        await until(lambda: here.server.connections == 1)
        connection = here.only()
        await until(lambda: connection.unread_bytes >= UNREAD_BYTES_MAX)
        await settle()
        assert left_over(connection), "the reader does not wait, and this test means nothing"
        await client.reset()
        await settle()
        assert here.server.connections == 1
        here.disk.catch_up()
        await until(lambda: not here.server.connections and not here.daemon.memory.waiting)
        await goes_on(here)


@pytest.mark.parametrize("how", ["reset", "closed"])
@trio_test
async def test_a_client_gone_with_too_many_replies_unread_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """All is on disk, the socket takes no more, the reader waits until the client reads: it never will."""
    async with site(tmp_path, monkeypatch) as here:
        client = await here.connect()
        assert (await client.ask(**schedule("big", body_text=BIG)))["ok"]
        await client.send(*({"op": "get", "id": "big"} for _ in range(1000)))
        connection = here.only()
        await until(lambda: bool(connection._outbox._rest) and connection.unread_bytes >= UNREAD_BYTES_MAX)
        await settle()
        assert left_over(connection), "the reader does not wait"
        await goes_on(here)
        await (client.reset if how == "reset" else client.stream.aclose)()
        await until(lambda: not here.server.connections and not here.daemon.memory.waiting)
        await goes_on(here)


@trio_test
async def test_a_commit_answers_others_beside_clients_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit for ten clients, every other one gone meanwhile: those that stayed get their replies."""
    async with site(tmp_path, monkeypatch) as here:
        here.disk.slow = True
        clients = [await here.connect() for _ in range(10)]
        for number, client in enumerate(clients):
            await client.send(schedule(f"t{number}"))
            await until(partial(lambda count: here.daemon.memory.waiting == count, number + 1))
        for client in clients[::2]:
            await client.reset()
        await until(lambda: here.server.connections == 5)
        here.disk.catch_up()
        for number, client in enumerate(clients[1::2]):
            reply = await client.reply()
            assert (reply["ok"], reply["id"]) == (True, f"t{2 * number + 1}")
            await client.stream.aclose()
        await until(lambda: not here.server.connections and not here.daemon.memory.waiting)
        await goes_on(here)


async def drip(client: Client, data: bytes) -> None:
    for byte in data:
        await client.stream.send_all(bytes([byte]))
        await settle()


@trio_test
async def test_a_line_that_comes_in_drops_does_not_wake_the_loop_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred such connections at once made every pass of the loop 50 ms long."""
    reads = 0

    def readv(fd: int, buffers: tuple[memoryview]) -> int:
        nonlocal reads
        reads += 1
        return os.readv(fd, buffers)

    monkeypatch.setattr(connection, "os", SimpleNamespace(readv=readv, write=os.write))
    pause_s = connection.DROPS_PAUSE_S
    monkeypatch.setattr(connection, "DROPS_PAUSE_S", 3600)
    async with site(tmp_path, monkeypatch) as here:
        first = await here.connect()
        await drip(first, b"{" * 100)
        assert reads == connection.DROPS_MAX + 1
        monkeypatch.setattr(connection, "DROPS_PAUSE_S", pause_s)
        second = await here.connect()
        await drip(second, b"{" * 100)
        await trio.sleep(4 * pause_s)
        assert reads == 2 * (connection.DROPS_MAX + 1), "they are read one after the other"
        await second.stream.aclose()
        await first.stream.aclose()


@trio_test
async def test_a_line_that_came_in_drops_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, monkeypatch) as here:
        client = await here.connect()
        await drip(client, json.dumps({"op": "ping", "seq": "x" * 200}).encode())
        await client.stream.send_all(b"\n")
        assert (await client.reply())["seq"] == "x" * 200
        await client.stream.aclose()


@trio_test
async def test_what_a_client_that_is_gone_asked_for_is_not_worked_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that sent thousands of requests and were gone piled up faster than they were answered."""
    async with site(tmp_path, monkeypatch) as here:
        answered: list[int] = []
        answer = here.daemon.requests.answer

        async def counted(lines: list[bytes], *rest: Any) -> tuple[int, bytes]:
            done, replies = await answer(lines, *rest)
            answered.append(done)
            return done, replies

        monkeypatch.setattr(here.daemon.requests, "answer", counted)
        client = await here.connect()
        await client.stream.send_all(b'{"op":"ping"}\n' * 4000)
        await client.reset()
        await settle()
        assert here.server.connections == 0
        assert sum(answered) < 2000, answered


@trio_test
async def test_a_storage_failure_has_no_last_words_for_a_client_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(tmp_path, monkeypatch) as here:
        client = await here.connect()
        await client.ask(op="ping")
        ends = here.only()
        ends.cut()
        ends.fail(StorageFailed("the disk is gone"))
        await until(lambda: not here.server._open)
        await client.stream.aclose()
    assert "connection failed inside" not in caplog.text


@trio_test
async def test_a_storage_failure_says_nothing_behind_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a client reads until the end is whole lines of before, and perhaps a half one at the end."""
    async with site(tmp_path, monkeypatch) as here:
        client = await here.connect()
        await client.ask(op="schedule", id="big", url=URL, delay="1h", body=BIG)
        await client.send(*[{"op": "get", "id": "big"}] * 400)
        ends = here.only()
        await until(lambda: bool(ends._outbox._rest))
        ends.fail(StorageFailed("the disk is gone"))
        data = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while part := await client.stream.receive_some():
                data += part
        await client.stream.aclose()
    assert data
    assert b'"storage"' not in data
