"""The wall clock is set while the daemon runs, while it is down, and before and after a reboot.

libfaketime moves the wall clock of the real process and leaves its elapsed time alone; the receiver and
the test see true time. A reboot is ``fake_boot.py``. ``S`` is what a busy machine may be late by, plus the
second in which the daemon finds a step that the kernel does not tell it of.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

import pytest

from tests.process.daemon import Connection, Daemon, Home, until
from tests.process.fake_boot import BOOT_ID, UPTIME_NS
from tests.process.receiver import Callback, Receiver
from tests.process.tools import missing, need

HOUR = 3600.0
LATE_S = 2.5
STEPS = pytest.mark.parametrize("step_s", [HOUR, -HOUR], ids=["forward", "back"])


def elapsed_s() -> float:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e9


@dataclass
class World:
    """A home whose daemons see a wall clock that the test sets, on a machine that it reboots."""

    home: Home
    receiver: Receiver
    library: str
    wall_offset_s: float = 0.0
    boot: dict[str, str] = field(default_factory=dict)
    ready_s: float = 0.0  # elapsed, when the last start was done

    def __post_init__(self) -> None:
        self._file = self.home.folder / "faketime"
        self.step(0.0)

    def step(self, by_s: float) -> None:
        """Set the wall clock; a daemon that runs sees it at its next look."""
        self.wall_offset_s += by_s
        temporary = self._file.with_suffix(".new")
        temporary.write_text(f"{self.wall_offset_s:+.0f}\n")
        temporary.rename(self._file)  # never half a file for who reads it meanwhile

    def reboot(self) -> None:
        """From now on daemons find another boot: a new id, and an uptime that starts anew."""
        uptime_s = elapsed_s()
        self.boot = {BOOT_ID: os.urandom(16).hex(), UPTIME_NS: str(-int((uptime_s - 10) * 1e9))}

    def start(self) -> Daemon:
        env = {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its "fix" of timed waits makes threads wait for the interpreter's lock for seconds.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        module = "tests.process.fake_boot" if self.boot else "wheeltimer"
        daemon = self.home.start(env=env | self.boot, module=module)
        self.ready_s = elapsed_s()
        return daemon

    @property
    def wall_ms(self) -> int:
        """What the daemon's wall clock says."""
        return time.time_ns() // 1_000_000 + int(self.wall_offset_s * 1000)

    def delay(self, client: Connection, id: str, delay_s: float) -> float:
        """Schedule by ``delay``; the true elapsed instant before which it may not come."""
        not_before_s = elapsed_s() + delay_s
        client.done("schedule", id=id, url=self.receiver.url(), delay=int(delay_s * 1000))
        return not_before_s

    def at(self, client: Connection, id: str, in_s: float) -> int:
        """Schedule by ``at``, as the daemon's wall clock is now; the instant asked for."""
        at = self.wall_ms + int(in_s * 1000)
        client.done("schedule", id=id, url=self.receiver.url(), at=at)
        return at

    def came_on_time(self, id: str, not_before_s: float) -> Callback:
        """The one callback of a ``delay`` task: not early and, by a daemon that runs, not late."""
        (callback,) = self.receiver.wait_for(id)
        came_s = callback.elapsed_ns / 1e9
        assert came_s >= not_before_s, f"{id} came {not_before_s - came_s:.3f} s early"
        late_s = came_s - max(not_before_s, self.ready_s)
        assert late_s < LATE_S, f"{id} came {late_s:.3f} s late"
        return callback

    def came_by_wall(self, id: str, at: int) -> Callback:
        """The one callback of an ``at`` task: not before the daemon's wall clock said so."""
        (callback,) = self.receiver.wait_for(id)
        assert callback.wall_ms + self.wall_offset_s * 1000 >= at
        assert callback.due == at
        return callback

    def nothing_for(self, seconds: float, *ids: str) -> None:
        threading.Event().wait(seconds)
        for id in ids:
            assert not self.receiver.of(id), f"{id} came"


@pytest.fixture
def world(home: Home, receiver: Receiver) -> World:
    return World(home, receiver, need("faketime"))


