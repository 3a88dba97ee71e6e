"""Attempts on kept connections, awaited by one task for all: each ends once and alone, as in its own task."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, trio_test

from tests.core.driver import Driver
from tests.delivery.servers import (
    OK,
    Arena,
    Handler,
    Server,
    Wire,
    answering,
    arena,
    closing_on_second_request,
)
from tests.delivery.test_transport_hostile import NO_REPLIES, STANDING
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task, key_of
from wheeltimer.delivery import callback as callback_module
from wheeltimer.delivery.callback import Again, Landing, Sender
from wheeltimer.delivery.executor import FLIGHTS_PER_TURN_MAX
from wheeltimer.delivery.oddhead import status_of
from wheeltimer.delivery.reply import HEAD_BYTES_MAX
from wheeltimer.delivery.transport import BURST, Transport
from wheeltimer.errors import StorageFailed

JOURNAL_ID = b"journal-of-tests"


class Runway:
    """A sender with its arrivals running; ``landed`` holds how each flight ended, by the task's id."""

    def __init__(self, transport: Transport) -> None:
        self.driver = Driver()
        self.transport = transport
        self.sender = Sender(transport, JOURNAL_ID, lambda: self.driver.now)
        self.landed: dict[str, Landing] = {}
        self._news = trio.Event()

    def task(self, id: str, server: Server, **fields: Any) -> tuple[str, Task]:
        self.driver.ask("schedule", id=id, url=server.url, **fields)
        self.driver.tick()
        return key_of("default", id), self.driver.task(key_of("default", id))

    def begin(self, id: str, server: Server, **fields: Any) -> Again | None:
        def landed(landing: Landing) -> None:
            assert id not in self.landed, "it landed twice"
            self.landed[id] = landing
            self._news.set()
            self._news = trio.Event()

        again = self.sender.begin(*self.task(id, server, **fields), self.driver.now, landed)
        self.sender.flush()
        return again

    async def landing(self, id: str) -> Landing:
        while id not in self.landed:
            await self._news.wait()
        return self.landed[id]

    async def warm(self, server: Server, connections: int = 1) -> None:
        """Have so many connections kept; their first replies are waited for together."""
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                again = self.begin(f"warm-{server.port}-{len(self.driver.engine.table)}", server)
                assert again is not None, "a kept connection before the first"
                nursery.start_soon(again)
        assert self.transport.idle >= connections

    async def fly(self, id: str, server: Server, **fields: Any) -> Answer:
        """By a kept connection, to the end, the resend included."""
        assert self.begin(id, server, **fields) is None, "no connection was kept"
        with trio.fail_after(5):
            landing = await self.landing(id)
            assert landing is not None
            return landing if isinstance(landing, Answer) else await landing()


@asynccontextmanager
async def runway(here: Arena, **options: object) -> AsyncIterator[Runway]:
    instance = Runway(here.transport(**options))
    async with trio.open_nursery() as nursery:
        await nursery.start(instance.sender.arrivals.run)
        yield instance
        nursery.cancel_scope.cancel()


