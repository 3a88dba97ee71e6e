"""A process that stood still reads what lies in its sockets before it calls anything late."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import trio

from wheeltimer.runtime.loop_clock import GRACE_EVERY_S, GRACE_S, STILL_S, LoopClock


class Source:
    """Real time, and jumps."""

    def __init__(self) -> None:
        self.jumped_s = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.jumped_s


class StandsStill(trio.abc.Instrument):
    """The process stands still for ``s`` in its first wait for events with a deadline: after the kernel has
    looked at the sockets, as in a wait that a signal interrupts. ``meanwhile`` is what others do then.
    """

    def __init__(self, source: Source, s: float, meanwhile: Callable[[], object]) -> None:
        self._source, self._s, self._meanwhile = source, s, meanwhile
        self.armed = False
        self._waits = False

    def before_io_wait(self, timeout: float) -> None:
        self._waits = self.armed and 0 < timeout < 3600

    def after_io_wait(self, timeout: float) -> None:
        if self._waits:
            self.armed = self._waits = False
            self._meanwhile()
            self._source.jumped_s += self._s


def stood_still(reads: int, clock: Callable[[Source], trio.abc.Clock], pause_s: float = 10) -> bool:
    """Whether a reader with a limit of 50 ms gets what came, in pieces, while the process stood still."""
    source = Source()
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        instrument = StandsStill(source, pause_s, lambda: theirs.sendall(b"x" * reads))

        async def main() -> bool:
            instrument.armed = True
            with trio.move_on_after(0.05):
                for _ in range(reads):  # each in a pass of its own
                    await trio.lowlevel.wait_readable(ours)
                    assert ours.recv(1) == b"x"
                return True
            return False

        return trio.run(main, clock=clock(source), instruments=[instrument])


class Plain(trio.abc.Clock):
    """As Trio's own, on a source that can jump."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return self._source()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self._source()


@pytest.mark.parametrize("reads", [1, 5])
@pytest.mark.parametrize("pause_s", [0.06, 0.2, 10, 1e6])
def test_what_came_while_the_process_stood_still_is_read_before_the_deadline_counts(
    reads: int, pause_s: float
) -> None:
    if reads == 1 or pause_s > STILL_S:
        assert stood_still(reads, LoopClock, pause_s)
    assert not stood_still(reads, Plain, pause_s), "without our clock it is late, or this test shows nothing"


def test_silence_is_a_timeout_all_the_same() -> None:
    source = Source()
    instrument = StandsStill(source, 10, lambda: None)

    async def main() -> float:
        began_s = source()
        instrument.armed = True
        with trio.move_on_after(0.03) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        return source() - began_s

    assert trio.run(main, clock=LoopClock(source), instruments=[instrument]) >= 10 + GRACE_S


class ByHand:
    """A clock whose source is moved by hand, as a loop with one far deadline reads it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.clock = LoopClock(lambda: self.now_s)
        self.clock.start_clock()

    def after(self, s: float) -> float:
        self.now_s += s
        return self.clock.current_time()


def test_it_runs_as_its_source() -> None:
    hand = ByHand()
    assert hand.after(0.01) == pytest.approx(100.01)
    assert hand.clock.deadline_to_sleep_time(100.05) == pytest.approx(0.04)
    assert hand.after(0.02) == pytest.approx(100.03)  # an event came first
    hand.clock.deadline_to_sleep_time(math.inf)
    assert hand.after(1000) == pytest.approx(1100.03)  # a wait for anything, however long, is no pause


def test_the_sockets_are_read_once_more_before_a_deadline_is_over() -> None:
    hand = ByHand()
    hand.clock.deadline_to_sleep_time(100.05)
    first = hand.after(0.06)
    assert first < 100.05
    assert first == pytest.approx(100.05, abs=1e-5)
    assert hand.clock.deadline_to_sleep_time(100.05) <= 0
    assert hand.after(0) == pytest.approx(100.06)


def test_after_a_pause_deadlines_wait_for_the_grace_and_no_longer() -> None:
    hand = ByHand()
    hand.clock.deadline_to_sleep_time(100.1)
    assert hand.after(5.0) == pytest.approx(100.0)  # stood still
    for _ in range(5):
        assert 0 < hand.clock.deadline_to_sleep_time(100.1) <= GRACE_S, "the loop looks again when it is over"
        assert hand.after(GRACE_S / 6) == pytest.approx(100.0)
    hand.clock.deadline_to_sleep_time(100.1)
    assert hand.after(GRACE_S / 2) < 100.1  # the sockets once more
    assert hand.after(0) > 105
    before = hand.clock.current_time()
    assert hand.after(0.5) > before + 0.4, "a second pause within a second has no grace"
    assert hand.after(GRACE_EVERY_S) < before + 0.6, "stood still while it worked: no wait was planned"


def test_in_a_grace_the_loop_waits_no_longer_than_the_grace() -> None:
    """For a deadline that is still ahead by the time that is shown, and over by the real one."""
    hand = ByHand()
    hand.clock.deadline_to_sleep_time(101.0)
    assert hand.after(5.0) == pytest.approx(100.0)  # stood still
    assert 0 < hand.clock.deadline_to_sleep_time(101.0) <= GRACE_S
    assert hand.after(GRACE_S) < 101.0
    assert hand.after(0) > 105


def test_a_deadline_that_is_over_before_the_wait_is_no_pause() -> None:
    hand = ByHand()
    assert hand.clock.deadline_to_sleep_time(100.0 - 2 * STILL_S) <= 0
    assert hand.after(0.01) == pytest.approx(100.01)


@pytest.mark.parametrize("run_s", [0.0005, 0.05, 0.09])
@pytest.mark.parametrize("still_s", [0.11, 0.2, 2.0])
def test_a_processor_that_is_throttled_all_the_time_postpones_a_deadline_by_a_grace(
    run_s: float, still_s: float
) -> None:
    """The clock stood still for ever when the process ran for less than the grace between two pauses."""
    hand = ByHand()
    deadline_s, passes = 110.0, 0
    while hand.clock.current_time() < deadline_s:
        passes += 1
        hand.clock.deadline_to_sleep_time(deadline_s)
        hand.after(run_s)
        hand.clock.deadline_to_sleep_time(deadline_s)
        hand.after(still_s)
        assert hand.now_s < deadline_s + GRACE_EVERY_S + 2 * (still_s + run_s), passes


def test_it_never_goes_back() -> None:
    now = [0.0]
    clock = LoopClock(lambda: now[0])
    shown = clock.current_time()
    for number in range(2000):
        now[0] += (0.0, 0.001, 0.05, 0.2, 3.0)[number * 7 % 5]
        if number % 3 == 0:
            clock.deadline_to_sleep_time(shown + (0.0, 0.01, 1.0, math.inf)[number * 5 % 4])
        again = clock.current_time()
        assert again >= shown - 1e-5
        shown = max(shown, again)
    assert shown > now[0] - 5
