"""The fast path of many plain schedules: the decisions of ``schedule.schedule``, column by column.

Nine requests in ten are for a new task with a URL, a delay in ms and perhaps a body. A batch of those is
parsed into fewer fields and then processed a field at a time: a check or a step is one call for all, not a
line of Python for each. If one line asks for more, or names an id that exists, the lines are no batch: the
caller tries fewer (``BatchSize``), and in the end decides one alone. So nothing here refuses. A test checks
that a batch gives the same tasks, records and replies as one request after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count, repeat
from operator import attrgetter, is_not
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from wheeltimer.core.engine import Engine
from wheeltimer.core.policy import Policy
from wheeltimer.core.records import encode
from wheeltimer.core.row import Fresh
from wheeltimer.core.schedule import DEFAULT_QUEUE
from wheeltimer.core.store import Shard
from wheeltimer.core.task import NS_PER_MS, Now, pack
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.ids import is_hook_id
from wheeltimer.protocol.replies import ScheduleReply

RUN_MAX: Final = 128  # requests in a batch: up to 1 ms beside other work, the bound of a time slice
RUN_BYTES_MAX: Final = 65_536  # of lines: a batch is written as one decision
PRINTABLE: Final = bytes(range(32, 127))  # of ASCII; ``str.isprintable`` takes ten times as long
COMMAS: Final = 3  # between "op", "id", "url" and "delay"
TRY_AGAIN: Final = 8  # lines decided alone before a batch of this size is tried again


class _Plain(Struct, tag_field="op", tag="schedule", forbid_unknown_fields=True, gc=False):
    """A plain ``schedule``. A request with any other field or type does not decode, and is decided alone."""

    id: str
    url: str
    delay: int
    queue: str = DEFAULT_QUEUE
    body: Raw = Raw()
    seq: int | str | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(_Plain).decode
_columns: Final = attrgetter("id", "queue", "url", "delay", "body", "seq")


class Batch(Struct, gc=False):
    """New tasks in the order of their requests, as ``Engine.insert_fresh`` and the journal take them."""

    keys: list[str]
    homes: list[Shard]  # the table's shard of each key
    rows: list[bytes]
    deadlines_ns: list[int]
    records: list[bytes]
    replies: list[object]
    queues: dict[str, int]  # how many tasks each queue gets
    size: int  # bytes of the records


class BatchSize:
    """How many lines to try as a batch next; 1: decide the next one alone.

    Fewer after lines that were no batch, more again after a batch. So if a client repeats a thousand
    requests, no line is decoded a hundred times.
    """

    def __init__(self) -> None:
        self.length = RUN_MAX
        self._alone = 0

    def taken(self) -> None:
        """Call after the lines were a batch: the next may have twice as many."""
        self.length = min(2 * self.length, RUN_MAX)

    def refused(self) -> None:
        """Call after the lines were no batch: try a quarter; below 2, decide ``TRY_AGAIN`` lines alone."""
        self.length //= 4
        if self.length < 2:
            self.length, self._alone = 1, TRY_AGAIN

    def alone(self) -> None:
        """Call after a line was decided alone."""
        self._alone -= 1
        if self.length == 1 and self._alone <= 0:
            self.length = TRY_AGAIN


def decide_batch(engine: Engine, policy: Policy, lines: Sequence[bytes], now: Now, lsn: int) -> Batch | None:
    """These lines as a batch, None if one of them is no plain request for a new task.

    ``lsn`` is the first record's. Nothing is changed. 2 us a line, twice that beside other work.
    """
    limits, wall_ms, whole = engine.limits, now.wall_ms, b"".join(lines)
    if len(lines) > limits.tasks_max - engine.live or len(whole) > RUN_BYTES_MAX or not whole.isascii():
        return None
    try:
        plain = list(map(_decode, lines))
    except (msgspec.MsgspecError, RecursionError):
        return None  # ``schedule`` refuses the faulty line, when it is decided alone
    ids, names, urls, delays, raws, seqs = zip(*map(_columns, plain), strict=True)
    queues = Counter(names)
    text = "".join(ids)
    if (
        text.encode().translate(None, PRINTABLE)
        or not 0 < min(map(len, ids)) <= max(map(len, ids)) <= limits.id_bytes_max
        or not 0 <= min(delays) <= max(delays) <= limits.delay_max_ms
        or (("/done/" in text or "/dead/" in text) and any(map(is_hook_id, ids)))
        or not policy.all_pass(urls)
        or not all(name in engine.queues and name not in policy.queues for name in queues)
    ):
        return None
    keys = list(map("/".join, zip(names, ids, strict=True)))
    homes = engine.table.homes(keys)
    if any(map(dict.__contains__, homes, keys)) or len(set(keys)) < len(keys):
        return None  # a task with one of these ids exists, or an id stands twice in the batch
    bodies = [bytes(raw) if raw else None for raw in raws]
    if whole.count(b",") != _commas(names, bodies, seqs) and (
        b"\\" in whole or whole.count(b",") != _commas(names, bodies, seqs) + _text_commas(urls, text)
    ):
        return None  # a line may have a field twice
    longest = max(map(len, raws))
    if longest > limits.body_bytes_max or (
        longest > c.FLAT_BYTES_MAX and any(map(c.too_deep, filter(None, bodies)))
    ):
        return None
    dues_ms = [wall_ms + delay for delay in delays]
    base_ns = now.elapsed_at(0)
    deadlines_ns = [due_ms * NS_PER_MS + base_ns for due_ms in dues_ms]
    tasks = map(Fresh, urls, bodies, delays, repeat(wall_ms), count(lsn), deadlines_ns)
    rows = list(map(pack, tasks))
    # Each is a RawScheduled.
    records = list(map(encode, zip(repeat("s"), keys, repeat(wall_ms), map(Raw, rows), strict=False)))
    ok, version, state, duplicate = repeat(True), repeat(1), repeat("scheduled"), repeat(False)
    replies = map(ScheduleReply, ok, ids, names, version, dues_ms, state, duplicate, seqs)
    return Batch(keys, homes, rows, deadlines_ns, records, list(replies), queues, sum(map(len, records)))


def _commas(
    names: tuple[str, ...], bodies: Sequence[bytes | None], seqs: tuple[int | str | UnsetType, ...]
) -> int:
    """Commas of plain lines in which no field stands twice and no text has one; see ``protocol/twice.py``."""
    given = list(filter(None, bodies))
    named = sum(map(is_not, names, repeat(DEFAULT_QUEUE)))  # a line without a queue has this very object
    seq = len(seqs) - seqs.count(UNSET)
    return COMMAS * len(names) + named + len(given) + b"".join(given).count(b",") + seq


def _text_commas(urls: tuple[str, ...], ids: str) -> int:
    """Commas inside text without escapes: usually in the queries of URLs."""
    return "".join(urls).count(",") + ids.count(",")
