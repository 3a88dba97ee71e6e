"""Groups at once: done in slices, between which others change the members; the counts say what was done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import trio_test

from tests.daemon import worlds
from tests.daemon.worlds import URL, Stopwatch, World, settle, world
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime.time_slices import SLICE_NS

MEMBERS: Final = 60
STATE_OF: Final = {"cancel": State.CANCELLED, "finish": State.DONE}
FROM: Final = {"cancel": State.SCHEDULED, "finish": State.SCHEDULED, "redrive": State.DEAD}
WORD_OF: Final = {"cancel": "cancelled", "finish": "finished", "redrive": "redriven"}


def name(number: int) -> str:
    return f"t{number:03}"


async def fill(daemon: World, count: int = MEMBERS, first: int = 0, **fields: Any) -> None:
    """So many members of the group ``g``."""
    fields = {"url": URL, "delay": "1h", "group": "g", **fields}
    replies = await daemon.ask_all(
        [{"op": "schedule", "id": name(number), **fields} for number in range(first, first + count)]
    )
    assert all(reply["ok"] for reply in replies), replies


async def fill_dead(daemon: World, count: int = MEMBERS) -> None:
    """So many members of the group ``g`` that a receiver has refused."""

    async def refuse(key: str, task: Task) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(task.next_ms, 0, 0, 410)

    daemon.send = refuse  # type: ignore[method-assign]
    await fill(daemon, count, delay=100)
    await daemon.advance(100)
    assert daemon.engine.counts[State.DEAD] == count


async def replace(daemon: World, number: int, **fields: Any) -> None:
    reply = await daemon.ask(
        op="schedule", id=name(number), url=URL, delay="2h", on_conflict="replace", **fields
    )
    assert reply["ok"]


async def ask_and_meanwhile(
    daemon: World, stopwatch: Stopwatch, meanwhile: Callable[[], Awaitable[None]], **request: Any
) -> dict[str, Any]:
    """Ask for a group, and do something else when the first of its members are done and most are not."""
    counts, state = daemon.engine.counts, FROM[request["op"]]
    stopwatch.step_ns = SLICE_NS
    before = counts[state]
    reply: dict[str, Any] = {}

    async def ask() -> None:
        reply.update(await daemon.ask(**request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(1000):
            if (done := before - counts[state]) >= 4:
                break
            await trio.lowlevel.checkpoint()
        assert 4 <= done < 10, "a slice is longer than this test thinks"
        await meanwhile()
        assert not reply, "the request was over before anything happened to it"
    stopwatch.step_ns = 0
    return reply


def state_of(daemon: World, number: int) -> str:
    task = daemon.engine.get(f"default/{name(number)}")
    assert task is not None
    return State(task.state).word


@pytest.mark.parametrize("op", ["cancel", "finish"])
@trio_test
async def test_a_member_that_leaves_between_slices_is_left_alone(
    tmp_path: Path, stopwatch: Stopwatch, op: str
) -> None:
    """Replaced without the group or with another one it is no member any more; with the same it still is."""
    out, other, ended, again = 41, 43, 45, 47

    async with world(tmp_path) as daemon:
        await fill(daemon)

        async def meanwhile() -> None:
            await replace(daemon, out)
            await replace(daemon, other, group="h")
            await daemon.ask(op="cancel", id=name(ended))
            await replace(daemon, again, group="g")

        reply = await ask_and_meanwhile(daemon, stopwatch, meanwhile, op=op, group="g")
        assert (reply["ok"], reply[WORD_OF[op]], reply["running"]) == (True, MEMBERS - 3, 0)
        word = STATE_OF[op].word
        for number in range(MEMBERS):
            if number in (out, other):
                assert state_of(daemon, number) == "scheduled", number
            elif number == ended:
                assert state_of(daemon, number) == "cancelled"
            else:
                assert state_of(daemon, number) == word, number
        await daemon.advance(3 * 3_600_000)
        assert sorted(daemon.attempts) == [name(out), name(other)]


@trio_test
async def test_a_dead_member_that_leaves_between_slices_is_not_redriven(
    tmp_path: Path, stopwatch: Stopwatch
) -> None:
    out, started = 41, 43

    async with world(tmp_path) as daemon:
        await fill_dead(daemon)
        daemon.hold = trio.Event()
        del daemon.send

        async def meanwhile() -> None:
            await replace(daemon, out)
            await replace(daemon, started, group="g")

        reply = await ask_and_meanwhile(daemon, stopwatch, meanwhile, op="redrive", group="g")
        assert reply == {"ok": True, "redriven": MEMBERS - 2}
        for number in (out, started):
            task = (await daemon.ask(op="get", id=name(number)))["task"]
            assert (task["state"], task["version"]) == ("scheduled", 2)
        daemon.hold.set()
        await settle()
        assert len(daemon.attempts) == MEMBERS - 2


@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("op", ["cancel", "finish"])
@trio_test
async def test_members_in_every_state_are_counted_where_they_belong(
    tmp_path: Path, stopwatch: Stopwatch, op: str, sliced: bool
) -> None:
    """Running ones are counted as such, each time; ended ones, other queues and other groups not at all."""
    async with world(tmp_path, concurrency=3) as daemon:
        await fill_dead(daemon, 2)
        del daemon.send
        daemon.hold = trio.Event()
        await fill(daemon, 5, first=10, delay=100)
        await daemon.advance(100)  # 3 run, 2 are ready
        await fill(daemon, 4, first=20)
        await fill(daemon, 2, first=30, queue="other")
        await fill(daemon, 2, first=40, group="h")
        await daemon.ask(op="cancel", id=name(23))
        if sliced:
            stopwatch.step_ns = SLICE_NS
        for group, changed, running in (("g", 5, 3), ("g", 0, 3), ("nobody", 0, 0)):
            reply = await daemon.ask(op=op, group=group, queue="default")
            assert (reply["ok"], reply[WORD_OF[op]], reply["running"]) == (True, changed, running)
        stopwatch.step_ns = 0
        reply = await daemon.ask(op=op, group="g")
        assert (reply[WORD_OF[op]], reply["running"]) == (2, 3), "all queues, where none is named"
        assert daemon.engine.counts[State.SCHEDULED] == 2, "those of the other group"
        daemon.hold.set()
        await settle()
        # Their attempts succeed, so either way they are done.
        assert [state_of(daemon, number) for number in (0, 1)] == ["dead"] * 2
        assert sum(state_of(daemon, number) == "done" for number in range(10, 15)) == (
            3 if op == "cancel" else 5
        )
        assert len(daemon.attempts) == 3
        reply = await daemon.ask(op=op, group="g")
        assert (reply[WORD_OF[op]], reply["running"]) == (0, 0)


@trio_test
async def test_a_redrive_stops_counting_where_tasks_max_leaves_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch
) -> None:
    """What found no room stays dead, and can be asked for again."""
    monkeypatch.setattr(worlds, "Limits", lambda: Limits(tasks_max=25))
    async with world(tmp_path) as daemon:
        await fill_dead(daemon, 20)
        await fill(daemon, 12, first=100)
        daemon.hold = trio.Event()  # so that none of them makes room for another
        del daemon.send
        stopwatch.step_ns = SLICE_NS
        assert (await daemon.ask(op="redrive", group="g"))["redriven"] == 25 - 12
        assert (await daemon.ask(op="redrive", group="g"))["redriven"] == 0
        assert daemon.engine.counts[State.DEAD] == 20 - 13
        daemon.hold.set()
        await settle()
        assert (await daemon.ask(op="redrive", queue="default"))["redriven"] == 7


@pytest.mark.parametrize("op", ["cancel", "finish"])
@trio_test
async def test_a_journal_that_fills_up_half_way_ends_a_request_with_what_was_done(
    tmp_path: Path, stopwatch: Stopwatch, op: str
) -> None:
    """The rest is as it was; where nothing at all could be done the answer is ``full``."""
    async with world(tmp_path) as daemon:
        journal = daemon.journal
        await fill(daemon)
        filled = []
        for size in (200_000, 4096, 1):
            while journal.reserve(size, essential=True):
                filled.append(size)
        for _ in range(8):
            journal.release(filled.pop())
        reply = await daemon.ask(op=op, group="g")
        done = reply[WORD_OF[op]]
        assert (reply["ok"], reply["running"]) == (True, 0)
        assert 0 < done < MEMBERS
        assert daemon.engine.counts[STATE_OF[op]] == done
        assert daemon.engine.counts[State.SCHEDULED] == MEMBERS - done
        while journal.reserve(1, essential=True):  # what the commit gave back
            filled.append(1)
        reply = await daemon.ask(op=op, group="g")
        assert (reply["ok"], reply["error"]) == (False, "full")
        assert daemon.engine.counts[STATE_OF[op]] == done
        for size in filled:
            journal.release(size)
        reply = await daemon.ask(op=op, group="g")
        assert (reply["ok"], reply[WORD_OF[op]]) == (True, MEMBERS - done)
