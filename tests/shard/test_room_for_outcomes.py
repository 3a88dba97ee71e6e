"""Room in the journal for what an attempt may bring: taken before it starts, enough, and given back whole."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import trio_test

from tests.daemon import worlds
from tests.daemon.worlds import URL, World, settle, world
from wheeltimer.core.outcome import Answer, outcome_bytes_max
from wheeltimer.core.task import Task, split_key
from wheeltimer.journal.capacity import charge
from wheeltimer.protocol.limits import Limits

SMALL = 10
REPLY_BYTES = 65_536  # what the transport reads at most, whatever this limit says
HOOK = "http://127.0.0.1:9/" + "h" * 6000
RUNNING = 2


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of a reply is kept, so what else an outcome holds is what counts."""
    monkeypatch.setattr(worlds, "Limits", lambda: Limits(reply_bytes_max=SMALL))


@dataclass
class Receiver:
    """Answers attempts with 200 and ``reply``, hooks with 200; notes the bodies of hooks."""

    reply: bytes
    hooks: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, key: str, task: Task) -> Answer:
        await trio.lowlevel.checkpoint()
        if "/" in split_key(key)[1]:
            assert task.body is not None
            self.hooks.append(json.loads(task.body))
            return Answer(task.next_ms, 0, 0, 200)
        return Answer(task.next_ms, 0, 0, 200, body=self.reply)


