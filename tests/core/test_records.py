"""Records and rows: what is written reads back, and what was ever written stays readable."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Spec, Task, content_of, digest, key_of, pack, split_key, unpack
from wheeltimer.protocol.retry import BUILT_IN
from wheeltimer.protocol.success import JsonCheck, SuccessRule
from wheeltimer.protocol.task_view import Attempt, Poll, State

pytestmark = pytest.mark.quick
KEY = "default/t"
TASK = Task("http://r/", created_ms=5, lsn=7, delay=30)
ATTEMPT = Attempt(1, 2, 3, 4, 5, "failed", 500, "no", "reply")
# Every kind as it lies in a journal: the first element and the order of the others are for ever.
WRITTEN: list[tuple[r.Written, list[Any]]] = [
    (r.Scheduled(KEY, 9, TASK), ["s", KEY, 9, {"u": "http://r/", "d": 30, "c": 5, "l": 7}]),
    (r.Rescheduled(KEY, 9, TASK), ["r", KEY, 9, {"u": "http://r/", "d": 30, "c": 5, "l": 7}]),
    (
        r.Attempted(KEY, 9, ATTEMPT, 1, 2, 10, 11, False, "g"),
        [
            "a", KEY, 9,
            {
                "attempt": 1, "version": 2, "started": 3, "late_ms": 4, "ms": 5, "outcome": "failed",
                "status": 500, "error": "no", "reply": "reply",
            },
            1, 2, 10, 11, False, "g",
        ],
    ),
    (r.Stopping(KEY, 9, 2, b"{}"), ["x", KEY, 9, 2, b"{}"]),
    (r.Ended(KEY, 9, 2, 4, 3, "expired", "g", b"1"), ["e", KEY, 9, 2, 4, 3, "expired", "g", b"1"]),
    (r.Paused("q", 9, True, 12), ["p", "q", 9, True, 12]),
    (r.Forgotten([KEY, "q/u"], 9), ["f", [KEY, "q/u"], 9]),
    (r.Carried(KEY, 9, TASK), ["c", KEY, 9, {"u": "http://r/", "d": 30, "c": 5, "l": 7}, 0]),
    (r.Carried("q", 9, None, 12), ["c", "q", 9, None, 12]),
    (r.Counted(9, 1, 2, 3), ["n", 9, 1, 2, 3]),
]  # fmt: skip


@pytest.mark.parametrize(("record", "raw"), WRITTEN, ids=[type(record).__name__ for record, _ in WRITTEN])
def test_a_record_reads_back_here_and_in_any_msgpack(record: r.Written, raw: list[Any]) -> None:
    assert r.encode(r.decode_all(r.encode([record]))) == r.encode([record])
    assert msgpack.unpackb(r.encode(record)) == raw


def test_every_kind_is_among_them() -> None:
    assert {type(record) for record, _ in WRITTEN} == set(r.Written.__args__)


@pytest.mark.parametrize(
    "record",
    [r.Due(KEY, 1, TASK, 0), r.Started(KEY, 1, 1, 1, TASK), r.Lapsed(KEY, 1, TASK)],
    ids=["due", "started", "lapsed"],
)
def test_a_volatile_record_in_a_journal_is_damage(record: r.Volatile) -> None:
    with pytest.raises(msgspec.ValidationError):
        r.decode_all(r.encode([record]))


def test_a_payload_is_consumed_exactly() -> None:
    payload = r.encode([record for record, _ in WRITTEN])
    assert len(r.decode_all(payload)) == len(WRITTEN)
    for damaged in (payload + b"\x00", payload[:-1], b"", b"\x00", payload * 2):
        with pytest.raises(msgspec.MsgspecError):
            r.decode_all(damaged)


def test_an_unknown_kind_or_a_wrong_type_is_told() -> None:
    for raw in (["z", KEY, 9], [], ["s", KEY, "9", {}], ["e", KEY, 9], {"s": 1}, ["p", "q", 9, 1]):
        with pytest.raises(msgspec.ValidationError):
            r.decode_all(msgpack.packb([raw]))


def test_an_older_journal_without_the_fields_that_came_later_is_readable() -> None:
    """New fields are appended with a default; the shortest form of each kind is the first one."""
    attempt = {"attempt": 1, "version": 1, "started": 3, "late_ms": 0, "ms": 5, "outcome": "failed"}
    payload = msgpack.packb([
        ["a", KEY, 9, attempt, 1, 0, 10, 11],
        ["x", KEY, 9, 1],
        ["e", KEY, 9, 1, 3, 1],
    ])  # fmt: skip
    attempted, stopping, ended = r.decode_all(payload)
    assert isinstance(attempted, r.Attempted)
    assert (attempted.ends, attempted.group) == (False, None)
    assert isinstance(stopping, r.Stopping)
    assert stopping.reply is None
    assert isinstance(ended, r.Ended)
    assert (ended.reason, ended.group, ended.meta) == (None, None, None)


def test_written_records_hold_what_their_event_shows() -> None:
    """A reader of the journal has no other state: group, meta, attempts and the history entry are there."""
    driver = Driver()
    driver.ask("schedule", id="t", url="http://r/", group="g", meta={"m": 1}, retry="none")
    driver.tick()
    driver.start(KEY)
    attempted, ended = driver.watch(lambda: driver.outcome(KEY, Answer(1, 2, 3, 500, body=b"no")))
    assert isinstance(attempted, r.Attempted)
    assert isinstance(ended, r.Ended)
    assert (attempted.group, attempted.ends) == ("g", True)
    assert attempted.attempt == Attempt(1, 1, 1, 3, 2, "failed", 500, None, "no")
    assert (ended.group, ended.meta, ended.attempts, ended.state) == ("g", b'{"m": 1}', 1, State.DEAD)
    assert ended.version == 1


# -- rows -----------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "url": "http://r/", "method": "PUT", "headers": {"a": "1"}, "body": b"{}", "body_as": "text",
    "meta": b"1", "retry": BUILT_IN["alipay"], "timeout": "3s", "connect_timeout": 5,
    "expires_in": "1h", "expires_at": 7,
    "success": SuccessRule((201, "3xx"), "ok", (JsonCheck("/a", {"b": [1.5, None, True]}),)),
    "poll": Poll("5s", 7), "group": "g", "on_done": "http://d/", "on_dead": "http://x/",
    "delay": "3m", "at": "2030-01-01T00:00:00Z",
    "created_ms": 1, "lsn": 2, "born_lsn": 3, "deadline_ns": 2**62, "due_given_ms": 5, "next_given_ms": 6,
    "expiry_ns": 2**62, "expiry_ms": 8, "version": 9, "state": 2, "flight": 8, "revision": 10, "attempts": 11,
    "failures": 12, "polls": 13, "history": [ATTEMPT, Attempt(1, 1, 1, 1, 1, "succeeded")], "ended_ms": 14,
    "stop": 2, "stop_reply": b"2", "rule": BUILT_IN["none"], "content": b"c" * 16, "reason": "expired",
    "carried_lsn": 15,
}  # fmt: skip


def test_a_row_holds_every_field() -> None:
    assert set(FULL) == set(Task.__struct_fields__)
    task = Task(**FULL)
    assert unpack(pack(task)) == task
    for name in Task.__struct_fields__:
        assert getattr(unpack(pack(task)), name) == FULL[name], name


def test_every_field_has_a_letter_of_its_own() -> None:
    names = Task.__struct_encode_fields__
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {1}


def test_a_plain_task_keeps_its_row_small() -> None:
    """20-byte id, 40-byte URL, 50-byte body: what a million waiting tasks are made of."""
    driver = Driver()
    driver.ask("schedule", id="x" * 20, url="http://r.example.com/" + "x" * 19, body="x" * 48, delay="1h")
    (row,) = (row for _, row in driver.engine.table.items())
    assert len(row) < 40 + 50 + 55
    driver.ask("schedule", id="y", url="http://r.example.com/", delay=3_600_000)
    assert set(msgpack.unpackb(driver.engine.table["default/y"])) == {"u", "d", "c", "l", "w"}


def test_keys_part_again() -> None:
    for queue, id in (("q", "t"), ("default", "a/done/1"), ("a.b:c", "/"), ("q", "订单 42")):
        assert split_key(key_of(queue, id)) == (queue, id)


# -- the content of a request ---------------------------------------------------------------------


def test_the_content_is_what_was_asked_and_nothing_else() -> None:
    task = Task(**FULL)
    for name in Task.__struct_fields__:
        changed = Task(**FULL | {name: "x"})
        assert (digest(changed) != digest(task)) == (name in Spec.__struct_fields__), name


def test_the_content_outlives_changes_and_the_body() -> None:
    driver = Driver()
    ask = {"id": "t", "url": "http://r/", "body": {"n": 1}, "headers": {"a": "1", "b": "2"}, "delay": "1h"}
    driver.ask("schedule", **ask)
    first = content_of(driver.task(KEY))
    driver.ask("reschedule", id="t", url="http://other/", delay=0, body=2, retry="none")
    assert content_of(driver.task(KEY)) == first
    driver.tick()
    driver.attempt(KEY)
    assert driver.task(KEY).body is None
    assert content_of(driver.task(KEY)) == first
    assert driver.ask("schedule", **ask)["duplicate"]