@trio_test
async def test_many_flights_land_each_with_its_own_reply() -> None:
    """More than one turn takes, on as many connections as are in flight, again and again."""

    async def echo(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            body = request.partition(b"\r\n\r\n")[2]
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with arena() as here, runway(here) as run:
        server = await here.serve(echo)
        count = 3 * FLIGHTS_PER_TURN_MAX + 1
        await run.warm(server, count)
        for turn in range(3):
            ids = [f"{turn}-{number}" for number in range(count)]
            assert [run.begin(id, server, body=id) for id in ids] == [None] * count
            assert run.begin(f"{turn}-more", server, body="") is not None, "more than were kept"
            with trio.fail_after(5):
                for id in ids:
                    landing = await run.landing(id)
                    assert isinstance(landing, Answer)
                    assert (landing.status, landing.body) == (200, b'"%b"' % id.encode())
        assert server.connections == count
        assert run.transport.counters.reused == 3 * count


@trio_test
async def test_requests_begun_together_go_out_together_and_none_stays_behind() -> None:
    """They wait for a burst to be whole or for `flush`; one that was cut meanwhile harms no other."""
    async with arena() as here, runway(here) as run:
        server = await here.serve(answering(OK))
        await run.warm(server, BURST + 3)
        server.requests.clear()
        bodies = [b"%d" % number for number in range(BURST + 3)]
        begun = [run.transport.begin(server.destination, b"POST", b"/", b"", body) for body in bodies]

        async def received(count: int) -> list[int]:
            with trio.fail_after(5):
                while len(server.requests) < count:
                    await trio.lowlevel.checkpoint()
            return sorted(int(request.partition(b"\r\n\r\n")[2]) for request in server.requests)

        assert await received(BURST) == list(range(BURST))
        cut = begun[BURST]
        assert cut is not None
        cut.cut()
        run.transport.flush()
        run.transport.flush()
        assert await received(BURST + 2) == [*range(BURST), BURST + 1, BURST + 2]
        for kept in begun:
            assert kept is not None
            kept.cut()


@pytest.mark.parametrize("reset", [False, True])
def test_flight_on_a_stale_connection_goes_out_once_more_with_the_same_bytes(reset: bool) -> None:
    async def check() -> None:
        async with arena() as here, runway(here) as run:
            server = await here.serve(closing_on_second_request(reset=reset))
            await run.warm(server)
            answer = await run.fly("a", server, body={"n": 1})
            assert (answer.status, answer.error) == (200, None)
            assert server.requests[1] == server.requests[2]
            assert len(server.requests) == 3
            assert run.transport.counters.resent == 1

    trio.run(check)


@pytest.mark.parametrize("reset", [False, True])
def test_flight_is_not_sent_again_once_a_reply_byte_came(reset: bool) -> None:
    async def check() -> None:
        async with arena() as here, runway(here) as run:
            server = await here.serve(closing_on_second_request(b"H", reset=reset))
            await run.warm(server)
            answer = await run.fly("a", server)
            assert answer.error is not None
            assert answer.error.startswith("reset: ")
            assert len(server.requests) == 2
            assert run.transport.counters.resent == 0

    trio.run(check)


def after_one(raw: bytes, pieces: bool = False) -> Handler:
    """Answers the first request of its first connection; to everything else ``raw``, and closes."""

    async def handle(wire: Wire) -> None:
        await wire.request()
        if wire.number == 1:
            await wire.send(OK)
            await wire.request()
        for at in range(len(raw)) if pieces else (0,):
            await wire.send(raw[at : at + 1] if pieces else raw)

    return handle


@pytest.mark.parametrize("name", NO_REPLIES)
def test_what_is_no_reply_is_none_in_flight_either(name: str) -> None:
    raw, kind = NO_REPLIES[name]

    async def check() -> None:
        async with arena() as here, runway(here) as run:
            server = await here.serve(after_one(raw))
            await run.warm(server)
            answer = await run.fly("a", server)
            assert answer.status == status_of(raw[:HEAD_BYTES_MAX])
            assert answer.error is not None
            assert answer.error.startswith(f"{kind}: ")
            assert run.transport.idle == 0
            assert len(server.requests) == (3 if not raw else 2)

    trio.run(check)


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize("pieces", [False, True])
def test_bytes_after_the_reply_end_the_connection_in_flight_too(name: str, pieces: bool) -> None:
    raw, body = STANDING[name]

    async def check() -> None:
        async with arena() as here, runway(here) as run:
            server = await here.serve(after_one(raw, pieces))
            await run.warm(server)
            answer = await run.fly("a", server)
            assert (answer.error, answer.body) == (None, body)
            again = run.begin("b", server)  # a kept connection was looked at before it was used
            if again is not None:
                await again()
            else:  # the stray bytes had not come yet: what they say must not be taken for an answer to it
                assert pieces

    trio.run(check)


def test_flight_to_a_silent_receiver_ends_with_its_timeout_and_no_other_does() -> None:
    async def check() -> None:
        async with arena() as here, runway(here) as run:
            gate = trio.Event()

            async def slow(wire: Wire) -> None:
                await wire.request()
                await wire.send(OK)
                while await wire.request() is not None:
                    await gate.wait()
                    await wire.send(OK)

            server = await here.serve(slow)
            await run.warm(server, 3)
            began_s = trio.current_time()
            for id, timeout in (("long", "20s"), ("short", 700), ("middle", "3s")):
                assert run.begin(id, server, timeout=timeout) is None
            for id, text in (
                ("short", "timeout: no whole reply within 700 ms"),
                ("middle", "timeout: no whole reply within 3000 ms"),
            ):
                landing = await run.landing(id)
                assert isinstance(landing, Answer)
                assert landing.error == text
            assert 3 <= trio.current_time() - began_s < 4
            gate.set()
            landing = await run.landing("long")
            assert isinstance(landing, Answer)
            assert landing.status == 200

    trio.run(check, clock=MockClock(autojump_threshold=0.05))


@trio_test
async def test_bug_in_one_flight_fails_it_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judged = callback_module.reply_directives

    def wishes(reply: Any, now: Any) -> tuple[int | None, bool, str]:
        if reply.status == 418:
            raise ZeroDivisionError
        return judged(reply, now)

    async with arena() as here, runway(here) as run:
        good = await here.serve(answering(OK))
        bad = await here.serve(after_one(b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n"))
        await run.warm(good)
        await run.warm(bad)
        monkeypatch.setattr(callback_module, "reply_directives", wishes)
        answer = await run.fly("a", bad)
        assert answer.error == "internal: see the daemon's log"
        assert "attempt failed inside key=default/a" in caplog.text
        assert (await run.fly("b", good)).status == 200


@trio_test
async def test_flights_are_cut_when_the_daemon_ends() -> None:
    async def silent(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        await trio.sleep_forever()

    async with arena() as here:
        server = await here.serve(silent)
        async with runway(here) as run:
            await run.warm(server, 2)
            assert run.begin("a", server) is None
            assert run.begin("b", server) is None
            await run.warm(server)
        assert run.landed == {"a": None, "b": None}
        assert run.begin("late", server) is None
        assert run.landed["late"] is None


@trio_test
async def test_large_request_in_flight_to_a_slow_reader_arrives_whole() -> None:
    """What the socket does not take at once goes out as room comes."""
    async with arena() as here, runway(here) as run:

        async def slow(wire: Wire) -> None:
            await wire.request()
            await wire.send(OK)
            await trio.testing.wait_all_tasks_blocked()
            while await wire.request() is not None:
                await wire.send(OK)

        server = await here.serve(slow)
        await run.warm(server)
        kept = run.transport.begin(server.destination, b"POST", b"/", b"", body := b"x" * (8 << 20))
        assert kept is not None
        run.transport.flush()
        landed = trio.Event()

        class Flight:
            deadline_s = trio.current_time() + 5
            unread = False

            def arrived(self) -> bool:
                if kept.advance() is None:
                    return False
                landed.set()
                return True

        run.sender.arrivals.add(Flight(), kept.connection)  # type: ignore[arg-type]
        with trio.fail_after(5):
            await landed.wait()
        assert server.requests[1].endswith(body)


@trio_test
async def test_long_reply_is_read_in_several_turns_and_arrives_whole() -> None:
    """No edge tells of what arrived before the first look; 16 long replies are no 90 ms in one piece."""
    body = b"0123456789abcdef" * 4096
    async with arena() as here, runway(here) as run:
        server = await here.serve(answering(OK, b"HTTP/1.1 200 OK\r\ncontent-length: 65536\r\n\r\n" + body))
        await run.warm(server)
        assert run.begin("long", server) is None
        kept = run.sender.arrivals._flights.copy()
        while len(server.requests) < 2:  # the whole reply is there before anybody looks
            await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            landing = await run.landing("long")
        assert isinstance(landing, Answer)
        assert landing.body == body
        assert len(kept) == 1


def test_replies_that_came_while_the_process_stood_still_are_no_timeouts() -> None:
    """More of them than one turn takes, all in their sockets when the deadline has passed."""
    number = 3 * FLIGHTS_PER_TURN_MAX
    clock = MockClock()

    async def check() -> None:
        async with arena() as here, runway(here) as run:
            server = await here.serve(answering(*[OK] * 2))
            await run.warm(server, number)
            ids = [f"flight-{each}" for each in range(number)]
            for id in ids:
                assert run.begin(id, server, timeout=1000) is None
            while len(server.requests) < 2 * number:
                await trio.lowlevel.checkpoint()
            clock.jump(2)
            for id in ids:
                landing = await run.landing(id)
                assert isinstance(landing, Answer)
                assert landing.status == 200, landing

    trio.run(check, clock=clock)


@trio_test
async def test_storage_that_fails_at_a_landing_is_that_error_and_no_cut_on_top() -> None:
    """The outcome gave the attempt's room back before the journal refused it."""
    async with arena() as here:
        ended: list[Landing] = []

        def landed(landing: Landing) -> None:
            ended.append(landing)
            raise StorageFailed("the journal takes no more records")

        with pytest.RaisesGroup(StorageFailed):
            async with runway(here) as run:
                server = await here.serve(answering(OK, OK))
                await run.warm(server)
                assert run.sender.begin(*run.task("last", server), run.driver.now, landed) is None
                run.sender.flush()
                with trio.fail_after(5):
                    await trio.sleep_forever()
        assert [type(landing) for landing in ended] == [Answer]


@trio_test
async def test_receivers_that_close_what_is_idle_do_not_keep_the_loop_awake() -> None:
    async with arena() as here, runway(here) as run:
        gate = trio.Event()

        async def closes(wire: Wire) -> None:
            for _ in range(2):
                await wire.request()
                await wire.send(OK)
            await gate.wait()

        server = await here.serve(closes)
        await run.warm(server, 5)
        ids = [f"watched-{number}" for number in range(5)]
        assert [run.begin(id, server) for id in ids] == [None] * 5
        for id in ids:
            await run.landing(id)
        gate.set()
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked(0.01)  # never, where an end wakes it again and again
        again = run.begin("next", server)
        assert again is not None
        assert run.transport.counters.found_closed == 5


@trio_test
async def test_flights_over_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with arena() as here, runway(here, ssl_context=trusting) as run:
        body = b"y" * 60_000  # several records
        reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        server = await here.serve(answering(reply), ssl_context=context)
        await run.warm(server)
        for number in range(3):
            answer = await run.fly(str(number), server, body="z" * 60_000)
            assert (answer.status, answer.body) == (200, body)
        assert server.connections == 1
        cut = run.transport.begin(server.destination, b"POST", b"/", b"", b"")
        assert cut is not None
        cut.cut()
        run.transport.flush()  # no worse than a socket without TLS that was closed meanwhile
