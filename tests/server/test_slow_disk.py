"""A commit that hangs: clients wait, in bounded memory; timers and callbacks do not; nobody is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import trio_test

from tests.daemon.worlds import settle, world
from tests.server.test_connection_ends import Client, Site, schedule, site, until
from wheeltimer.journal import UNSYNCED_BYTES_MAX, Journal
from wheeltimer.server.rejection import RECEIVE_BYTES

CLIENTS = 12
BODY = "x" * 30_000
A_READ = 2 * RECEIVE_BYTES  # what one slice may add: what was read, and a line that was begun


@asynccontextmanager
async def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A ``site`` whose clients are closed at its end."""
    async with site(folder, monkeypatch) as here:
        clients: list[Client] = []
        plain = here.connect

        async def connect() -> Client:
            clients.append(await plain())
            return clients[-1]

        here.connect = connect
        yield here
        for client in clients:
            await client.stream.aclose()


async def _hang(here: Site) -> None:
    """The disk hangs in the middle of a commit."""
    here.disk.slow = True
    client = await here.connect()
    await client.send(schedule("in-the-commit"))
    await settle()
    assert here.daemon.journal.unsynced_bytes > 0


@trio_test
async def test_what_waits_for_a_disk_that_hangs_is_bounded_and_nobody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, monkeypatch) as here:
        journal = here.daemon.journal
        clients = [await here.connect() for _ in range(CLIENTS)]
        await _hang(here)

        async def send(number: int, client: Any) -> None:
            for n in range(10):
                await client.send(schedule(f"{number}-{n}", body=BODY))

        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(send, number, client)
            for _ in range(50):
                await trio.sleep(0.002)  # real sockets: what is on its way comes
                assert journal.unsynced_bytes <= journal.unsynced_bytes_max + A_READ
            assert journal.unsynced_bytes >= journal.unsynced_bytes_max
            assert here.daemon.engine.live < CLIENTS * 10, "they were all taken"
            here.disk.catch_up()
        for number, client in enumerate(clients):
            for n in range(10):
                reply = await client.reply()
                assert reply["ok"], reply
                assert reply["id"] == f"{number}-{n}"
        assert here.daemon.memory.uncommitted_bytes == 0


@trio_test
async def test_replies_that_wait_for_a_disk_that_hangs_are_bounded_beyond_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads append nothing, and their replies wait all the same."""
    async with place(tmp_path, monkeypatch) as here:
        clients = [await here.connect() for _ in range(CLIENTS)]
        assert (await clients[0].ask(**schedule("big", body=BODY)))["ok"]
        await _hang(here)
        most = here.daemon.journal.unsynced_bytes_max
        for client in clients:
            await client.send(*({"op": "get", "id": "big"} for _ in range(3)))
        for _ in range(50):
            await trio.sleep(0.002)
            assert here.daemon.memory.uncommitted_bytes <= most + 3 * (len(BODY) + 1000)
        assert here.daemon.memory.uncommitted_bytes > 0
        here.disk.catch_up()
        for client in clients:
            for _ in range(3):
                assert (await client.reply())["task"]["body"] == BODY
        assert here.daemon.memory.uncommitted_bytes == 0


@trio_test
async def test_what_is_durable_is_called_while_no_connection_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, monkeypatch) as here:
        client, other = await here.connect(), await here.connect()
        assert (await client.ask(**schedule("durable", delay=1000)))["ok"]
        await _hang(here)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: other.send(*(schedule(f"s{n}", body=BODY) for n in range(20))))
            while here.daemon.journal.unsynced_bytes < here.daemon.journal.unsynced_bytes_max:  # noqa: ASYNC110
                await trio.sleep(0.002)
            assert here.daemon.attempts == []
            await here.daemon.advance(1001)
            assert here.daemon.attempts == ["durable"]
            here.disk.catch_up()
        assert (await client.ask(op="get", id="durable"))["task"]["state"] == "done"


@trio_test
async def test_a_client_that_goes_while_it_waits_to_be_read_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, monkeypatch) as here:
        client, other = await here.connect(), await here.connect()
        await _hang(here)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.send(*(schedule(f"s{n}", body=BODY) for n in range(12))))
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        await client.reset()
        here.disk.catch_up()
        assert (await other.ask(op="ping"))["ok"]
        while here.server.connections > 2:  # noqa: ASYNC110
            await trio.sleep(0.002)
        assert here.daemon.memory.uncommitted_bytes == 0


@trio_test
async def test_a_group_of_many_waits_for_a_disk_that_hangs_and_uses_up_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel of a group makes as many records as it has members, from one line."""
    members = 3000
    async with place(tmp_path, monkeypatch) as here:
        for at in range(0, members, 100):
            await here.daemon.ask_all([schedule(f"g{n}", group="g", delay="1h") for n in range(at, at + 100)])
        monkeypatch.setattr("wheeltimer.runtime.time_slices.SLICE_NS", 0)  # one member a slice
        client = await here.connect()
        await _hang(here)
        journal = here.daemon.journal
        await client.send({"op": "cancel", "group": "g"})
        for _ in range(200):
            await trio.sleep(0.001)
        assert journal.unsynced_bytes < journal.unsynced_bytes_max + 4096
        here.disk.catch_up()
        reply = await client.reply()
        assert (reply["cancelled"], reply["running"]) == (members, 0)


def test_the_bound_leaves_room_in_any_segment(tmp_path: Path) -> None:
    """A disk that is slow must never look like one that is full."""

    async def main() -> None:
        for segment_bytes in (1 << 20, 64 << 20):
            folder = tmp_path / str(segment_bytes)
            async with world(folder, segment_bytes=segment_bytes) as daemon:
                journal: Journal = daemon.journal
                assert journal.unsynced_bytes_max == min(UNSYNCED_BYTES_MAX, segment_bytes // 8)
                assert journal._room - journal.unsynced_bytes_max > segment_bytes // 4

    trio.run(main)


@trio_test
async def test_a_commit_sends_the_replies_that_it_made_true_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, monkeypatch) as here:
        here.disk.slow = True
        client = await here.connect()
        await client.send(schedule("first"))
        await until(lambda: here.daemon.memory.waiting == 1)
        await client.send(schedule("second"))
        await until(lambda: here.daemon.memory.waiting == 2)
        here.disk.end_one()
        await until(lambda: here.daemon.memory.waiting == 1)
        assert (await client.reply())["id"] == "first"
        assert [b"second" in replies for _, replies in here.only()._outbox._waiting] == [True]
        here.disk.catch_up()
        assert (await client.reply())["id"] == "second"
