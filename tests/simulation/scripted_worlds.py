"""Worlds that a test tells itself: a story of lives, each with what is asked in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

from .clients import Lines
from .world import World, in_place, new_world

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
