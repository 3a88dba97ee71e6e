"""Our own shortage, as the system tells of it: no attempt is made, and none is counted.

Sockets, lookups, threads and epoll are handed in and fail as Linux does; nothing of this machine runs out.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

import httpcore
import httpx
import pytest
import trio
from trio.testing import trio_test

from tests.delivery.servers import OK, allow_all, answering, arena, deaf_listener, post
from tests.delivery.test_executor import Runway, runway
from wheeltimer.delivery.executor import ReplyPoller
from wheeltimer.delivery.http_connection import start_tls
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.proxy import ProxyTransport
from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.resolve import Address, Resolver, connect
from wheeltimer.delivery.shortage import (
    ADVICE,
    PAUSE_MAX_NS,
    PAUSE_MIN_NS,
    REASONS,
    InFlightLimit,
    Reason,
    Shortage,
    no_descriptors,
    reason_of,
)
from wheeltimer.delivery.transport import GIVE_UP

MS = 1_000_000
SYSTEM = {
    errno.EMFILE: "descriptors", errno.ENFILE: "descriptors", errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory", errno.EADDRNOTAVAIL: "ports", errno.EADDRINUSE: "ports", errno.EAGAIN: "ports",
    errno.ENOSPC: "watches",
}  # fmt: skip
NOT_OURS = (
    errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET,
    errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT, errno.EINVAL,
)  # fmt: skip


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Sockets:
    """``new`` is a ``socket.socket`` that fails while ``failing`` says so: of TCP, and of UDP too where
    ``udp`` has an error."""

    def __init__(self, code: int = errno.EMFILE, failing: Callable[[], bool] = lambda: True) -> None:
        self.code, self.failing = code, failing
        self.connecting: dict[str, int] = {}  # what connect(2) to an address fails with
        self.udp = 0
        self.failed = 0

    def new(self, family: int, kind: int) -> socket.socket:
        if kind == socket.SOCK_DGRAM:
            return _Told(family, kind, {} if not self.udp else {"": self.udp})
        if self.failing():
            self.failed += 1
            raise os_error(self.code)
        return _Told(family, kind, self.connecting)


class _Told(socket.socket):
    def __init__(self, family: int, kind: int, told: dict[str, int]) -> None:
        super().__init__(family, kind)
        self.told = told

    def connect(self, address: Any) -> None:
        code = self.told.get(address[0], self.told.get("", 0))
        if code:
            raise os_error(code)
        if self.type == socket.SOCK_STREAM or self.told:
            super().connect(address)


def v4(host: str, port: int = 9) -> Address:
    return Address(socket.AF_INET, (host, port))


async def shortage(action: Any) -> Shortage:
    with pytest.raises(Shortage) as caught:
        await action
    return caught.value


# --- what the system says ----------------------------------------------------------------------------------


def test_which_errors_are_our_own_shortage() -> None:
    for code, reason in SYSTEM.items():
        assert reason_of(os_error(code)) == reason
    for code in NOT_OURS:
        assert reason_of(os_error(code)) is None
    assert reason_of(MemoryError()) == "memory"
    assert reason_of(RuntimeError("can't start new thread")) == "threads"
    assert reason_of(RuntimeError("something else")) is None
    assert reason_of(socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")) == "memory"
    assert reason_of(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) is None
    assert reason_of(ssl.SSLError(1, "wrong version number")) is None
    assert set(ADVICE) == set(REASONS)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
@trio_test
async def test_a_socket_that_cannot_be_made_is_no_failed_connect(code: int) -> None:
    sockets = Sockets(code)
    short = await shortage(connect([v4("127.0.0.1")], new_socket=sockets.new))
    assert (short.reason, sockets.failed) == (SYSTEM[code], 1)


@trio_test
async def test_an_address_that_was_not_tried_for_want_of_a_descriptor_is_no_failed_connect() -> None:
    """One refuses, another could not be tried: it might have answered."""
    made = iter([False, True])
    sockets = Sockets(failing=lambda: next(made))
    sockets.connecting["127.0.0.1"] = errno.ECONNREFUSED
    addresses = [v4("127.0.0.1"), v4("127.0.0.2")]
    assert (await shortage(connect(addresses, new_socket=sockets.new))).reason == "descriptors"


@trio_test
async def test_one_address_answers_and_another_finds_no_descriptor() -> None:
    made = iter([True, False])
    async with arena() as here:
        server = await here.serve(answering(OK))
        sockets = Sockets(failing=lambda: next(made))
        sock = await connect([v4("127.0.0.2"), v4("127.0.0.1", server.port)], new_socket=sockets.new)
        assert sock.getpeername() == ("127.0.0.1", server.port)
        sock.close()


def test_a_connect_that_times_out_beside_an_address_that_was_not_tried_has_not_failed() -> None:
    """The first hangs; the second, which might have answered, found no descriptor."""

    async def main() -> None:
        made = iter([False, True, True])
        with deaf_listener() as deaf:
            resolver = Resolver(lambda *given, **options: [
                (socket.AF_INET, 1, 6, "", (host, deaf)) for host in ("127.0.0.1", "127.0.0.2")
            ])  # fmt: skip
            async with arena() as here:
                sockets = Sockets(failing=lambda: next(made))
                transport = here.transport(resolver=resolver, new_socket=sockets.new)
                destination = Destination("http", "slow.example", deaf)
                short = await shortage(post(transport, destination, connect_timeout_ms=400))
                assert short.reason == "descriptors"

    trio.run(main)


# --- ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EAGAIN])
@trio_test
async def test_no_local_port_is_our_shortage_where_there_is_a_route(code: int) -> None:
    sockets = Sockets(failing=lambda: False)
    sockets.connecting["192.0.2.1"] = code
    assert (await shortage(connect([v4("192.0.2.1")], new_socket=sockets.new))).reason == "ports"


@trio_test
async def test_an_address_that_has_no_route_is_the_destinations_failure() -> None:
    """As with IPv6 switched off: connect(2) says the same as without a port, for ever."""
    sockets = Sockets(failing=lambda: False)
    sockets.connecting["192.0.2.1"] = sockets.udp = errno.EADDRNOTAVAIL
    with pytest.raises(AttemptError, match="Cannot assign requested address") as caught:
        await connect([v4("192.0.2.1")], new_socket=sockets.new)
    assert caught.value.kind == "connect"


@trio_test
async def test_an_address_without_a_port_beside_one_that_refuses_is_a_failure() -> None:
    """Which address has none may be the name's choice."""
    sockets = Sockets(failing=lambda: False)
    sockets.connecting = {"192.0.2.1": errno.EADDRNOTAVAIL, "192.0.2.2": errno.ECONNREFUSED}
    with pytest.raises(AttemptError, match="refused") as caught:
        await connect([v4("192.0.2.1"), v4("192.0.2.2")], new_socket=sockets.new)
    assert caught.value.kind == "connect"


