"""Requests in-process: what is long is done in slices, and a cancel is right at every moment."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import trio_test

from tests.daemon.worlds import URL, Stopwatch, World, settle, world
from wheeltimer.core.engine import Engine
from wheeltimer.core.policy import Policy
from wheeltimer.core.queries import Forecast, Listing
from wheeltimer.core.schedule_batch import RUN_MAX, Batch, BatchSize
from wheeltimer.core.task import NS_PER_MS, Now
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime.time_slices import SLICE_LINES_MAX, SLICE_NS
from wheeltimer.server import service as service_module
from wheeltimer.server.admission import REST_FACTOR

TASKS = 6000


@pytest.fixture
def _slow(stopwatch: Stopwatch) -> None:
    """Every slice takes its whole time: the work per slice can then be counted."""
    stopwatch.step_ns = SLICE_NS


class Witness:
    """Somebody else on the loop, who counts how often there was a turn."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turns = 0
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        while True:
            self.turns += 1
            await trio.lowlevel.checkpoint()


async def fill(daemon: World) -> None:
    replies = await daemon.ask_all(
        [
            {"op": "schedule", "id": f"t{n}", "url": URL, "delay": "1h", "group": "all", "queue": "q"}
            for n in range(TASKS)
        ]
    )
    assert all(reply["ok"] for reply in replies)


