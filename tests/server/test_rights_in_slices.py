"""Tokens that are reloaded while a long request goes on: its next slice has the rights that are left.

The stopwatch makes slices of two tasks; between two of them the test does what SIGHUP does.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import trio_test

from tests.daemon.worlds import URL, Stopwatch, World, settle, world
from wheeltimer.core.access import Access, Credentials, Grant, digest_of
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime.time_slices import SLICE_NS
from wheeltimer.server.scans import SHORT_STATS_QUEUES

MEMBERS: Final = 60  # half of them in each of two queues
ALL: Final = ("produce", "read", "admin")
ENDED: Final = {"cancel": State.CANCELLED, "finish": State.DONE, "redrive": State.SCHEDULED}


def token(*scopes: str, queues: tuple[str, ...] = ("*",)) -> Access:
    """One token, and another that keeps the daemon asking where the one is gone."""
    other = Grant(name="other", sha256=digest_of("other"), scopes=frozenset(ALL), queues=("*",))
    if not scopes:
        return Access([other])
    return Access([other, Grant(name="a", sha256=digest_of("a"), scopes=frozenset(scopes), queues=queues)])


class Client:
    """A connection's visitor, and what it asks."""

    def __init__(self, daemon: World, access: Access) -> None:
        self.daemon = daemon
        daemon.requests.rights.reload(access)
        self.visitor = Credentials(access)
        self.visitor.show("a", access)

    def reload(self, access: Access) -> None:
        """What the server does at SIGHUP."""
        self.daemon.requests.rights.reload(access)
        self.visitor.again(access)

    async def ask(self, **request: Any) -> dict[str, Any]:
        _, reply = await self.daemon.requests.answer([json.dumps(request).encode()], 0, None, self.visitor)
        answered: dict[str, Any] = json.loads(reply)
        return answered


async def fill(daemon: World, op: str = "cancel") -> None:
    """Members of the group ``g`` in two queues by turns; for ``redrive`` they are dead."""

    async def refuse(key: str, task: Task) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(task.next_ms, 0, 0, 410)

    fields: dict[str, Any] = {"op": "schedule", "url": URL, "group": "g", "delay": "1h"}
    if op == "redrive":
        daemon.send = refuse  # type: ignore[method-assign]
        fields["delay"] = 100
    replies = await daemon.ask_all(
        [
            fields | {"id": f"t{number:03}", "queue": ("mine", "theirs")[number % 2]}
            for number in range(MEMBERS)
        ]
    )
    assert all(reply["ok"] for reply in replies)
    if op == "redrive":
        await daemon.advance(100)
        assert daemon.engine.counts[State.DEAD] == MEMBERS
        daemon.hold = trio.Event()  # those that are redriven stay as they are
        del daemon.send


async def reloaded_within(
    client: Client, stopwatch: Stopwatch, begun: Callable[[], bool], access: Access, **request: Any
) -> dict[str, Any]:
    """Ask, reload when ``begun`` and not over, and give the reply."""
    reply: dict[str, Any] = {}

    async def ask() -> None:
        reply.update(await client.ask(**request))

    stopwatch.step_ns = SLICE_NS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(1000):
            if begun():
                break
            await trio.lowlevel.checkpoint()
        assert begun()
        assert not reply, "the request is over before the tokens are reloaded"
        client.reload(access)
    stopwatch.step_ns = 0
    return reply


def touched(daemon: World, op: str, queue: str) -> int:
    """Members of a queue that the request has changed."""
    found = (daemon.engine.get(f"{queue}/t{number:03}") for number in range(MEMBERS))
    tasks = [task for task in found if task is not None]
    if op == "redrive":
        return sum(task.version == 2 for task in tasks)
    return sum(task.state == ENDED[op] for task in tasks)


