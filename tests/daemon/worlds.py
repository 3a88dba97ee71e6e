"""The daemon's parts in one Trio run, put together as ``run.py`` does, on a clock that the test moves.

Real: engine, ledger, requests, ticker, dispatcher, journal (its commits are made at once, in the loop).
Not there: sockets, HTTP, signals, threads. ``attempts`` says what would have been sent, in order.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from tests.clocks import ManualClock, ManualTimer
from wheeltimer.core.engine import Engine
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy
from wheeltimer.core.records import Due
from wheeltimer.core.task import NS_PER_MS, Task, split_key
from wheeltimer.delivery.dispatcher import Dispatcher
from wheeltimer.journal import Clocks, InlineWorker, Journal
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.admission import Admission
from wheeltimer.server.client_memory import ClientMemory
from wheeltimer.server.service import Service
from wheeltimer.server.subscriptions import Subscriptions
from wheeltimer.settings import Limits
from wheeltimer.shard.durable import DurableEngine
from wheeltimer.shard.startup import end_stopped, recover
from wheeltimer.shard.ticker import Ticker

URL = "http://127.0.0.1:9/never"


@dataclass
class World:
    """A running daemon without its edges."""

    clock: ManualClock
    engine: Engine
    journal: Journal
    ledger: DurableEngine
    ticker: Ticker
    requests: Service
    dispatcher: Dispatcher
    subscriptions: Subscriptions
    memory: ClientMemory
    attempts: list[str] = field(default_factory=list)
    hold: trio.Event | None = None  # attempts wait for it, where there is one

    async def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its reply, once that is durable."""
        (reply,) = await self.ask_all([request])
        return reply

    async def ask_all(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Requests that come in one piece, and their replies."""
        lines = [json.dumps(request).encode() for request in requests]
        replies, at = b"", 0
        while at < len(lines):
            at, some = await self.requests.answer(lines, at)
            replies += some
        await self.journal.wait_durable(self.journal.next_lsn - 1)
        return [json.loads(line) for line in replies.splitlines()]

    async def advance(self, ms: int) -> None:
        """Let time pass, and everybody do what follows from it."""
        self.clock.advance(ms * NS_PER_MS)
        await settle()

    async def send(self, key: str, task: Task) -> Answer:
        """What stands for the transport: every attempt succeeds."""
        self.attempts.append(split_key(key)[1])
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        return Answer(task.next_ms, 0, 0, 200)


class Stopwatch:
    """Each look is ``step_ns`` after the one before: so many looks make a slice, on any machine."""

    def __init__(self) -> None:
        self.step_ns = 0
        self._now_ns = 0

    def perf_counter_ns(self) -> int:
        self._now_ns += self.step_ns
        return self._now_ns


async def settle() -> None:
    """Until nothing moves any more without the clock."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def world(
    folder: Path, clock: ManualClock | None = None, *, tick_ms: int = 10, concurrency: int = 64,
    segment_bytes: int = 1 << 20, limits: Limits | None = None, hold: trio.Event | None = None,
) -> AsyncIterator[World]:  # fmt: skip
    """A daemon on ``folder``, recovered and running; left as by a kill, but for its files being closed."""
    clock, limits = clock or ManualClock(), limits or Limits()

    def clocks() -> Clocks:
        now = clock.now()
        return Clocks(clock.boot_id, now.elapsed_ns, now.wall_ns // NS_PER_MS)

    journal = Journal.open(
        folder, clock=clocks, segment_bytes=segment_bytes, fsync=False, hand=InlineWorker()
    )
    engine = Engine(limits, clock.now(), tick_ms * NS_PER_MS, 64)
    stopping = recover(journal, engine, clock.boot_id, clock.now()).stopping
    ledger = DurableEngine(engine, journal, clock, Policy())
    timer = ManualTimer(clock)
    made: list[World] = []
    dispatcher = Dispatcher(
        ledger, lambda key, task: made[0].send(key, task), lambda: journal.durable_lsn, concurrency
    )
    ticker = Ticker(ledger, clock, timer, dispatcher.dispatch_now)
    ledger.observe(Due, lambda due: dispatcher.enqueue(due.key, due.task, due.late_ms))
    journal.on_durable.append(lambda lsn: dispatcher.committed())

    def changed() -> None:
        journal.flush()
        ticker.poke()

    ledger.changed = changed
    turn = TimeSlices()
    subscriptions = Subscriptions(ledger, turn, limits)
    memory = ClientMemory(limits)
    admission = Admission(journal, turn, memory)
    journal.on_durable += [turn.committed, memory.committed, subscriptions.committed]
    requests = Service(
        ledger, admission, durability="group", about=dict, changed=changed, resumed=dispatcher.resumed
    )
    made.append(World(clock, engine, journal, ledger, ticker, requests, dispatcher, subscriptions, memory))
    made[0].hold = hold
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await nursery.start(subscriptions.run)
        await end_stopped(ledger, stopping)
        await nursery.start(dispatcher.run)
        await nursery.start(ticker.run)
        await settle()
        yield made[0]
        check(engine)
        nursery.cancel_scope.cancel()
    timer.close()
