"""Power lost at every I/O operation of a recorded run, and everything checked after each.

A run of clients is recorded once, over two restarts: before each call that changes the disk, a note is
taken of all that a power loss just then could keep. Afterwards every note is tried, with nothing kept,
all kept, and some: a machine boots on what is left, the production daemon recovers, is checked, and goes
on until every task has ended, with receivers that are good by now. The stories (``checks.py``) are those
of the recorded run up to that moment, so whatever had been acknowledged or called by then counts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import trio
import trio.testing

from wheeltimer.core.invariants import check

from .checks import Stories
from .clients import Client
from .disk import Moment, SimDisk
from .world import SimClock, World, in_place, new_world

LIVES: Final = ("power", "kill", "power")
VARIANTS: Final = 6  # of what is kept, where there is so much to choose from
REQUESTS: Final = 60  # of each client in each life
DOWN_S: Final = 0.2
SETTLE_S: Final = 30.0


@dataclass(slots=True)
class Note:
    """One operation that the power may be lost at."""

    op: int
    what: str
    moment: int  # of the history
    true_ns: int
    boots: int
    disk: Moment


class Recorded:
    """One run, its notes, and what became of them. A seed fixes both."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.notes: list[Note] = []
        self.points = 0
        self._now: World | None = None

    def run(self, points_most: int = 1 << 30) -> int:
        """How many crash points were tried, each recovered and checked; 0: the run is recorded only."""
        trio.run(self._run, points_most, clock=trio.testing.MockClock(autojump_threshold=0))
        return self.points

    def _current(self) -> World:
        assert self._now is not None
        return self._now

    async def _run(self, points_most: int) -> None:
        with in_place(self._current, self.seed):
            world = self._now = new_world(self.seed, {"bad": "flaky", "worse": "lies"})
            await self._record(world)
            await self._try_all(world, points_most)

    async def _record(self, world: World) -> None:
        clients = [
            Client(
                number, self.seed * 10 + number, world.history, lambda: world.clock.now().wall_ms,
                ["good", "bad", "worse"], keys_most=6, far_ms=400, pause_s=0.01, fill=0.8,
            )
            for number in range(2)
        ]  # fmt: skip

        async def body(world: World, nursery: trio.Nursery) -> None:
            async with trio.open_nursery() as asking:
                for client in clients:
                    asking.start_soon(client.run, world.door.connect(), REQUESTS)
            await trio.sleep(world.chance.random())
            world.stories.tell()
            assert world.daemon is not None
            check(world.daemon.engine)
            if end == "power":
                world.lose_power()

        for end in LIVES:  # noqa: B007 - the body looks at it
            disk = world.disk
            base = self.notes[-1].op if self.notes else 0

            def note(what: str, disk: SimDisk = disk, base: int = base) -> None:
                self.notes.append(
                    Note(
                        base + disk.ops,
                        what,
                        world.history.moment,
                        world.clock.true_ns(),
                        world.clock.boots,
                        disk.moment(),
                    )
                )

            disk.halt = note
            await world.live(body)
            await trio.sleep(DOWN_S)

    async def _try_all(self, world: World, points_most: int) -> None:
        facts = world.facts.fork(world.history)
        facts.versions.clear()
        facts.outcomes.clear()
        facts.boots.clear()
        stories, boots = Stories(facts), list(world.facts.boots)
        for note in self.notes:
            stories.tell(note.moment)
            facts.boots[:] = [at_ns for at_ns in boots if at_ns <= note.true_ns]
            variants = min(VARIANTS, 1 << min(note.disk.doubts, 10))
            for variant in range(variants):
                if self.points >= points_most:
                    return
                self.points += 1
                try:
                    await self._try(note, variant, world, stories)
                except BaseException as error:
                    error.add_note(
                        f"recorded run {self.seed}, operation {note.op} ({note.what}), variant {variant}; "
                        f"again: python -m tests.simulation crash {self.seed}"
                    )
                    raise

    async def _try(self, note: Note, variant: int, recorded: World, stories: Stories) -> None:
        chance = random.Random(self.seed << 32 | note.op << 8 | variant)
        image = note.disk.after_power_loss(chance, {0: 0.0, 1: 1.0}.get(variant))
        clock = SimClock(note.true_ns + round(DOWN_S * 1e9), note.boots)
        history = recorded.history.fork(clock.true_ns)
        history.moment = note.moment
        world = self._now = World(
            chance.getrandbits(32), SimDisk(chance.getrandbits(32), image), clock, stories.fork(history),
        )  # fmt: skip
        world.reboot()

        async def body(world: World, nursery: trio.Nursery) -> None:
            await world.settle(SETTLE_S)

        await world.live(body)
