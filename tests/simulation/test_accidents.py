"""Accidents that others had, each made on purpose in the simulated world."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from wheeltimer.errors import JournalDamaged

from .clients import Lines
from .crash import Recorded
from .disk import KEEPS, LATER, REVERTS
from .world import LIMITS, SEGMENT_BYTES, World, in_place, new_world

Body = Callable[[World], Awaitable[None]]


def play(story: Callable[[World], Awaitable[None]], seed: int = 1, **options: Any) -> World:
    """One world, told by the test."""
    made: list[World] = []

    async def run() -> None:
        with in_place(lambda: made[0], seed):
            made.append(new_world(seed, **options))
            await story(made[0])

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return made[0]


async def life(world: World, body: Body) -> int | None:
    """A process that serves until ``body`` returns."""

    async def both(world: World, nursery: trio.Nursery) -> None:
        await body(world)

    return await world.live(both)


async def ask(world: World, op: str, *ids: str, **fields: Any) -> list[dict[str, Any]]:
    """Requests over one connection, known to the stories; their replies."""
    async with world.door.connect() as stream:
        asks = []
        for id in ids:
            number = len(world.history.asks)
            request = {"op": op, "id": id, "queue": "q0", "seq": number, **fields}
            if op == "schedule":
                request["body"] = {"n": number}
            asks.append(world.history.new_ask(request, (f"q0/{id}",)))
        await Lines(stream).ask(world.history, asks)
    return [ask.reply for ask in asks]


async def schedule(world: World, *ids: str, host: str = "good", **fields: Any) -> list[dict[str, Any]]:
    return await ask(world, "schedule", *ids, url=f"http://{host}/", timeout=400, **fields)


async def dark(world: World) -> None:
    world.lose_power()


async def to_the_end(world: World) -> None:
    await world.settle(100_000)


def calls_of(world: World, id: str) -> list[float]:
    """When a task was called, in true seconds."""
    return [call.began_ns / 1e9 for call in world.history.calls if call.key == f"q0/{id}"]


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
            for _ in range(400):
                await ask(world, "reschedule", "d0", delay=4_000)
                await trio.sleep(0.1)
                sizes.append(world.daemon.journal.bytes)

        await life(world, first)
        world.lose_power()
        await life(world, to_the_end)

    world = play(story)
    assert max(sizes) <= 5 * SEGMENT_BYTES + 2 * 1024, sizes
    assert world.stories.of["q0/d0"].version == 401
    assert len(calls_of(world, "d0")) == 1


def test_a_backlog_after_an_outage_reaches_a_receiver_that_bears_little() -> None:
    """All are overdue at the start: they go through the window, in the order of their dues, and none is lost."""
    ids = [f"d{number}" for number in range(300)]

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            for number, id in enumerate(ids):
                await schedule(world, id, delay=1000 + number)

        await life(world, first)
        await trio.sleep(3600)
        world.receivers.most_in_flight = 0
        await life(world, to_the_end)

    world = play(story)
    assert world.receivers.most_in_flight <= 128
    order = [call.key.removeprefix("q0/") for call in world.history.calls]
    assert sorted(order) == sorted(ids)
    assert max(abs(ids.index(id) - place) for place, id in enumerate(order)) <= 128


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


@pytest.mark.parametrize("kind", [KEEPS, REVERTS])
def test_a_sync_that_fails_is_never_answered_as_stored(kind: str) -> None:
    """And power lost during the next start cannot make the half-kept frame a hole."""
    replies: list[dict[str, Any]] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(world, "d1", delay=500)
            world.disk.faults.sync = {0: kind}
            replies.extend(await schedule(world, "d2", "d3", delay=500))
            await trio.sleep_forever()

        async def second(world: World) -> None:
            await schedule(world, "d4", delay=500)
            world.lose_power(0.0)

        assert await life(world, first) == 74
        await life(world, second)
        await life(world, to_the_end)

    world = play(story)
    assert [reply["error"] for reply in replies] == ["storage", "storage"]
    assert len(calls_of(world, "d1")) == len(calls_of(world, "d4")) == 1


def test_a_sync_that_fails_late_ends_the_daemon_and_loses_nothing_from_the_cache() -> None:
    async def story(world: World) -> None:
        async def first(world: World) -> None:
            world.disk.faults.sync = {0: LATER}
            await schedule(world, "d1", delay=500)
            replies = await schedule(world, "d2", delay=500)
            assert replies[0]["error"] == "storage"
            await trio.sleep_forever()

        async def second(world: World) -> None:
            world.lose_power(0.0)

        assert await life(world, first) == 74
        await life(world, second)  # the start has put the tail on the platter anew
        await life(world, to_the_end)

    assert len(calls_of(play(story), "d1")) == 1


def test_a_bit_flipped_in_a_stored_body_is_never_sent() -> None:
    """Wherever in the bodies it is, the start is refused and names the place."""
    refused = 0

    async def story(world: World) -> None:
        nonlocal refused

        async def first(world: World) -> None:
            await schedule(world, "d1", "d2", delay=5_000)
            await trio.sleep(2)

        await life(world, first)
        name = next(name for name in world.disk.names_now if name.endswith(".segment"))
        body = json.dumps({"n": 0}).encode()
        place = bytes(world.disk.names_now[name].data).index(body)
        chance = random.Random(7)
        for _ in range(24):
            bit = 8 * place + chance.randrange(8 * len(body))
            world.disk.flip(name, bit)
            with pytest.raises(JournalDamaged, match=name) as caught:
                await life(world, dark)
            assert caught.value.offset > 0
            refused += 1
            world.disk.flip(name, bit)
        await life(world, to_the_end)

    world = play(story)
    assert refused == 24
    assert len(calls_of(world, "d2")) == 1


def test_a_write_cut_by_a_kill_or_short_is_set_aside_and_the_start_goes_on() -> None:
    for at in range(1, 40):

        async def story(world: World, at: int = at) -> None:
            async def first(world: World) -> None:
                await schedule(world, "d1", delay=300)
                disk = world.disk
                disk.faults.short = {disk.ops + more for more in range(3)}
                begun = disk.ops

                def halt(what: str) -> None:
                    if disk.ops >= begun + at:
                        world.lose_power() if at % 2 else world.kill()

                disk.halt = halt
                for number in range(8):
                    await schedule(world, f"d{number + 2}", delay=300)

            await life(world, first)
            await life(world, to_the_end)

        assert len(calls_of(play(story, seed=at), "d1")) == 1


def test_after_an_error_of_the_disk_nothing_is_taken_into_memory_alone() -> None:
    async def story(world: World) -> None:
        async def first(world: World) -> None:
            world.disk.faults.write = {0: 5}
            for number in range(4):
                (reply,) = await schedule(world, f"d{number}", delay=300)
                assert not reply["ok"]
                assert reply["error"] == "storage"

        async def closed(world: World) -> None:
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await first(world)
            await trio.sleep_forever()

        assert await life(world, closed) == 74
        await life(world, to_the_end)

    assert len(calls_of(play(story), "d1")) == 0


def test_the_same_seed_is_the_same_world() -> None:
    """To the last byte on disk, in any process: a failure can be played again."""
    runs = []
    for _ in range(2):
        recorded = Recorded(5)
        recorded.run(0)
        runs.append([(note.op, note.what, note.true_ns, note.disk) for note in recorded.notes])
    assert runs[0] == runs[1]
