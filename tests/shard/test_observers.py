"""Observers of the durable engine: several of one kind, and the end of one is the end of no other."""

from __future__ import annotations

from pathlib import Path

from trio.testing import trio_test

from tests.daemon.worlds import world
from wheeltimer.core import records as r

URL = "http://127.0.0.1:9/"


@trio_test
async def test_each_observer_gets_every_record_until_its_own_end(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        seen: list[tuple[str, str]] = []

        def first(record: r.Scheduled) -> None:
            seen.append(("first", record.key))

        ends = [
            daemon.ledger.observe(r.Scheduled, first),
            daemon.ledger.observe(r.Scheduled, first),
            daemon.ledger.observe(r.Scheduled, lambda record: seen.append(("second", record.key))),
        ]
        await daemon.ask(op="schedule", id="a", url=URL, delay="1h")
        assert seen == [("first", "default/a"), ("first", "default/a"), ("second", "default/a")]
        for left, end in zip((2, 1, 0), ends, strict=True):
            seen.clear()
            end()
            await daemon.ask(op="schedule", id=f"b{left}", url=URL, delay="1h")
            assert len(seen) == left


@trio_test
async def test_new_tasks_that_are_observed_are_reported_one_by_one(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        await daemon.ask(op="schedule", id="known", url=URL, delay="1h")
        keys: list[str] = []
        end = daemon.ledger.observe(r.Scheduled, lambda record: keys.append(record.key))
        line = b'{"op":"schedule","id":"t%d","url":"%s","delay":3600000}'
        lines = [line % (n, URL.encode()) for n in range(50)]
        at = 0
        while at < len(lines):
            at, _ = await daemon.requests.answer(lines, at)
        assert keys == [f"default/t{n}" for n in range(50)]
        end()