def test_the_tool_moves_the_wall_and_leaves_elapsed_time_alone(world: World) -> None:
    """What all tests here stand on."""
    daemon = world.start()
    with daemon.connect() as client:
        before_s, now = elapsed_s(), client.done("hello")["now"]
        assert abs(now - time.time_ns() // 1_000_000) < 1000
        world.step(HOUR)
        assert abs(client.done("hello")["now"] - now - HOUR * 1000) < 1000 + (elapsed_s() - before_s) * 1000
        uptime_ms = client.done("stats")["uptime_ms"]
        assert uptime_ms < 60_000
    daemon.stop()


def test_a_step_forward_while_running(world: World) -> None:
    daemon = world.start()
    with daemon.connect() as client:
        short = world.delay(client, "short", 0.5)
        world.came_on_time("short", short)
        long = world.delay(client, "long", 4.0)
        in_an_hour = world.at(client, "in-an-hour", HOUR + 1)
        tomorrow = world.at(client, "tomorrow", 24 * HOUR)
        retry = world.delay(client, "after", 3.0)
        assert tomorrow > in_an_hour
        world.nothing_for(0.5, "in-an-hour")
        world.step(HOUR)
        stepped_s = elapsed_s()
        came = world.came_by_wall("in-an-hour", in_an_hour)
        assert came.elapsed_ns / 1e9 - stepped_s < 1 + LATE_S, "an at task follows the clock at once"
        world.came_on_time("after", retry)
        world.came_on_time("long", long)
        fresh = world.delay(client, "fresh", 0.3)  # scheduled after the step
        world.came_on_time("fresh", fresh)
        assert not world.receiver.of("tomorrow")
        stats = client.done("stats")
        assert stats["clock_steps"] == 1
    assert "clock step" in daemon.stop().log


def test_a_step_back_while_running(world: World) -> None:
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 4.0)
        soon = world.at(client, "soon", 2.0)
        world.step(-HOUR)
        world.came_on_time("long", long)
        world.nothing_for(0.5, "soon")  # it is an hour away again
        fresh = world.delay(client, "fresh", 0.3)
        world.came_on_time("fresh", fresh)
        fresh_at = world.at(client, "fresh-at", 0.3)
        world.came_by_wall("fresh-at", fresh_at)
        world.step(HOUR)
        world.came_by_wall("soon", soon)
        assert client.done("stats")["clock_steps"] == 2
        assert client.done("stats")["tasks"]["done"] == 4
    daemon.stop()
    ids = [callback.id for callback in world.receiver.callbacks]
    assert len(ids) == len(set(ids)), "a step made something fire twice"


@STEPS
def test_a_step_between_stop_and_start_on_the_same_boot(world: World, step_s: float) -> None:
    """The elapsed clock went on meanwhile, so ``delay`` tasks do not notice."""
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 5.0)
        soon = world.at(client, "soon", 1.0 if step_s < 0 else HOUR)
    daemon.kill()
    world.step(step_s)
    daemon = world.start()
    if step_s > 0:
        world.came_by_wall("soon", soon)
    world.came_on_time("long", long)
    if step_s < 0:
        world.nothing_for(0.1, "soon")
    daemon.stop()


def test_delays_are_not_rebased_at_replay(world: World) -> None:
    """Neither the time that the daemon was down nor its start puts a task off."""
    daemon = world.start()
    with daemon.connect() as client:
        late = world.delay(client, "late", 5.0)
        due = client.done("get", id="late")["task"]["due"]
    for _ in range(2):
        daemon.kill()
        daemon = world.start()
    with daemon.connect() as client:
        assert client.done("get", id="late")["task"]["due"] == due
    callback = world.came_on_time("late", late)
    assert callback.due == due
    daemon.stop()


def test_a_reboot_without_a_step(world: World) -> None:
    """Deadlines go through the wall clock: the time that the machine was off counts."""
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 5.0)
        passed = world.delay(client, "passed", 1.5)
        soon = world.at(client, "soon", 5.0)
        tomorrow = world.delay(client, "tomorrow", 24 * HOUR)
        assert tomorrow > long
    daemon.kill()
    early = {callback.id for callback in world.receiver.callbacks}
    world.reboot()
    daemon = world.start()
    if "passed" not in early:
        world.came_on_time("passed", passed)
    world.came_on_time("long", long)
    world.came_by_wall("soon", soon)
    assert not world.receiver.of("tomorrow")
    daemon.stop()


@STEPS
def test_a_step_while_running_and_then_a_reboot(world: World, step_s: float) -> None:
    """The daemon saw the step and noted both clocks in a marker, so the reboot does not confuse it."""
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 4.0)
        world.step(step_s)
        for _ in until():
            if client.done("stats")["clock_steps"] == 1:
                break
        world.delay(client, "other", 24 * HOUR)
    daemon.kill()
    world.reboot()
    daemon = world.start()
    world.came_on_time("long", long)
    daemon.stop()


