"""Clocks and timers: nothing is early, a step is seen, and all timers behave alike."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.clocks import ManualClock, ManualTimer
from wheeltimer.core.task import Now
from wheeltimer.runtime import clock as clock_module
from wheeltimer.runtime import timer as timerfd
from wheeltimer.runtime.clock import STEP_TOLERANCE_NS, Clock, SystemClock, stepped
from wheeltimer.runtime.timer import DeadlineTimer, SleepTimer, open_timer

MS = 1_000_000
S = 1000 * MS
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


# --- clocks ----------------------------------------------------------------------------------------


def test_the_two_clocks_are_read_together() -> None:
    clock = SystemClock()
    before_ns, now, after_ns = time.time_ns(), clock.now(), time.time_ns()
    assert before_ns <= now.wall_ns <= after_ns
    assert 0 <= clock.elapsed_ns() - now.elapsed_ns < S


def test_elapsed_time_counts_from_the_boot_and_not_from_the_process() -> None:
    assert abs(SystemClock().elapsed_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < S


class _Readings:
    """Clock readings that a test dictates: the elapsed clock jumps where the thread was preempted."""

    def __init__(self, *readings_ns: int) -> None:
        self._readings_ns = iter(readings_ns)

    def __call__(self, _clock_id: int) -> int:
        return next(self._readings_ns)


def test_a_thread_preempted_between_two_clocks_sees_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = (1 * S, 1001 * S, 1 * S + 80 * MS)  # 80 ms pass between the readings
    good = (2 * S, 1002 * S, 2 * S + 100)
    monkeypatch.setattr(clock_module, "clock_gettime_ns", _Readings(*torn, *good))
    assert SystemClock(bytes(16)).now() == Now(2 * S + 100, 1002 * S)


def test_a_machine_too_busy_for_a_close_reading_takes_the_closest(monkeypatch: pytest.MonkeyPatch) -> None:
    widths_ms = (9, 3, 7, 5)
    readings = [ns for w in widths_ms for ns in (w * S, 1000 * S + w * S, w * S + w * MS)]
    monkeypatch.setattr(clock_module, "clock_gettime_ns", _Readings(*readings))
    # The later look at the elapsed clock: late rather than early.
    assert SystemClock(bytes(16)).now() == Now(3 * S + 3 * MS, 1003 * S)


def test_boot_id_is_that_of_the_machine() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert SystemClock().boot_id == SystemClock().boot_id == uuid.UUID(text.strip()).bytes


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S, STEP_TOLERANCE_NS + 1, -STEP_TOLERANCE_NS - 1])
def test_a_wall_step_is_seen_with_its_size(step_ns: int) -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(1 * S)
    clock.step_wall(step_ns)
    assert stepped(before, clock.now()) == step_ns


def test_time_that_passes_and_a_suspend_are_no_steps() -> None:
    clock = ManualClock()
    before = clock.now()
    for passed_ns in (0, 1, 1 * S, 8 * 3600 * S):
        clock.advance(passed_ns)
        assert stepped(before, clock.now()) == 0


@pytest.mark.parametrize("slew_ns", [500_000, STEP_TOLERANCE_NS, -STEP_TOLERANCE_NS])
def test_a_slew_is_no_step(slew_ns: int) -> None:
    clock = ManualClock()
    before = clock.now()
    clock.step_wall(slew_ns)
    assert stepped(before, clock.now()) == 0


def test_the_tests_clock_answers_like_the_real_one() -> None:
    clocks: list[Clock] = [SystemClock(), ManualClock()]
    for clock in clocks:
        first, second = clock.now(), clock.now()
        assert len(clock.boot_id) == 16
        assert first.elapsed_ns <= second.elapsed_ns <= clock.elapsed_ns()
        assert stepped(first, second) == 0


# --- timers: one behaviour, three ways to build it -------------------------------------------------


class _Rig:
    """A timer and the clock it goes by; ``pass_ms`` lets time pass on that clock."""

    def __init__(self, timer: DeadlineTimer, clock: Clock) -> None:
        self.timer = timer
        self.clock = clock

    def in_ms(self, ms: int) -> int:
        return self.clock.elapsed_ns() + ms * MS

    async def pass_ms(self, ms: int) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance(ms * MS)
            await trio.testing.wait_all_tasks_blocked()
        else:
            await trio.sleep(ms / 1000)


def _timerfd_rig() -> _Rig:
    return _Rig(timerfd.TimerfdTimer(), SystemClock())


def _sleep_rig() -> _Rig:
    clock = SystemClock()
    return _Rig(SleepTimer(clock), clock)


def _manual_rig() -> _Rig:
    clock = ManualClock()
    return _Rig(ManualTimer(clock), clock)


MakeRig = Callable[[], _Rig]


@pytest.fixture(
    params=[pytest.param(_timerfd_rig, marks=linux_only), _sleep_rig, _manual_rig],
    ids=["timerfd", "sleep", "manual"],
)
def make_rig(request: pytest.FixtureRequest) -> MakeRig:
    make: MakeRig = request.param
    return make


class _Waiter:
    """Waits in the background and notes when each wait ended."""

    def __init__(self, rig: _Rig, waits: int = 1) -> None:
        self.woken_ns: list[int] = []
        self.woken = [trio.Event() for _ in range(waits)]
        self._rig = rig

    async def run(self) -> None:
        for woken in self.woken:
            await self._rig.timer.wait()
            self.woken_ns.append(self._rig.clock.elapsed_ns())
            woken.set()


def _run(make_rig: MakeRig, scenario: Callable[[_Rig, trio.Nursery], object]) -> None:
    """A scenario with a nursery that ends with it; two seconds are for ever."""

    async def main() -> None:
        rig = make_rig()
        try:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    await scenario(rig, nursery)  # type: ignore[misc]
                    nursery.cancel_scope.cancel()
        finally:
            rig.timer.close()
            rig.timer.close()  # twice is allowed

    trio.run(main)


def test_wakes_at_the_deadline_and_never_before(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        for ms in (1, 3, 7):
            deadline_ns = rig.in_ms(ms)
            waiter = _Waiter(rig)
            rig.timer.arm(deadline_ns)
            nursery.start_soon(waiter.run)
            await rig.pass_ms(ms - 1)
            assert all(woken_ns >= deadline_ns for woken_ns in waiter.woken_ns)
            await rig.pass_ms(1)
            await waiter.woken[0].wait()
            assert waiter.woken_ns[0] >= deadline_ns

    _run(make_rig, scenario)


def test_a_deadline_in_the_past_wakes_at_once(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        for deadline_ns in (rig.in_ms(-5), rig.clock.elapsed_ns(), 1, 0, -1):  # 0 must not disarm
            rig.timer.arm(deadline_ns)
            with trio.fail_after(10):
                await rig.timer.wait()

    _run(make_rig, scenario)


def test_an_earlier_deadline_set_while_waiting_is_the_one_that_counts(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        waiter = _Waiter(rig)
        rig.timer.arm(rig.in_ms(3_600_000))
        nursery.start_soon(waiter.run)
        await trio.testing.wait_all_tasks_blocked()
        earlier_ns = rig.in_ms(5)
        rig.timer.arm(earlier_ns)
        await rig.pass_ms(5)
        await waiter.woken[0].wait()
        assert waiter.woken_ns[0] >= earlier_ns

    _run(make_rig, scenario)


def test_a_later_deadline_set_while_waiting_does_not_wake_at_the_old_one(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        waiter = _Waiter(rig)
        rig.timer.arm(rig.in_ms(300))
        nursery.start_soon(waiter.run)
        await trio.testing.wait_all_tasks_blocked()
        rig.timer.arm(rig.in_ms(3_600_000))
        await rig.pass_ms(350)
        assert waiter.woken_ns == []

    _run(make_rig, scenario)


def test_a_deadline_that_passed_unseen_and_was_moved_is_forgotten(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        rig.timer.arm(rig.in_ms(1))
        await rig.pass_ms(3)
        rig.timer.arm(rig.in_ms(3_600_000))
        waiter = _Waiter(rig)
        nursery.start_soon(waiter.run)
        await rig.pass_ms(5)
        assert waiter.woken_ns == []

    _run(make_rig, scenario)


def test_a_deadline_wakes_once(make_rig: MakeRig) -> None:
    """One that wakes again and again is a spinning core (Netty #1246)."""

    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        waiter = _Waiter(rig, waits=2)
        rig.timer.arm(rig.in_ms(1))
        nursery.start_soon(waiter.run)
        await rig.pass_ms(1)
        await waiter.woken[0].wait()
        await rig.pass_ms(20)
        assert len(waiter.woken_ns) == 1
        rig.timer.arm(rig.in_ms(1))
        await rig.pass_ms(1)
        await waiter.woken[1].wait()

    _run(make_rig, scenario)


def test_a_wait_without_a_deadline_waits_for_one(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        waiter = _Waiter(rig)
        nursery.start_soon(waiter.run)
        await rig.pass_ms(5)
        assert waiter.woken_ns == []
        rig.timer.arm(rig.clock.elapsed_ns())
        await waiter.woken[0].wait()

    _run(make_rig, scenario)


def test_a_cancelled_wait_leaves_the_deadline_for_the_next(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        rig.timer.arm(rig.in_ms(20))
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.timer.wait()
        assert scope.cancelled_caught
        await rig.pass_ms(20)
        with trio.fail_after(10):
            await rig.timer.wait()

    _run(make_rig, scenario)


def test_every_wait_lets_others_run(make_rig: MakeRig) -> None:
    async def scenario(rig: _Rig, nursery: trio.Nursery) -> None:
        rig.timer.arm(1)
        with trio.testing.assert_checkpoints():
            await rig.timer.wait()

    _run(make_rig, scenario)


# --- timerfd alone ---------------------------------------------------------------------------------


@linux_only
def test_the_system_clock_gets_the_timerfd_and_a_tests_clock_the_sleep() -> None:
    timers = [open_timer(SystemClock()), open_timer(ManualClock())]
    assert [type(timer) for timer in timers] == [timerfd.TimerfdTimer, SleepTimer]
    for timer in timers:
        timer.close()


@linux_only
def test_a_closed_timer_gives_its_descriptors_back() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(50):
        timerfd.TimerfdTimer().close()
    assert sorted(os.listdir("/proc/self/fd")) == before


class _WallReads:
    """``os.read`` of the wall timer as the kernel answers when the clock was set; nobody may set it here."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._really_read = os.read
        self.fds: list[int] = []

    def __call__(self, fd: int, size: int) -> bytes:
        self.fds.append(fd)
        if len(self.fds) == 2:  # the deadline's timer is read first
            raise OSError(self._number, os.strerror(self._number))
        return self._really_read(fd, size)


def _wall_timer_that_is_readable(monkeypatch: pytest.MonkeyPatch) -> timerfd.TimerfdTimer:
    monkeypatch.setattr(timerfd, "_FAR_S", 1)
    timer = timerfd.TimerfdTimer()
    monkeypatch.setattr(timerfd, "_FAR_S", 1 << 33)
    return timer


@linux_only
def test_a_wall_step_wakes_a_waiter_without_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        timer = _wall_timer_that_is_readable(monkeypatch)
        monkeypatch.setattr(os, "read", _WallReads(errno.ECANCELED))
        try:
            with trio.fail_after(10):
                await timer.wait()
            # The next step wakes too, and meanwhile nothing does: the wall timer was set anew.
            with trio.move_on_after(0.02) as again:
                await timer.wait()
            assert again.cancelled_caught
        finally:
            timer.close()

    trio.run(main)


@linux_only
def test_a_timer_that_cannot_be_read_is_not_taken_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        timer = _wall_timer_that_is_readable(monkeypatch)
        monkeypatch.setattr(os, "read", _WallReads(errno.EIO))
        try:
            with trio.fail_after(10), pytest.raises(OSError, match="Input/output"):
                await timer.wait()
        finally:
            timer.close()

    trio.run(main)


@linux_only
def test_a_timer_without_descriptors_says_so() -> None:
    code = (
        "import resource, os\n"
        "from wheeltimer.runtime.timer import TimerfdTimer\n"
        "soft = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))\n"
        "try:\n"
        "    for _ in range(9): TimerfdTimer()\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EMFILE)]
