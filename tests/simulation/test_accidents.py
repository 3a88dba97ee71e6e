"""Accidents that others had, each made on purpose in the simulated world; those of the disk are a file of
their own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from wheeltimer.delivery.window import WINDOW_FIRST, WINDOW_MAX

from .crash import Recorded
from .history import Call
from .scripted_worlds import ask, calls_of, life, play, schedule, to_the_end
from .world import LIMITS, SEGMENT_BYTES, World

AGAIN = 1_000  # frames that fill twelve segments, where five are allowed


@pytest.mark.parametrize("reboot", [False, True], ids=["killed", "power lost"])
def test_a_restart_does_not_put_a_delay_off(reboot: bool) -> None:
    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(world, "d1", delay=10_000)
            await trio.sleep(4)
            if reboot:
                world.lose_power()

        await life(world, first)
        await trio.sleep(3)  # the start takes its time too: what is left is counted from the deadline
        await life(world, to_the_end)

    (called,) = calls_of(play(story), "d1")
    assert 10 <= called < 10.01


def test_one_old_task_does_not_pin_the_journal() -> None:
    """Nor do the ended ones that are kept."""
    sizes: list[int] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            assert world.daemon is not None
            await schedule(world, "d0", delay=3_000_000)
            for turn in range(60):
                await schedule(world, *(f"d{turn}-{n}" for n in range(20)))
                await trio.sleep(0.7)
                sizes.append(world.daemon.journal.bytes)

        await life(world, first)
        await life(world, to_the_end)

    limits = msgspec.structs.replace(LIMITS, keep_done_max=40)
    world = play(story, limits=limits)
    assert max(sizes) <= 2 * 40 * 600 + 5 * SEGMENT_BYTES, sizes
    assert max(sizes[30:]) <= max(sizes[:30])
    assert len(calls_of(world, "d0")) == 1


def test_delaying_again_and_again_does_not_grow_the_journal() -> None:
    sizes: list[int] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            assert world.daemon is not None
            await schedule(world, "d0", "d1", delay=5_000)
            for _ in range(AGAIN):
                await ask(world, "reschedule", "d0", delay=4_000)
                await trio.sleep(0.1)
                sizes.append(world.daemon.journal.bytes)

        await life(world, first)
        world.lose_power()
        await life(world, to_the_end)

    world = play(story)
    assert max(sizes) <= 5 * SEGMENT_BYTES + 2 * 1024, sizes
    assert world.stories.of["q0/d0"].version == AGAIN + 1
    assert len(calls_of(world, "d0")) == 1


@pytest.mark.parametrize("reboot", [False, True], ids=["killed", "power lost"])
def test_a_backlog_after_an_outage_reaches_a_receiver_that_bears_little(reboot: bool) -> None:
    """All are overdue at the start: they go through the window in the order of their dues; none is lost.

    The journal has room for all their outcomes at once, so nothing but the window holds them back.
    """
    ids = [f"d{number}" for number in range(300)]

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            for number, id in enumerate(ids):
                await schedule(world, id, delay=1000 + 10 * number)
            if reboot:
                world.lose_power()

        await life(world, first)
        await trio.sleep(3600)
        world.receivers.most_in_flight = 0
        await life(world, to_the_end)

    world = play(story, segment_bytes=4 << 20)
    assert WINDOW_FIRST <= world.receivers.most_in_flight <= WINDOW_MAX
    in_flight = successes = 0
    for _, what, call in world.history.events:
        if isinstance(call, Call):
            in_flight += 1 if what == "began" else -1
            successes += what == "ended"
            assert in_flight <= WINDOW_FIRST + successes, f"at attempt {in_flight + successes}"
    order = [call.key.removeprefix("q0/") for call in world.history.calls]
    assert sorted(order) == sorted(ids)
    assert max(abs(ids.index(id) - place) for place, id in enumerate(order)) <= WINDOW_MAX


def test_every_retry_is_counted_and_the_next_lies_ahead() -> None:
    """Over power losses and a wall clock that is set both ways, exactly as many attempts as the rule says."""

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(
                world, "d1", host="down", retry={"kind": "fixed", "every": 200, "attempts": 4, "jitter": 0}
            )
            await trio.sleep(0.3)
            world.step_wall(-5_000_000_000, noted=True)
            await trio.sleep(0.2)
            world.step_wall(9_000_000_000, noted=False)  # too late for a marker
            await trio.sleep(0.02)
            world.lose_power()

        async def rest(world: World) -> None:
            await trio.sleep(60)
            world.stories.tell()
            world.stories.judge(world.shown(), over=True)

        await life(world, first)
        await life(world, rest)

    world = play(story, manners={"down": "down"})
    assert [call.attempt for call in world.history.calls] == [1, 2, 3, 4]
    assert world.shown()["q0/d1"]["state"] == "dead"


@pytest.mark.parametrize("seed", range(101, 104))
def test_the_journal_is_not_trimmed_before_its_copies_are_on_disk(seed: int) -> None:
    """Power is lost at every operation of a run that compacts, from the first removal's neighbours on."""
    recorded = Recorded(seed)
    assert recorded.run() > 500
    assert any(note.what == "unlink" for note in recorded.notes), "nothing was trimmed"


def test_what_was_answered_is_there_after_power_loss_without_any_setting() -> None:
    shown: list[dict[str, Any]] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            shown.append(await world.ask(op="hello"))
            await schedule(world, "d1", delay=1000)
            world.lose_power(0.0)  # nothing that was not synced is kept

        await life(world, first)
        await life(world, to_the_end)

    assert len(calls_of(play(story), "d1")) == 1
    assert shown[0]["durability"] == "group"

    async def unsafe(world: World) -> None:
        async def first(world: World) -> None:
            shown.append(await world.ask(op="hello"))

        await life(world, first)

    play(unsafe, fsync="off")
    assert shown[1]["durability"] == "off"


@pytest.mark.parametrize("end", ["power lost", "killed"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("minutes", [1, -1], ids=["put forward", "put back"])
def test_a_clock_that_is_set_in_a_later_boot_moves_no_delay(end: str, busy: bool, minutes: int) -> None:
    """A delay goes from boot to boot by the wall clock: what was done to that in a boot that wrote nothing
    of the task, or nothing at all, has to be known in the next."""

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(world, "d1", delay=120_000)
            await trio.sleep(5)
            world.lose_power()

        async def between(world: World) -> None:
            if busy:
                await schedule(world, "d2", delay=100)
            await trio.sleep(20)
            world.step_wall(minutes * 60 * 10**9, noted=True)
            await trio.sleep(5)
            if end == "power lost":
                world.lose_power()

        await life(world, first)
        await life(world, between)
        await life(world, to_the_end)

    (called,) = calls_of(play(story), "d1")
    assert 120 <= called < 120.1
