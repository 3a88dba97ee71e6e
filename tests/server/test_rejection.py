"""No descriptor for a client: who is served goes on, who comes is told, and the loop does not spin."""

from __future__ import annotations

import errno
import json
import logging
import os
import ssl
from collections import deque
from typing import cast

import pytest
import trio
from trio.testing import MockClock, trio_test

from wheeltimer.core.schedule import RETRY_FULL_MS
from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.listeners import Paced
from wheeltimer.server.rejection import GIVEN_UP, PAUSE_S, Overflow
from wheeltimer.server.tls import serve_tls

EMFILE = OSError(errno.EMFILE, "Too many open files")
CLIENTS = 5


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


class Scripted:
    """A listener that accepts as the script says: an error, or None for a client; then clients alone."""

    def __init__(self, plain: trio.SocketListener, script: list[OSError | None]) -> None:
        self._plain, self.socket = plain, plain.socket
        self._script = deque(script)
        self.accepts = 0

    async def accept(self) -> trio.SocketStream:
        self.accepts += 1
        error = self._script.popleft() if self._script else None
        if error is not None:
            raise error
        return await self._plain.accept()

    async def aclose(self) -> None:
        await self._plain.aclose()


async def listening(script: list[OSError | None]) -> tuple[Scripted, tuple[str, int]]:
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return Scripted(plain, script), plain.socket.getsockname()


def paced(listener: Scripted, overflow: Overflow) -> Paced:
    return Paced(cast("trio.SocketListener", listener), TimeSlices(), overflow)


async def served(listener: Paced, nursery: trio.Nursery) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    nursery.start_soon(trio.serve_listeners, echo, [listener])


async def said_to(address: tuple[str, int]) -> bytes:
    """What a client reads to the end that has sent a request."""
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b'{"op":"ping"}\n')
        return b"".join([data async for data in stream])


@trio_test
async def test_clients_without_a_descriptor_are_told_full_and_those_before_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener, address = await listening([None, *[EMFILE, None] * CLIENTS])
    overflow = Overflow()
    assert overflow.take()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await served(paced(listener, overflow), nursery)
            async with await trio.open_tcp_stream(*address) as first:
                await first.send_all(b"before")
                assert await first.receive_some() == b"before"
                for _ in range(CLIENTS):
                    reply = json.loads(await said_to(address))
                    assert (reply["ok"], reply["error"]) == (False, "full")
                    assert reply["retry_after_ms"] == RETRY_FULL_MS
                    assert "descriptor" in reply["message"]
                await first.send_all(b"after")
                assert await first.receive_some() == b"after"
            async with await trio.open_tcp_stream(*address) as later:
                await later.send_all(b"there are some again")
                assert await later.receive_some() == b"there are some again"
            nursery.cancel_scope.cancel()
    overflow.close()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is None
    assert "a client cannot be taken in: Too many open files" in record.getMessage()


@trio_test
async def test_kept_connections_go_before_a_client_is_turned_away() -> None:
    kept = [6]

    def give_up(count: int) -> int:
        gone = min(count, kept[0])
        kept[0] -= gone
        return gone

    listener, address = await listening([EMFILE, EMFILE])
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await served(paced(listener, Overflow(give_up)), nursery)
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(b"served")
                assert await stream.receive_some() == b"served"
            nursery.cancel_scope.cancel()
    assert kept == [0]
    assert GIVEN_UP < 6


@trio_test
async def test_a_client_that_cannot_even_be_told_is_looked_at_ten_times_a_second(
    autojump: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Another thread took the descriptor in hand; nothing may spin until there is one again."""
    listener, address = await listening([EMFILE] * 1_000)
    overflow = Overflow()
    assert overflow.take()
    async with trio.open_nursery() as nursery:
        await served(paced(listener, overflow), nursery)
        async with await trio.open_tcp_stream(*address):
            await trio.sleep(10 * PAUSE_S)
            assert 2 <= listener.accepts <= 40
        nursery.cancel_scope.cancel()
    overflow.close()
    (record,) = caplog.records  # Trio itself would log each error, with a traceback
    assert (record.name, record.exc_info) == ("wheeltimer.server", None)


@trio_test
async def test_a_client_behind_tls_without_descriptors_is_closed_and_leaks_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket is accepted, and there is none for the plain side."""

    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def talk(stream: trio.SocketStream) -> None:
        raise AssertionError("nobody can be served")

    context, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[int]()

    def give_up(count: int) -> int:
        asked.append(count)
        return count if len(asked) < 3 else 0

    listener, address = await listening([])
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(trio.socket, "socketpair", none_left)
    failed, overflow = RateLimitedLog(logging.getLogger("wheeltimer.server"), logging.INFO), Overflow(give_up)
    for _ in range(CLIENTS):
        async with await trio.open_tcp_stream(*address) as client:
            stream = await listener.accept()
            await serve_tls(stream, context, 1000, TimeSlices(), failed, overflow, talk)
            assert await client.receive_some() == b""
    assert os.listdir("/proc/self/fd") == before
    await listener.aclose()
    assert len(asked) == CLIENTS + 2, "tried again as long as something was given up"
    assert not [record for record in caplog.records if record.exc_info]


def test_a_descriptor_in_hand_is_taken_again_and_given_back() -> None:
    before = os.listdir("/proc/self/fd")
    overflow = Overflow()
    assert overflow.take()
    assert overflow.take()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    for _ in range(2):
        overflow.close()
    assert os.listdir("/proc/self/fd") == before