class Room:
    """Watches what every decision takes of what was reserved for it."""

    def __init__(self, daemon: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = daemon.journal
        self.decisions: list[tuple[int, int]] = []  # (bytes written, bytes reserved)
        append = self.journal.append

        def watched(records: list[bytes], reserved: int, *, hold: bool = False) -> int:
            self.decisions.append((sum(map(len, records)), reserved))
            return append(records, reserved, hold=hold)

        monkeypatch.setattr(self.journal, "append", watched)

    @property
    def taken(self) -> int:
        return self.journal._taken

    def fill(self, leave: int = 0, *, essential: bool = False) -> list[int]:
        """Take all ordinary room but so many bytes; what was taken, for ``give_back``. ``essential``: all."""
        left_over = []
        while leave > 0 and self.journal.reserve(1):
            left_over.append(1)
            leave -= charge(1)
        filled = []
        for size in (200_000, 4096, 1):
            while self.journal.reserve(size, essential=essential):
                filled.append(size)
        self.give_back(left_over)
        return filled

    def give_back(self, filled: list[int]) -> None:
        while filled:
            self.journal.release(filled.pop())


# --- a small reply_bytes_max -----------------------------------------------------------------------

REPLIES = {
    "text": b"x" * REPLY_BYTES,
    "quotes, doubled in JSON": b'"' * REPLY_BYTES,
    "cut inside a character": b"123456789" + "é".encode() * 30_000,
    "bytes": b"\0\xff" * (REPLY_BYTES // 2),
    "just as long": b"0123456789",
    "shorter": b"short",
}


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.usefixtures("_small")
@trio_test
async def test_a_long_reply_is_cut_to_what_room_was_reserved_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In the history, in the hook, and so in the journal."""
    receiver = Receiver(REPLIES[name])
    cut = receiver.reply[:SMALL]
    async with world(tmp_path) as daemon:
        daemon.send = receiver.send  # type: ignore[method-assign]
        await daemon.ask(op="schedule", id="a", url=URL, on_done=URL, delay=100)
        room = Room(daemon, monkeypatch)
        await daemon.advance(100)
        task = (await daemon.ask(op="get", id="a"))["task"]
        assert task["state"] == "done"
        assert task["history"][0]["reply"] == cut.decode(errors="replace")
        (hook,) = receiver.hooks
        if "reply_base64" in hook:
            assert b64decode(hook["reply_base64"]) == cut
        else:
            assert hook["reply"] == cut.decode()
        assert ("reply_base64" in hook) == (name in ("bytes", "cut inside a character"))
        sizes = room.decisions
        assert len(sizes) == 2, "the end of the task, and that of its hook"
        assert all(size <= reserved for size, reserved in sizes), sizes
        assert sizes[0][0] < 2000, "a few bytes of reply take a few bytes"
        assert room.taken == 0


@pytest.mark.parametrize("success", [{"text": "success"}, {"json": [{"pointer": "", "equals": 7}]}])
@pytest.mark.usefixtures("_small")
@trio_test
async def test_what_was_cut_is_not_judged_as_if_it_were_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, success: dict[str, Any]
) -> None:
    """The first bytes would do, and nobody knows what the rest says."""
    good = b"success" if "text" in success else b"7"
    ends = {}
    for bytes_ in (SMALL, SMALL + 1):
        receiver = Receiver(good.ljust(bytes_))
        async with world(tmp_path / str(bytes_)) as daemon:
            daemon.send = receiver.send  # type: ignore[method-assign]
            await daemon.ask(op="schedule", id="a", url=URL, success=success, retry="none", delay=100)
            await daemon.advance(100)
            ends[bytes_] = (await daemon.ask(op="get", id="a"))["task"]["state"]
    assert ends == {SMALL: "done", SMALL + 1: "dead"}


# --- a running task that is changed ----------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "replace": {"op": "schedule", "url": URL, "delay": 5000, "on_conflict": "replace", "on_done": HOOK},
    "reschedule": {"op": "reschedule", "on_done": HOOK, "delay": 5000},
    "finish": {"op": "finish", "reply": "f" * 60_000},
}


async def running(daemon: World, **fields: Any) -> None:
    """A task ``a`` whose attempt is under way until ``daemon.hold`` is set."""
    daemon.hold = trio.Event()
    await daemon.ask(op="schedule", id="a", url=URL, delay=100, **fields)
    await daemon.advance(100)
    assert daemon.engine.counts[RUNNING] == 1


def task_of(daemon: World) -> Task:
    task = daemon.engine.get("default/a")
    assert task is not None
    return task


def wanted(daemon: World, reply: bytes | None = None) -> int:
    """What the journal counts for the outcome of the attempt of ``a``, as the task is now."""
    return charge(outcome_bytes_max(daemon.engine, task_of(daemon), reply))


async def let_all_end(daemon: World) -> None:
    """The attempt in flight, the newer version, the hooks: all there is."""
    assert daemon.hold is not None
    daemon.hold.set()
    await settle()
    for _ in range(3):
        await daemon.advance(5000)
    assert daemon.engine.live == 0


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.usefixtures("_small")
@trio_test
async def test_a_change_of_a_running_task_takes_the_room_that_its_end_may_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with world(tmp_path) as daemon:
        room = Room(daemon, monkeypatch)
        await running(daemon, **({"on_done": URL} if name == "finish" else {}))
        before = room.taken
        assert before == wanted(daemon)
        assert (await daemon.ask(id="a", **CHANGES[name]))["ok"]
        await settle()
        reply = json.dumps(CHANGES[name]["reply"]).encode() if name == "finish" else None
        assert room.taken == wanted(daemon, reply)
        assert room.taken >= before + 6000
        await let_all_end(daemon)
        assert room.taken == 0
        hooks = [id for id in daemon.attempts if "/done/" in id]
        assert hooks == [f"a/done/{1 if name == 'finish' else 2}"]


@pytest.mark.usefixtures("_small")
@trio_test
async def test_changes_one_after_the_other_take_room_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger, smaller, larger, and a finish with a long reply: its end is the largest there can be."""
    async with world(tmp_path) as daemon:
        room = Room(daemon, monkeypatch)
        await running(daemon)
        most = room.taken
        for hook in (HOOK, URL, HOOK[:3000], HOOK):
            reply = await daemon.ask(
                op="schedule", id="a", url=URL, delay=5000, on_conflict="replace", on_done=hook
            )
            assert reply["ok"]
            most = max(most, wanted(daemon))
            await settle()
            assert room.taken == most
        long = '"' * 30_000
        assert (await daemon.ask(op="finish", id="a", reply=long))["running"] == 1
        room.decisions.clear()
        await let_all_end(daemon)
        size, reserved = room.decisions[0]
        assert 60_000 < size <= reserved
        assert room.taken == 0
        assert daemon.attempts == ["a", "a/done/5"]


@pytest.mark.parametrize("lacks", ["the outcome", "the change"])
@pytest.mark.parametrize("name", ["replace", "reschedule"])
@pytest.mark.usefixtures("_small")
@trio_test
async def test_a_change_of_a_running_task_without_room_for_its_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lacks: str
) -> None:
    """``full``, and nothing has changed; it works when there is room again."""
    async with world(tmp_path) as daemon:
        room = Room(daemon, monkeypatch)
        await running(daemon)
        before, task = room.taken, (await daemon.ask(op="get", id="a"))["task"]
        change = {"id": "a"} | CHANGES[name]
        if lacks == "the outcome":  # there is room for the record
            filled = room.fill(8192)
        else:  # there is room for the outcome, and what is left then is less than this record takes
            change["body_text"] = "b" * 20_000
            changed = replace(task_of(daemon), on_done=HOOK)
            filled = room.fill(charge(outcome_bytes_max(daemon.engine, changed)))
        lsn = daemon.journal.next_lsn
        reply = await daemon.ask(**change)
        assert (reply["ok"], reply["error"]) == (False, "full")
        assert reply["retry_after_ms"] > 0
        assert (await daemon.ask(op="get", id="a"))["task"] == task
        assert daemon.journal.next_lsn == lsn, "something was written"
        if lacks == "the outcome":
            room.give_back(filled)
            assert room.taken == before
        else:
            assert room.taken - sum(map(charge, filled)) > before, "it was the record that had no room"
            room.give_back(filled)
        assert (await daemon.ask(**change))["version"] == 2
        await let_all_end(daemon)
        assert room.taken == 0
        assert daemon.attempts == ["a", "a", "a/done/2"]


@trio_test
async def test_an_attempt_without_room_for_its_outcome_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be made again after a restart, and again. It waits, and goes when there is room."""
    async with world(tmp_path) as daemon:
        room = Room(daemon, monkeypatch)
        await daemon.ask(op="schedule", id="a", url=URL, delay=100)
        filled = room.fill(essential=True)
        await daemon.advance(5000)
        assert daemon.attempts == []
        assert (await daemon.ask(op="get", id="a"))["task"]["state"] == "ready"
        room.give_back(filled)
        await daemon.ask(op="schedule", id="later", url=URL, delay=100_000)  # a commit: time to look again
        await daemon.advance(5000)
        assert daemon.attempts == ["a"]
        assert (await daemon.ask(op="get", id="a"))["task"]["state"] == "done"
        assert room.taken == 0
