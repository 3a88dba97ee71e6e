"""The way in for plain schedules, by the hundred: the decisions of ``deciding.schedule`` in one loop.

Nine requests in ten ask for a new task with a URL, a delay in ms and perhaps a body. A run of those is
parsed into fewer fields, and nothing is looked up or made twice. Whatever asks for more, or concerns an
id that is known, ends the run and is decided alone; so nothing here refuses. That a run gives the
same tasks, records and replies as one request after the other is held by a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from wheeltimer.core import commands as c
from wheeltimer.core.deciding import DEFAULT_QUEUE
from wheeltimer.core.engine import Engine
from wheeltimer.core.policy import Policy
from wheeltimer.core.records import encode
from wheeltimer.core.replies import ScheduleReply
from wheeltimer.core.table import MASK, SHIFT, Shard
from wheeltimer.core.task import NS_PER_MS, Now, pack

RUN_MAX: Final = 128  # requests in a run: about 1 ms, what a slice of the loop may take
RUN_BYTES_MAX: Final = 65_536  # of records, before the last: a run is written as one decision


class _Plain(Struct, tag_field="op", tag="schedule", forbid_unknown_fields=True, gc=False):
    """A ``schedule`` that asks for nothing special: any other field, or type, makes it no plain one."""

    id: str
    url: str
    delay: int
    queue: str = DEFAULT_QUEUE
    body: Raw = Raw()
    seq: int | str | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(_Plain).decode


class _Fresh(Struct, omit_defaults=True, gc=False, rename={
    "url": "u", "body": "b", "delay": "d", "created_ms": "c", "lsn": "l", "deadline_ns": "w",
}):  # fmt: skip
    """The fields of a ``Task`` that a plain request fills, in the same order and under the same names."""

    url: str
    body: bytes | None = None
    delay: int | None = None
    created_ms: int | None = None
    lsn: int | None = None
    deadline_ns: int | None = None


class Run(Struct, gc=False):
    """New tasks in the order of their requests: what ``Engine.insert_fresh`` and the journal take."""

    keys: list[str]
    homes: list[Shard]  # where in the table each key goes
    rows: list[bytes]
    deadlines_ns: list[int]
    records: list[bytes]
    replies: list[object]
    queues: dict[str, int]  # how many tasks each queue gets
    size: int = 0  # bytes of the records


def take_run(
    engine: Engine, policy: Policy, lines: Sequence[bytes], at: int, now: Now, lsn: int
) -> Run | None:
    """The run of plain schedules that begins at ``lines[at]``, None where none does.

    ``lsn`` is the first record's. At most ``RUN_MAX`` requests. Nothing is changed.
    """
    limits, passes, shards = engine.limits, policy.passes, engine.table.shards
    id_bytes_max, delay_max_ms = limits.id_bytes_max, limits.delay_max_ms
    flat_bytes_max = min(c.FLAT_BYTES_MAX, limits.body_bytes_max)
    wall_ms, base_ns = now.wall_ms, now.elapsed_at(0)
    run = Run([], [], [], [], [], [], {})
    keys, queues, size = run.keys, run.queues, 0
    for line in islice(lines, at, at + max(0, min(RUN_MAX, limits.tasks_max - engine.live))):
        try:
            plain = _decode(line)
        except (msgspec.MsgspecError, RecursionError):
            break  # what is wrong with it is said by whoever decides it alone
        id, name, url, delay = plain.id, plain.queue, plain.url, plain.delay
        if (
            not (id.isascii() and id.isprintable() and 0 < len(id) <= id_bytes_max)
            or not 0 <= delay <= delay_max_ms
            or not passes(url)
            or not line.isascii()
        ):
            break
        if name not in queues:
            if name not in engine.queues or name in policy.queues:
                break
            queues[name] = 0
        key = f"{name}/{id}"
        home = shards[hash(key) >> SHIFT & MASK]
        if key in home:
            break
        body = None
        if plain.body:
            body = bytes(plain.body)
            if len(body) > flat_bytes_max and (len(body) > limits.body_bytes_max or c.too_deep(body)):
                break
        due_ms = wall_ms + delay
        deadline_ns = due_ms * NS_PER_MS + base_ns
        row = pack(_Fresh(url, body, delay, wall_ms, lsn, deadline_ns))
        record = encode(("s", key, wall_ms, Raw(row)))  # a RawScheduled, 0.1 us cheaper
        lsn += 1
        size += len(record)
        queues[name] += 1
        keys.append(key)
        run.homes.append(home)
        run.rows.append(row)
        run.deadlines_ns.append(deadline_ns)
        run.records.append(record)
        run.replies.append(ScheduleReply(True, id, name, 1, due_ms, "scheduled", False, plain.seq))
        if size > RUN_BYTES_MAX:
            break
    run.size = size
    if len(set(keys)) < len(keys):  # an id stands in the run twice: the second is a duplicate, not a new task
        _cut(run)
    return run if keys else None


def _cut(run: Run) -> None:
    """End a run before the first key that it holds twice."""
    seen: set[str] = set()
    for key in run.keys:
        if key in seen:
            break
        seen.add(key)
    length = len(seen)
    for part in (run.keys, run.homes, run.rows, run.deadlines_ns, run.records, run.replies):
        del part[length:]
    run.size = sum(map(len, run.records))
    run.queues = dict(Counter(key[: key.index("/")] for key in run.keys))