@trio_test
@pytest.mark.usefixtures("_slow")
async def test_a_list_or_forecast_of_many_tasks_does_not_stop_the_timers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a slice of rows is looked at between two turns of everybody else."""
    rows_by_turn: dict[int, int] = {}
    feed, count = Listing.feed, Forecast.feed
    async with world(tmp_path, segment_bytes=1 << 24) as daemon, trio.open_nursery() as nursery:
        await fill(daemon)
        witness = Witness(nursery)

        def counted(listing: Listing, rows: list[tuple[str, bytes]]) -> None:
            rows_by_turn[witness.turns] = rows_by_turn.get(witness.turns, 0) + len(rows)
            feed(listing, rows)

        def forecast(scan: Forecast, rows: list[tuple[str, bytes]]) -> None:
            rows_by_turn[witness.turns] = rows_by_turn.get(witness.turns, 0) + len(rows)
            count(scan, rows)

        monkeypatch.setattr(Listing, "feed", counted)
        monkeypatch.setattr(Forecast, "feed", forecast)
        for fields in ({}, {"queue": "q"}, {"group": "all"}, {"state": "dead"}):
            rows_by_turn.clear()
            reply = await daemon.ask(op="list", **fields)
            assert len(reply["tasks"]) == (0 if "state" in fields else 100)
            assert sum(rows_by_turn.values()) == TASKS
            assert max(rows_by_turn.values()) <= SLICE_LINES_MAX, fields
        rows_by_turn.clear()
        reply = await daemon.ask(op="forecast", queue="q", horizon="4h", slices=2)
        assert reply["counts"] == [TASKS, 0]
        assert sum(rows_by_turn.values()) == TASKS
        assert max(rows_by_turn.values()) <= SLICE_LINES_MAX
        nursery.cancel_scope.cancel()


@trio_test
@pytest.mark.usefixtures("_slow")
async def test_a_group_cancel_does_not_stop_the_timers(tmp_path: Path) -> None:
    """Cancelled in slices, answered after the last."""
    async with world(tmp_path, segment_bytes=1 << 24) as daemon, trio.open_nursery() as nursery:
        await fill(daemon)
        cancelled_at: list[int] = []

        async def look() -> None:
            while True:
                cancelled_at.append(daemon.engine.counts[6])
                await trio.lowlevel.checkpoint()

        nursery.start_soon(look)
        reply = await daemon.ask(op="cancel", group="all")
        assert (reply["cancelled"], reply["running"]) == (TASKS, 0)
        steps = [after - before for before, after in pairwise(cancelled_at)]
        assert max(steps) <= SLICE_LINES_MAX, max(steps)
        nursery.cancel_scope.cancel()


@trio_test
@pytest.mark.usefixtures("_slow")
async def test_a_pipelined_batch_is_answered_in_slices(tmp_path: Path) -> None:
    lines = [b'{"op":"schedule","id":"t%d","url":"http://a/","delay":1000000}' % n for n in range(3000)]
    lines += [b'{"op":"ping"}'] * 100
    async with world(tmp_path, segment_bytes=1 << 24) as daemon:
        at, sizes = 0, []
        while at < len(lines):
            upto, _ = await daemon.requests.answer(lines, at)
            sizes.append(upto - at)
            at = upto
        assert max(sizes) <= 2 * SLICE_LINES_MAX
        assert daemon.engine.counts[0] == 3000


@pytest.mark.parametrize("op", ["cancel", "finish", "reschedule", "replace"])
@pytest.mark.parametrize("checkpoints", range(20))
def test_a_task_stopped_at_any_moment_is_not_sent_after_the_answer(
    tmp_path: Path, op: str, checkpoints: int
) -> None:
    """Due, ready behind a task that has the only permit, started, answered, recorded: at every turn of
    the loop in between the task is cancelled, finished or given another version."""

    async def accident() -> None:
        async with world(tmp_path, concurrency=1) as daemon:

            def attempts() -> list[str]:
                return [id for id in daemon.attempts if id == "a"]

            await daemon.ask(op="schedule", id="0", url=URL, delay=100)
            await daemon.ask(op="schedule", id="a", url=URL, delay=100)
            daemon.clock.advance(100 * NS_PER_MS)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            before = attempts()
            request: dict[str, Any] = {"op": op, "id": "a"}
            if op == "reschedule":
                request |= {"delay": 5000}
            elif op == "replace":
                request |= {"op": "schedule", "url": URL, "delay": 5000, "on_conflict": "replace"}
            reply = await daemon.ask(**request)
            sent_in_time = attempts()
            task = daemon.engine.get("default/a")
            assert task is not None
            if task.state == State.RUNNING:  # begun before the answer; its bytes may go out a turn later
                sent_in_time = ["a"]
            await settle()
            assert attempts() == sent_in_time, "an attempt started after the answer"
            assert len(before) <= 1
            if op in ("cancel", "finish"):
                word = {"cancel": "cancelled", "finish": "finished"}[op]
                if reply["ok"] and reply[word]:
                    assert attempts() == []
                else:
                    assert attempts() == ["a"]
                await daemon.advance(100_000)
                assert attempts() == sent_in_time
            elif reply["ok"]:
                assert reply["version"] == 2
                await daemon.advance(4_990)
                assert attempts() == sent_in_time
                await daemon.advance(20)
                assert attempts() == [*sent_in_time, "a"]
            else:
                assert reply["error"] == "too_late"
                assert attempts() == ["a"]

    trio.run(accident)


def test_the_moments_of_that_race_are_all_there(tmp_path: Path) -> None:
    """The test above means something only if its checkpoints reach from before the start to after the end.

    Trio shuffles what runs in one turn, so a short moment is not seen every time: it is tried until it is.
    """

    async def states(folder: Path) -> set[str]:
        seen = set()
        async with world(folder, concurrency=1) as daemon:
            await daemon.ask(op="schedule", id="0", url=URL, delay=100)
            await daemon.ask(op="schedule", id="a", url=URL, delay=100)
            daemon.clock.advance(100 * NS_PER_MS)
            for _ in range(20):
                task = daemon.engine.get("default/a")
                assert task is not None
                seen.add(State(task.state).word)
                await trio.lowlevel.checkpoint()
        return seen

    wanted = {"scheduled", "ready", "running", "done"}
    seen: set[str] = set()
    for number in range(40):
        seen |= trio.run(states, tmp_path / str(number))
        if seen == wanted:
            break
    assert seen == wanted


PIPELINED: list[dict[str, Any]] = [
    {"op": "schedule", "id": f"t{n % 70}", "url": f"http://r/{n % 3}", "delay": 100 + n % 50} | more
    for n in range(90)
    for more in ({}, {"queue": "a"}, {"body": {"n": n}})
] + [
    {"op": "cancel", "id": "t1"}, {"op": "schedule", "id": "t1"}, {"op": "get", "id": "t2"},
    {"op": "schedule", "id": "new", "url": "http://other/", "delay": "1s"}, {"op": "ping"},
]  # fmt: skip


@trio_test
async def test_requests_in_one_piece_are_answered_as_requests_one_by_one(tmp_path: Path) -> None:
    """Runs, what ends them, and what goes alone, in one stream; the order of the replies is the requests'."""
    chance = random.Random(5)
    requests = [request | {"seq": n} for n, request in enumerate(chance.sample(PIPELINED, len(PIPELINED)))]
    async with world(tmp_path / "piece") as piece, world(tmp_path / "single") as single:
        at_once = await piece.ask_all(requests)
        assert [reply["seq"] for reply in at_once] == list(range(len(requests)))
        assert at_once == [await single.ask(**request) for request in requests]
        assert dict(piece.engine.table.items()).keys() == dict(single.engine.table.items()).keys()


