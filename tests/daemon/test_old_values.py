"""A folder with values that requests may not bring any more: whatever is done to such tasks still works.

Its tasks were stored when instants in seconds, hosts that no name can be, and ids of hooks were taken.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import trio_test

from tests.daemon.worlds import URL, World, settle, world
from tests.journal.goldens import LIMITS, SEGMENT
from tests.journal.test_golden import unpacked
from tests.settings.files import load_toml
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.daemon.build import window_of
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.shard.compactor import Compactor

SECONDS: Final = 1_796_002_145
AT: Final = {"at-seconds": SECONDS, "at-zero": 0, "at-most": 10**11 - 1, "at-later": SECONDS}
DEAD: Final = ("at-dead", "host-dead", "host-dead-hook", "o2/dead/1")
HOSTS: Final = {
    "host-empty-label": "a..b.example:9", "host-first-dot": ".example", "host-two-dots": "example..:9",
    "host-long-label": "a" * 64 + ".example", "host-star": "*:9", "host-control": "a%00.example",
    "host-address-dot": "127.0.0.1.:9",
}  # fmt: skip
FAR: Final = ("host-star-name", "host-hooks", "o1/done/1", "o1/dead/007", "o1", *HOSTS)


class Folder:
    """The old folder, and a way to start daemons on it, one after the other."""

    def __init__(self, tmp_path: Path) -> None:
        self.path, self.clock, _ = unpacked("f1-values", tmp_path)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[World]:
        async with world(self.path, self.clock, segment_bytes=SEGMENT, limits=LIMITS) as daemon:
            yield daemon

    async def tasks(self) -> dict[str, dict[str, Any]]:
        """What a start on it shows of every task, by id."""
        async with self.daemon() as daemon:
            return await tasks_of(daemon)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def tasks_of(daemon: World) -> dict[str, dict[str, Any]]:
    return {task["id"]: task for task in (await daemon.ask(op="list", limit=1000))["tasks"]}


async def done(daemon: World, op: str, id: str, **fields: Any) -> dict[str, Any]:
    """The reply to a request about one task; it is not refused."""
    queue = "paused" if id in AT else "default"
    reply = await daemon.ask(op=op, id=id, queue=queue, **fields)
    assert reply["ok"], (op, id, fields, reply)
    return reply


@trio_test
async def test_an_old_folder_opens_and_every_task_in_it_is_shown(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        for id in (*AT, *DEAD, *FAR, "expires-at", "expires-holds"):
            task = (await done(daemon, "get", id))["task"]
            assert task.get("at") == AT.get(id, SECONDS if id == "at-dead" else None)
            if id in HOSTS:
                assert task["url"].rstrip("/") == f"http://{HOSTS[id]}"
            if id.startswith("expires"):
                assert (task["expires_at"], task["state"]) == (SECONDS, "expired")
        shown = await tasks_of(daemon)
        assert {shown[id]["state"] for id in AT} == {"ready"}
        assert {shown[id]["state"] for id in DEAD} == {"dead"}
        assert {shown[id]["state"] for id in FAR} == {"scheduled"}
    assert await folder.tasks() == shown, "and after a restart it is the same"


CHANGES: Final[list[dict[str, Any]]] = [
    {"delay": "90d"}, {"body": {"n": 2}}, {"timeout": "5s"}, {"retry": "none"}, {"group": "i"}, {"meta": 1},
    {"expires_in": "1d"}, {},
]  # fmt: skip


@trio_test
async def test_a_reschedule_of_other_fields_looks_at_no_stored_value(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        for id in (*AT, *FAR):
            for change in CHANGES:
                await done(daemon, "reschedule", id, **change)
        shown = await tasks_of(daemon)
        for id, host in HOSTS.items():
            assert shown[id]["url"].rstrip("/") == f"http://{host}"
        assert shown["host-hooks"]["on_dead"] == "http://*/"
    assert await folder.tasks() == shown


@trio_test
async def test_an_instant_in_seconds_stays_where_its_due_is_not_moved(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        for id, at in AT.items():
            reply = await done(daemon, "reschedule", id, body={"n": 3})
            task = (await done(daemon, "get", id))["task"]
            assert (task["at"], task["due"], reply["due"]) == (at, at, at)


@trio_test
async def test_what_is_brought_is_checked_on_an_old_task_too(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        for id, field, value in (
            ("at-seconds", "at", SECONDS), ("at-seconds", "expires_at", 0), ("host-star", "url", "http://*:9/"),
            ("host-hooks", "on_done", "http://a..b:9/"), ("host-hooks", "on_dead", "http://*/"),
        ):  # fmt: skip
            queue = "paused" if id in AT else "default"
            reply = await daemon.ask(op="reschedule", id=id, queue=queue, **{field: value})
            assert (reply["error"], reply["field"]) == ("bad_request", field)


@trio_test
async def test_dead_and_expired_tasks_of_an_old_folder_are_redriven(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        daemon.hold = trio.Event()
        for id in (*DEAD, "expires-at", "expires-holds"):
            await done(daemon, "redrive", id)
        await settle()
        assert sorted(daemon.attempts) == sorted((*DEAD, "expires-at", "expires-holds"))
        task = (await done(daemon, "get", "expires-at"))["task"]
        assert (task["state"], task.get("expires_at")) == ("running", None), "a past expiry is dropped"
        daemon.hold.set()
        await settle()
        assert (await tasks_of(daemon))["at-dead"]["state"] == "done"


@pytest.mark.parametrize(("op", "count"), [("cancel", "cancelled"), ("finish", "finished")])
@trio_test
async def test_groups_and_ids_of_an_old_folder_are_ended(folder: Folder, op: str, count: str) -> None:
    state = "done" if op == "finish" else "cancelled"
    async with folder.daemon() as daemon:
        for id in ("o1/done/1", "at-zero", "host-star"):
            assert (await done(daemon, op, id))[count] == 1
        assert (await daemon.ask(op=op, group="g"))[count] == len(AT) - 1
        assert (await daemon.ask(op=op, group="h"))[count] == len(FAR) - 2
        await settle()  # the hook of o1 has the id of a task that has ended, o1/done/1, and is called
        shown = await tasks_of(daemon)
        assert {shown[id]["state"] for id in (*AT, *FAR)} == {state}


@trio_test
async def test_tasks_with_old_values_are_called_when_they_are_due(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        sent: dict[str, str] = {}

        async def send(key: str, task: Task) -> Answer:
            await trio.lowlevel.checkpoint()
            sent[key.partition("/")[2]] = task.url
            return Answer(task.next_ms, 0, 0, 200)

        daemon.send = send  # type: ignore[method-assign]
        await daemon.ask(op="resume", queue="paused")
        await daemon.advance(31 * 86_400_000)
        assert sent.keys() >= {*AT, *FAR}
        assert sent["host-hooks/done/1"] == "http://a..b:9/"


@trio_test
async def test_a_known_id_of_a_hook_is_scheduled_as_any_other(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        same = {"id": "o1/done/1", "url": URL, "delay": 30 * 86_400_000, "group": "h"}
        assert (await daemon.ask(op="schedule", **same))["duplicate"]
        other = same | {"delay": "1h"}
        assert (await daemon.ask(op="schedule", **other))["error"] == "exists"
        assert (await daemon.ask(op="schedule", **other, on_conflict="keep"))["duplicate"]
        assert (await daemon.ask(op="schedule", **other, on_conflict="replace"))["version"] == 2
        reply = await daemon.ask(op="schedule", **other | {"id": "o1/done/2"}, on_conflict="replace")
        assert (reply["error"], reply["field"]) == ("bad_request", "id")


@trio_test
async def test_compaction_copies_old_values(folder: Folder) -> None:
    async with folder.daemon() as daemon:
        before = await tasks_of(daemon)
        last_lsn = daemon.journal.next_lsn
        while len(daemon.journal.sealed) < 2:
            await daemon.ask_all(
                [{"op": "schedule", "id": f"c{n}", "url": URL, "delay": "1h", "on_conflict": "replace"}
                 for n in range(100)]
            )  # fmt: skip
        compactor = Compactor(daemon.ledger, TimeSlices())
        with trio.move_on_after(60):
            await compactor.work()
        assert compactor.done, "segments with the old records are gone"
        assert daemon.journal.next_lsn > last_lsn
    after = await folder.tasks()
    assert {id: after[id] for id in before} == before


def test_settings_of_such_a_host_are_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = (
        '[destinations."http://*.example"]\nrate = "1/s"\n[destinations."http://r.example"]\nwindow_max = 3\n'
    )
    window_of(load_toml(tmp_path, tables))
    (warning,) = caplog.messages
    assert (
        warning == '[destinations."http://*.example"] is used by no new task: a host has no *; name one host'
    )
