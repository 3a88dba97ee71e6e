"""TLS: verified by name on a checked address, every way it fails, and ends that can and cannot be trusted."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable

import pytest
import trio
import trustme
from trio.testing import trio_test

from tests.delivery.servers import OK, Arena, Handler, Server, Wire, answering, arena, once, post
from tests.delivery.test_transport_resolve import naming
from wheeltimer.delivery.http_connection import Connection
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.transport import Transport

CA = trustme.CA()
NAME = "partner.example"


def server_context(cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (cert or CA.issue_cert(NAME)).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def serve(
    here: Arena, handler: Handler, context: ssl.SSLContext | None = None
) -> tuple[Server, Transport, Destination]:
    """A TLS receiver, a transport that finds NAME at it, and the destination."""
    server = await here.serve(handler, context or server_context())
    transport = here.transport(ssl_context=client_context(), resolver=naming(["127.0.0.1"])[0])
    return server, transport, Destination("https", NAME, server.port)


@trio_test
async def test_name_is_verified_although_the_connection_goes_to_an_address() -> None:
    async with arena() as here:
        server, transport, destination = await serve(here, answering(OK))
        for _ in range(3):
            assert (await post(transport, destination)).body == b"ok"
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST / HTTP/1.1\r\nhost: partner.example:")


@trio_test
async def test_address_in_the_url_needs_a_certificate_for_the_address() -> None:
    async with arena() as here:
        context = server_context(CA.issue_cert("127.0.0.1"))
        server, transport, _ = await serve(here, answering(OK), context)
        assert (await post(transport, server.destination)).body == b"ok"


NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
BAD_CERTIFICATES: dict[str, tuple[Callable[[], trustme.LeafCert], str]] = {
    "other_name": (lambda: CA.issue_cert("other.example"), "certificate not accepted: Hostname mismatch"),
    "wildcard_of_the_parent": (lambda: CA.issue_cert("*.partner.example"), "Hostname mismatch"),
    "expired": (lambda: CA.issue_cert(NAME, not_after=NOW - DAY), "expired"),
    "not_yet_valid": (
        lambda: CA.issue_cert(NAME, not_before=NOW + DAY),
        "not yet valid",
    ),
    "unknown_authority": (lambda: trustme.CA().issue_cert(NAME), "certificate not accepted"),
}


@pytest.mark.parametrize("name", BAD_CERTIFICATES)
def test_bad_certificate_is_a_tls_failure_and_nothing_is_sent(name: str) -> None:
    make, text = BAD_CERTIFICATES[name]

    async def main() -> None:
        async with arena() as here:
            server, transport, destination = await serve(here, answering(OK), server_context(make()))
            with pytest.raises(AttemptError, match=text) as caught:
                await post(transport, destination)
            assert caught.value.kind == "tls"
            assert server.requests == []

    trio.run(main)


async def plain(wire: Wire) -> None:
    await wire.stream.receive_some(1)
    await wire.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


async def closes(wire: Wire) -> None:
    await wire.stream.receive_some(1)


async def resets(wire: Wire) -> None:
    await wire.stream.receive_some(1)
    wire.reset()


@pytest.mark.parametrize("handler", [plain, closes, resets])
def test_receiver_without_tls_is_a_tls_failure(handler: Handler) -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(handler)
            transport = here.transport(ssl_context=client_context())
            with pytest.raises(AttemptError) as caught:
                await post(transport, Destination("https", "127.0.0.1", server.port))
            assert caught.value.kind == "tls"

    trio.run(main)


@trio_test
async def test_silent_handshake_ends_with_the_connect_timeout() -> None:
    async def silent(wire: Wire) -> None:
        await trio.sleep_forever()

    async with arena() as here:
        server = await here.serve(silent)
        transport = here.transport(ssl_context=client_context())
        with pytest.raises(AttemptError, match="handshake") as caught:
            await post(transport, Destination("https", "127.0.0.1", server.port), connect_timeout_ms=30)
        assert caught.value.kind == "timeout"


@trio_test
async def test_old_protocol_version_is_a_tls_failure() -> None:
    context = server_context()
    async with arena() as here:
        _, transport, destination = await serve(here, answering(OK), context)
        strict = client_context()
        strict.minimum_version = ssl.TLSVersion.TLSv1_3
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        transport = here.transport(ssl_context=strict, resolver=naming(["127.0.0.1"])[0])
        with pytest.raises(AttemptError) as caught:
            await post(transport, destination)
        assert caught.value.kind == "tls"


@trio_test
async def test_receiver_that_wants_a_client_certificate_is_a_tls_failure() -> None:
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)

    async def refuse(wire: Wire) -> None:
        """In TLS 1.3 the refusal comes after the client's handshake is over, as an alert, when it reads."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await wire.send(outgoing.read())
                incoming.write(await wire.stream.receive_some(65_536))
            except ssl.SSLError:
                await wire.send(outgoing.read())
                await wire.stream.receive_some(65_536)
                return

    async with arena() as here:
        server = await here.serve(refuse)
        transport = here.transport(ssl_context=client_context(), resolver=naming(["127.0.0.1"])[0])
        with pytest.raises(AttemptError, match="CERTIFICATE_REQUIRED") as caught:
            await post(transport, Destination("https", NAME, server.port))
        assert caught.value.kind == "tls"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bodies_larger_than_a_record_pass_both_ways(version: ssl.TLSVersion) -> None:
    context = server_context()
    context.maximum_version = version
    big = b"x" * 65_000

    async def main() -> None:
        async with arena() as here:
            reply_bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 65000\r\n\r\n" + big
            server, transport, destination = await serve(here, answering(reply_bytes), context)
            for _ in range(2):
                reply = await post(transport, destination, b"y" * 5_000_000)
                assert (reply.body, reply.truncated) == (big, False)
            assert server.requests[1].endswith(b"y" * 5_000_000)
            assert server.connections == 1

    trio.run(main)