@trio_test
async def test_requests_in_one_piece_are_refused_in_a_drain(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", id="first", url=URL, delay=5)
        daemon.requests.admission.draining = True
        asked = [{"op": "schedule", "id": f"t{n}", "url": URL, "delay": 5} for n in range(50)]
        assert {reply["error"] for reply in await daemon.ask_all(asked)} == {"draining"}
        assert daemon.engine.live == 1


@trio_test
async def test_a_full_journal_acknowledges_nothing_of_requests_in_one_piece(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", id="first", url=URL, delay="1h")
        while daemon.journal.reserve(4096):
            pass  # as much as a batch of one decision after the other could take
        while daemon.journal.reserve(1):
            pass
        asked = [{"op": "schedule", "id": f"t{n}", "url": URL, "delay": 3_600_000} for n in range(50)]
        assert {reply.get("error") for reply in await daemon.ask_all(asked)} == {"full"}
        assert daemon.engine.live == 1
        assert (await daemon.ask(op="get", id="t0"))["error"] == "not_found"


def test_rubbish_takes_a_fifth_of_the_loop_and_honest_requests_do_not_wait_for_it(
    tmp_path: Path, stopwatch: Stopwatch
) -> None:
    """Two connections flood; a slice of theirs is followed by a rest four times as long, one by one."""

    async def run() -> None:
        async with world(tmp_path) as daemon:
            stopwatch.step_ns = SLICE_NS  # a slice is one line

            async def flood() -> None:
                for _ in range(10):
                    await daemon.requests.answer([b"rubbish"], 0)
                    await daemon.requests.admission.rest()

            began_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                nursery.start_soon(flood)
                await trio.testing.wait_all_tasks_blocked()
                assert (await daemon.ask(op="schedule", id="a", url=URL, delay="1h"))["ok"]
                assert (await daemon.ask(op="get", id="unknown"))["error"] == "not_found"
                assert trio.current_time() == began_s
            rested_ns = round((trio.current_time() - began_s) * 1e9)
            assert rested_ns >= 20 * REST_FACTOR * SLICE_NS

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0.01))


@trio_test
async def test_odd_lines_of_one_client_do_not_shorten_the_batches_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = service_module.decide_batch

    def watched(engine: Engine, policy: Policy, lines: list[bytes], now: Now, lsn: int) -> Batch | None:
        sizes.append(len(lines))
        return real(engine, policy, lines, now, lsn)

    monkeypatch.setattr(service_module, "decide_batch", watched)
    line = b'{"op":"schedule","id":"%s%d","url":"http://127.0.0.1:9/","delay":3600000}'
    odd = [line[:-1] % (b"odd", n) + b',"group":"g"}' for n in range(400)]
    plain = [line % (b"plain", n) for n in range(400)]
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", id="first", url="http://127.0.0.1:9/", delay="1h")
        mine, other = BatchSize(), BatchSize()
        for lines, batch_size in ((odd, other), (plain, mine)):
            sizes.clear()
            at = 0
            while at < len(lines):
                at, _ = await daemon.requests.answer(lines, at, batch_size=batch_size)
        assert max(sizes) == RUN_MAX
