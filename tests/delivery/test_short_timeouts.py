"""Time-outs that are too short to tell anything, and failures after a status line: what a window learns."""

from __future__ import annotations

import pytest
from trio.testing import trio_test

from tests.delivery.fakes import World, answer, no_answer
from tests.delivery.servers import OK, Wire, answering, arena, deaf_listener
from tests.delivery.test_executor import Runway, runway
from tests.delivery.test_window import MS, attempt, down
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.delivery.window import HOLD_NS, NS_PER_S, WINDOW_FIRST, Window

SHORT = [no_answer("timeout", given_ms) for given_ms in (1, 400, 999)]
AFTER_STATUS = ("timeout", "reset", "protocol", "tls")


def broken_off(status: int, kind: str) -> Answer:
    """A status line was read, and then the attempt failed."""
    given_ms = 15_000 if kind == "timeout" else None
    return Answer(0, 0, 0, status, f"{kind}: in the body", given_ms=given_ms)


@pytest.mark.parametrize("told", SHORT, ids=["1 ms", "400 ms", "999 ms"])
def test_a_short_time_out_neither_holds_nor_halves(told: Answer) -> None:
    window = Window()
    for number in range(100):
        attempt(window, told, number + 1)
    assert (window.held_ns, window.size) == (None, WINDOW_FIRST)


@pytest.mark.parametrize("given_ms", [1_000, 3_000])
def test_a_time_out_of_a_second_holds(given_ms: int) -> None:
    window = Window()
    for number in range(10):
        attempt(window, no_answer("timeout", given_ms), number + 1)
    assert (window.held_ns, window.size) == (10, 1)


def test_short_time_outs_are_no_sign_of_life_either() -> None:
    """Between failures that count they neither break the row nor thin out the share."""
    window = Window()
    for number in range(9):
        attempt(window, no_answer(), 2 * number + 1)
        attempt(window, SHORT[0], 2 * number + 2)
    assert window.held_ns is None
    attempt(window, no_answer(), 100)
    assert window.held_ns == 100


def test_a_short_time_out_opens_no_held_destination() -> None:
    """Nor does it count as a probe that failed; the next goes a second later, not at once."""
    window = Window()
    probe_ns = down(window, 10) + HOLD_NS
    held_ns = window.held_ns
    attempt(window, SHORT[0], probe_ns, probe_ns + MS)
    assert (window.held_ns, window.probes) == (held_ns, 0)
    assert window.wait_ns(probe_ns + MS) == NS_PER_S
    attempt(window, answer(), probe_ns + MS + NS_PER_S)
    assert window.held_ns is None


@pytest.mark.parametrize("kind", AFTER_STATUS)
def test_after_a_status_line_the_status_counts_whatever_failed_then(kind: str) -> None:
    for status, size, held in ((200, 8, False), (404, 8, False), (429, 1, False), (503, 1, True)):
        window = Window()
        for number in range(10):
            attempt(window, broken_off(status, kind), number + 1)
        assert (window.size, window.held_ns is not None) == (size, held), status


def test_a_status_line_opens_a_held_destination_though_the_attempt_failed() -> None:
    window = Window()
    probe_ns = down(window, 10) + HOLD_NS
    attempt(window, broken_off(200, "reset"), probe_ns)
    assert (window.held_ns, window.size) == (None, 1), "and it is no success that widens the window"


def test_one_queues_short_time_outs_do_not_hold_a_healthy_receiver_for_others() -> None:
    """Twelve tasks with a time-out of 1 ms held it for all, and others died without an attempt."""

    def receive(task: Task) -> tuple[int, Answer]:
        return (1, no_answer("timeout", 1)) if task.timeout == "1ms" else (20, answer())

    world = World(receive=receive)
    for number in range(12):
        rule = {"kind": "fixed", "every": "1s", "attempts": 1_000, "jitter": 0}
        world.schedule(f"a{number}", queue="a-1", timeout="1ms", retry=rule)
    world.run(5_000)
    keys = [world.schedule(f"b{number}", queue="b-1", retry="none") for number in range(100)]
    world.run(1_000)
    assert {world.state(key) for key in keys} == {"done"}
    assert world.window().held_ns is None


# --- the time that was given -------------------------------------------------------------------------------


async def silent(wire: Wire) -> None:
    await wire.request()
    await wire.request()


@trio_test
async def test_the_time_that_was_given_for_the_whole_is_told() -> None:
    async with arena() as here, runway(here) as run:
        server = await here.serve(silent)
        again = run.begin("a", server, timeout="30ms")
        assert again is not None
        told = await again()
        assert told.error == "timeout: no whole reply within 30 ms"
        assert told.given_ms == 30


@trio_test
async def test_the_time_that_was_given_is_told_for_a_kept_connection_too() -> None:
    async def once_then_silent(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await silent(wire)

    async with arena() as here, runway(here) as run:
        server = await here.serve(once_then_silent)
        await run.warm(server)
        told = await run.fly("a", server, timeout="30ms")
        assert (told.error, told.given_ms) == ("timeout: no whole reply within 30 ms", 30)


@trio_test
async def test_the_time_that_was_given_for_a_connection_is_told() -> None:
    with deaf_listener() as deaf:
        async with arena() as here:
            run = Runway(here.transport())
            server = await here.serve(answering(OK))
            server.port = deaf
            again = run.begin("a", server, connect_timeout="30ms", timeout="5s")
            assert again is not None
            told = await again()
            assert told.error == "timeout: no connection in 0.03 s, still connecting"
            assert told.given_ms == 30
