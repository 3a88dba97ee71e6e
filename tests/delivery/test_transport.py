"""Kept connections, the one permitted resend, cancellation, and both doors of the transport."""

from __future__ import annotations

import socket

import httpx
import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test

from tests.delivery.servers import (
    OK,
    Wire,
    allow_all,
    answering,
    arena,
    closing_on_second_request,
    deaf_listener,
    once,
    post,
)
from wheeltimer.delivery.pool import AGE_S, AGE_SPREAD_S, Destination
from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.resolve import Resolver
from wheeltimer.delivery.transport import Transport, header_lines
from wheeltimer.errors import BadValue

pytestmark = pytest.mark.quick


@trio_test
async def test_one_connection_serves_exchanges_in_turn() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))
        transport = here.transport()
        for _ in range(5):
            reply = await post(transport, server.destination)
            assert (reply.status, reply.body, reply.truncated, reply.resent) == (200, b"ok", False, False)
        assert server.connections == 1
        assert (transport.counters.opened, transport.counters.reused) == (1, 4)


@trio_test
async def test_request_bytes_are_exactly_these() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))
        transport = here.transport()
        fields = header_lines([(b"content-type", b"application/json"), (b"webhook-id", b"wt_1")])
        await transport.request(server.destination, b"PUT", b"/a?b=c", fields, b"[1]", 1_000)
        await transport.request(server.destination, b"GET", b"/", b"", b"", 1_000)
        await transport.request(server.destination, b"POST", b"/", b"", b"", 1_000)
        host = b"host: 127.0.0.1:%d\r\n" % server.port
        assert server.requests == [
            b"PUT /a?b=c HTTP/1.1\r\n" + host + fields + b"content-length: 3\r\n\r\n[1]",
            b"GET / HTTP/1.1\r\n" + host + b"\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"content-length: 0\r\n\r\n",
        ]


@trio_test
async def test_last_used_connection_is_used_first_and_old_ones_are_closed() -> None:
    async with arena() as here:
        gate = trio.Event()

        async def waits(wire: Wire) -> None:
            while await wire.request() is not None:
                if len(server.requests) == 5:
                    gate.set()
                await gate.wait()
                await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % wire.number)

        server = await here.serve(waits)
        transport = here.transport(idle_per_destination_max=3)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(post, transport, server.destination)
        assert transport.idle == 3
        assert transport.counters.evicted == 2
        bodies = {(await post(transport, server.destination)).body for _ in range(6)}
        assert len(bodies) == 1


def test_kept_connections_age_and_leave() -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK))
            other = await here.serve(answering(OK))
            transport = here.transport(idle_s=30)
            await post(transport, server.destination)
            clock.jump(29)
            await post(transport, other.destination)
            assert transport.idle == 2
            clock.jump(1.5)
            transport.close_idle()
            assert transport.idle == 1
            await post(transport, server.destination)
            assert server.connections == 2
            clock.jump(31)
            await post(transport, other.destination)  # no housekeeper was needed
            assert transport.idle == 1

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


def test_a_name_that_has_moved_is_followed_also_where_traffic_never_ceases() -> None:
    """The old receiver still answers, and a connection to it is never idle for long."""

    async def main() -> None:
        async with arena() as here:
            old = await here.serve(answering(OK))
            new = await here.serve(answering(OK), host="127.0.0.2", port=old.port)
            address = "127.0.0.1"
            transport = here.transport(
                resolver=Resolver(lambda *_, **__: [(socket.AF_INET, 0, 0, "", (address, old.port))])
            )
            moved = Destination("http", "moved.example", old.port)
            await post(transport, moved)
            address = "127.0.0.2"
            most = (AGE_S + AGE_SPREAD_S) // 20  # by then one of any age within the spread is too old
            for _ in range(most + 1):
                clock.jump(20)
                await post(transport, moved)
            assert AGE_S // 20 <= len(old.requests) <= most + 1
            assert len(old.requests) + len(new.requests) == most + 2
            assert (old.connections, new.connections) == (1, 1)

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


@trio_test
async def test_total_limit_closes_the_oldest_of_all_destinations() -> None:
    async with arena() as here:
        servers = [await here.serve(answering(OK)) for _ in range(4)]
        transport = here.transport(idle_max=3)
        for server in servers:
            await post(transport, server.destination)
        assert transport.idle == 3
        await post(transport, servers[3].destination)
        assert servers[3].connections == 1
        await post(transport, servers[0].destination)
        assert servers[0].connections == 2


@trio_test
async def test_kept_connection_closed_while_idle_costs_no_resend() -> None:
    async with arena() as here:
        server = await here.serve(once(OK))
        transport = here.transport()
        for _ in range(3):
            reply = await post(transport, server.destination)
            assert not reply.resent
            await trio.testing.wait_all_tasks_blocked(0.01)  # the close arrives
        assert (transport.counters.resent, transport.counters.found_closed) == (0, 2)
        assert len(server.requests) == 3


@pytest.mark.parametrize("reset", [False, True])
def test_stale_kept_connection_is_tried_once_more_and_counted(reset: bool) -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(closing_on_second_request(reset=reset))
            transport = here.transport()
            await post(transport, server.destination)
            reply = await post(transport, server.destination, b"second")
            assert (reply.status, reply.resent) == (200, True)
            assert transport.counters.resent == 1
            assert [request.endswith(b"second") for request in server.requests] == [False, True, True]

    trio.run(main)


