"""Random worlds: a seed is a plan, a plan is some lives with clients and faults, then calm and the full
check.

``Plan.of`` derives all from the seed, and a failure prints it. The faults of a life: power lost or the
process killed at any I/O operation or at any time, a sync that fails in one of three ways, a write that
fails, no space for a while, short writes, reads that fail at the start, a bit flipped at rest, the wall
clock stepped either way, suspends, other boots; hosts that fail, hang and lie; and attempts that cannot
begin for the machine's own shortage. After them the receivers are good and the disk is whole: then every
task must end, and a last power loss may change nothing of it.
"""

from __future__ import annotations

import errno
import random
import signal
from dataclasses import dataclass
from typing import Final

import trio
import trio.testing

from wheeltimer.core.invariants import check
from wheeltimer.errors import JournalDamaged, StorageFailed

from .clients import Client
from .disk import KEEPS, LATER, REVERTS
from .receivers import MANNERS
from .world import World, in_place, new_world

ENDS: Final = (
    "power", "power at", "kill", "kill at", "drain", "sync " + KEEPS, "sync " + REVERTS, "sync " + LATER,
    "write",
)  # fmt: skip
STEP_NS: Final = 20_000_000_000
SETTLE_S: Final = 400.0


@dataclass(frozen=True)
class Life:
    """One process. ``at``: the I/O operation of its end or fault; ``steps`` of the wall: (after s, by ns)."""

    end: str
    span_s: float
    at: int
    full: tuple[int, int] | None
    no_descriptors: tuple[int, int] | None
    short: tuple[int, ...]
    steps: tuple[tuple[float, int], ...]
    suspends: tuple[tuple[float, int], ...]
    down_s: float
    bad_read: int  # the start's read that fails; 0: none
    flip: float  # where, as a part of a segment; negative: nowhere
    reboot: bool


@dataclass(frozen=True)
class Plan:
    """Everything that a seed means."""

    seed: int
    clients: int
    manners: dict[str, str]
    disk_ms: float  # the longest that a job of the disk takes
    lives: tuple[Life, ...]
    short: float = 0.0  # the part of attempts that lapse for the machine's own shortage

    @classmethod
    def of(cls, seed: int) -> Plan:
        chance = random.Random(seed)
        manners = {f"host{number}": chance.choice(MANNERS) for number in range(3)}
        disk_ms = chance.choice((0.1, 1.0, 5.0, 30.0))
        lives = tuple(_life(chance) for _ in range(chance.choice((1, 2, 2, 3))))
        clients = chance.choice((1, 2, 3))
        return cls(seed, clients, manners, disk_ms, lives, chance.choice((0.0, 0.0, 0.1, 0.5, 0.95)))


def _life(chance: random.Random) -> Life:
    def some(most: int, share: float) -> int:
        return chance.randrange(1, most + 1) if chance.random() < share else 0

    first = chance.randrange(20, 150)
    span_s = chance.choice((0.2, 0.6, 1.2))
    return Life(
        end=chance.choice(ENDS),
        span_s=span_s,
        at=chance.randrange(0, chance.choice((20, 100, 200))),
        full=(first, first + chance.randrange(20, 200)) if chance.random() < 0.2 else None,
        short=tuple(chance.randrange(150) for _ in range(some(8, 0.3))),
        steps=tuple(
            (chance.random() * span_s, chance.choice((-1, 1)) * chance.randrange(STEP_NS))
            for _ in range(some(2, 0.25))
        ),
        suspends=tuple(
            (chance.random() * span_s, chance.randrange(5_000_000_000)) for _ in range(some(1, 0.2))
        ),
        down_s=chance.choice((0.0, 0.1, 2.0)),
        bad_read=some(4, 0.1),
        flip=chance.random() if chance.random() < 0.3 else -1.0,
        reboot=chance.random() < 0.3,
        no_descriptors=(first, first + chance.randrange(20, 200)) if chance.random() < 0.2 else None,
    )