# --- lookups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "descriptors_out", "reason"),
    [
        (os_error(errno.EMFILE), False, "descriptors"),  # EAI_SYSTEM, as Python raises it
        (os_error(errno.ENOMEM), False, "memory"),
        (socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"), False, "memory"),
        (MemoryError(), False, "memory"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True, "descriptors"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True, "descriptors"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False, None),
        (UnicodeError("label too long"), True, None),
    ],
)
@trio_test
async def test_a_lookup_that_failed_for_want_of_something_of_ours_says_nothing_of_the_name(
    error: Exception, descriptors_out: bool, reason: Reason | None
) -> None:
    def fail(*given: object, **options: object) -> Any:
        raise error

    resolver = Resolver(fail, no_descriptors=lambda: descriptors_out)
    with pytest.raises(AttemptError if reason is None else Shortage) as caught:
        await resolver.lookup("x.example", 80)
    assert getattr(caught.value, "reason", None) == reason


@trio_test
async def test_all_who_wait_for_one_lookup_hear_that_it_was_not_made() -> None:
    def fail(*given: object, **options: object) -> Any:
        raise os_error(errno.EMFILE)

    resolver = Resolver(fail)
    seen: list[str] = []

    async def ask() -> None:
        seen.append((await shortage(resolver.lookup("x.example", 80))).reason)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert seen == ["descriptors"] * 3


def test_whether_descriptors_are_out_is_seen() -> None:
    assert not no_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        assert no_descriptors()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(lowest)
    before = os.listdir("/proc/self/fd")
    assert not no_descriptors()
    assert os.listdir("/proc/self/fd") == before, "the question itself keeps none"


