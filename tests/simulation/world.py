"""The simulated world: the production daemon between a forgetful disk, false clocks and bad receivers.

Everything that a daemon touches is here in place of the real thing, and nothing else is: the composition
root ``daemon.run.Daemon`` itself is started, with its ledger, committer, journal, ticker, dispatcher,
requests, connections and compaction. Trio's ``MockClock`` leaps from one wake-up to the next, so an hour
takes a moment; for that no thread may work, and none does. The seams, all of them production's own:

==================  =======================================  ==========================================
what                seam                                     here
==================  =======================================  ==========================================
the disk            ``journal.Disk``, given to the journal   ``disk.py``: what power loss keeps
the disk's time     ``journal.Hand``, given to the journal   ``hand.py``: a job waits, then is done at once
time                ``runtime.clock.Clock``                   :class:`SimClock`: steps, suspends, boots
callbacks           ``delivery.callback.Exchange``            ``receivers.py``: answer, fail, hang, lie
connections         a listener that ``run`` opens            :class:`Door`: socket pairs, ``clients.py``
chance, slices      ``random``, ``time``, ``hash``           seeded, still, the same in every process
==================  =======================================  ==========================================

``run`` looks the first, fourth and fifth up by name in its module; :func:`in_place` puts them there for
as long as a world lasts. One seed then fixes everything, to the order in which Trio runs tasks.

A world is a sequence of *lives*. A life is one process on the disk as the last one left it: it recovers,
serves, and ends by a fault or cleanly. What the outside sees goes to ``history.py``; ``checks.py`` holds
it against the contract. Which faults come when is decided in ``plans.py`` (random worlds) and
``crash.py`` (every I/O operation of a recorded run).
"""

from __future__ import annotations

import contextlib
import logging
import random
import zlib
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import msgspec
import trio
import trio.testing
from trio._core import _run as trio_run

from tests.daemon.worlds import Stopwatch
from wheeltimer.core import store
from wheeltimer.core.invariants import check
from wheeltimer.core.task import unpack
from wheeltimer.daemon import run
from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.journal.worker import Job
from wheeltimer.protocol.task_view import STATE_WORDS
from wheeltimer.runtime import time_slices as turn
from wheeltimer.server import service
from wheeltimer.settings import Settings
from wheeltimer.settings.definitions import Journal as JournalKnobs
from wheeltimer.settings.definitions import Limits
from wheeltimer.shard import durable

from .checks import Facts, Stories
from .clients import Lines
from .disk import FOLDER, SimDisk
from .fake_environment import WALL_NS, Door, SimClock
from .hand import SimHand
from .history import History
from .receivers import Receivers

SEGMENT_BYTES: Final = 40_960  # small, so that a world of a few hundred commits rotates and compacts
LIMITS: Final = Limits(
    reply_bytes_max=1024, history_reply_bytes_max=64, history_max=4, id_bytes_max=64, meta_bytes_max=256,
    body_bytes_max=1024, line_bytes_max=4096, keep_dead_max=10_000, drain_ms=2_000,
)  # fmt: skip

FSYNC: Final = Settings(data_dir=FOLDER).fsync  # as it is for who sets nothing


class SimDaemon(run.Daemon):
    """Production's, but for the line that it prints: ``ready`` is set instead."""

    def __init__(self, settings: Settings, clock: SimClock) -> None:
        super().__init__(settings, clock)
        self.ready = trio.Event()

    def _check_segments(self) -> None:
        """Segments are smaller than the settings allow: no task here has a URL of 8 KiB."""

    def _say_ready(self, names: list[str], tasks: int) -> None:
        self.ready.set()


