"""``AsyncClient``: connects at first use, outlives a daemon that is away; cancelled tasks shift no reply."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from tests.client.echo import EchoServer, Request, echo
from wheeltimer.client import AsyncClient, Client
from wheeltimer.errors import BadValue, ServerUnreachable

URL = "http://x/"


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda main: anyio.run(main, backend=request.param)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_making_one_does_no_io_and_checks_its_arguments(kind: Any) -> None:
    kind(f"127.0.0.1:{_free_port()}", token="t")
    with pytest.raises(BadValue, match="HOST:PORT"):
        kind("127.0.0.1:0")


def test_without_a_block_around_it(run: Any) -> None:
    async def main() -> None:
        client = AsyncClient(server.address)
        assert (await client.schedule(URL, id="a")).id == "a"
        await client.aclose()
        await client.aclose()
        with pytest.raises(ServerUnreachable, match="make a new client"):
            await client.ping()

    with EchoServer() as server:
        run(main)
    assert len(server.connections) == 1


def test_an_event_loop_that_ends_without_aclose_closes_the_connection(run: Any) -> None:
    """And the next event loop has one of its own, as in a worker that calls ``asyncio.run`` for each job."""

    async def main() -> None:
        assert (await client.schedule(URL, id="a")).id == "a"

    with EchoServer() as server:
        client = AsyncClient(server.address)
        run(main)
        run(main)
    assert [len(requests) for requests in server.connections] == [1, 1]


def test_a_client_that_was_never_used_connects_nowhere_and_is_closed_for_good(run: Any) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            pass
        with pytest.raises(ServerUnreachable, match="make a new client"):
            await client.ping()

    with EchoServer() as server:
        run(main)
    assert server.connections == []


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_daemon_that_is_away_at_the_start(run: Any, kind: str) -> None:
    server = EchoServer()
    server._listener.close()
    begun = threading.Event()

    def begin() -> None:
        begun.wait(10)
        port = int(server.address.rpartition(":")[2])
        server._listener = socket.create_server(("127.0.0.1", port))
        server.__enter__()

    async def main() -> None:
        async with AsyncClient(server.address, reconnect=20) as client:
            begun.set()
            assert (await client.schedule(URL, id="a")).id == "a"

    thread = threading.Thread(target=begin)
    thread.start()
    if kind == "async":
        run(main)
    else:
        with Client(server.address, reconnect=20) as client:
            begun.set()
            assert client.schedule(URL, id="a").id == "a"
    thread.join(10)
    server.__exit__(None, None, None)


@pytest.mark.parametrize("reconnect", [0, 0.1])
def test_a_daemon_that_stays_away(run: Any, reconnect: float) -> None:
    """Nothing was sent, so the outcome is no secret; and the next request tries anew."""

    async def main() -> None:
        async with AsyncClient(address, reconnect=reconnect) as client:
            for _ in range(2):
                with pytest.raises(ServerUnreachable, match="start one with") as caught:
                    await client.schedule(URL, id="a")
                assert type(caught.value) is ServerUnreachable

    address = f"127.0.0.1:{_free_port()}"
    run(main)
    with Client(address, reconnect=reconnect) as client:
        for _ in range(2):
            with pytest.raises(ServerUnreachable, match="start one with") as caught:
                client.schedule(URL, id="a")
            assert type(caught.value) is ServerUnreachable


@pytest.mark.parametrize("first", [False, True], ids=["on a connection", "while it connects"])
def test_a_task_that_is_cancelled_at_any_step_shifts_no_reply(run: Any, first: bool) -> None:
    """Cancelled after 0, 1, 2, ... turns of the event loop, beside others that go on."""

    async def round(steps: int) -> None:
        async with AsyncClient(server.address, timeout=5) as client:
            if not first:
                await client.ping()

            async def ask(name: str) -> None:
                assert (await client.schedule(URL, id=name)).id == name

            async def leave(name: str) -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await ask(name)

            async def leave_stream() -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    tasks = ({"url": URL, "id": f"s{n}"} for n in range(20))
                    async with aclosing(client.schedule_many(tasks, depth=4)) as many:
                        number = 0
                        async for reply in many:
                            assert reply.id == f"s{number}"  # type: ignore[union-attr]
                            number += 1

            scopes: list[anyio.CancelScope] = []
            async with anyio.create_task_group() as group:
                group.start_soon(ask, "beside")
                group.start_soon(leave, "left")
                group.start_soon(leave_stream)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                for scope in scopes:
                    scope.cancel()
                group.start_soon(ask, "after")
            await ask("last")

    async def main() -> None:
        for steps in range(40):
            await round(steps)

    with EchoServer() as server:
        run(main)


def test_a_wrong_seq_closes_the_connection(run: Any) -> None:
    count = 0

    def seq(right: int) -> int:
        nonlocal count
        count += 1
        return right - (count == 3)

    async def main() -> None:
        async with AsyncClient(server.address, timeout=5) as client:
            for number in range(6):
                assert (await client.schedule(URL, id=f"t{number}")).id == f"t{number}"

    with EchoServer(seq=seq) as server:
        run(main)
    assert [len(requests) for requests in server.connections] == [3, 4]


def test_replies_that_come_slowly_but_come(run: Any) -> None:
    """The time-out is for a stretch without a reply, and not for a request behind many others."""

    def answer(request: Request) -> Request:
        threading.Event().wait(0.05)
        return echo(request)

    async def main() -> None:
        async with AsyncClient(server.address, timeout=0.3) as client:
            tasks = ({"url": URL, "id": f"s{n}"} for n in range(20))
            got = [reply.id async for reply in client.schedule_many(tasks)]  # type: ignore[union-attr]
            assert got == [f"s{n}" for n in range(20)]

    with EchoServer(answer) as server:
        run(main)
    assert len(server.connections) == 1
