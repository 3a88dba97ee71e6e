"""Subscribers in-process: every event once and in order however they come and go, in bounded memory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.daemon.worlds import URL, Stopwatch, World, world
from wheeltimer.core import record_events
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Task
from wheeltimer.errors import BadValue, Refused
from wheeltimer.journal import Journal
from wheeltimer.journal_tools.reader import read
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.events import TYPES
from wheeltimer.runtime.time_slices import SLICE_NS
from wheeltimer.server import subscriptions as subscriptions_module
from wheeltimer.server.subscriber import Subscriber
from wheeltimer.server.subscriptions import Subscriptions
from wheeltimer.settings import Limits

ROUNDS_S = 5.0  # of a clock that jumps: many rounds


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0.001)


class Socket:
    """A connection as a subscriber sees it. ``stuck``: it takes nothing more."""

    def __init__(self, daemon: World) -> None:
        self._journal = daemon.journal
        self._waiting: list[tuple[int, bytes]] = []
        self.sent = b""
        self.stuck = False
        self.puts = 0
        self._said: bool | None = None
        self._says = trio.Event()

    @property
    def unread_bytes(self) -> int:
        self._send()
        return sum(len(data) for _, data in self._waiting)

    def put(self, data: bytes, lsn: int) -> None:
        self.puts += 1
        self._waiting.append((lsn, data))
        self._send()

    def _send(self) -> None:
        while self._waiting and not self.stuck and self._waiting[0][0] <= self._journal.durable_lsn:
            self.sent += self._waiting.pop(0)[1]

    async def drained(self) -> None:
        while self.unread_bytes:  # noqa: ASYNC110 -- the test moves it
            await trio.sleep(0.001)

    async def says_more(self) -> bool:
        await self._says.wait()
        assert self._said is not None
        return self._said

    def say(self, more: bool) -> None:
        """The client sends something, or closes its side."""
        self._said = more
        self._says.set()

    @property
    def lines(self) -> list[bytes]:
        self._send()
        return self.sent.splitlines()

    @property
    def said_to(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Reader:
    """A subscriber that runs; ``cursor`` is the last it saw."""

    def __init__(self, daemon: World, nursery: trio.Nursery, **fields: Any) -> None:
        command = wire.decode(json.dumps({"op": "subscribe", **fields}).encode())
        assert isinstance(command, c.Subscribe)
        self.socket = Socket(daemon)
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, daemon.subscriptions, daemon.subscriptions.open(command))

    async def _run(self, subscriptions: Subscriptions, subscriber: Subscriber) -> None:
        with self.scope:
            await subscriptions.serve(subscriber, self.socket)
        self.ended.set()

    @property
    def events(self) -> list[bytes]:
        """What came after the reply."""
        return self.socket.lines[1:]

    @property
    def cursor(self) -> str:
        return str(json.loads(self.socket.lines[-1])["cursor"])


def stored(found: list[bytes]) -> list[bytes]:
    return [line for line in found if b'"event":"attempt.started"' not in line]


def in_files(folder: Path, daemon: World) -> list[bytes]:
    """The events of all records on disk, by another reader of the journal."""
    writer = daemon.subscriptions.writer
    return [
        event.line.rstrip(b"\n")
        for frame in read(folder)
        for event in writer.events(list(enumerate(record_events.split(frame.payload), frame.first_lsn)))
    ]


async def send(key: str, task: Task) -> Answer:
    """What attempts bring: ``bad`` is refused at first, then fails, all others succeed."""
    await trio.lowlevel.checkpoint()
    if key.endswith("/bad"):
        return answer(500, body=b"no") if task.version > 1 else answer(None, "connect: refused")
    return answer(body="\u00e9".encode())


def answer(status: int | None = 200, error: str | None = None, body: bytes = b"") -> Answer:
    return Answer(1_750_000_000_123, 5, 4, status, error, body)  # took 5 ms, was 4 late


async def every_kind_of_event(daemon: World) -> None:
    daemon.send = send  # type: ignore[method-assign, assignment]
    await daemon.ask(op="schedule", id="good", url=URL, meta={"shop": 3}, group="g", retry="none")
    await daemon.ask(op="schedule", id="bad", url=URL, meta=[1, "\r\n"], retry="none", on_dead=URL)
    await daemon.ask(op="schedule", id="later", url=URL, delay="1h", group="g")
    await daemon.ask(op="schedule", id="at", url=URL, at="2030-01-01T00:00:00Z")
    await daemon.ask(op="schedule", id="gone", url=URL, delay=2000, queue="q", expires_in="1ms")
    await daemon.ask(op="schedule", id="\u00e9", url=URL, delay="1h")
    await daemon.ask(op="cancel", id="\u00e9")
    await daemon.ask(op="reschedule", id="later", delay="2h")
    await daemon.ask(op="finish", id="at", reply={"paid": True})
    await daemon.ask(op="pause", queue="q")
    for _ in range(5):
        await daemon.advance(2000)
    await daemon.ask(op="redrive", id="bad")
    await daemon.ask(
        op="schedule", id="poll", url=URL, poll={"every": "1s", "max": 1}, success={"text": "never"}
    )
    for _ in range(10):
        await daemon.advance(2000)
    await trio.sleep(ROUNDS_S)


@trio_test
async def test_every_event_is_the_same_live_and_from_the_journal_byte_for_byte(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        live = Reader(daemon, nursery)
        first = json.loads((await sent(live.socket, 1))[0])["cursor"]
        await every_kind_of_event(daemon)
        replayed = Reader(daemon, nursery, **{"from": first})
        await trio.sleep(ROUNDS_S)
        assert {json.loads(line)["event"] for line in live.events} == set(TYPES)
        assert replayed.events == stored(live.events) == in_files(tmp_path, daemon)
        nursery.cancel_scope.cancel()
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:  # as after a kill
        again = Reader(daemon, nursery, **{"from": first})
        await trio.sleep(ROUNDS_S)
        assert again.events[: len(replayed.events)] == replayed.events
        nursery.cancel_scope.cancel()


async def sent(socket: Socket, count: int) -> list[bytes]:
    """The first lines, once they are there."""
    while len(socket.lines) < count:  # noqa: ASYNC110
        await trio.sleep(0.01)
    return socket.lines


@trio_test
async def test_an_event_says_what_its_page_says(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        live = Reader(daemon, nursery)
        await every_kind_of_event(daemon)
        nursery.cancel_scope.cancel()
    seen = [json.loads(line) for line in live.events]
    by_type = {event["event"]: event for event in seen}
    good = [event for event in seen if event["id"] == "good"]
    assert [event["event"] for event in good][:2] == ["task.scheduled", "attempt.started"]
    assert all(event["group"] == "g" for event in good)
    (ended,) = (event for event in good if event["event"].startswith("task.d"))
    assert ended["meta"] == {"shop": 3}
    assert (ended["state"], ended["attempts"], ended["version"]) == (ended["event"][5:], 1, 1)
    assert by_type["attempt.started"].keys() >= {"attempt", "version", "time", "cursor", "queue", "id"}
    failed = next(event for event in seen if event["event"] == "attempt.failed" and event.get("status"))
    assert (failed["status"], failed["late_ms"], failed["ms"], failed["outcome"], failed["reply"]) == (
        500, 4, 5, "failed", "no"
    )  # fmt: skip
    refused = next(event for event in seen if event["event"] == "attempt.failed" and "error" in event)
    assert refused["error"] == "connect: refused"
    assert "status" not in refused
    assert by_type["task.expired"] | {"time": 0, "cursor": ""} == {
        "event": "task.expired", "cursor": "", "time": 0, "queue": "q", "id": "gone", "version": 1,
        "state": "expired", "attempts": 0, "error": "expired",
    }  # fmt: skip
    assert next(event for event in seen if event["id"] == "bad/dead/1")["event"] == "task.scheduled"
    order = [(int(event["cursor"].split("-")[1]), event["event"] == "attempt.started") for event in seen]
    assert order == sorted(order)


@trio_test
async def test_filters(tmp_path: Path, autojump: MockClock) -> None:
    filters: list[dict[str, Any]] = [
        {"queue": "q"}, {"group": "g"}, {"types": ["task.*"]}, {"types": ["attempt.failed", "task.dead"]},
        {"queue": "default", "group": "g", "types": ["attempt.*"]}, {"queue": "other"},
    ]  # fmt: skip
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        whole = Reader(daemon, nursery)
        live = [Reader(daemon, nursery, **fields) for fields in filters]
        await every_kind_of_event(daemon)
        first = json.loads(whole.socket.lines[0])["cursor"]
        replayed = [Reader(daemon, nursery, **fields, **{"from": first}) for fields in filters]
        await trio.sleep(ROUNDS_S)
        nursery.cancel_scope.cancel()
    for fields, one, other in zip(filters, live, replayed, strict=True):
        wanted = []
        for line in whole.events:
            event = json.loads(line)
            names = [name.removesuffix("*") for name in fields.get("types", ["task.*", "attempt.*"])]
            if all(event.get(name) == fields[name] for name in ("queue", "group") if name in fields) and any(
                event["event"].startswith(name) for name in names
            ):
                wanted.append(line)
        assert one.events == wanted, fields
        assert other.events == stored(wanted), fields
        assert bool(wanted) == (fields != {"queue": "other"})


@pytest.mark.parametrize("seed", range(8))
@trio_test
async def test_whoever_comes_and_goes_misses_nothing_and_sees_nothing_twice(
    seed: int, tmp_path: Path, autojump: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many join in the middle of rounds, from their last cursors, while others are slow."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    monkeypatch.setattr(subscriptions_module, "SLICE_RECORDS", 3)  # many seams
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        seen: list[list[bytes]] = [[] for _ in range(6)]
        readers = [Reader(daemon, nursery) for _ in seen]
        for number in range(150):
            await daemon.ask_all(
                [
                    {
                        "op": "schedule",
                        "id": f"t{number}-{k}",
                        "url": URL,
                        "delay": chance.choice((0, 3600_000)),
                    }
                    for k in range(chance.randrange(1, 6))
                ]
            )
            if chance.random() < 0.3:
                await trio.sleep(chance.choice((0.0, 0.001, 0.05)))
            at = chance.randrange(len(readers))
            reader = readers[at]
            reader.socket.stuck = chance.random() < 0.3
            if chance.random() < 0.3 and reader.socket.lines:
                reader.scope.cancel()
                await reader.ended.wait()
                seen[at] += reader.events
                cursor = reader.cursor
                await trio.sleep(chance.choice((0.0, 0.02)))
                readers[at] = Reader(daemon, nursery, **{"from": cursor})
        for reader in readers:
            reader.socket.stuck = False
        await trio.sleep(ROUNDS_S)
        wanted = in_files(tmp_path, daemon)
        for at, reader in enumerate(readers):
            assert stored(seen[at] + reader.events) == wanted
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_slow_subscriber_is_told_lagged_and_holds_no_more_than_its_limit(
    tmp_path: Path, autojump: MockClock
) -> None:
    limits = Limits(subscriber_bytes_max=65_536)
    async with world(tmp_path, limits=limits) as daemon, trio.open_nursery() as nursery:
        slow, other = Reader(daemon, nursery), Reader(daemon, nursery)
        await trio.sleep(1)
        slow.socket.stuck = True
        for number in range(40):
            await daemon.ask_all(
                [{"op": "schedule", "id": f"{number}-{k}", "url": URL, "delay": "1h"} for k in range(20)]
            )
            await trio.sleep(0.1)
            held = slow.socket.unread_bytes
            assert held <= 65_536 + 20 * 250
        assert daemon.subscriptions.count == 2, "its last lines wait for it"
        slow.socket.stuck = False
        await slow.ended.wait()
        *before, last = slow.events
        assert before == other.events[: len(before)], "no half line, and no gap before the end"
        told = json.loads(last)
        assert (told["ok"], told["error"]) == (False, "lagged")
        assert told["cursor"].endswith("-0"), "the oldest that is kept"
        resumed = Reader(daemon, nursery, **{"from": json.loads(before[-1])["cursor"]})
        await trio.sleep(ROUNDS_S)
        assert before + resumed.events == other.events
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_cursor_that_the_journal_does_not_hold_is_lagged(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        await daemon.ask(op="schedule", id="a", url=URL)
        mine = daemon.subscriptions.writer.cursor(0)
        for cursor in ("00000000-0", mine[:-1] + "9999"):
            reader = Reader(daemon, nursery, seq=7, **{"from": cursor})
            await reader.ended.wait()
            (told,) = reader.socket.said_to
            assert (told["ok"], told["error"], told["cursor"], told["seq"]) == (False, "lagged", mine, 7)
        for cursor in ("", "-", "1", "00000000-", "00000000-01", "00000000--1", "0000000G-1"):
            with pytest.raises(BadValue) as refused:
                Reader(daemon, nursery, **{"from": cursor})
            assert refused.value.field == "from"
        for types in ([], ["task"], ["*"], ["task.gone"], ["tas.*"]):
            with pytest.raises(BadValue) as refused:
                Reader(daemon, nursery, types=types)
            assert refused.value.field == "types"


@trio_test
async def test_events_whose_segments_are_gone_are_lagged_with_the_oldest_cursor(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        body = "x" * 10_000
        for number in range(0, 400, 20):
            await daemon.ask_all(
                [
                    {"op": "schedule", "id": f"{number + k}", "url": URL, "delay": "1h", "body_text": body}
                    for k in range(20)
                ]
            )
        first_lsn = (await daemon.journal.shelf.head(3)).first_lsn
        assert daemon.journal.trim(3)
        await daemon.ask(op="schedule", id="last", url=URL, delay="1h")
        reader = Reader(daemon, nursery, **{"from": daemon.subscriptions.writer.cursor(5)})
        await reader.ended.wait()
        (told,) = reader.socket.said_to
        assert (told["error"], told["cursor"]) == (
            "lagged", daemon.subscriptions.writer.cursor(first_lsn - 1),
        )  # fmt: skip
        again = Reader(daemon, nursery, **{"from": told["cursor"]})
        await trio.sleep(ROUNDS_S)
        assert len(again.events) == daemon.journal.durable_lsn - first_lsn, "all but the trim"
        nursery.cancel_scope.cancel()


@trio_test
async def test_no_event_leaves_before_it_is_durable(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        reader = Reader(daemon, nursery)
        await trio.sleep(1)
        daemon.journal.flush = lambda: None  # type: ignore[method-assign]
        lines = [b'{"op":"schedule","id":"a","delay":"1h","url":"http://127.0.0.1:9/"}']
        await daemon.requests.answer(lines, 0)
        early = Reader(daemon, nursery)
        await trio.sleep(ROUNDS_S)
        assert reader.events == early.socket.lines == []
        del daemon.journal.flush
        await daemon.journal.wait_durable(daemon.journal.next_lsn - 1)
        await trio.sleep(ROUNDS_S)
        assert [json.loads(line)["event"] for line in reader.events] == ["task.scheduled"]
        assert len(early.socket.lines) == 1, "it came after that"
        nursery.cancel_scope.cancel()


@trio_test
async def test_what_is_written_and_not_yet_synced_is_not_sent(
    tmp_path: Path, autojump: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file shows a frame before its sync has come back: after a power cut it would not be there."""
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        await daemon.ask(op="schedule", id="before", url=URL, delay="1h")
        reader = Reader(daemon, nursery)
        replayed = Reader(daemon, nursery, **{"from": daemon.subscriptions.writer.cursor(0)})
        await trio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "durable_lsn", property(lambda self: 1))
            lines = [b'{"op":"schedule","id":"a","delay":"1h","url":"http://127.0.0.1:9/"}']
            await daemon.requests.answer(lines, 0)
            daemon.subscriptions.committed(2)
            again = Reader(daemon, nursery, **{"from": daemon.subscriptions.writer.cursor(0)})
            await trio.sleep(ROUNDS_S)
            assert len(in_files(tmp_path, daemon)) == 2
            assert (len(reader.events), len(replayed.events), len(again.events)) == (0, 1, 1)
        daemon.subscriptions.committed(2)
        await trio.sleep(ROUNDS_S)
        assert (len(reader.events), len(replayed.events), len(again.events)) == (1, 2, 2)
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_carriage_return_in_meta_ends_no_line(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        reader = Reader(daemon, nursery, types=["task.cancelled"])
        lines = [
            b'{"op":"schedule","id":"a","delay":"1h","meta":[1,\r2],"url":"http://127.0.0.1:9/"}',
            b'{"op":"cancel","id":"a"}',
        ]
        at = 0
        while at < 2:
            at, _ = await daemon.requests.answer(lines, at)
        await trio.sleep(ROUNDS_S)
        (line,) = reader.socket.sent.split(b"\n")[1:-1]
        assert b"\r" not in line
        assert json.loads(line)["meta"] == [1, 2]
        nursery.cancel_scope.cancel()


@trio_test
async def test_nobody_subscribed_costs_nothing(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon:
        reads = []
        daemon.journal._directory.disk.read_at = lambda *what: reads.append(what)  # type: ignore[assignment, func-returns-value, return-value]
        async with trio.open_nursery() as nursery:
            observers = dict(daemon.ledger._observers)
            reader = Reader(daemon, nursery)
            assert daemon.ledger._observers != observers
            await trio.sleep(1)
            reader.scope.cancel()
            await reader.ended.wait()
        assert daemon.ledger._observers == observers
        assert daemon.subscriptions.count == 0
        await daemon.ask(op="schedule", id="a", url=URL)
        await trio.sleep(ROUNDS_S)
        assert reads == []


@trio_test
async def test_a_line_is_made_once_for_a_hundred_subscribers(
    tmp_path: Path, autojump: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    encode = record_events._encode

    def counting(event: object) -> bytes:
        nonlocal made
        made += 1
        return encode(event)

    monkeypatch.setattr(record_events, "_encode", counting)
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        readers = [Reader(daemon, nursery) for _ in range(100)]
        await trio.sleep(1)
        await daemon.ask_all([{"op": "schedule", "id": f"{k}", "url": URL, "delay": "1h"} for k in range(50)])
        await trio.sleep(ROUNDS_S)
        assert all(len(reader.events) == 50 for reader in readers)
        assert made == 50
        assert sum(reader.socket.puts for reader in readers) <= 100 * 4, "many events in one go"
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_thousand_subscribers_do_not_stop_the_timers(
    tmp_path: Path, autojump: MockClock, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are made and handed out in slices: others on the loop have their turn between them."""
    async with world(tmp_path, segment_bytes=1 << 22) as daemon, trio.open_nursery() as nursery:
        for _ in range(1000):
            Reader(daemon, nursery)
        await trio.sleep(1)
        given_by_turn: dict[int, int] = {}
        turns = 0
        give = Subscriber.give

        async def witness() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        def counted(self: Subscriber, *what: Any) -> None:
            given_by_turn[turns] = given_by_turn.get(turns, 0) + 1
            give(self, *what)

        monkeypatch.setattr(Subscriber, "give", counted)
        autojump.autojump_threshold = float("inf")
        autojump.rate = 1000  # it rests between slices
        nursery.start_soon(witness)
        stopwatch.step_ns = SLICE_NS
        await daemon.ask(op="schedule", id="a", url=URL, delay="1h")
        while sum(given_by_turn.values()) < 1000:
            await trio.lowlevel.checkpoint()
        assert max(given_by_turn.values()) <= 2
        nursery.cancel_scope.cancel()


@trio_test
async def test_too_many_subscribers_are_refused(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path, limits=Limits(subscribers_max=2)) as daemon, trio.open_nursery() as nursery:
        first = Reader(daemon, nursery)
        Reader(daemon, nursery)
        with pytest.raises(Refused, match="subscribers_max") as refused:
            Reader(daemon, nursery)
        assert refused.value.extra["retry_after_ms"] == 1000
        first.scope.cancel()
        await first.ended.wait()
        Reader(daemon, nursery)
        nursery.cancel_scope.cancel()


@trio_test
async def test_a_subscribed_connection_takes_no_further_request(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        talks, leaves = Reader(daemon, nursery), Reader(daemon, nursery)
        await trio.sleep(1)
        talks.socket.say(True)
        leaves.socket.say(False)
        await talks.ended.wait()
        await leaves.ended.wait()
        assert talks.socket.said_to[-1]["error"] == "bad_request"
        assert len(leaves.socket.lines) == 1


@trio_test
async def test_the_last_events_go_out_before_the_end(tmp_path: Path, autojump: MockClock) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        readers = [Reader(daemon, nursery) for _ in range(3)]
        await trio.sleep(1)
        readers[1].socket.stuck = True
        await daemon.ask(op="schedule", id="a", url=URL, delay="1h")
        await daemon.subscriptions.end()
        readers[1].socket.stuck = False
        for reader in readers:
            await reader.ended.wait()
            assert [json.loads(line)["id"] for line in reader.events] == ["a"]


@trio_test
async def test_a_journal_that_cannot_be_read_ends_subscriptions_and_nothing_else(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with world(tmp_path) as daemon, trio.open_nursery() as nursery:
        reader = Reader(daemon, nursery)
        await trio.sleep(1)
        disk = daemon.journal._directory.disk
        piece = disk.read_at

        def broken(path: Path, offset: int, size: int) -> bytes:
            raise OSError(5, "Input/output error")

        disk.read_at = broken  # type: ignore[method-assign]
        await daemon.ask(op="schedule", id="a", url=URL, delay="1h")
        await reader.ended.wait()
        assert reader.socket.said_to[-1]["error"] == "storage"
        disk.read_at = piece  # type: ignore[method-assign]
        again = Reader(daemon, nursery, **{"from": reader.socket.said_to[0]["cursor"]})
        await trio.sleep(ROUNDS_S)
        assert len(again.events) == 1
        nursery.cancel_scope.cancel()