# --- TLS, epoll, the proxy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("descriptors_out", [False, True])
@trio_test
async def test_a_trust_store_that_cannot_be_opened_is_no_bad_certificate(descriptors_out: bool) -> None:
    """OpenSSL opens it when a certificate is checked, and calls that untrusted where it cannot."""

    class Refusing(ssl.SSLContext):
        def wrap_socket(self, *given: Any, **options: Any) -> Any:
            error = ssl.SSLCertVerificationError(1, "certificate verify failed")
            error.verify_message = "unable to get local issuer certificate"
            raise error

    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(Shortage if descriptors_out else AttemptError) as caught:
        await start_tls(ours, Refusing(ssl.PROTOCOL_TLS_CLIENT), "x.example", lambda: descriptors_out)
    assert ours.fileno() == -1
    if descriptors_out:
        assert getattr(caught.value, "reason", None) == "descriptors"
    else:
        assert getattr(caught.value, "kind", None) == "tls"
        assert "unable to get local issuer certificate" in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM])
@trio_test
async def test_a_kept_connection_that_cannot_be_watched_is_no_failed_attempt(code: int) -> None:
    """Its request was not sent, and goes out later."""

    class Full:
        closed = False

        def register(self, *given: object) -> None:
            raise os_error(code)

    async with arena() as here:
        server = await here.serve(answering(OK))
        run = Runway(here.transport())
        await run.warm(server)
        run.sender.arrivals = ReplyPoller(Full)  # type: ignore[arg-type]
        with pytest.raises(Shortage) as caught:
            run.begin("a", server)
        run.sender.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert caught.value.reason == SYSTEM[code]
        assert (len(server.requests), run.transport.idle) == (1, 0)


@trio_test
async def test_a_stale_connection_and_no_descriptor_for_the_resend_is_no_failed_attempt() -> None:
    short = False
    sockets = Sockets(failing=lambda: short)
    async with arena() as here, runway(here, new_socket=sockets.new) as run:
        server = await here.serve(closing_after_one())
        await run.warm(server)
        short = True
        assert run.begin("a", server) is None
        landing = await run.landing("a")
        assert callable(landing)
        assert (await shortage(landing())).reason == "descriptors"
        short = False


def closing_after_one() -> Any:
    async def handle(wire: Any) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()

    return handle


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ExceptionGroup("all failed", [os_error(errno.ECONNREFUSED), os_error(errno.EMFILE)]), "descriptors"),
        (os_error(errno.EADDRNOTAVAIL), "ports"),
        (os_error(errno.ECONNREFUSED), None),
    ],
)
@trio_test
async def test_the_way_to_the_proxy_is_short_of_something(cause: Exception, reason: Reason | None) -> None:
    """httpx wraps what httpcore wraps what trio wraps."""

    class Stock:
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await trio.lowlevel.checkpoint()
            try:
                try:
                    raise OSError("all attempts to connect failed") from cause
                except OSError as error:
                    raise httpcore.ConnectError(str(error)) from error
            except httpcore.ConnectError as error:
                raise httpx.ConnectError(str(error)) from error

    transport = ProxyTransport("http://127.0.0.1:9", ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    transport._stock = Stock()  # type: ignore[assignment]
    with pytest.raises(AttemptError if reason is None else Shortage) as caught:
        await post(transport, Destination("http", "x.example", 80))  # type: ignore[arg-type]
    assert getattr(caught.value, "reason", None) == reason


# --- idle connections go first -----------------------------------------------------------------------------


@trio_test
async def test_idle_connections_go_first_where_a_descriptor_is_wanted() -> None:
    """The oldest few; then the attempt goes on as if nothing had been."""
    async with arena() as here:
        servers = [await here.serve(answering(OK)) for _ in range(GIVE_UP + 2)]
        sockets = Sockets(failing=lambda: len(here._transports) > 0 and transport.idle > GIVE_UP)
        transport = here.transport(new_socket=sockets.new)
        for server in servers[:-1]:
            await post(transport, server.destination)
        assert transport.idle == GIVE_UP + 1
        assert (await post(transport, servers[-1].destination)).status == 200
        assert (sockets.failed, transport.idle, transport.counters.evicted) == (1, 2, GIVE_UP)
        assert not transport.keeps(servers[0].destination)
        assert transport.keeps(servers[GIVE_UP].destination)


@trio_test
async def test_idle_connections_go_first_where_a_lookup_finds_no_descriptor() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))

        def lookup(host: str, port: int, **options: object) -> Any:
            if transport.idle:
                raise os_error(errno.EMFILE)
            return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

        transport = here.transport(resolver=Resolver(lookup))
        await post(transport, server.destination)
        named = Destination("http", "x.example", server.port)
        assert (await post(transport, named)).status == 200
        assert transport.counters.evicted == 1