@pytest.mark.parametrize("ignoring", [True, False])
@pytest.mark.parametrize("polite", [True, False])
def test_reply_that_ends_with_a_cut_stream_is_marked_truncated(polite: bool, ignoring: bool) -> None:
    """``ignoring``: Python 3.11.0 to 3.11.3 make every context so that a cut stream looks whole."""

    async def handle(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nsuccess")
        if polite:
            assert isinstance(wire.stream, trio.SSLStream)
            await wire.stream.unwrap()

    async def main() -> None:
        context = client_context()
        if ignoring:
            context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        async with arena() as here:
            server = await here.serve(handle, server_context())
            transport = here.transport(ssl_context=context, resolver=naming(["127.0.0.1"])[0])
            reply = await post(transport, Destination("https", NAME, server.port))
            assert (reply.status, reply.body, reply.truncated) == (200, b"success", not polite)

    trio.run(main)


class CutSocket:
    """A TLS socket whose stream is cut after ``data``, as Python before 3.11.4 tells it with OpenSSL 3."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ours, self._theirs = socket.socketpair()

    def fileno(self) -> int:
        return self._ours.fileno()

    def send(self, data: bytes) -> int:
        return len(data)

    def recv_into(self, buffer: memoryview) -> int:
        if not self._data:
            error = ssl.SSLError(1, "[SSL: UNEXPECTED_EOF_WHILE_READING] unexpected eof while reading")
            error.reason = "UNEXPECTED_EOF_WHILE_READING"
            raise error
        size, self._data = len(self._data), b""
        buffer[:size] = b"HTTP/1.1 200 OK\r\n\r\nsuccess"[:size]
        return size

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def test_cut_stream_is_known_by_its_reason_too() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nsuccess"
    connection = Connection(CutSocket(data), 0.0)  # type: ignore[arg-type]
    connection.begin(b"")
    reply = connection.advance()
    connection.close()
    assert reply is not None
    assert (reply.body, reply.truncated) == (b"success", True)


@pytest.mark.parametrize("dot", ["", "."])
def test_dot_at_the_end_of_the_name_is_for_the_lookup_and_host_alone(dot: str) -> None:
    """RFC 6066 section 3: no dot in SNI; no certificate has one."""
    named: list[object] = []

    async def main() -> None:
        context = server_context()
        context.sni_callback = lambda sock, name, context: named.append(name)
        resolver, asked = naming(["127.0.0.1"])
        async with arena() as here:
            server = await here.serve(answering(OK), context)
            transport = here.transport(ssl_context=client_context(), resolver=resolver)
            reply = await post(transport, Destination("https", NAME + dot, server.port))
            assert reply.status == 200
            assert server.requests[0].startswith(f"POST / HTTP/1.1\r\nhost: {NAME}{dot}:".encode())
        assert named == [NAME]
        assert asked == [NAME + dot]

    trio.run(main)


@trio_test
async def test_cut_stream_within_a_counted_body_is_a_reset() -> None:
    async with arena() as here:
        _, transport, destination = await serve(
            here, once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        )
        with pytest.raises(AttemptError, match="after 3 bytes") as caught:
            await post(transport, destination)
        assert caught.value.kind == "reset"


@trio_test
async def test_stale_kept_connection_is_found_or_tried_once_more() -> None:
    async def handle(wire: Wire) -> None:
        if await wire.request() is not None:
            await wire.send(OK)
            if wire.number % 2:
                await wire.request()  # reads the next one and closes: only a resend can tell

    async with arena() as here:
        server, transport, destination = await serve(here, handle)
        assert not (await post(transport, destination)).resent
        assert (await post(transport, destination)).resent
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not (await post(transport, destination)).resent
        assert (transport.counters.resent, transport.counters.found_closed) == (1, 1)
        assert len(server.requests) == 4


@trio_test
async def test_broken_record_on_a_kept_connection_is_not_resent() -> None:
    async def handle(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        assert isinstance(wire.stream, trio.SSLStream)
        await wire.stream.transport_stream.send_all(b"\x17\3\3\0\x20" + b"x" * 32)

    async with arena() as here:
        server, transport, destination = await serve(here, handle)
        await post(transport, destination)
        with pytest.raises(AttemptError) as caught:
            await post(transport, destination)
        assert caught.value.kind == "tls"
        assert len(server.requests) == 2


@trio_test
async def test_second_reply_in_a_record_of_its_own_is_not_given_to_the_next_request() -> None:
    async def handle(wire: Wire) -> None:
        while await wire.request() is not None:
            await wire.send(OK)
            await wire.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\npoison!"
            ) if wire.number == 1 else None

    async with arena() as here:
        server, transport, destination = await serve(here, handle)
        await post(transport, destination)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await post(transport, destination)).body == b"ok"
        assert server.connections == 2


@trio_test
async def test_cancelled_handshake_leaves_no_socket() -> None:
    async with arena() as here:
        _, transport, destination = await serve(here, answering(OK))
        for micros in range(0, 4_000, 200):
            with trio.move_on_after(micros / 1_000_000):
                await post(transport, destination)


def test_by_default_names_are_verified_against_the_systems_store() -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK), server_context(CA.issue_cert("127.0.0.1")))
            transport = here.transport(ssl_context=None)
            with pytest.raises(AttemptError, match="certificate not accepted") as caught:
                await post(transport, server.destination)
            assert caught.value.kind == "tls"

    trio.run(main)