class RandomWorld:
    """One plan, carried out. ``faults`` counts what really happened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world: World | None = None
        self.ends: list[str] = []

    def run(self) -> None:
        """Raises with the seed and what it means in a note."""
        try:
            trio.run(self._run, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"again: python -m tests.simulation world {self.plan.seed}\n{self.plan}")
            raise

    def _current(self) -> World:
        assert self.world is not None
        return self.world

    async def _run(self) -> None:
        plan = self.plan
        with in_place(self._current, plan.seed):
            slow = random.Random(plan.seed)
            world = self.world = new_world(
                plan.seed, plan.manners, disk_s=lambda: plan.disk_ms * slow.random() / 1000 + 2e-5
            )
            world.receivers.short = plan.short
            clients = [
                Client(
                    number, plan.seed * 10 + number, world.history, lambda: world.clock.now().wall_ms,
                    [*plan.manners], keys_most=9, far_ms=1500, pause_s=0.02,
                )
                for number in range(plan.clients)
            ]  # fmt: skip
            for life in plan.lives:
                await self._life(world, life, clients)
            await self._calm(world)

    async def _life(self, world: World, life: Life, clients: list[Client]) -> None:
        disk = world.disk
        if life.bad_read:
            disk.faults.read = {life.bad_read: errno.EIO}
        elif life.flip >= 0 and self.ends and self.ends[-1] == "drain":
            return await self._flipped(world, life)

        def halt(what: str) -> None:
            if disk.ops >= life.at and life.end.endswith(" at"):
                world.lose_power() if life.end == "power at" else world.kill()

        if not (self.ends and self.ends[-1].startswith("sync")):  # a start that mends is let do so
            disk.halt = halt

        async def body(world: World, nursery: trio.Nursery) -> None:
            disk.halt = halt
            self._arm(world, life)
            for client in clients:
                nursery.start_soon(client.run, world.door.connect())
            nursery.start_soon(_turn_clocks, world, life)
            await trio.sleep(life.span_s)
            world.stories.tell()
            assert world.daemon is not None
            check(world.daemon.engine)
            if life.end == "power":
                world.lose_power()
            elif life.end == "drain":
                signal.raise_signal(signal.SIGTERM)
                await trio.sleep_forever()

        try:
            code = await world.live(body)
        except StorageFailed:
            assert life.bad_read, "a start that failed for nothing"
            self.ends.append("read")
            return None
        assert code in (None, 0, 74), f"exit {code}"
        assert code != 0 or life.end == "drain"
        assert code != 74 or life.end.startswith(("sync", "write")), "the storage failed by itself"
        self.ends.append(life.end)
        world.stories.tell()
        await trio.sleep(life.down_s)
        if life.reboot and not life.end.startswith("sync"):
            world.disk = world.disk if life.end == "power" else world.disk.restarted()
            world.reboot()
        return None

    def _arm(self, world: World, life: Life) -> None:
        faults, ops = world.disk.faults, world.disk.ops
        kind, _, how = life.end.partition(" ")
        if kind == "sync":
            faults.sync = {ops + life.at: how}
        elif kind == "write":
            faults.write = {ops + life.at: (errno.EIO, errno.ENOSPC)[life.at & 1]}
        if life.full is not None:
            faults.full = (ops + life.full[0], ops + life.full[1])
        if life.no_descriptors is not None:
            faults.no_descriptors = (ops + life.no_descriptors[0], ops + life.no_descriptors[1])
        faults.short = {ops + at for at in life.short}

    async def _flipped(self, world: World, life: Life) -> None:
        """After a clean stop every bit counts: refused by name, or nothing is lost by it."""
        names = [name for name in sorted(world.disk.names_now) if name.endswith(".segment")]
        name = world.chance.choice(names)
        bits = 8 * world.disk.names_now[name].size
        bit = int(life.flip * bits) if world.chance.random() < 0.5 else world.chance.randrange(bits // 10)
        world.disk.flip(name, bit)

        async def body(world: World, nursery: trio.Nursery) -> None:
            await trio.sleep(0.05)

        try:
            await world.live(body)
        except JournalDamaged as error:
            told = (error.exit_code, ".segment" in str(error), "journal repair" in str(error))
            assert told == (65, True, True), str(error)  # noqa: PT017
            world.disk.flip(name, bit)
            self.ends.append("flip refused")
        else:
            self.ends.append("flip harmless")

    async def _calm(self, world: World) -> None:
        async def settle(world: World, nursery: trio.Nursery) -> None:
            await world.settle(SETTLE_S)
            await trio.sleep(1)  # the last outcomes are on disk too
            world.check_given_back()
            world.lose_power()

        async def look(world: World, nursery: trio.Nursery) -> None:
            world.stories.judge(world.shown(), over=True)

        assert await world.live(settle) is None
        await world.live(look)


async def _turn_clocks(world: World, life: Life) -> None:
    """Steps and suspends, in their order."""
    began = trio.current_time()
    turns = [(at_s, ns, world.clock.suspend) for at_s, ns in life.suspends]
    for at_s, ns, turn in sorted(
        [*turns, *((at_s, ns, lambda ns: world.step_wall(ns, noted=False)) for at_s, ns in life.steps)],
        key=lambda each: each[:2],
    ):
        await trio.sleep_until(began + at_s)
        turn(ns)
