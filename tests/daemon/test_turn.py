"""Who gets the loop, and how much of it: those who ask for little beside those who bring much."""

from __future__ import annotations

import itertools

import trio
from trio.testing import trio_test

from tests.daemon.worlds import Stopwatch
from wheeltimer.daemon.turn import LIGHT_NEAR_NS, SHORT_FACTOR, SLICE_LINES_MAX, SLICE_NS, Turn


async def _works(turn: Turn, name: str, said: list[str], *, light: bool = False) -> None:
    """Uses one slice after the other."""
    while True:
        began_ns = await turn.take(light=light)
        said.append(name)
        turn.spent(began_ns, light=light)
        if light:
            await trio.lowlevel.checkpoint()  # its next request comes in another pass


@trio_test
async def test_those_who_bring_much_go_round_in_turn(stopwatch: Stopwatch) -> None:
    turn, said = Turn(), list[str]()
    stopwatch.step_ns = SLICE_NS
    async with trio.open_nursery() as nursery:
        for name in "abcde":
            nursery.start_soon(_works, turn, name, said)
        while len(said) < 100:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    for some in itertools.islice(zip(*(said[start:] for start in range(5)), strict=False), 5, 90):
        assert len(set(some)) == 5, f"one of them went twice before another went once: {said}"


@trio_test
async def test_who_asks_for_little_waits_for_a_pass_or_two_and_not_for_fifty(stopwatch: Stopwatch) -> None:
    turn, said = Turn(), list[str]()
    stopwatch.step_ns = SLICE_NS
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(_works, turn, str(number), said)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            before = len(said)
            turn.spent(await turn.take(light=True), light=True)
            assert len(said) - before <= 3
        nursery.cancel_scope.cancel()


@trio_test
async def test_those_who_ask_for_little_do_not_starve_those_who_bring_much(stopwatch: Stopwatch) -> None:
    """However many they are: both move on."""
    turn, said = Turn(), list[str]()
    stopwatch.step_ns = SLICE_NS
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: _works(turn, "little", said, light=True))
        nursery.start_soon(_works, turn, "much", said)
        while len(said) < 300:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert said.count("much") >= 50
    assert said.count("little") >= 50


@trio_test
async def test_slices_are_short_as_long_as_somebody_asks_for_little(stopwatch: Stopwatch) -> None:
    turn = Turn()
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS, SLICE_LINES_MAX)
    await turn.take(light=True)
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS // SHORT_FACTOR, SLICE_LINES_MAX // SHORT_FACTOR)
    stopwatch.step_ns = LIGHT_NEAR_NS
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS, SLICE_LINES_MAX)