@STEPS
def test_a_step_seen_just_before_the_machine_went_down(world: World, step_s: float) -> None:
    """No record and no clean stop follows the step: the marker that it caused alone tells of it."""
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 4.0)
        world.nothing_for(0.3, "long")  # the commit's own marker is written
        (segment,) = world.home.segments()
        before = segment.read_bytes()
        world.step(step_s)
        for _ in until(3.0):
            if segment.read_bytes() != before:
                break
        assert not world.receiver.callbacks
        assert client.done("stats")["clock_steps"] == 1
    daemon.kill()
    world.reboot()
    daemon = world.start()
    world.came_on_time("long", long)
    daemon.stop()


@STEPS
def test_a_reboot_and_then_a_step_while_running(world: World, step_s: float) -> None:
    daemon = world.start()
    with daemon.connect() as client:
        long = world.delay(client, "long", 5.0)
    daemon.kill()
    world.reboot()
    daemon = world.start()
    world.step(step_s)
    with daemon.connect() as client:
        fresh = world.delay(client, "fresh", 1.0)
        world.came_on_time("fresh", fresh)
    world.came_on_time("long", long)
    daemon.stop()


def test_a_wall_clock_put_back_while_the_machine_was_off_puts_nothing_off_for_long(world: World) -> None:
    """Nobody can tell how long it was off: a task waits at most its whole delay again, never an hour."""
    daemon = world.start()
    with daemon.connect() as client:
        world.delay(client, "short", 2.0)
    daemon.kill()
    world.reboot()
    world.step(-HOUR)
    launched_s = elapsed_s()
    daemon = world.start()
    (callback,) = world.receiver.wait_for("short")
    assert 0 <= callback.elapsed_ns / 1e9 - launched_s < 2.0 + 10
    daemon.stop()


def test_a_wall_clock_put_forward_while_the_machine_was_off_makes_things_due(world: World) -> None:
    """By all that can be known an hour has passed."""
    daemon = world.start()
    with daemon.connect() as client:
        world.delay(client, "half-an-hour", HOUR / 2)
        world.delay(client, "two-hours", 2 * HOUR)
        at = world.at(client, "at", HOUR / 2)
    daemon.kill()
    world.reboot()
    world.step(HOUR)
    daemon = world.start()
    world.receiver.wait_for("half-an-hour")
    world.came_by_wall("at", at)
    assert not world.receiver.of("two-hours")
    daemon.stop()


def test_two_reboots_in_a_row(world: World) -> None:
    """Records of three boots in one journal, each on its own time line."""
    not_before = {}
    for number in range(3):
        daemon = world.start()
        with daemon.connect() as client:
            id = f"boot-{number}"
            not_before[id] = world.delay(client, id, 8.0 - 2 * number)
        daemon.kill()
        world.reboot()
    daemon = world.start()
    for id, instant_s in not_before.items():
        world.came_on_time(id, instant_s)
    daemon.stop()


def test_the_clock_is_set_after_boot_and_what_was_done_stays_known(world: World) -> None:
    """A machine that begins in 1970: the same request is a duplicate once the clock is right."""
    years_s = 50 * 365 * 24 * HOUR
    world.step(-years_s)
    daemon = world.start()
    with daemon.connect() as client:
        client.done("schedule", id="pay", url=world.receiver.url())
        for _ in until():
            if client.done("get", id="pay")["task"]["state"] == "done":
                break
    daemon.kill()
    world.step(years_s)
    daemon = world.start()
    with daemon.connect() as client:
        client.done("ping")  # the ticker has looked
        assert client.done("schedule", id="pay", url=world.receiver.url())["duplicate"]
    daemon.stop()
    assert len(world.receiver.of("pay")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a time namespace (unshare -T)")
@pytest.mark.parametrize("ahead_s", [1_000_000, -5])
def test_the_folder_is_opened_in_another_time_namespace(home: Home, receiver: Receiver, ahead_s: int) -> None:
    """The boot id is the machine's there, and elapsed time is another clock's."""
    if not os.path.exists("/proc/self/ns/time"):
        missing("the kernel has no time namespaces (CONFIG_TIME_NS)")
    wrap = [need("unshare"), "-T", "--boottime", f"{ahead_s}", "--fork", "--kill-child"]
    daemon = home.start()
    with daemon.connect() as client:
        not_before_s = elapsed_s() + 2
        for id, delay in (("soon", 2000), ("hour", 3_600_000)):
            client.done("schedule", id=id, url=receiver.url(), delay=delay)
    daemon.kill()
    daemon = home.start(wrap=wrap)
    ready_s = elapsed_s()
    (callback,) = receiver.wait_for("soon")
    assert callback.elapsed_ns / 1e9 >= not_before_s
    assert callback.elapsed_ns / 1e9 < max(not_before_s, ready_s) + LATE_S
    assert not receiver.of("hour")
    daemon.kill()
