"""The process has no descriptor left for files: clients are told, callbacks go on, nothing ends."""

from __future__ import annotations

import trio

from .scripted_worlds import calls_of, life, play, schedule, to_the_end
from .world import World

BIG = "x" * 1000


def test_descriptors_that_run_out_for_a_while_end_nothing_and_lose_nothing() -> None:
    """Clients are told `full`, and what they lack; who is due is called; later all is as before."""
    told: list[str] = []

    async def story(world: World) -> None:
        async def first(world: World) -> None:
            await schedule(world, "d0", delay=3_000)
            world.disk.faults.no_descriptors = (0, 1 << 30)
            stored = 0
            while not told:
                (reply,) = await schedule(world, f"d{stored + 100}", delay=600_000, headers={"x-fill": BIG})
                if reply["ok"]:
                    stored += 1
                else:
                    assert reply["error"] == "full"
                    told.append(reply["message"])
            await trio.sleep(10)
            assert len(calls_of(world, "d0")) == 1, "outcomes have room of their own"
            (reply,) = await schedule(world, "d1", delay=1_000, headers={"x-fill": BIG})
            assert reply["error"] == "full"
            told.append(reply["message"])
            world.disk.faults.no_descriptors = None
            await trio.sleep(5)
            (reply,) = await schedule(world, "d1", delay=1_000, headers={"x-fill": BIG})
            assert reply["ok"], reply

        assert await life(world, first) is None, "it ended by itself"
        await life(world, to_the_end)

    world = play(story)
    assert len(calls_of(world, "d1")) == 1
    assert "no file descriptors" in told[-1]
    assert "LimitNOFILE" in told[-1]
    assert "disk" not in told[-1]