class World:
    """``disk_s``: how long a job of the disk takes. ``told``: commits are looked into for the checks."""

    def __init__(
        self, seed: int, disk: SimDisk, clock: SimClock, stories: Stories,
        manners: dict[str, str] | None = None, *, disk_s: Callable[[], float] = lambda: 0.0002,
        told: bool = True, limits: Limits = LIMITS, fsync: str = FSYNC, segment_bytes: int = SEGMENT_BYTES,
    ) -> None:  # fmt: skip
        self.chance = random.Random(seed)
        self.disk, self.clock, self.stories = disk, clock, stories
        self.facts, self.history = stories.facts, stories.facts.history
        self.receivers = Receivers(self.history, seed, manners or {})
        self.limits, self.fsync, self.segment_bytes = limits, fsync, segment_bytes
        self._disk_s, self._told = disk_s, told
        self.door = Door()
        self.scope = trio.CancelScope()
        self.daemon: SimDaemon | None = None
        self.next_disk: SimDisk | None = None

    # -- what production asks for ---------------------------------------------------------------

    def hand(self) -> SimHand:
        return SimHand(self._disk_s, self._did if self._told else None)

    def _did(self, job: Job) -> None:
        """What a commit has put on disk."""
        if getattr(getattr(job, "func", None), "__name__", "") != "commit":
            return
        versions, outcomes = [], []
        for record in map(msgspec.msgpack.decode, job.args[1]):  # type: ignore[attr-defined]
            match record:
                case ["s" | "r", str(key), _, dict(task)]:
                    versions.append((key, task.get("v", 1)))
                case ["a", str(key), _, dict(attempt), *_]:
                    outcomes.append((key, attempt["version"], attempt["attempt"]))
        if versions or outcomes:
            self.history.stored(versions, outcomes)

    # -- a life ---------------------------------------------------------------------------------

    async def live(self, body: Callable[[World, trio.Nursery], Awaitable[None]]) -> int | None:
        """One process, until ``body`` returns (it is killed then), it ends by itself, or a crash: then None.

        Raises what a start raises. ``disk`` is what the next life finds.
        """
        exit_code: int | None = None
        self.door, self.next_disk = Door(), None
        self.history.born()
        try:
            with trio.CancelScope() as self.scope:
                daemon = self.daemon = SimDaemon(self._settings(), self.clock)
                daemon.recover()
                self._look(daemon)
                async with trio.open_nursery() as nursery:

                    async def serve() -> None:
                        nonlocal exit_code
                        exit_code = await daemon.run()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(serve)
                    await daemon.ready.wait()
                    await body(self, nursery)
                    if exit_code is None:
                        self.kill()
        except Exception as error:
            if self.next_disk is None or not isinstance(error, StorageFailed):
                self.disk = self.disk.restarted()
                raise
            # the crash was in the middle of a start
        finally:
            self.door.shut()
        if self.next_disk is not None:
            exit_code = None
        self.disk = self.next_disk or self.disk.restarted()
        return exit_code

    def kill(self) -> None:
        """The process ends here; the machine goes on, and so does its cache."""
        self._end(self.disk.restarted())

    def lose_power(self, keep: float | None = None) -> None:
        """The machine ends here; what was not synced is kept or not."""
        self._end(
            SimDisk(self.chance.getrandbits(32), self.disk.moment().after_power_loss(self.chance, keep))
        )
        self.reboot()

    def reboot(self) -> None:
        """Another boot; what was waited for goes by the wall clock."""
        self.clock.reboot()
        self.facts.boots.append(self.clock.true_ns())

    def _end(self, disk: SimDisk) -> None:
        if self.next_disk is None:
            self.next_disk = disk
            self.history.dark = True
            self.disk.lose_power()
            self.scope.cancel()

    def step_wall(self, ns: int, *, noted: bool) -> None:
        """Somebody sets the wall clock."""
        at_ns = self.clock.true_ns()
        self.clock.wall_offset_ns += ns
        self.facts.steps.append((at_ns, ns))
        if not noted:
            self.facts.unnoted.append((at_ns, ns))

    def _settings(self) -> Settings:
        return Settings(
            listen=(), data_dir=FOLDER, wheel_size=64, fsync=self.fsync, limits=self.limits,  # type: ignore[arg-type]
            journal=JournalKnobs(segment_bytes=self.segment_bytes, history_bytes=0),  # compacts all the time
        )  # fmt: skip

    def _look(self, daemon: SimDaemon) -> None:
        """What a start found, and its counts derived again."""
        check(daemon.engine)
        found = daemon._recovered
        daemon._recovered = found._replace(stopping=_Ordered.fromkeys(sorted(found.stopping)))  # type: ignore[arg-type]
        tasks = self.shown()
        for key in sorted({*tasks, *self.stories.of}):
            self.history.seen(key, tasks.get(key))
        self.stories.tell()

    def shown(self) -> dict[str, dict[str, Any]]:
        """Every task that the daemon knows."""
        assert self.daemon is not None
        return {
            key: {"version": task.version, "state": STATE_WORDS[task.state], "stop": task.stop}
            for key, task in ((key, unpack(row)) for key, row in self.daemon.engine.table.items())
        }

    async def ask(self, **request: Any) -> dict[str, Any]:
        """One request over a connection of its own, heard by nobody else."""
        async with self.door.connect() as stream:
            lines = Lines(stream)
            await stream.send_all(msgspec.json.encode(request) + b"\n")
            return await lines.next()

    async def settle(self, limit_s: float) -> None:
        """The faults have stopped: wait until every task has ended, resuming what was paused."""
        assert self.daemon is not None
        self.receivers.calm = True
        engine = self.daemon.engine
        for name in [name for name, queue in engine.queues.items() if queue.paused]:
            for story in self.stories.of.values():
                if story.key.startswith(f"{name}/"):
                    story.paused = False
            await self.ask(op="resume", queue=name)
        with trio.move_on_after(limit_s):
            while engine.live:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        check(engine)
        self.stories.tell()
        self.stories.judge(self.shown(), over=True)

    def check_given_back(self) -> None:
        """Nothing is in flight, so every permit and all room that an attempt had is there again."""
        assert self.daemon is not None
        dispatcher = self.daemon._dispatcher
        assert (dispatcher.in_flight, len(dispatcher), self.daemon._ledger._held) == (0, 0, {})
        assert not any(target.window.in_flight for target in dispatcher._lanes.targets.values())
        assert self.daemon.journal._taken == 0, "room is reserved, and nothing is decided or in flight"


