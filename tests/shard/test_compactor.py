"""Compaction in the running parts: what it keeps, how small it keeps the journal, every crash on its way.

Segments are 64 KiB here, so a few hundred tasks fill several.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import trio_test

from tests.clocks import ManualClock
from tests.daemon import worlds
from tests.daemon.worlds import URL, World, settle, world
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.invariants import check
from wheeltimer.core.task import NS_PER_MS, Task, unpack
from wheeltimer.journal import (
    Clocks,
    InlineWorker,
    Journal,
    Sealed,
    history_bytes,
    is_urgent,
    segments_to_drop,
)
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime import time_slices
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.shard import compactor as compaction
from wheeltimer.shard.compactor import Compactor
from wheeltimer.shard.startup import recover

SEGMENT = 64 << 10
FIXED = 4 * SEGMENT  # open, spare, two reserved
FAR_MS = 30 * 86_400_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome with its hook must fit a frame of such a segment."""
    monkeypatch.setattr(worlds, "Limits", lambda: Limits(reply_bytes_max=10, keep_done_ms=60_000))


@pytest.fixture
def time() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@contextmanager
def reopened(folder: Path, clock: ManualClock) -> Iterator[Engine]:
    """What another start would find in the folder."""

    def clocks() -> Clocks:
        now = clock.now()
        return Clocks(clock.boot_id, now.elapsed_ns, now.wall_ns // NS_PER_MS)

    with Journal.open(
        folder, clock=clocks, segment_bytes=SEGMENT, fsync=False, hand=InlineWorker()
    ) as journal:
        engine = Engine(Limits(), clock.now(), 10 * NS_PER_MS, 64)
        recover(journal, engine, clock.boot_id, clock.now())
        check(engine)
        yield engine


def seen(engine: Engine) -> dict[str, Any]:
    """All that a restart must keep: tasks as a restart finds them, order of ends, queues, counts."""

    def folded(task: Task) -> Task:
        return replace(task, state=int(State.SCHEDULED), flight=0) if task.state < State.DONE else task

    tasks = {key: folded(unpack(row)) for key, row in engine.table.items()}
    ended = [*engine.kept_done, *engine.kept_dead]
    return {
        "tasks": tasks,
        "ends": sorted((tasks[key].ended_ms or 0, key) for key in ended),
        "paused": {name for name, queue in engine.queues.items() if queue.paused},
        "outcomes": engine.outcomes,
    }


async def churn(daemon: World, cycles: int, *, at_once: int = 50) -> None:
    """Tasks that come and are done at once: what fills a journal that nobody needs."""
    for _ in range(cycles // at_once):
        await daemon.ask_all([{"op": "schedule", "url": URL} for _ in range(at_once)])
        await daemon.advance(20)


def compactor_of(daemon: World) -> Compactor:
    return Compactor(daemon.ledger, TimeSlices())


@trio_test
async def test_one_old_task_pins_no_segment(tmp_path: Path, time: trio.testing.MockClock) -> None:
    """2: 30 to 700 GB elsewhere. The old task is carried along, and fires."""
    clock = ManualClock()
    async with world(tmp_path, clock, segment_bytes=SEGMENT, concurrency=4) as daemon:
        compactor = compactor_of(daemon)
        await daemon.ask(op="schedule", id="old", url=URL, delay=FAR_MS, body={"n": 1})
        for _ in range(20):
            await churn(daemon, 500)
            await daemon.advance(61_000)
            await compactor.work()
            assert daemon.journal.bytes <= 2 * compactor.live_bytes + FIXED
        assert compactor.done >= 10
        known = daemon.engine.get("default/old")
        assert known is not None
        assert known.carried_lsn > 10_000
        expected = seen(daemon.engine)
    with reopened(tmp_path, clock) as engine:
        assert seen(engine) == expected
    async with world(tmp_path, clock, segment_bytes=SEGMENT, concurrency=4) as daemon:
        await daemon.advance(FAR_MS)
        assert daemon.attempts == ["old"]


@trio_test
async def test_redelays_do_not_grow_the_journal(tmp_path: Path, time: trio.testing.MockClock) -> None:
    """3: a hundred tasks, put off again and again."""
    clock = ManualClock()
    async with world(tmp_path, clock, segment_bytes=SEGMENT, concurrency=4) as daemon:
        compactor = compactor_of(daemon)
        tasks = [{"id": f"t{number}", "queue": "q"} for number in range(100)]
        await daemon.ask_all([{"op": "schedule", "url": URL, "delay": FAR_MS} | task for task in tasks])
        for delay in range(100):
            await daemon.ask_all([{"op": "reschedule", "delay": FAR_MS + delay} | task for task in tasks])
            await compactor.work()
            assert daemon.journal.bytes <= 2 * compactor.live_bytes + FIXED
        expected = seen(daemon.engine)
    assert len(expected["tasks"]) == 100
    with reopened(tmp_path, clock) as engine:
        assert seen(engine) == expected


async def some_of_everything(daemon: World, chance: random.Random, steps: int) -> None:
    """Requests of every kind and time that passes; in the end some attempts are in flight."""
    for step in range(steps):
        if step == steps - 2:
            daemon.hold = trio.Event()
        requests: list[dict[str, Any]] = []
        for _ in range(chance.randrange(1, 60)):
            name = {"id": f"t{chance.randrange(200)}", "queue": chance.choice(("a", "b", "c"))}
            due = {"delay": chance.choice((0, 5, 50, 5000, FAR_MS))}
            requests.append(
                chance.choice(
                    [
                        {"op": "schedule", "url": URL, "on_conflict": "replace"} | due,
                        {"op": "schedule", "url": URL, "on_done": URL, "expires_in": 3000} | due,
                        {"op": "schedule", "url": URL, "body": {"long": "x" * chance.randrange(800)}} | due,
                        {"op": "reschedule"} | due,
                        {"op": "cancel"},
                        {"op": "finish", "reply": {"by": "hand"}},
                    ]
                )
                | name
            )
        requests.append({"op": chance.choice(("pause", "resume")), "queue": chance.choice("abcdef")})
        await daemon.ask_all(requests)
        await daemon.advance(chance.choice((1, 10, 1000)))


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_after_compactions_finds_the_live_state(tmp_path: Path, seed: int) -> None:
    """Through several lives of the daemon; the journal stays within its bound all the time."""
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def lives() -> None:
        clock = ManualClock()
        for _ in range(4):
            async with world(tmp_path, clock, segment_bytes=SEGMENT, concurrency=4) as daemon:
                compactor = compactor_of(daemon)
                for _ in range(8):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(compactor.work)  # beside the requests, not between them
                        await some_of_everything(daemon, chance, 4)
                    assert daemon.journal.bytes <= 2 * compactor.live_bytes + FIXED + SEGMENT
                    await compactor.work()
                    assert daemon.journal.bytes <= 2 * compactor.live_bytes + FIXED
                    daemon.hold.set()
                    daemon.hold = None
                    await settle()
                await some_of_everything(daemon, chance, 4)
                assert compactor.carried > 50
                expected = seen(daemon.engine)
            with reopened(tmp_path, clock) as engine:
                assert seen(engine) == expected

    trio.run(lives, clock=trio.testing.MockClock(autojump_threshold=0))


class _Crash(Exception):
    pass


@pytest.mark.parametrize("removed", [True, False], ids=["unlinked", "not unlinked"])
def test_a_crash_at_every_step_of_a_compaction_loses_nothing(
    tmp_path: Path, removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each decision that it makes, and with the trim in the journal and the files still there."""
    steps: list[type] = []
    for crash_at in range(1000):
        folder, clock = tmp_path / str(crash_at), ManualClock()
        ended = trio.run(
            _crash_after, folder, clock, crash_at, removed, steps,
            clock=trio.testing.MockClock(autojump_threshold=0),
        )  # fmt: skip
        if ended:
            break
    assert crash_at >= 4, "the compaction was cut in few places"
    assert steps[-1] in (r.Carried, r.Counted)


async def _crash_after(
    folder: Path, clock: ManualClock, crash_at: int, removed: bool, steps: list[type]
) -> bool:
    """One life that ends after so many decisions of the compaction; whether it ended before."""
    chance = random.Random(7)
    ended = False
    async with world(folder, clock, segment_bytes=SEGMENT, concurrency=4) as daemon:
        await some_of_everything(daemon, chance, 60)
        assert len(daemon.journal.sealed) > 3
        submit, left = daemon.ledger.submit, crash_at

        def counted(records: Any, reserved: int = 0) -> bool:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Crash
            steps.append(type(records[0]))
            return submit(records, reserved)

        daemon.ledger.submit = counted  # type: ignore[method-assign]
        if not removed:
            daemon.journal._writer.drop = lambda below: None  # type: ignore[method-assign]
        compactor = compactor_of(daemon)
        with trio.move_on_after(60):
            try:
                await compactor.work()
                ended = True
            except _Crash:
                pass
        ended |= left >= 0
        daemon.ledger.submit = submit  # type: ignore[method-assign]
        await daemon.journal.wait_durable(daemon.journal.next_lsn - 1)
        expected = seen(daemon.engine)
    for _ in range(2):
        with reopened(folder, clock) as engine:
            assert seen(engine) == expected
    return ended


@pytest.mark.parametrize("hurried", [False, True], ids=["calm", "in a hurry"])
@trio_test
async def test_in_a_hurry_it_does_not_stand_in_line_with_those_who_fill_the_journal(
    tmp_path: Path, time: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    """A million tasks, four clients that write without a pause: each look at 512 rows waited for four slices
    of theirs, and the folder outgrew its promise by five segments."""
    watch, slices = worlds.Stopwatch(), 0
    monkeypatch.setattr(time_slices, "time", watch)
    monkeypatch.setattr(compaction, "SLICE_ROWS", 8)
    monkeypatch.setattr(compaction, "PAUSE_S", 0)  # with clients that never rest no simulated time passes
    monkeypatch.setattr(compaction, "is_urgent", lambda sealed, live_bytes, history: hurried)
    async with world(tmp_path, ManualClock(), segment_bytes=SEGMENT, concurrency=4) as daemon:
        await daemon.ask_all([{"op": "schedule", "url": URL, "delay": FAR_MS} for _ in range(100)])
        await churn(daemon, 1500)
        line = TimeSlices()
        compactor = Compactor(daemon.ledger, line)
        watch.step_ns = 400_000

        async def client() -> None:
            nonlocal slices
            while True:
                began_ns = await line.take()
                await trio.lowlevel.checkpoint()
                line.release(began_ns - time_slices.SLICE_NS)
                slices += 1

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client)
            await compactor.work()
            nursery.cancel_scope.cancel()
        assert compactor.done > 0
        looks = len(daemon.engine.table) / 8 * compactor.done
        assert (slices < looks) == hurried, f"{slices} slices of the clients, {looks} looks at eight rows"


class SlowHand(InlineWorker):
    """Every commit takes its time, as a disk beside other work does."""

    SYNC_S = 0.01

    async def done(self) -> None:
        await super().done()
        await trio.sleep(self.SYNC_S)


@pytest.mark.parametrize("hurried", [False, True], ids=["calm", "in a hurry"])
@trio_test
async def test_in_a_hurry_the_syncs_of_a_busy_disk_do_not_set_its_pace(
    tmp_path: Path, time: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    """A sync of 8 ms for each 64 copies: a segment of a million tasks took 50 seconds to copy, in which those
    who wrote filled more than it gave back."""
    monkeypatch.setattr(worlds, "InlineWorker", SlowHand)
    monkeypatch.setattr(compaction, "is_urgent", lambda sealed, live_bytes, history: hurried)
    clock = ManualClock()
    async with world(tmp_path, clock, segment_bytes=4 * SEGMENT, concurrency=4) as daemon:
        while not daemon.journal.sealed:
            await daemon.ask_all([{"op": "schedule", "url": URL, "delay": FAR_MS} for _ in range(100)])
        compactor, before = compactor_of(daemon), daemon.journal.commits
        await compactor._compact(daemon.journal.sealed)
        assert compactor.carried > 1500
        at_once = compactor.carried / (daemon.journal.commits - before)
        assert (at_once > 2 * compaction.HURRIED_COPIES_MAX) == hurried, (
            f"{at_once:.0f} copies for each sync"
        )
        expected = seen(daemon.engine)
    with reopened(tmp_path, clock) as engine:
        assert seen(engine) == expected


def segments(count: int, size: int) -> list[Sealed]:
    return [Sealed(number, size, number) for number in range(1, count + 1)]


@pytest.mark.parametrize("mib", [1, 8, 32, 40, 51, 52, 64])
@pytest.mark.parametrize("live_mib", [0, 1, 100, 1000])
def test_history_is_kept_as_long_as_the_promise_about_the_size_holds(mib: int, live_mib: int) -> None:
    """With few live tasks a sealed segment went within half a second, and with it the events that a
    subscriber may come back for, though the folder was far below 256 MiB."""
    size, live = mib << 20, live_mib << 20
    history = history_bytes(size, 256 << 20)
    kept = (
        next(n for n in range(10_000) if segments_to_drop(segments(n, size), live, history, full=False)) - 1
    )
    at_most = kept + 1 + 4  # the one that is over, found within half a second; open, spare, two reserved
    assert at_most * size <= 2 * live + (256 << 20) or kept * size <= live * 3 // 2
    assert kept * size >= max(0, (256 << 20) - 6 * size), "less was kept than the promise leaves room for"
    assert not is_urgent(segments(kept, size), live, history)
    assert history_bytes(size, 0) == 0


def test_history_gives_way_on_a_full_disk_one_segment_at_a_time() -> None:
    history = history_bytes(1 << 20, 256 << 20)
    sealed = segments(100, 1 << 20)
    assert segments_to_drop(sealed, 1000, history, full=False) == ()
    assert segments_to_drop(sealed, 1000, history, full=True) == sealed[:1]


@trio_test
async def test_a_subscriber_comes_back_to_what_nobody_else_needs(
    tmp_path: Path, time: trio.testing.MockClock
) -> None:
    async with world(tmp_path, ManualClock(), segment_bytes=SEGMENT, concurrency=4) as daemon:
        keeping = Compactor(daemon.ledger, TimeSlices(), 256 << 20)
        first = daemon.journal.sealed
        await churn(daemon, 3000)
        await daemon.advance(61_000)
        await keeping.work()
        assert (keeping.done, len(first)) == (0, 0)
        assert daemon.journal.sealed[0].number == 1
        await Compactor(daemon.ledger, TimeSlices()).work()
        assert daemon.journal.sealed == [] or daemon.journal.sealed[0].number > 1
