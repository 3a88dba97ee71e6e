"""Attempts that were not made after all, in a daemon without its edges: room, records, events, restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.daemon.worlds import URL, World, settle, world
from tests.server.test_subscriptions import Reader
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task, split_key
from wheeltimer.delivery.shortage import Shortage
from wheeltimer.protocol.task_view import State


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0.02)


class Machine:
    """Attempts of a machine that is ``short``; each waits for ``held`` before it finds out."""

    def __init__(self, daemon: World) -> None:
        self.short = True
        self.held: trio.Event | None = None
        self.tried: list[int] = []  # the number of each attempt
        daemon.send = self.send  # type: ignore[method-assign]

    async def send(self, key: str, task: Task) -> Answer:
        self.tried.append(task.attempts + 1)
        if self.held is not None:
            await self.held.wait()
        await trio.lowlevel.checkpoint()
        if self.short and not split_key(key)[1].endswith("/1"):
            raise Shortage("descriptors", "Too many open files")
        return Answer(task.next_ms, 0, 0, 200)


async def later(daemon: World, ms: int) -> None:
    """Let time pass on the daemon's clock and on Trio's, which the dispatcher sleeps by."""
    await daemon.advance(ms)
    await trio.sleep(ms / 1000 + 0.1)
    await settle()


@trio_test
async def test_room_for_the_outcome_is_given_back(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon:
        machine = Machine(daemon)
        await daemon.ask(op="schedule", id="t", url=URL, on_done=URL, retry="none")
        await daemon.advance(0)
        assert machine.tried == [1]
        assert daemon.engine.counts[State.READY] == 1
        assert (daemon.journal._taken, daemon.ledger._held, daemon.dispatcher.in_flight) == (0, {}, 0)
        written = daemon.journal.next_lsn
        await later(daemon, 10)
        assert machine.tried == [1, 1]
        assert daemon.journal.next_lsn == written, "a lapse is not written"
        machine.short = False
        await later(daemon, 1_000)
        task = (await daemon.ask(op="get", id="t"))["task"]
        assert (task["state"], task["attempts"], len(task["history"])) == ("done", 1, 1)


@pytest.mark.parametrize("op", ["cancel", "finish"])
@trio_test
async def test_a_stop_that_waits_for_an_attempt_that_lapses_is_an_end_on_disk(
    tmp_path: Path, op: str
) -> None:
    async with world(tmp_path) as daemon:
        machine = Machine(daemon)
        machine.held = trio.Event()
        await daemon.ask(op="schedule", id="t", url=URL, on_done=URL)
        await daemon.advance(0)
        await daemon.ask(op=op, id="t", **({"reply": ["x" * 9_000]} if op == "finish" else {}))
        machine.held.set()
        await daemon.advance(0)
        task = (await daemon.ask(op="get", id="t"))["task"]
        assert task["state"] == ("cancelled" if op == "cancel" else "done")
        assert (task["attempts"], task["history"], daemon.journal._taken) == (0, [], 0)
        hook = await daemon.ask(op="get", id="t/done/1")
        if op == "finish":
            assert hook["task"]["body"]["reply"] == ["x" * 9_000]
        else:
            assert hook["error"] == "not_found"
    async with world(tmp_path) as daemon:
        again = (await daemon.ask(op="get", id="t"))["task"]
        assert again == task


@pytest.mark.parametrize("expiry", ["expires_in", "expires_at"])
@trio_test
async def test_what_expired_while_its_attempt_lapsed_ends_at_once(tmp_path: Path, expiry: str) -> None:
    """A running task has no timer: the lapse sets it again, in the past."""
    async with world(tmp_path) as daemon:
        machine = Machine(daemon)
        machine.held = trio.Event()
        at = 5_000 if expiry == "expires_in" else daemon.clock.now().wall_ms + 5_000
        await daemon.ask(op="schedule", id="t", url=URL, on_dead=URL, **{expiry: at})
        await daemon.advance(0)
        await daemon.advance(6_000)
        assert (await daemon.ask(op="get", id="t"))["task"]["state"] == "running"
        machine.held.set()
        await settle()
        task = (await daemon.ask(op="get", id="t"))["task"]
        assert (task["state"], task["error"], task["history"]) == ("expired", "expired", [])


@trio_test
async def test_a_task_that_is_ready_again_expires_at_its_time(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        Machine(daemon)
        await daemon.ask(op="schedule", id="t", url=URL, expires_in=5_000)
        for _ in range(49):
            await daemon.advance(100)
        assert daemon.engine.counts[State.READY] == 1
        await daemon.advance(100)
        assert daemon.engine.counts[State.EXPIRED] == 1


@trio_test
async def test_a_subscriber_sees_the_attempt_start_again_with_its_number_and_one_outcome(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        machine = Machine(daemon)
        reader = Reader(daemon, nursery)
        await settle()
        await daemon.ask(op="schedule", id="t", url=URL)
        await later(daemon, 0)
        await later(daemon, 10)
        machine.short = False
        await later(daemon, 100)
        events = [(event["event"], event.get("attempt")) for event in reader.socket.said_to[1:]]
        assert events == [
            ("task.scheduled", None), ("attempt.started", 1), ("attempt.started", 1), ("attempt.started", 1),
            ("attempt.succeeded", 1), ("task.done", None),
        ]  # fmt: skip
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_crash_between_a_lapse_and_the_next_try_is_as_any_other(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        Machine(daemon)
        await daemon.ask(op="schedule", id="t", url=URL, retry="none")
        await daemon.advance(0)
    async with world(tmp_path) as daemon:
        await settle()
        assert daemon.attempts == ["t"]
        task = (await daemon.ask(op="get", id="t"))["task"]
        assert [entry["attempt"] for entry in task["history"]] == [1]


@trio_test
async def test_a_drain_does_not_wait_for_what_lapsed(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        machine = Machine(daemon)
        machine.held = trio.Event()
        await daemon.ask(op="schedule", id="t", url=URL)
        await daemon.advance(0)
        drained = trio.Event()

        async def drain() -> None:
            await daemon.dispatcher.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await settle()
            assert not drained.is_set()
            machine.held.set()
            await settle()
            assert drained.is_set()
        await daemon.advance(60_000)
        assert machine.tried == [1], "it starts again after the restart"
