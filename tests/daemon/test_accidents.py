"""Accidents of others that lie between the daemon's parts, tried at every moment there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from tests.daemon.worlds import URL, World, settle, world
from wheeltimer.core import control
from wheeltimer.core.outcome import Answer
from wheeltimer.core.store import Table
from wheeltimer.core.task import NS_PER_MS, Task, split_key
from wheeltimer.protocol.requests import Cancel
from wheeltimer.protocol.task_view import State


class AtStep(trio.abc.Instrument):
    """Does something before one step of one task, whichever it is: between two awaits of everybody."""

    def __init__(self, number: int, act: CancelNow) -> None:
        self.left, self.act, self.steps = number, act, 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.left == 0:
            self.act()
        self.left -= 1


class CancelNow:
    """Cancels task ``a`` through engine and ledger at once; what it was, and what had been sent by then."""

    def __init__(self, daemon: World) -> None:
        self.daemon = daemon
        self.state = ""
        self.sent_before = 0

    def __call__(self) -> None:
        daemon = self.daemon
        task = daemon.engine.get("default/a")
        assert task is not None
        self.state, self.sent_before = State(task.state).word, daemon.attempts.count("a")
        if task.state < State.DONE:
            ledger = daemon.ledger
            records, _ = control.cancel(daemon.engine, Cancel(id="a"), ledger.now(), ledger.journal.next_lsn)
            assert ledger.submit(records)
            ledger.changed()


def test_a_task_cancelled_at_any_await_between_due_and_sent_is_not_sent(tmp_path: Path) -> None:
    """Moved to the list of what is due, waiting behind the only permit, started, ended: before each step
    of each nursery task from the moment it is due, in a world of its own."""

    async def accident(folder: Path, number: int) -> tuple[str, int]:
        async with world(folder, concurrency=1) as daemon:
            await daemon.ask(op="schedule", id="0", url=URL, delay=100)
            await daemon.ask(op="schedule", id="a", url=URL, delay=100)
            await settle()
            cancel = CancelNow(daemon)
            instrument = AtStep(number, cancel)
            trio.lowlevel.add_instrument(instrument)
            daemon.clock.advance(100 * NS_PER_MS)
            await settle()
            trio.lowlevel.remove_instrument(instrument)
            if cancel.state in ("scheduled", "ready"):
                assert cancel.sent_before == daemon.attempts.count("a") == 0, f"sent, step {number}"
                assert daemon.engine.counts[State.CANCELLED] == 1
            await daemon.advance(100_000)
            assert daemon.attempts.count("a") <= 1
            return cancel.state, instrument.steps

    seen = set()
    for number in range(200):
        state, steps = trio.run(accident, tmp_path / str(number), number)
        seen.add(state)
        if steps <= number:
            break
    assert seen >= {"scheduled", "ready", "running", "done"}, seen


@trio_test
async def test_one_item_that_fails_does_not_make_the_whole_batch_go_again(tmp_path: Path) -> None:
    """Neither a refused line among those that came in one piece, nor a failed callback among those that
    were due together."""
    async with world(tmp_path) as daemon:

        async def all_but_one(key: str, task: Task) -> Answer:
            daemon.attempts.append(split_key(key)[1])
            await trio.lowlevel.checkpoint()
            return Answer(task.next_ms, 0, 0, 500 if key == "default/t3" else 200)

        daemon.send = all_but_one  # type: ignore[method-assign]
        ids = [f"t{number}" for number in range(6)]
        requests = [{"op": "schedule", "id": id, "url": URL, "delay": 100} for id in ids]
        refused = {"op": "schedule", "id": "bad", "url": URL, "delay": -1}
        replies = await daemon.ask_all([*requests[:4], refused, *requests[4:]])
        assert [reply["ok"] for reply in replies] == [True] * 4 + [False] + [True] * 2
        again = await daemon.ask_all(requests)
        assert all(reply["duplicate"] for reply in again)
        await daemon.advance(100)
        assert sorted(daemon.attempts) == ids
        await daemon.advance(3_600_000)
        assert [daemon.attempts.count(id) for id in ids if id != "t3"] == [1] * 5
        assert daemon.attempts.count("t3") > 1


@trio_test
async def test_callbacks_do_not_run_on_the_tick_s_time(tmp_path: Path) -> None:
    """Receivers that never answer: timers go on, each callback has a nursery task of its own."""
    names: list[str] = []
    async with world(tmp_path, concurrency=64) as daemon:

        async def never(key: str, task: Task) -> Answer:
            names.append(trio.lowlevel.current_task().name)
            daemon.attempts.append(split_key(key)[1])
            await trio.sleep_forever()
            raise AssertionError

        daemon.send = never  # type: ignore[method-assign]
        for number in range(60):
            url = f"http://127.0.0.1:{1000 + number}/"  # each a destination, or the first would be held back
            await daemon.ask(op="schedule", id=f"t{number}", url=url, delay=1000 + number % 6 * 10)
        for ms in range(0, 60, 10):
            await daemon.advance(1000 if ms == 0 else 10)
            assert len(daemon.attempts) == 10 * (1 + ms // 10), "on time, however many hang"
            assert daemon.ticker.alive_ns == daemon.clock.now().elapsed_ns, "the ticker has looked"
        assert not [name for name in names if "icker" in name], set(names)
        assert daemon.engine.counts[State.RUNNING] == 60


@trio_test
async def test_a_scrape_or_a_count_walks_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million tasks cost what ten do: the numbers are kept by what changes them."""
    async with world(tmp_path) as daemon:
        task = {"op": "schedule", "url": URL, "delay": "1h"}
        await daemon.ask_all([task | {"queue": f"q{number % 3}"} for number in range(90)])

        def walked(*what: object) -> None:
            raise AssertionError("a row was looked at")

        with monkeypatch.context() as patched:
            for name in ("items", "slices", "get", "__getitem__", "homes"):
                patched.setattr(Table, name, walked)
            reply = await daemon.ask(op="stats")
            await daemon.ask(op="ping")
            await daemon.ask(op="hello")
        assert reply["tasks"]["scheduled"] == 90
        assert {name: counts["scheduled"] for name, counts in reply["queues"].items()} == {
            "q0": 30, "q1": 30, "q2": 30,
        }  # fmt: skip
