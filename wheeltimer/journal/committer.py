"""Group commit in the loop: batches, and the waiters for each lsn.

One batch is under way at a time; records appended meanwhile make the next one. ``capacity.py`` bounds what
may be appended; the blocking half is ``writer.py``, the thread ``worker.py``, spare segments are in
``preallocation.py``, the folder's content in ``recovery.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final

import trio

from wheeltimer.errors import StorageFailed

from .capacity import Capacity, charge
from .frame import Kind
from .preallocation import SPARES_WANTED, SpareSegments
from .segment import encode_trim
from .worker import Job, Worker
from .writer import SLOW_SYNC_MS, Writer

SETTLE_S: Final = 1.0  # an unsynced marker is synced after this time without a commit
LOOK_S: Final = 0.5  # interval of the check that the folder is there
ROOM_RETRY_S: Final = 1.0  # interval of tries to allocate on a full file system


@dataclass(slots=True)
class _Batch:
    kind: Kind
    records: list[bytes]
    charge: int
    last_lsn: int


class Committer(Capacity):
    """Takes decisions, commits them, wakes their waiters. ``release`` closes the files when the run ends."""

    def __init__(
        self, writer: Writer, spares: SpareSegments, hand: Worker, release: Job, unsynced_bytes_max: int
    ) -> None:
        self._spare_gone = trio.Event()
        super().__init__(writer, spares, unsynced_bytes_max)
        self.commits = 0
        """Commits since the start."""
        self.on_durable: list[Callable[[int], None]] = []
        """Called in the loop after each commit with the new :attr:`durable_lsn`; must not raise."""
        self._hand, self._release = hand, release
        self._last_lsn = self._durable = writer.next_lsn - 1
        self._records: list[bytes] = []  # the batch that is growing
        self._size = self._charge = 0
        self._ready: deque[_Batch] = deque()  # complete batches, which wait for the worker
        self._flight: _Batch | None = None
        self._jobs_after: deque[tuple[int, Job]] = deque()  # each is done once its lsn is durable
        self._busy = True  # until run() starts the worker
        self._waiters: list[tuple[int, int, trio.Event]] = []
        self._order = count()
        self._failure: StorageFailed | None = None
        self._scope: trio.CancelScope | None = None
        self._closing = False
        self._ended = trio.Event()
        self._stirred = trio.Event()
        self._last_commit_s = 0.0
        self._looking = False

    @property
    def next_lsn(self) -> int:
        """lsn of the record that is appended next; a new journal begins with 1."""
        return self._last_lsn + 1

    @property
    def durable_lsn(self) -> int:
        """Every record up to this lsn is on disk."""
        return self._durable

    @property
    def failure(self) -> StorageFailed | None:
        """The error that ended the journal, or None. Set before any waiter is woken."""
        return self._failure

    @property
    def unsynced_bytes(self) -> int:
        """Bytes charged for records that are appended and not on disk; at least their size."""
        under_way = 0 if self._flight is None else self._flight.charge
        return under_way + sum(batch.charge for batch in self._ready) + self._charge

    def append(self, records: list[bytes], reserved: int, *, hold: bool = False) -> int:
        """One decision: its records (complete msgpack values) in order; returns the last one's lsn.

        ``reserved`` is the ``size`` of its :meth:`reserve`. Never split over two frames. Its commit starts at
        once if the worker is idle, unless ``hold``: then with :meth:`flush`, with another append, or when the
        commit under way ends. Raises :class:`StorageFailed` once the journal has failed or is closing.
        """
        number = len(records)
        size = len(records[0]) if number == 1 else sum(map(len, records))
        assert 0 < size <= reserved, "a decision is larger than what was reserved for it"
        if self._closing:
            raise StorageFailed("the journal takes no more records") from self._failure
        if self._size + size > self.decision_bytes_max:
            self._close_batch(Kind.BATCH)
            hold = False  # a full batch does not wait for more
        self._size += size
        self._charge += charge(reserved)
        self._records += records
        lsn = self._last_lsn = self._last_lsn + number
        if not (hold or self._busy):
            self.flush()
        return lsn

    def flush(self) -> None:
        """Starts a commit of what was appended if the worker is idle; else the end of its job starts it."""
        if self._busy:
            return
        if self._jobs_after and self._jobs_after[0][0] <= self._durable:
            job = self._jobs_after.popleft()[1]
        elif self._ready or self._records:
            if not self._ready:
                self._close_batch(Kind.BATCH)
            batch = self._flight = self._ready.popleft()
            job = partial(self._writer.commit, batch.kind, batch.records)
        else:
            return
        self._busy = True
        self._hand.submit(job)

    def trim(self, below: int) -> bool:
        """Appends a trim of the segments with numbers below this, and removes them once it is durable.

        All that replaces them must have been appended before. False if there is no space for the record.
        """
        assert below <= self._writer.segment.number
        record = encode_trim(below)
        if not self.reserve(len(record), essential=True):
            return False
        if self._records:
            self._close_batch(Kind.BATCH)
        self._records, self._size, self._charge = [record], len(record), charge(len(record))
        self._last_lsn += 1
        self._close_batch(Kind.TRIM)
        self._jobs_after.append((self._last_lsn, partial(self._writer.drop, below)))
        self.flush()
        return True

    def mark(self) -> None:
        """Call after a clock was set: a marker with the present clocks is written and synced soon."""
        self._jobs_after.append((0, self._writer.step))
        self.flush()

    async def wait_durable(self, lsn: int) -> None:
        """Returns when every record up to ``lsn`` is on disk; about 5 us. To cancel it cancels no commit.

        Raises :class:`StorageFailed` if a write or sync failed: the records may or may not be stored.
        """
        assert lsn <= self._last_lsn, "nobody appended that"
        if lsn <= self._durable:
            await trio.lowlevel.checkpoint()
            return
        if self._failure is None:
            self.flush()
            event = trio.Event()
            heappush(self._waiters, (lsn, next(self._order), event))
            await event.wait()
        if lsn > self._durable:
            assert self._failure is not None
            raise StorageFailed(str(self._failure)) from self._failure.__cause__

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commits until :meth:`close`; a nursery task. Raises :class:`StorageFailed` if the disk fails.

        In every case it ends the commit under way, joins the thread and closes every file.
        """
        assert not self._ended.is_set(), "a journal runs once"
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                self._hand.start(self._idle)
                self._busy = False
                nursery.start_soon(self._keep_marked)
                nursery.start_soon(self._keep_spares)
                nursery.start_soon(self._keep_watch)
                nursery.start_soon(self._keep_looking)
                self.flush()
                task_status.started()
                await self._collect()
                nursery.cancel_scope.cancel()
        finally:
            self._busy = True
            await self._hand.stop()
            self._release()
            if self._durable < self._last_lsn:
                self._fail(StorageFailed("the journal was ended before its last records were on disk"))
            self._ended.set()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """A clean stop: commits what was appended, writes a STOP marker, syncs, closes files and lock.

        Raises :class:`StorageFailed` if that fails. Without :meth:`run` it only closes.
        """
        self._closing = True
        if self._scope is None:
            self._release()
            self._ended.set()
        else:
            self._jobs_after.append((self._last_lsn, self._writer.stop))
            self.flush()
        await self._ended.wait()
        if self._failure is not None:
            raise StorageFailed(str(self._failure)) from self._failure.__cause__

    def _idle(self) -> None:
        """Runs in the worker's thread after a commit: writes a marker, unless another batch waits.

        It reads the loop's lists without a lock and may miss a change: a marker more or less does no harm.
        """
        if not (self._records or self._ready):
            self._writer.idle()

    async def _collect(self) -> None:
        """Handles the end of each job, until the last one of a clean stop, or a failure."""
        while True:
            try:
                await self._hand.done()
            except OSError as exc:
                failure = StorageFailed(f"the journal cannot be written: {exc}")
                failure.__cause__ = exc
                self._fail(failure)
                return
            self._busy = False
            batch, self._flight = self._flight, None
            if batch is not None:
                self.commits += 1
                self._durable = batch.last_lsn
                self._taken -= batch.charge
                self._last_commit_s = trio.current_time()
                self._stirred.set()
            self._measure()
            self.flush()  # the next commit starts before the waiters of this one are woken
            if batch is not None:
                self._tell()
            elif self._closing and not (self._busy or self._jobs_after):
                return

    def _tell(self) -> None:
        durable, waiters = self._durable, self._waiters
        while waiters and waiters[0][0] <= durable:
            heappop(waiters)[2].set()
        for callback in self.on_durable:
            callback(durable)

    def _fail(self, failure: StorageFailed) -> None:
        """Ends the journal for good: nothing is tried again, and every waiter gets the failure."""
        if self._failure is None:
            self._failure = failure
        self._busy = self._closing = True
        while self._waiters:
            heappop(self._waiters)[2].set()
        if self._scope is not None:
            self._scope.cancel()

    def _close_batch(self, kind: Kind) -> None:
        self._ready.append(_Batch(kind, self._records, self._charge, self._last_lsn))
        self._records = []
        self._size = self._charge = 0

    def _measure(self) -> None:
        super()._measure()
        if self._spares.count < SPARES_WANTED:
            self._spare_gone.set()

    async def _keep_marked(self) -> None:
        """Syncs the marker once in every period without commits."""
        while True:
            await self._stirred.wait()
            while (due_s := self._last_commit_s + SETTLE_S) > trio.current_time():  # noqa: ASYNC110
                await trio.sleep_until(due_s)  # every commit postpones it
            self._stirred = trio.Event()
            if self._flight is None:
                self._jobs_after.append((0, self._writer.settle))
                self.flush()

    async def _keep_watch(self) -> None:
        """Logs a commit that the disk has not ended after ``SLOW_SYNC_MS``."""
        while True:
            batch = self._flight
            await trio.sleep(SLOW_SYNC_MS / 1000)
            if batch is not None and batch is self._flight:
                self._writer.pace.stuck(SLOW_SYNC_MS, self.unsynced_bytes)

    async def _keep_looking(self) -> None:
        """Ends the journal if its folder was deleted or replaced, also while nothing is committed."""
        while True:
            await trio.sleep(LOOK_S)
            if not self._looking:  # if the disk hangs, no second check is queued
                self._looking = True
                self._jobs_after.append((0, self._look))
                self.flush()

    def _look(self) -> None:
        """Runs in the worker's thread, so that the open segment does not change meanwhile."""
        self._looking = False
        self._writer.look()

    async def _keep_spares(self) -> None:
        """Allocates spare segments in advance, zeroes them piece by piece; retries while the disk is full."""
        spares, aside = self._spares, self._hand.aside
        try:
            while True:
                full = False
                while spares.count < SPARES_WANTED and not full:
                    full = not await aside(spares.allocate)
                    if not self._busy:
                        self._measure()
                if await aside(spares.zero_some):
                    continue
                self._spare_gone = trio.Event()
                if full:
                    await trio.sleep(ROOM_RETRY_S)
                elif spares.count == SPARES_WANTED:
                    await self._spare_gone.wait()
        except StorageFailed as exc:
            self._fail(exc)
