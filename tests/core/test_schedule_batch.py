"""The way in for plain schedules gives what one request after the other gives."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack
import pytest

from tests.core.driver import Driver
from wheeltimer.core.invariants import check
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.core.schedule_batch import RUN_BYTES_MAX, RUN_MAX, BatchSize, decide_batch
from wheeltimer.core.task import Task, unpack
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import BUILT_IN

pytestmark = pytest.mark.quick

PLAIN: list[dict[str, Any]] = [
    {}, {"delay": 0}, {"delay": 3_650 * 86_400_000}, {"queue": "a"}, {"queue": "default"},
    {"body": {"n": [1]}}, {"body": None}, {"body": "x" * 60_000}, {"seq": 1}, {"seq": "s"}, {"seq": 0},
    {"seq": ""}, {"seq": 2**70}, {"body": "é"},
    {"url": "http://r/other"}, {"url": "http://r"}, {"id": "a b/c%"}, {"id": "a/d/done/"}, {"id": "x" * 256},
]  # fmt: skip
# What is no plain request: it is decided alone, and may be refused.
OTHER: list[dict[str, Any]] = [
    {"delay": -1}, {"delay": 3_650 * 86_400_000 + 1}, {"delay": "5s"}, {"delay": 1.5}, {"delay": True},
    {"at": 5}, {"id": ""}, {"id": "é"}, {"id": "x" * 257}, {"id": "a\n"}, {"id": 5}, {"id": None},
    {"queue": "new"}, {"id": "o/done/1"}, {"id": "o/dead/07"}, {"url": "http://a..b/"}, {"url": "http://*/"},
    {"queue": "a b"}, {"queue": "ruled"}, {"queue": None}, {"url": "http://r/#f"}, {"url": "http://r/ "},
    {"url": "http://other/"}, {"url": "x"}, {"url": "http://blocked/"}, {"seq": 1.5}, {"seq": None},
    {"body": "x" * 65_535}, {"body": json.loads("[" * 65 + "]" * 65)}, {"body_text": "1"},
    {"meta": 1},
    {"group": "g"}, {"retry": "none"}, {"on_conflict": "replace"}, {"on_conflict": "keep"}, {"colour": 1},
    {"op": "ping", "colour": 1}, {"op": "cancel"}, {"op": "get"}, {"on_done": "http://r/"}, {"method": "PUT"},
]  # fmt: skip


def make() -> Driver:
    policy = Policy(
        queues={"ruled": QueuePolicy(retry=BUILT_IN["none"])},
        check_host=lambda host: "blocked" if host == "blocked" else None,
    )
    driver = Driver(Limits(tasks_max=900), policy)
    for queue in ("a", "default", "ruled"):
        assert driver.ask("schedule", id="known", queue=queue, url="http://r/", delay=5)["ok"]
    return driver


def by_run(driver: Driver, lines: list[bytes]) -> list[dict[str, Any]]:
    replies: list[dict[str, Any]] = []
    runs = BatchSize()
    while left := lines[len(replies) :]:
        if runs.length == 1:
            replies.append(driver.line(left[0]))
            runs.alone()
        elif taken := driver.run(left[: runs.length]):
            runs.taken()
            replies += taken
        else:
            runs.refused()
    return replies


def one_by_one(driver: Driver, lines: list[bytes]) -> list[dict[str, Any]]:
    return [driver.line(line) for line in lines]


def test_a_run_gives_what_one_request_after_the_other_gives() -> None:
    seed = 17
    chance = random.Random(seed)
    for round_ in range(60):
        lines = []
        for _ in range(chance.randrange(1, 40)):
            ask: dict[str, Any] = {
                "op": "schedule", "id": f"t{chance.randrange(30)}", "url": "http://r/",
                "delay": chance.randrange(100),
            }  # fmt: skip
            for _ in range(chance.randrange(3)):
                ask |= chance.choice(PLAIN if chance.random() < 0.8 else OTHER)
            lines.append(json.dumps(ask, ensure_ascii=chance.random() < 0.5).encode())
        run, alone = make(), make()
        assert by_run(run, lines) == one_by_one(alone, lines), (seed, round_)
        assert tasks_of(run) == tasks_of(alone), (seed, round_)
        assert records_of(run) == records_of(alone), (seed, round_)
        assert run.engine.counts == alone.engine.counts
        assert run.engine.earliest_added_ns == alone.engine.earliest_added_ns
        for driver in (run, alone):
            check(driver.engine)
            driver.pass_ms(50)
        assert run.tick() == alone.tick(), (seed, round_)
        run.crash()
        alone.crash()
        assert tasks_of(run) == tasks_of(alone), (seed, round_)


def tasks_of(driver: Driver) -> dict[str, Task]:
    return {key: unpack(row) for key, row in driver.engine.table.items()}


def records_of(driver: Driver) -> list[object]:
    return [record for frame in driver.journal.frames for record in msgpack.unpackb(frame.payload)]


@pytest.mark.parametrize("fields", PLAIN, ids=[str(fields)[:40] for fields in PLAIN])
def test_a_plain_request_takes_the_short_way(fields: dict[str, Any]) -> None:
    ask = {"op": "schedule", "id": "t", "url": "http://r/", "delay": 5} | fields
    driver = make()
    driver.ask("schedule", id="u", url=ask["url"])  # the URL's origin has been checked
    assert len(driver.run([json.dumps(ask).encode()])) == 1


@pytest.mark.parametrize("fields", OTHER, ids=[str(fields)[:40] for fields in OTHER])
def test_any_other_request_makes_it_no_run(fields: dict[str, Any]) -> None:
    plain = {"op": "schedule", "url": "http://r/", "delay": 5}
    lines = [
        json.dumps(plain | {"id": "t"} | more).encode() for more in ({}, {"id": "u"} | fields, {"id": "v"})
    ]
    assert [reply["id"] for reply in make().run([lines[0], lines[2]])] == ["t", "v"]
    assert make().run(lines) == []
    assert make().run(lines[1:2]) == []


def test_a_run_keeps_to_its_bounds() -> None:
    def line(n: int, **fields: Any) -> bytes:
        return json.dumps({"op": "schedule", "id": f"n{n}", "url": "http://r/", "delay": n} | fields).encode()

    driver = make()
    assert len(driver.run([line(n) for n in range(RUN_MAX)])) == RUN_MAX
    assert driver.run([line(1000), line(1001), line(1000), line(1002)]) == []  # the same id twice
    assert driver.run([line(1000), line(5)]) == []  # known
    big = [line(n, body="x" * 30_000) for n in range(2000, 2003)]
    assert driver.run(big) == []  # more than RUN_BYTES_MAX
    assert len(driver.run([line(2010, body="x" * 60_000)])) == 1
    assert driver.run([line(2011, body="x" * 65_530)]) == []
    run = decide_batch(driver.engine, driver.policy, big[:2], driver.now, 1)
    assert run is not None
    assert run.keys == ["default/n2000", "default/n2001"]
    assert run.size == sum(map(len, run.records))
    assert driver.run([line(2020, body="x" * RUN_BYTES_MAX)]) == []  # more than a body may have
    room = driver.limits.tasks_max - driver.engine.live
    for start in range(3000, 3000 + room, RUN_MAX):
        assert driver.run([line(n) for n in range(start, min(start + RUN_MAX, 3000 + room))])
    assert driver.engine.live == driver.limits.tasks_max
    assert driver.run([line(9999)]) == []
    assert driver.line(line(9999))["error"] == "full"
    check(driver.engine)


def test_requests_that_come_again_are_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that repeats all it asked: lines that are tried as runs stay in proportion to the lines."""
    driver, looked, run = make(), 0, Driver.run
    lines = [
        json.dumps({"op": "schedule", "id": f"t{n}", "url": "http://r/", "delay": 1}).encode()
        for n in range(800)
    ]

    def counted(driver: Driver, lines: list[bytes]) -> list[dict[str, Any]]:
        nonlocal looked
        looked += len(lines)
        return run(driver, lines)

    monkeypatch.setattr(Driver, "run", counted)
    assert not any(reply["duplicate"] for reply in by_run(driver, lines))
    assert looked == len(lines)
    assert all(reply["duplicate"] for reply in by_run(driver, lines))
    assert looked < 3 * len(lines)