@pytest.mark.parametrize("op", ENDED)
@trio_test
async def test_a_revoked_tokens_group_request_ends_with_the_slice(
    tmp_path: Path, stopwatch: Stopwatch, op: str
) -> None:
    """A cancel of 200,000 tasks went on for 3 s after its token was gone."""
    async with world(tmp_path) as daemon:
        await fill(daemon, op)
        client = Client(daemon, token(*ALL))
        done = lambda: touched(daemon, op, "mine") + touched(daemon, op, "theirs")  # noqa: E731
        at_reload: list[int] = []

        def begun() -> bool:
            at_reload[:] = [done()]
            return done() >= 4

        reply = await reloaded_within(client, stopwatch, begun, token(), op=op, group="g", seq=7)
        assert (reply["ok"], reply["error"], reply["seq"]) == (False, "unauthorized", 7)
        assert "not known" in reply["message"]
        assert [done()] == at_reload, "what was done stays, and nothing more is done"
        assert at_reload[0] < MEMBERS // 2
        await settle()
        client.reload(token(*ALL))
        assert (await client.ask(op=op, group="g"))["ok"]
        assert done() == MEMBERS


@pytest.mark.parametrize("op", ENDED)
@trio_test
async def test_a_narrowed_tokens_group_request_leaves_what_it_sees_no_more(
    tmp_path: Path, stopwatch: Stopwatch, op: str
) -> None:
    async with world(tmp_path) as daemon:
        await fill(daemon, op)
        client = Client(daemon, token(*ALL))
        theirs: list[int] = []

        def begun() -> bool:
            theirs[:] = [touched(daemon, op, "theirs")]
            return theirs[0] >= 2

        narrowed = token(*ALL, queues=("mine",))
        reply = await reloaded_within(client, stopwatch, begun, narrowed, op=op, group="g")
        assert reply["ok"], reply
        assert touched(daemon, op, "mine") == MEMBERS // 2
        assert [touched(daemon, op, "theirs")] == theirs


@pytest.mark.parametrize(
    ("op", "scopes"), [("cancel", ("read",)), ("finish", ("read",)), ("redrive", ("produce",))]
)
@trio_test
async def test_a_token_that_lost_its_scope_ends_its_group_request(
    tmp_path: Path, stopwatch: Stopwatch, op: str, scopes: tuple[str, ...]
) -> None:
    async with world(tmp_path) as daemon:
        await fill(daemon, op)
        client = Client(daemon, token(*ALL))
        reply = await reloaded_within(
            client, stopwatch, lambda: touched(daemon, op, "mine") >= 2, token(*scopes), op=op, group="g"
        )
        assert reply["error"] == "forbidden"
        assert touched(daemon, op, "mine") < MEMBERS // 2


@trio_test
async def test_the_same_rights_reloaded_change_nothing(tmp_path: Path, stopwatch: Stopwatch) -> None:
    async with world(tmp_path) as daemon:
        await fill(daemon)
        client = Client(daemon, token(*ALL))
        reply = await reloaded_within(
            client,
            stopwatch,
            lambda: touched(daemon, "cancel", "mine") >= 2,
            token(*ALL),
            op="cancel",
            group="g",
        )
        assert (reply["ok"], reply["cancelled"]) == (True, MEMBERS)


READS: Final[dict[str, dict[str, Any]]] = {
    "list": {"limit": 1000}, "list of a group": {"group": "g", "limit": 1000}, "forecast": {}, "stats": {},
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("left", ["nothing", "no scope", "one queue", "all"])
@trio_test
async def test_what_only_asks_shows_by_the_rights_at_its_end(
    tmp_path: Path, stopwatch: Stopwatch, name: str, left: str
) -> None:
    """Counted by more rights than are left, it begins anew."""
    access, error = {
        "nothing": (token(), "unauthorized"), "no scope": (token("produce"), "forbidden"),
        "one queue": (token("read", queues=("mine",)), None), "all": (token(*ALL), None),
    }[left]  # fmt: skip
    async with world(tmp_path) as daemon:
        await fill(daemon)
        if name == "stats":
            more = [
                {"op": "schedule", "url": URL, "delay": "1h", "queue": f"q{n}"}
                for n in range(SHORT_STATS_QUEUES)
            ]
            await daemon.ask_all(more)
        client = Client(daemon, token(*ALL))
        passes = itertools.count()  # of the loop; a slice each
        op = name.split()[0]
        reply = await reloaded_within(
            client, stopwatch, lambda: next(passes) >= 3, access, op=op, **READS[name]
        )
        assert reply.get("error") == error
        if error is None:
            assert reply == await client.ask(op=op, **READS[name])