class _Ordered(dict[str, None]):
    """A set that is walked in order."""

    def discard(self, key: str) -> None:
        self.pop(key, None)


@contextlib.contextmanager
def in_place(world: Callable[[], World], seed: int) -> Iterator[None]:
    """Puts the world where production looks for the outside, and makes chance and Trio follow the seed."""

    async def open_listeners(
        addresses: object, turn: object, overflow: object, unix_mode: int
    ) -> tuple[list[tuple[Door, str]], list[str]]:
        await trio.lowlevel.checkpoint()
        return [(world().door, "tcp")], []

    def open_journal(*args: Any, **options: Any) -> Journal:
        return Journal.open(*args, disk=world().disk, hand=world().hand(), **options)

    nothing = SimpleNamespace(disable=int, enable=int, freeze=int, set_threshold=lambda *a: None)
    chance, watch, log = random.Random(seed), Stopwatch(), logging.getLogger("wheeltimer")
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, log.level
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    log.setLevel(logging.CRITICAL + 1)
    with (
        patch.multiple(
            run, Journal=SimpleNamespace(open=open_journal), open_listeners=open_listeners, gc=nothing,
            transport_of=lambda settings, rule, idle_max: world().receivers,
        ),
        patch.object(turn, "time", watch),
        patch.object(service, "time", watch),
        patch.object(durable, "random", SimpleNamespace(Random=lambda: random.Random(chance.random()))),
        patch.object(store, "hash", lambda key: zlib.crc32(key.encode()) << 32, create=True),
        patch.multiple(store, SHARDS=16, _MASK=15),  # as few as there are tasks
    ):  # fmt: skip
        try:
            yield
        finally:
            trio_run._ALLOW_DETERMINISTIC_SCHEDULING, _ = before  # type: ignore[misc]
            log.setLevel(before[1])


def new_world(seed: int, manners: dict[str, str] | None = None, **options: Any) -> World:
    """An empty disk, the first boot."""
    clock = SimClock()
    facts = Facts(History(clock.true_ns), wall_ns_at_0=WALL_NS)
    return World(seed, SimDisk(seed), clock, Stories(facts), manners, **options)