@pytest.mark.parametrize("reset", [False, True])
def test_nothing_is_resent_once_a_reply_byte_came(reset: bool) -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(closing_on_second_request(b"H", reset=reset))
            transport = here.transport()
            await post(transport, server.destination)
            with pytest.raises(AttemptError) as caught:
                await post(transport, server.destination)
            assert caught.value.kind == "reset"
            assert len(server.requests) == 2
            assert transport.counters.resent == 0

    trio.run(main)


@trio_test
async def test_nothing_is_resent_on_a_fresh_connection() -> None:
    async with arena() as here:
        server = await here.serve(once(b""))
        transport = here.transport()
        with pytest.raises(AttemptError, match="closed before the reply") as caught:
            await post(transport, server.destination)
        assert caught.value.kind == "reset"
        assert len(server.requests) == 1


@trio_test
async def test_resend_happens_once_even_when_the_fresh_connection_closes_too() -> None:
    async def handle(wire: Wire) -> None:
        if await wire.request() is not None and wire.number == 1:
            await wire.send(OK)
            await wire.request()

    async with arena() as here:
        server = await here.serve(handle)
        transport = here.transport()
        await post(transport, server.destination)
        with pytest.raises(AttemptError) as caught:
            await post(transport, server.destination)
        assert caught.value.kind == "reset"
        assert (len(server.requests), server.connections) == (3, 2)
        assert transport.counters.resent == 1


@trio_test
async def test_protocol_error_on_a_kept_connection_is_not_resent() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK, b"no http"))
        transport = here.transport()
        await post(transport, server.destination)
        with pytest.raises(AttemptError) as caught:
            await post(transport, server.destination)
        assert caught.value.kind == "protocol"
        assert len(server.requests) == 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("kept", [False, True])
def test_cancelled_after_any_byte_of_the_reply_leaves_nothing_half_used(framing: str, kept: bool) -> None:
    raw = {
        "length": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold",
        "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n",
    }[framing]

    async def main(cut: int) -> None:
        async def stops(wire: Wire) -> None:
            while (request := await wire.request()) is not None:
                if request.endswith(b"stop"):
                    await wire.send(raw[:cut])
                    sent.set()
                    await gone.wait()
                    await wire.send(raw[cut:])
                else:
                    await wire.send(OK)

        async with arena() as here:
            server = await here.serve(stops)
            transport = here.transport()
            if kept:
                await post(transport, server.destination)
            sent, gone = trio.Event(), trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post, transport, server.destination, b"stop")
                await sent.wait()
                await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.cancel_scope.cancel()
            gone.set()
            assert transport.idle == (cut == len(raw))
            assert (await post(transport, server.destination)).body == b"ok"

    for cut in range(len(raw) + 1):
        trio.run(main, cut)


@trio_test
async def test_cancelled_while_connecting_leaves_no_socket() -> None:
    with deaf_listener() as port:
        async with arena() as here:
            transport = here.transport()
            with trio.move_on_after(0.02) as scope:
                await post(transport, Destination("http", "127.0.0.1", port))
            assert scope.cancelled_caught


@trio_test
async def test_no_accept_ends_with_the_connect_timeout() -> None:
    with deaf_listener() as port:
        async with arena() as here:
            transport = here.transport()
            with pytest.raises(AttemptError, match="still connecting") as caught:
                await post(transport, Destination("http", "127.0.0.1", port), connect_timeout_ms=30)
            assert caught.value.kind == "timeout"
            with pytest.raises(httpx.ConnectTimeout):
                async with httpx.AsyncClient(transport=transport, timeout=0.03) as client:
                    await client.post(f"http://127.0.0.1:{port}/")


@trio_test
async def test_connection_closed_by_aclose_during_an_exchange_is_not_kept() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))
        transport = here.transport()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, transport, server.destination)
            while not server.requests:
                await trio.lowlevel.checkpoint()
            await transport.aclose()
        assert transport.idle == 0


@trio_test
async def test_httpx_door_reports_truncation_and_resend() -> None:
    big = b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n" + b"x" * 70_000
    async with arena() as here:
        server = await here.serve(closing_on_second_request())
        large = await here.serve(answering(big))
        async with httpx.AsyncClient(transport=here.transport(), trust_env=False) as client:
            await client.post(server.url)
            response = await client.post(server.url)
            assert (response.extensions["resent"], response.extensions["truncated"]) == (True, False)
            response = await client.post(large.url)
            assert (response.extensions["resent"], response.extensions["truncated"]) == (False, True)
            assert len(response.content) == 65_536


@pytest.mark.parametrize(
    "header", [(b"a b", b"c"), (b"", b"c"), (b"a", b"b\r\nc: d"), (b"a", b"\0"), (b"a:", b"")]
)
def test_header_that_would_end_its_line_early_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadValue):
        header_lines([header])


@pytest.mark.parametrize("method", ["HEAD", "CONNECT", "po st"])
def test_methods_without_an_ordinary_reply_are_refused(method: str) -> None:
    async def main() -> None:
        request = httpx.Request(method, "http://127.0.0.1:1/")
        with pytest.raises(httpx.UnsupportedProtocol):
            await Transport(allow_all).handle_async_request(request)

    trio.run(main)
