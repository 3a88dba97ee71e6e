"""Who gets the loop, and how much of it: those who ask for little beside those who bring much."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.daemon.worlds import Stopwatch, settle
from tests.server.test_connection_ends import schedule, site
from wheeltimer.runtime.time_slices import (
    HUSH_NS,
    LIGHT_NEAR_NS,
    SHORT_FACTOR,
    SLICE_LINES_MAX,
    SLICE_NS,
    TimeSlices,
)
from wheeltimer.server.listeners import Paced
from wheeltimer.server.rejection import Overflow


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' loop may itself stand still for longer than a commit may take."""
    monkeypatch.setattr("wheeltimer.runtime.time_slices.HUSH_NS", 60_000_000_000)


async def _works(turn: TimeSlices, name: str, said: list[str], *, light: bool = False) -> None:
    """Uses one slice after the other."""
    while True:
        began_ns = await turn.take(light=light)
        said.append(name)
        turn.release(began_ns, light=light)
        if light:
            await trio.lowlevel.checkpoint()  # its next request comes in another pass


@trio_test
async def test_those_who_bring_much_go_round_in_turn(stopwatch: Stopwatch) -> None:
    turn, said = TimeSlices(), list[str]()
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
    turn, said = TimeSlices(), list[str]()
    stopwatch.step_ns = SLICE_NS
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(_works, turn, str(number), said)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            before = len(said)
            turn.release(await turn.take(light=True), light=True)
            assert len(said) - before <= 3
        nursery.cancel_scope.cancel()


@trio_test
async def test_those_who_ask_for_little_do_not_starve_those_who_bring_much(stopwatch: Stopwatch) -> None:
    """However many they are: both move on."""
    turn, said = TimeSlices(), list[str]()
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
    turn = TimeSlices()
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS, SLICE_LINES_MAX)
    await turn.take(light=True)
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS // SHORT_FACTOR, SLICE_LINES_MAX // SHORT_FACTOR)
    stopwatch.step_ns = LIGHT_NEAR_NS
    await turn.take()
    assert (turn.slice_ns, turn.lines_max) == (SLICE_NS, SLICE_LINES_MAX)


async def _asks(turn: TimeSlices, lsn: int) -> None:
    """A light slice whose reply waits for a commit."""
    turn.release(await turn.take(light=True), light=True)
    turn.pause_bulk_until(lsn)


async def _brings(turn: TimeSlices, said: list[str]) -> None:
    turn.release(await turn.take())
    said.append("much")


@trio_test
async def test_who_brings_much_is_still_while_others_wait_for_a_commit(
    stopwatch: Stopwatch, patience: None
) -> None:
    """A loop that never slept kept the disk's work off its processor: a sync took 8 ms in place of 0.2."""
    turn, said = TimeSlices(), list[str]()
    async with trio.open_nursery() as nursery:
        await _asks(turn, 5)
        await _asks(turn, 7)
        for _ in range(3):
            nursery.start_soon(_brings, turn, said)
        await settle()
        turn.committed(6)
        await settle()
        assert not said, "one of them waits for 7"
        await _asks(turn, 7)  # another light slice does not wait
        turn.committed(7)
        await settle()
        assert len(said) == 3


@trio_test
async def test_a_slow_disk_stops_nobody_for_long(autojump: MockClock, stopwatch: Stopwatch) -> None:
    turn, said = TimeSlices(), list[str]()
    await _asks(turn, 5)
    await _brings(turn, said)
    assert 0 < trio.current_time() <= 2 * HUSH_NS / 1e9
    stopwatch.step_ns = HUSH_NS
    began_s = trio.current_time()
    for lsn in range(6, 50):
        await _asks(turn, lsn)
        await _brings(turn, said)
    assert trio.current_time() == began_s, "once for a commit, not once for each request that waits for it"


@trio_test
async def test_commit_upon_commit_does_not_starve_those_who_bring_much(
    stopwatch: Stopwatch, patience: None
) -> None:
    turn, said = TimeSlices(), list[str]()
    async with trio.open_nursery() as nursery:
        for lsn in range(20):
            await _asks(turn, lsn)
            if lsn == 0:
                nursery.start_soon(_works, turn, "much", said)
                stopwatch.step_ns = SLICE_NS // 8
            await settle()
            turn.committed(lsn)
            await _asks(turn, lsn + 1)  # before anybody else had a turn
            await settle()
            turn.committed(lsn + 1)
        nursery.cancel_scope.cancel()
    assert len(said) >= 20


@trio_test
async def test_a_request_of_little_makes_a_flood_wait_for_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: None
) -> None:
    """The real journal, with a disk that is slow."""
    said = list[bytes]()

    async def flood() -> None:
        said.append((await requests.answer([b'{"op":"ping"}'], 0))[1])

    async with site(tmp_path, monkeypatch) as here, trio.open_nursery() as nursery:
        requests = here.daemon.requests
        here.disk.slow = True
        await requests.answer([json.dumps(schedule("a")).encode()], 0, light=True)
        nursery.start_soon(flood)
        await settle()
        assert not said
        here.disk.catch_up()
        await settle()
        assert len(said) == 1
        await requests.answer([b'{"op":"ping"}'], 0, light=True)
        await flood()  # all is durable: it waits for nothing


@trio_test
async def test_who_comes_in_waits_in_line_with_those_who_bring_much(
    stopwatch: Stopwatch, patience: None
) -> None:
    """Those who came and went a thousand times a second had the loop, and no commit got through."""
    turn, said = TimeSlices(), list[str]()
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = plain.socket.getsockname()[1]
    async with Paced(plain, turn, Overflow()) as listener, trio.open_nursery() as nursery:

        async def enters() -> None:
            async with await listener.accept():
                said.append("in")

        await _asks(turn, 5)
        nursery.start_soon(enters)
        async with await trio.open_tcp_stream("127.0.0.1", port):
            await settle()
            assert not said
            turn.committed(5)
            with trio.fail_after(10):
                while not said:  # noqa: ASYNC110
                    await trio.sleep(0.001)
