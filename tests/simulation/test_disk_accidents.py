"""Accidents of the disk that others had, each made on purpose in the simulated world."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import trio

from wheeltimer.errors import JournalDamaged

from .disk import KEEPS, LATER, REVERTS
from .scripted_worlds import calls_of, dark, life, play, schedule, to_the_end
from .world import World


@pytest.mark.parametrize("kind", [KEEPS, REVERTS])
def test_a_sync_that_fails_is_never_answered_as_stored(kind: str) -> None:
    """And power lost during the next start cannot make the half-kept frame a hole."""
    replies: list[dict[str, Any]] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(world, "d1", delay=2500)
            await trio.sleep(2)  # the spare segments are ready: the next sync is a commit
            world.disk.faults.sync = {0: kind}
            replies.extend(await schedule(world, "d2", "d3", delay=500))
            await trio.sleep(60)  # it ends by itself, or is found alive

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
            await trio.sleep(2)  # the spare segments are ready: the next sync is a commit
            world.disk.faults.sync = {0: LATER}
            await schedule(world, "d1", delay=500)
            replies = await schedule(world, "d2", delay=500)
            assert replies[0]["error"] == "storage"
            await trio.sleep(60)  # it ends by itself, or is found alive

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
    """Frames of several sectors, so that there are halves of them."""
    torn: list[bool] = []

    for at in range(1, 40):

        async def story(world: World, at: int = at) -> None:
            async def first(world: World) -> None:
                await trio.sleep(2)  # the spare segments are ready: what is written now is commits
                await schedule(world, "d1", delay=300)
                disk = world.disk
                disk.faults.short = set(range(disk.ops, disk.ops + 80))
                begun = disk.ops

                def halt(what: str) -> None:
                    if disk.ops >= begun + at:
                        world.lose_power() if at % 2 else world.kill()

                disk.halt = halt
                for number in range(8):
                    await schedule(world, f"d{number + 2}", delay=300, headers={"x-fill": "x" * 3000})

            async def rest(world: World) -> None:
                assert world.daemon is not None
                torn.append(world.daemon.journal.found.torn is not None)
                await to_the_end(world)

            await life(world, first)
            await life(world, rest)

        assert len(calls_of(play(story, seed=at), "d1")) == 1
    assert torn.count(True) >= 5, "hardly anything was cut"


@pytest.mark.parametrize("ready_s", [0, 2], ids=["a spare's", "a commit's"])
def test_after_an_error_of_the_disk_nothing_is_taken_into_memory_alone(ready_s: float) -> None:
    """The first write that fails is one to a spare segment, or, where those are ready, a commit."""

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await trio.sleep(ready_s)
            world.disk.faults.write = {0: 5}
            for number in range(4):
                (reply,) = await schedule(world, f"d{number}", delay=300)
                assert not reply["ok"]
                assert reply["error"] == "storage"

        async def closed(world: World) -> None:
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await first(world)
            await trio.sleep(60)  # it ends by itself, or is found alive

        assert await life(world, closed) == 74
        await life(world, to_the_end)

    assert len(calls_of(play(story), "d1")) == 0
