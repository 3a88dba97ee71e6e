"""Compaction: walks over the tasks, copies those that stand in the oldest segments, trims these segments.

A few tasks at a time, in time slices between all other work: nothing waits for compaction, and the state is
not copied as a whole. If the promise about the journal's size is in danger, the compactor hurries: it then
waits for no time slice and takes as much of each pass of the loop as all clients together, which slows down
clients that write.
Nothing is read from the disk: each row has the lsn at which it stands (``core/copies.py``), and
``journal/trim_policy.py`` chooses the segments by their sizes. Because compaction makes space, its copies may
use the reserved segments; on a full disk it begins only if all that it will copy fits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import trio

from wheeltimer.core import records as r
from wheeltimer.core.copies import COPY_BYTES, copies_beside_tasks, copy_of, newest_full_lsn
from wheeltimer.core.task import unpack
from wheeltimer.journal import Sealed, history_bytes, is_urgent, segments_to_drop
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.shard.durable import DurableEngine

LOOK_S: Final = 0.5  # interval of the check for work
SLICE_ROWS: Final = 512  # rows looked at in one go: 0.2 ms
COPIES_MAX: Final = 16  # tasks in one decision: 0.3 ms; at most one decision waits for the disk
HURRIED_COPIES_MAX: Final = 64  # tasks in one decision in a hurry: 1 ms
HURRIED_DECISIONS: Final = 16  # decisions that wait for the disk in a hurry: one sync serves for all
HURRY_LOOK_S: Final = 0.05  # interval of the check whether it must hurry
COPIES_BYTES: Final = 65_536
QUEUES_MAX: Final = 512  # paused queues in one decision
PACED_NS: Final = 500_000  # of work between two pauses
PAUSE_S: Final = 0.004  # between slices, without hurry
ROOM_RETRY_S: Final = 0.5  # until the journal's space is tried again
_log = logging.getLogger("wheeltimer.compaction")


class Compactor:
    """Keeps the journal small."""

    def __init__(self, ledger: DurableEngine, turn: TimeSlices, history_wanted: int = 0) -> None:
        self._ledger, self._engine, self._journal = ledger, ledger.engine, ledger.journal
        self._turn = turn
        # At most an eighth of a segment: a frame that does not fit the rest of a segment leaves the rest
        # empty, and if that kept the size above `SEALED_WANTED`, compaction would never end.
        self._copies_bytes = min(COPIES_BYTES, self._journal.segment_bytes // 8)
        self._history = history_bytes(self._journal.segment_bytes, history_wanted)
        self.done = 0
        self.carried = 0
        self._hurries, self._looked_s = False, -HURRY_LOOK_S
        self._before: deque[int] = deque()  # the lsn before each decision that may not be on disk yet

    @property
    def live_bytes(self) -> int:
        """Bytes of a journal that had only one copy of each task. O(queues)."""
        engine = self._engine
        names = sum(len(name) for name, queue in engine.queues.items() if queue.paused)
        return engine.table.size + COPY_BYTES * sum(engine.counts) + names

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Raises StorageFailed if the journal does."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            await self.work()

    async def work(self) -> None:
        """Compact until `segments_to_drop` returns none, or the copies do not fit."""
        while True:
            going = segments_to_drop(
                self._journal.sealed, self.live_bytes, self._history, full=self._journal.full
            )
            if not going or not await self._room_for(going):
                return
            await self._compact(going)

    async def _room_for(self, going: Sequence[Sealed]) -> bool:
        """Whether the copies will fit the reserved segments; always True unless the disk is full."""
        if not self._journal.full:
            return True
        upto_lsn, total = going[-1].last_lsn, COPIES_BYTES
        for rows in self._engine.table.slices(SLICE_ROWS):
            began_ns = await self._turn.take()
            total += sum(
                len(key) + len(row) + COPY_BYTES for key, row in rows if newest_full_lsn(row) <= upto_lsn
            )
            self._turn.release(began_ns)
        return total + total // 8 <= self._journal.room

    async def _compact(self, going: Sequence[Sealed]) -> None:
        """Copy the tasks that stand in these segments, then trim them."""
        upto_lsn, began_s, before = going[-1].last_lsn, trio.current_time(), self.carried
        waiting: list[str] = []
        spent_ns, walk, more = 0, self._engine.table.slices(SLICE_ROWS), True
        while more:
            began_ns = await self._take()
            more = self._look(walk, upto_lsn, waiting, began_ns)
            spent_ns += self._turn.release(began_ns)
            while len(waiting) >= self._copies_max:
                waiting = await self._carry(waiting, upto_lsn)
                spent_ns = PACED_NS
            if spent_ns >= PACED_NS and not self._hurry():
                spent_ns = 0
                await trio.sleep(PAUSE_S)
        while waiting:
            waiting = await self._carry(waiting, upto_lsn)
        await self._submit_leftovers(upto_lsn)
        while not self._journal.trim(going[-1].number + 1):  # noqa: ASYNC110
            await trio.sleep(ROOM_RETRY_S)  # the journal has no event for new space
        await self._journal.wait_durable(self._journal.next_lsn - 1)
        while self._journal.sealed and self._journal.sealed[0].number <= going[-1].number:  # noqa: ASYNC110
            await trio.sleep(PAUSE_S)  # they are being removed
        self.done += 1
        _log.info(
            "compacted segments=%d bytes=%d carried=%d ms=%d live_bytes=%d journal_bytes=%d",
            len(going), sum(segment.size for segment in going), self.carried - before,
            (trio.current_time() - began_s) * 1000, self.live_bytes, self._journal.bytes,
        )  # fmt: skip

    def _hurry(self) -> bool:
        now_s = trio.current_time()
        if now_s - self._looked_s >= HURRY_LOOK_S:
            self._looked_s = now_s
            self._hurries = is_urgent(self._journal.sealed, self.live_bytes, self._history)
        return self._hurries

    @property
    def _copies_max(self) -> int:
        return HURRIED_COPIES_MAX if self._hurry() else COPIES_MAX

    @property
    def _decisions_max(self) -> int:
        """How many decisions may wait for the disk; with 1, the next is made while that one is written."""
        return HURRIED_DECISIONS if self._hurry() else 1

    async def _take(self) -> int:
        """Wait for a time slice, in turn with the clients, or in a hurry for the next pass; when it began."""
        if not self._hurry():
            return await self._turn.take()
        await trio.lowlevel.checkpoint()
        return self._turn.now_ns()

    def _look(
        self, walk: Iterator[list[tuple[str, bytes]]], upto_lsn: int, waiting: list[str], began_ns: int
    ) -> bool:
        """Add the keys of tasks that stand in these segments to ``waiting``; False after the last row."""
        for rows in walk:
            waiting += [key for key, row in rows if newest_full_lsn(row) <= upto_lsn]
            if not self._hurries or self._turn.over(began_ns):
                return True
        return False

    async def _carry(self, keys: list[str], upto_lsn: int) -> list[str]:
        """Copy the first of these tasks in one decision; returns the keys that are left."""
        while True:
            before_lsn = self._journal.next_lsn - 1
            began_ns = await self._take()
            records, taken = self._copies(keys, upto_lsn)
            done = not records or self._ledger.submit(records)
            self._turn.release(began_ns)
            if done:
                break
            await trio.sleep(ROOM_RETRY_S)
        self.carried += len(records)
        self._journal.flush()
        self._before.append(before_lsn)
        while len(self._before) >= self._decisions_max:
            await self._journal.wait_durable(self._before.popleft())
        return keys[taken:]

    def _copies(self, keys: Sequence[str], upto_lsn: int) -> tuple[r.Records, int]:
        """Copies of the first of these tasks, and the number of keys used: a task that changed needs none."""
        table, now_ms, lsn = self._engine.table, self._ledger.now().wall_ms, self._journal.next_lsn
        records: r.Records = []
        taken = size = 0
        for key in islice(keys, self._copies_max):
            row = table.get(key)
            if row is not None and newest_full_lsn(row) <= upto_lsn:
                size += len(row) + len(key) + COPY_BYTES
                if records and size > self._copies_bytes:
                    break
                records.append(copy_of(self._engine, key, unpack(row), now_ms, lsn + len(records)))
            taken += 1
        return records, taken

    async def _submit_leftovers(self, upto_lsn: int) -> None:
        """Append copies of the paused queues and counters that these segments hold."""
        while True:
            lsn, now_ms = self._journal.next_lsn, self._ledger.now().wall_ms
            records = copies_beside_tasks(self._engine, upto_lsn, now_ms, lsn, QUEUES_MAX)
            if not self._ledger.submit(records):
                await trio.sleep(ROOM_RETRY_S)
            elif isinstance(records[-1], r.Counted):
                return
            else:
                await trio.lowlevel.checkpoint()
