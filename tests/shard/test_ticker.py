"""The ticker on a clock that stands still: what is handed over when, in what slices, after what steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import trio_test

from tests.clocks import ManualClock, ManualTimer
from tests.daemon.worlds import URL, settle, world
from wheeltimer.core.task import NS_PER_MS
from wheeltimer.shard.ticker import SLICE_MAX

HOUR_MS = 3_600_000


@trio_test
async def test_nothing_is_early_on_the_exact_boundary(tmp_path: Path) -> None:
    """One ns less is too early, and the boundary itself is not; for both wheels."""
    async with world(tmp_path) as daemon:
        now_ms = (await daemon.ask(op="ping"))["now"]
        await daemon.ask(op="schedule", id="by-delay", url=URL, delay=1000)
        # Once a queue is known, plain requests go another way than the rest: the same instant by each.
        await daemon.ask(op="schedule", id="plain", url=URL, delay=1000)
        await daemon.ask(op="schedule", id="with-fields", url=URL, delay="1s", timeout="2s")
        await daemon.ask(op="schedule", id="by-wall", url=URL, at=now_ms + 1000)
        await daemon.ask(op="schedule", id="moved", url=URL, delay=1)
        await daemon.ask(op="reschedule", id="moved", delay=1000)
        daemon.clock.advance(1000 * NS_PER_MS - 1)
        await settle()
        assert daemon.attempts == []
        daemon.clock.advance(1)
        await settle()
        assert sorted(daemon.attempts) == ["by-delay", "by-wall", "moved", "plain", "with-fields"]


@trio_test
async def test_all_ticks_passed_are_worked_off_at_one_wake_up(tmp_path: Path) -> None:
    """An hour in one piece, more than the wheel has buckets many times over."""
    async with world(tmp_path, segment_bytes=1 << 24) as daemon:
        ids = [f"t{n}" for n in range(2000)]
        replies = await daemon.ask_all(
            [{"op": "schedule", "id": id, "url": URL, "delay": 1 + 1777 * n} for n, id in enumerate(ids)]
        )
        assert all(reply["ok"] for reply in replies)
        await daemon.advance(2 * HOUR_MS)
        assert sorted(daemon.attempts) == sorted(ids)


@trio_test
async def test_a_nearer_deadline_wakes_earlier(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", id="far", url=URL, delay=900)
        await settle()
        await daemon.ask(op="schedule", id="near", url=URL, delay=20)
        await daemon.advance(20)
        assert daemon.attempts == ["near"]


@trio_test
async def test_an_idle_ticker_looks_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a far task nor a near one makes the wait come out as zero."""
    waits = 0
    wait = ManualTimer.wait

    async def counted(timer: ManualTimer) -> None:
        nonlocal waits
        waits += 1
        assert waits < 1000, "it spins"
        await wait(timer)

    monkeypatch.setattr(ManualTimer, "wait", counted)
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", url=URL, delay="365d")
        await daemon.ask(op="schedule", url=URL, at="2100-01-01T00:00:00Z")
        before = waits
        for _ in range(60):
            await daemon.advance(1000)
        assert waits - before <= 61
        assert daemon.clock.elapsed_ns() - daemon.ticker.alive_ns <= 1000 * NS_PER_MS


@trio_test
async def test_a_million_due_at_once_are_handed_over_in_slices(tmp_path: Path) -> None:
    """Between two slices everybody else gets a turn (5000 stand for the million)."""
    async with (
        world(tmp_path, segment_bytes=1 << 24, concurrency=1) as daemon,
        trio.open_nursery() as nursery,
    ):
        await daemon.ask_all(
            [{"op": "schedule", "id": f"t{n}", "url": URL, "delay": 100} for n in range(5000)]
        )
        ready: list[int] = []

        async def look() -> None:
            while daemon.engine.counts[0]:
                ready.append(daemon.engine.counts[0])
                await trio.lowlevel.checkpoint()

        daemon.hold = trio.Event()
        daemon.clock.advance(100 * NS_PER_MS)
        await look()
        handed_over = [before - after for before, after in zip(ready, [*ready[1:], 0], strict=True)]
        assert sum(handed_over) == 5000
        assert max(handed_over) <= 2 * SLICE_MAX, max(handed_over)
        daemon.hold.set()
        nursery.cancel_scope.cancel()


@trio_test
async def test_steps_move_what_follows_the_wall_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        now_ms = (await daemon.ask(op="ping"))["now"]
        await daemon.ask(op="schedule", id="delay", url=URL, delay=10_000)
        await daemon.ask(op="schedule", id="at", url=URL, at=now_ms + HOUR_MS + 5000)
        await daemon.ask(op="schedule", id="late-at", url=URL, at=now_ms + 2 * HOUR_MS)
        daemon.clock.step_wall(HOUR_MS * NS_PER_MS)
        await daemon.advance(4999)
        assert daemon.attempts == []
        await daemon.advance(1)
        assert daemon.attempts == ["at"]
        daemon.clock.step_wall(-HOUR_MS * NS_PER_MS)
        await daemon.advance(4999)
        assert daemon.attempts == ["at"]
        await daemon.advance(1)
        assert daemon.attempts == ["at", "delay"]
        assert daemon.ticker.steps == 2
        daemon.clock.step_wall(2 * HOUR_MS * NS_PER_MS)
        await settle()
        assert daemon.attempts == ["at", "delay", "late-at"]


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("down_ms", [0, 3_000, 3 * HOUR_MS])
def test_a_delay_is_not_rebased_at_replay(tmp_path: Path, same_boot: bool, down_ms: int) -> None:
    """Over any restart the deadline stays where it was, and what is past is due."""
    clock = ManualClock()

    async def before() -> int:
        async with world(tmp_path, clock) as daemon:
            return int((await daemon.ask(op="schedule", id="a", url=URL, delay=10_000))["due"])

    async def after() -> list[str]:
        async with world(tmp_path, clock) as daemon:
            assert (await daemon.ask(op="get", id="a"))["task"]["due"] == due_ms
            left_ns = due_ms * NS_PER_MS - clock.now().wall_ns
            if left_ns > NS_PER_MS:
                daemon.clock.advance(left_ns - NS_PER_MS)
                await settle()
                assert daemon.attempts == []
                # Another boot is bridged by a reading in whole ms: late by at most that, never early.
                daemon.clock.advance((1 if same_boot else 2) * NS_PER_MS)
                await settle()
            return list(daemon.attempts)

    due_ms = trio.run(before)
    clock.advance(down_ms * NS_PER_MS)
    if not same_boot:
        clock.reboot(b"another boot id.")
    assert trio.run(after) == ["a"]
