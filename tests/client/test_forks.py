"""A client that came through a fork: the child speaks on a connection of its own, the parent's goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
import trustme

from tests.client.echo import EchoServer, Request, echo
from wheeltimer.client import AsyncClient, Client
from wheeltimer.client.sync_stream import tls_context
from wheeltimer.errors import ClientMisused

URL = "http://x/"
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(work: Callable[[], object]) -> str:
    """What ``work`` gives in a child of this process, as text; the exception's where it raised one."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        try:
            try:
                said = str(work())
            except BaseException as error:  # noqa: BLE001 -- all of it is the parent's to look at
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An echo server, and how to make a client of it."""
    if request.param == "plain":
        with EchoServer() as echoing:
            yield echoing, lambda: Client(echoing.address, timeout=5)
        return
    import ssl

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with EchoServer(tls=context) as echoing:
        yield echoing, lambda: Client(echoing.address, tls=tls_context(str(tmp_path / "ca.pem")), timeout=5)


def _ids(client: Client, name: str, count: int = 50) -> int:
    """How many replies were wrong."""
    return sum(client.schedule(URL, id=f"{name}-{n}").id != f"{name}-{n}" for n in range(count))


def test_workers_that_were_forked_have_their_own_connections(server: Any) -> None:
    echoing, make = server
    with make() as client:
        assert _ids(client, "before", 1) == 0
        assert in_child(lambda: _ids(client, "first")) == "0"
        assert _ids(client, "between") == 0
        assert in_child(lambda: (_ids(client, "second"), in_child(lambda: _ids(client, "grandchild")))) == (
            "(0, '0')"
        )
        assert _ids(client, "after") == 0
    by = [{request["id"].split("-")[0] for request in requests} for requests in echoing.connections]
    assert by == [{"before", "between", "after"}, {"first"}, {"second"}, {"grandchild"}]


def test_a_child_closes_its_copy_without_a_byte(server: Any) -> None:
    """Also where it closes the client, or ends with it; and what was put in line stays the parent's."""
    echoing, make = server
    with make() as client:
        many = client.schedule_many(({"url": URL, "id": f"s-{n}"} for n in range(30)), depth=10)
        assert next(many).id == "s-0"
        assert in_child(lambda: (client.ping(), client.close())[1]) == "None"
        assert in_child(client.close) == "None"
        assert [reply.id for reply in many] == [f"s-{n}" for n in range(1, 30)]
    assert len(echoing.connections[0]) == 30
    assert [request["op"] for request in echoing.connections[1]] == ["ping"]


def test_iterators_that_a_child_inherited_say_so(server: Any) -> None:
    _echoing, make = server
    with make() as client:
        scheduled = client.schedule_many(({"url": URL, "id": f"s-{n}"} for n in range(30)), depth=10)
        asked = client.request_many(({"op": "get", "id": f"g-{n}"} for n in range(30)), depth=10)
        events = client.subscribe()
        next(scheduled), next(asked)
        for iterator in (scheduled, asked, events):
            said = in_child(lambda iterator=iterator: next(iterator))  # type: ignore[misc]
            assert said.startswith("ClientMisused: this iterator was begun before a fork"), said
        assert next(scheduled).id == "s-1"
        assert next(asked)["id"] == "g-1"
        events.close()


def test_a_lock_that_another_thread_held_at_the_fork(server: Any) -> None:
    """The thread is not in the child, and nobody would release its lock there."""
    echoing, make = server
    begun, go = threading.Event(), threading.Event()

    def answer(request: Request) -> Request:
        if request.get("id") == "slow":
            begun.set()
            go.wait(20)
        return echo(request)

    echoing._answer = answer
    with make() as client:
        replies: list[str] = []
        thread = threading.Thread(target=lambda: replies.append(client.schedule(URL, id="slow").id))
        thread.start()
        assert begun.wait(10)
        assert in_child(lambda: _ids(client, "child")) == "0"
        go.set()
        thread.join(10)
        assert replies == ["slow"], "what was in flight is the parent's"


def test_a_handler_that_forks_in_the_middle_of_a_request(server: Any) -> None:
    """The child's copy of the request ends; the reply is the parent's."""
    echoing, make = server
    read, write = os.pipe()
    parent = os.getpid()

    def handler(_number: int, _frame: FrameType | None) -> None:
        os.fork()

    def answer(request: Request) -> Request:
        if request.get("id") == "fork":
            os.kill(parent, signal.SIGUSR1)
        return echo(request)

    echoing._answer = answer
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with make() as client:
            client.ping()
            try:
                said = client.schedule(URL, id="fork").id
                said += str(_ids(client, "later", 3))
            except ClientMisused:
                said = f"child {_ids(client, 'child', 3)}"
            if os.getpid() != parent:
                os.write(write, said.encode())
                os._exit(0)
            assert said == "fork0"
            os.wait()
            assert os.read(read, 100) == b"child 0"
    finally:
        if os.getpid() != parent:
            os._exit(1)
        signal.signal(signal.SIGUSR1, before)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_async_client_that_was_used_before_the_fork(backend: str) -> None:
    with EchoServer() as echoing:

        async def use(name: str) -> int:
            found = [await client.schedule(URL, id=f"{name}-{n}") for n in range(20)]
            return sum(reply.id != f"{name}-{n}" for n, reply in enumerate(found))

        def elsewhere(name: str) -> int:
            """On an event loop in a thread of its own, since the child is still inside that of its parent."""
            wrong: list[int] = []
            thread = threading.Thread(target=lambda: wrong.append(anyio.run(use, name, backend=backend)))
            thread.start()
            thread.join(20)
            return wrong[0]

        async def main() -> None:
            assert await use("parent") == 0
            assert in_child(lambda: elsewhere("child")) == "0"
            assert await use("parent") == 0

        client = AsyncClient(echoing.address, timeout=5)
        anyio.run(main, backend=backend)
        assert in_child(lambda: anyio.run(use, "later", backend=backend)) == "0"
    by = [{request["id"].split("-")[0] for request in requests} for requests in echoing.connections]
    assert by == [{"parent"}, {"child"}, {"later"}]
