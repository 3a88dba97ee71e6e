"""A process that stood still reads what lies in its sockets before it calls anything late."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import trio

from wheeltimer.daemon.loopclock import GRACE_S, STILL_S, LoopClock


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


def test_silence_is_a_timeout_all_the_same_and_a_pause_does_not_count() -> None:
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


def test_clock_by_hand() -> None:
    now = [100.0]
    clock = LoopClock(lambda: now[0])
    clock.start_clock()

    def after(s: float) -> float:
        now[0] += s
        return clock.current_time()

    assert after(0.01) == pytest.approx(100.01)  # runs as its source
    assert clock.deadline_to_sleep_time(100.05) == pytest.approx(0.04)
    assert after(0.02) == pytest.approx(100.03)  # an event came first
    clock.deadline_to_sleep_time(100.05)
    first = after(0.03)
    assert first < 100.05  # the sockets are read once more first ...
    assert first == pytest.approx(100.05, abs=1e-5)
    assert clock.deadline_to_sleep_time(100.05) <= 0
    assert after(0) == pytest.approx(100.06)  # ... and then it is over
    clock.deadline_to_sleep_time(100.16)
    shown = after(5.0)  # stood still
    assert shown == pytest.approx(100.06)
    for _ in range(5):
        assert shown <= clock.current_time() < 100.16 + 1e-9  # never back, and not over for a while
        after(GRACE_S / 6)
    assert after(GRACE_S) > 100.16
    before = clock.current_time()
    assert after(2.0) == pytest.approx(before)  # stood still while it worked: no wait was planned
    after(0.09)
    after(0.09)
    clock.deadline_to_sleep_time(math.inf)
    before = clock.current_time()
    clock.deadline_to_sleep_time(math.inf)
    assert after(1000) == pytest.approx(before + 1000)  # a wait for anything, however long, is no pause


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
