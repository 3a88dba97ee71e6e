"""Lookup, check of every answer, and connects that take turns; no test asks a name server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
import trio
from trio.testing import trio_test

from tests.delivery.servers import OK, answering, arena, deaf_listener, open_sockets, post
from wheeltimer.delivery import resolve
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.resolve import Address, Resolver, check_all, connect
from wheeltimer.delivery.shortage import Shortage
from wheeltimer.errors import TargetBlocked

pytestmark = pytest.mark.quick


def row(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


def naming(*answers: list[str]) -> tuple[Resolver, list[str]]:
    """A resolver that gives these answers in turn, the last one for ever, and the list of what was asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **options: object) -> list[tuple[Any, ...]]:
        answer = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [row(address, port) for address in answer]

    return Resolver(getaddrinfo), asked


def loopback_is_blocked(address: IPv4Address | IPv6Address) -> str | None:
    return "see allow_nets" if address.is_loopback else None


def only_127_0_0_1(address: IPv4Address | IPv6Address) -> str | None:
    return None if str(address) == "127.0.0.1" else f"{address} is not allowed: see allow_nets"


@trio_test
async def test_resolver_that_changes_its_answer_between_check_and_connect_gains_nothing() -> None:
    async with arena() as here:
        good = await here.serve(answering(OK))
        bad = await here.serve(answering(OK), host="127.0.0.2")
        resolver, asked = naming(["127.0.0.1"], ["127.0.0.2"])
        transport = here.transport(check=only_127_0_0_1, resolver=resolver)
        name = Destination("http", "turncoat.example", good.port)
        assert (await post(transport, name)).status == 200
        assert asked == ["turncoat.example"]
        assert good.connections == 1
        await transport.aclose()
        transport = here.transport(check=only_127_0_0_1, resolver=resolver)
        with pytest.raises(AttemptError) as caught:
            await post(transport, name)
        assert caught.value.kind == "blocked"
        assert bad.connections == 0


@pytest.mark.parametrize("position", [0, 1, 7, 299])
def test_one_bad_address_among_many_refuses_them_all(position: int) -> None:
    answers = ["127.0.0.1"] * 300
    answers[position] = "169.254.169.254"

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK))
            transport = here.transport(check=only_127_0_0_1, resolver=naming(answers)[0])
            with pytest.raises(AttemptError, match=r"169\.254\.169\.254.*allow_nets") as caught:
                await post(transport, Destination("http", "mixed.example", server.port))
            assert caught.value.kind == "blocked"
            assert isinstance(caught.value.__cause__, TargetBlocked)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert server.connections == 0

    trio.run(main)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "localhost", "127.1", "0x7f.1", "2130706433", "017700000001"]
)
def test_every_spelling_of_loopback_is_checked_as_what_it_is(host: str) -> None:
    async def main() -> None:
        async with arena() as here:
            transport = here.transport(check=loopback_is_blocked)
            with pytest.raises(AttemptError) as caught:
                await post(transport, Destination("http", host, 9))
            assert caught.value.kind == "blocked"

    trio.run(main)


def test_check_sees_the_scope_and_the_mapped_address() -> None:
    seen: list[IPv4Address | IPv6Address] = []
    rows = [Address(socket.AF_INET6, (host, 80, 0, 0)) for host in ("fe80::1%lo", "::ffff:127.0.0.1")]
    check_all("x", rows, seen.append)
    assert seen == [IPv6Address("fe80::1%lo"), IPv6Address("::ffff:7f00:1")]


@pytest.mark.parametrize("host", ["", "a" * 64 + ".example", "a..b", "a\0b", "xn--\udc80"])
def test_name_that_cannot_be_a_name_is_a_dns_failure(host: str) -> None:
    async def main() -> None:
        with pytest.raises(AttemptError) as caught:
            await Resolver(_no_network).lookup(host, 80)
        assert caught.value.kind == "dns"

    trio.run(main)


def _no_network(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
    host.encode("idna")
    if not host or "\0" in host:
        raise ValueError("embedded null character")
    return socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, **options)


def test_failed_and_empty_lookups_are_dns_failures() -> None:
    def fails(*args: object, **options: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def empty(*args: object, **options: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "x")]

    async def main(getaddrinfo: Callable[..., list[tuple[Any, ...]]]) -> None:
        with pytest.raises(AttemptError) as caught:
            await Resolver(getaddrinfo).lookup("nowhere.example", 80)
        assert caught.value.kind == "dns"
        assert "nowhere.example" in str(caught.value)

    trio.run(main, fails)
    trio.run(main, empty)


@trio_test
async def test_a_lookup_that_no_thread_can_be_had_for_leaves_the_name_alone() -> None:
    """The name stayed under way for ever: nobody could be called there until the next start."""
    threads = 0

    def start(*given: Any, **options: Any) -> None:
        if not threads:
            raise RuntimeError("can't start new thread")
        trio.lowlevel.start_thread_soon(*given, **options)

    resolver = Resolver(_no_network, start)
    with pytest.raises(Shortage, match=r"lookup of 0177\.1: can't start new thread") as caught:
        await resolver.lookup("0177.1", 80)
    assert caught.value.reason == "threads"
    threads = 1
    with trio.fail_after(2):
        assert [each.sockaddr for each in await resolver.lookup("0177.1", 80)] == [("127.0.0.1", 80)]