@trio_test
async def test_somebody_else_may_ask_for_descriptors() -> None:
    async with arena() as here:
        servers = [await here.serve(answering(OK)) for _ in range(3)]
        transport = here.transport()
        for server in servers:
            await post(transport, server.destination)
        assert transport.give_up_idle(2) == 2
        assert [transport.keeps(server.destination) for server in servers] == [False, False, True]
        assert (transport.give_up_idle(2), transport.give_up_idle(2), transport.idle) == (1, 0, 0)


@trio_test
async def test_without_idle_connections_there_is_nothing_to_give_up() -> None:
    sockets = Sockets()
    async with arena() as here:
        transport = here.transport(new_socket=sockets.new)
        short = await shortage(post(transport, Destination("http", "127.0.0.1", 9)))
        assert (short.reason, sockets.failed) == ("descriptors", 1)


@trio_test
async def test_no_memory_before_the_first_byte_is_no_failed_attempt() -> None:
    def none(*given: object) -> Any:
        raise MemoryError

    async with arena() as here:
        transport = here.transport(check=allow_all, new_socket=none)
        assert (await shortage(post(transport, Destination("http", "127.0.0.1", 9)))).reason == "memory"

    two = [v4("127.0.0.1"), v4("127.0.0.2")]
    assert (await shortage(connect(two, new_socket=none))).reason == "memory"


# --- the limit of attempts in flight ------------------------------------------------------------------------


def test_a_shortage_that_stays_costs_a_lapse_a_second_and_one_that_is_over_is_forgotten() -> None:
    limit, now_ns, lapses = InFlightLimit(512, lambda: 0.0), 0, 0
    room = 100
    in_flight = 300
    while in_flight > room:
        in_flight -= 1
        limit.lapsed(in_flight, now_ns)
    assert limit.look(now_ns) == room
    for _ in range(20_000):  # a minute of a shortage
        now_ns += 3 * MS
        while limit.look(now_ns) > in_flight:
            in_flight += 1
            if in_flight > room:
                in_flight -= 1
                lapses += 1
                limit.lapsed(in_flight, now_ns)
    assert 50 < lapses < 70
    assert limit.until_ns is not None
    over_ns = now_ns
    while limit.look(now_ns) < 512:
        now_ns += MS
    assert now_ns - over_ns < 3 * PAUSE_MAX_NS
    assert (limit.limit, limit.until_ns) == (512, None)
    limit.lapsed(511, now_ns)
    assert limit.until_ns == now_ns + PAUSE_MIN_NS


def test_a_new_shortage_begins_with_a_short_pause_however_long_the_last_one_was() -> None:
    limit, now_ns = InFlightLimit(4, lambda: 0.0), 0
    for _ in range(10):  # the pause is doubled up to its most
        limit.lapsed(0, now_ns)
        assert limit.until_ns is not None
        now_ns = limit.until_ns
        assert limit.look(now_ns) == 1
    assert limit.until_ns == now_ns + PAUSE_MAX_NS
    now_ns += 2 * PAUSE_MAX_NS
    assert (limit.look(now_ns), limit.until_ns) == (4, None)
    limit.lapsed(3, now_ns)
    assert (limit.limit, limit.until_ns) == (3, now_ns + PAUSE_MIN_NS)


def test_lapses_of_attempts_that_began_together_are_one_pause() -> None:
    limit = InFlightLimit(64, lambda: 0.0)
    for left in range(63, 31, -1):
        limit.lapsed(left, 5)
    assert (limit.look(5), limit.until_ns) == (32, 5 + PAUSE_MIN_NS)
    assert limit.look(5 + PAUSE_MIN_NS) == 33


def test_a_pause_that_was_slept_through_is_over() -> None:
    limit = InFlightLimit(1 << 20, lambda: 0.0)
    limit.lapsed(0, 0)
    assert limit.look(PAUSE_MIN_NS - 1) == 0
    assert limit.look(1 << 60) == 1 << 20


def test_each_reason_is_counted_and_said_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    limit = InFlightLimit(8, lambda: 0.0)
    for reason in REASONS:
        limit.count(reason)
        limit.count(reason)
    assert limit.lapses == dict.fromkeys(REASONS, 2)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(REASONS)
    assert "short_of=descriptors lapsed=1; raise LimitNOFILE" in lines[0]