@trio_test
async def test_what_goes_wrong_inside_a_lookup_fails_those_who_wait_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was raised in the loop, and ended the daemon."""
    answers: list[Any] = [KeyError("no such thing"), [row("127.0.0.1", 80)]]

    def lookup(*given: object, **options: object) -> list[tuple[Any, ...]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    resolver = Resolver(lookup)
    with pytest.raises(AttemptError, match="KeyError: 'no such thing'"):
        await resolver.lookup("some.example", 80)
    assert "lookup failed inside host=some.example" in caplog.text
    assert await resolver.lookup("some.example", 80)


class Stuck:
    """A getaddrinfo that hangs for names that begin with "dead" until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.running = 0

    def __call__(self, host: str, port: int, **options: object) -> list[tuple[Any, ...]]:
        if host.startswith("dead"):
            self.running += 1
            self.let_go.wait(10)
        return [row("127.0.0.1", port)]


@trio_test
async def test_dead_name_server_pins_one_thread_per_name_and_delays_no_other_name() -> None:
    stuck = Stuck()
    resolver = Resolver(stuck)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(resolver.lookup, "dead.example", 80)
        with trio.fail_after(2):
            assert await resolver.lookup("alive.example", 80)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(0.01) as scope:  # the hanging thread is joined, not doubled
        await resolver.lookup("dead.example", 80)
    assert scope.cancelled_caught
    assert stuck.running == 1
    stuck.let_go.set()
    with trio.fail_after(2):
        assert await resolver.lookup("dead.example", 80)


@trio_test
async def test_lookups_beyond_the_limit_wait_for_a_free_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "LOOKUPS_MAX", 2)
    stuck = Stuck()
    resolver = Resolver(stuck)
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(resolver.lookup, f"dead{number}.example", 80)
            await trio.testing.wait_all_tasks_blocked()
            while stuck.running < 2:
                time.sleep(0.001)  # noqa: ASYNC251 - a thread starts, Trio need not run
            assert stuck.running == 2
            stuck.let_go.set()
    assert stuck.running == 5


def test_lookup_that_outlives_the_run_is_left_alone() -> None:
    stuck = Stuck()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await Resolver(stuck).lookup("dead.example", 80)

    trio.run(main)
    assert stuck.running == 1, "it is still looking up"
    stuck.let_go.set()


@trio_test
async def test_slow_lookup_ends_with_the_connect_timeout() -> None:
    stuck = Stuck()
    async with arena() as here:
        transport = here.transport(resolver=Resolver(stuck))
        with pytest.raises(AttemptError, match="looking up") as caught:
            await post(transport, Destination("http", "dead.example", 80), connect_timeout_ms=20)
        assert caught.value.kind == "timeout"
    stuck.let_go.set()


@trio_test
async def test_refused_address_passes_the_turn_on_at_once() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))
        resolver, _ = naming(["127.0.0.3", "127.0.0.2", "127.0.0.1"])
        transport = here.transport(resolver=resolver)
        with trio.fail_after(resolve.STAGGER_S):
            assert (await post(transport, Destination("http", "three.example", server.port))).status == 200


def test_silent_address_holds_the_next_up_for_the_stagger_only() -> None:
    async def main() -> None:
        with deaf_listener() as deaf:
            async with arena() as here:
                server = await here.serve(answering(OK))
                addresses = [
                    Address(socket.AF_INET, ("127.0.0.1", deaf)),
                    Address(socket.AF_INET, ("127.0.0.1", server.port)),
                ]
                started = trio.current_time()
                (await connect(addresses)).close()
                assert trio.current_time() - started == pytest.approx(resolve.STAGGER_S)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


@trio_test
async def test_cancelled_race_of_connects_leaves_no_socket() -> None:
    with deaf_listener() as deaf:
        before = open_sockets()
        with trio.move_on_after(0.02):
            await connect([Address(socket.AF_INET, ("127.0.0.1", deaf))] * 3)
        assert open_sockets() == before


@pytest.mark.parametrize("cancelled", [False, True])
def test_connects_that_win_together_leave_at_most_one_socket(
    monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    made: list[socket.socket] = []
    got: list[socket.socket] = []

    async def main() -> None:
        both = trio.Event()

        async def at_once(address: Address, *given: object) -> socket.socket:
            await both.wait()
            made.append(socket.socket())
            return made[-1]

        async def race() -> None:
            got.append(await connect([Address(socket.AF_INET, ("127.0.0.1", 1))] * 2))

        monkeypatch.setattr(resolve, "_connect_one", at_once)
        monkeypatch.setattr(resolve, "STAGGER_S", 60 if cancelled else 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(race)
            await trio.testing.wait_all_tasks_blocked()
            both.set()
            if cancelled:
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert len(made) == (1 if cancelled else 2)
    still_open = [sock for sock in made if sock.fileno() >= 0]
    assert still_open == got
    assert len(got) == (not cancelled)
    for sock in got:
        sock.close()


@trio_test
async def test_nothing_listens_is_a_connect_failure_with_its_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for addresses in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
            with pytest.raises(AttemptError, match="Connection refused") as caught:
                await connect([Address(socket.AF_INET, (address, port)) for address in addresses])
            assert caught.value.kind == "connect"


def test_families_take_turns_beginning_with_the_first() -> None:
    async def main() -> None:
        tried: list[str] = []

        async def refused(address: Address, *given: object) -> socket.socket:
            tried.append(address.sockaddr[0])
            raise ConnectionRefusedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resolve, "_connect_one", refused)
            names = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]
            rows = [row(name, 80) for name in [*names, *["192.0.2.9"] * 100]]
            with pytest.raises(AttemptError):
                await connect([Address(item[0], item[4]) for item in rows])
        assert tried[:5] == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]
        assert len(tried) == resolve.ADDRESSES_TRIED_MAX

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@trio_test
async def test_ipv6_literal_is_called_and_named_in_brackets() -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 loopback on this machine")
    async with arena() as here:
        server = await here.serve(answering(OK), host="::1")
        assert (await post(here.transport(), server.destination)).status == 200
        assert b"host: [::1]:%d\r\n" % server.port in server.requests[0]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
