"""The rows of all tasks, and all that is derived from them: timers, counts, the order of ends, groups.

Timers, counts and indexes change only here, together with their rows: one task at a time, from one live
state to the next, or a batch at a time; so they cannot drift. A replay changes rows alone: timers, counts and
indexes are derived once, when all rows are final. ``engine.py`` decides which change a record makes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from wheeltimer.core.row import indexed
from wheeltimer.core.task import NS_PER_MS, Now, Task, pack, timers, unpack
from wheeltimer.core.timers import TimerPair
from wheeltimer.core.wheel import HashedWheelTimer
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.task_view import State

STATES: Final = len(State)
KEPT_TICK_NS: Final = 1_000_000_000  # tick of the wheel of ended tasks: retention need not be more exact
KEPT_WHEEL_SIZE: Final = 4096  # buckets: a little over an hour
KEPT_EXACT: Final = 1000  # ended tasks are forgotten to 1/KEPT_EXACT of their retention, or to a second
FOLLOWED_ROWS: Final = 4096  # rows decoded before their timers and counts are added
# Plain integers: comparing with a member of an enumeration takes three times as long.
_SCHEDULED: Final = int(State.SCHEDULED)
_RUNNING: Final = int(State.RUNNING)
_FIRST_END: Final = int(State.DONE)
_NO_TIMERS: Final = (None, None)
_KEPT_WHOLE: Final = (int(State.DEAD), int(State.EXPIRED))


class Queue(Struct, gc=False):
    """One queue: its tasks by state, whether it is paused, and the lsn of the record that paused it."""

    counts: list[int]
    paused: bool = False
    paused_lsn: int = 0


class TaskStore:
    """All tasks at rest. ``tick_ns`` and ``wheel_size`` shape both wheels."""

    def __init__(self, limits: Limits, now: Now, tick_ns: int, wheel_size: int) -> None:
        self.limits = limits
        self.table = Table()
        self.queues: dict[str, Queue] = {}
        self.groups: dict[str, dict[str, None]] = {}
        self.counts = [0] * STATES
        # Ended tasks in the order of their end: those without bodies, and those kept whole.
        self.kept_done: OrderedDict[str, None] = OrderedDict()
        self.kept_dead: OrderedDict[str, None] = OrderedDict()
        self.elapsed = TimerPair(tick_ns, wheel_size, self._elapsed_deadline, now.elapsed_ns)
        self.wall = TimerPair(tick_ns, wheel_size, self._wall_deadline, now.wall_ns)
        # Ended tasks, by elapsed time. A wheel of their own, so that many of them delay no due task.
        self.kept_wheel = HashedWheelTimer(KEPT_TICK_NS, KEPT_WHEEL_SIZE, self._forget_ns_of, now.elapsed_ns)
        self._handed_kept: set[str] = set()
        # Wall time minus elapsed time: at the start, and at the last `see`.
        self.ahead_at_start_ns = self.ahead_ns = now.wall_ns - now.elapsed_ns
        self.start_ns = now.elapsed_ns
        # Keys that the wheels handed over and whose task no record has moved yet.
        self._handed_elapsed: set[str] = set()
        self._handed_wall: set[str] = set()
        # The earliest timer added since `next_wake_ns` was last called, as elapsed ns.
        self.earliest_added_ns = 0
        self._wall_to_elapsed_ns = now.elapsed_ns - now.wall_ns
        self._replaying = False  # if True, only rows change; ``_follow_all`` derives the rest

    # -- asking ---------------------------------------------------------------------------------

    @property
    def live(self) -> int:
        """Tasks that have not ended."""
        return self.counts[0] + self.counts[1] + self.counts[2]

    def get(self, key: str) -> Task | None:
        """The task, unpacked: to change it does not change the row. None if there is none."""
        row = self.table.get(key)
        return None if row is None else unpack(row)

    def paused(self, queue: str) -> bool:
        known = self.queues.get(queue)
        return known is not None and known.paused

    # -- time -----------------------------------------------------------------------------------

    def timers(self, task: Task) -> tuple[int | None, int | None]:
        """When the task must be looked at next: (ns of elapsed time, Unix ms), each None if never."""
        return timers(task) if task.state < _FIRST_END else _NO_TIMERS

    def forget_ns(self, task: Task) -> int:
        """When the retention of an ended task is over, in ns of elapsed time."""
        return self.ended_ns(task) + self.kept_ms(task.state) * NS_PER_MS

    def ended_ns(self, task: Task) -> int:
        """When the task ended, in ns of elapsed time: from its row, else from its wall time; see `see`."""
        if task.deadline_ns is not None:
            return task.deadline_ns
        assert task.ended_ms is not None
        return task.ended_ms * NS_PER_MS - self.ahead_at_start_ns

    def see(self, now: Now) -> None:
        """Note how far the wall clock is ahead of elapsed time. Call before an end is applied.

        The row of an ended task has the wall time of its end. If the wall clock was set between the start and
        the end, the row has the elapsed time of the end too, as ``deadline_ns``.
        """
        self.ahead_ns = now.wall_ns - now.elapsed_ns

    def kept_ms(self, state: int) -> int:
        """How long an ended task is kept, in ms."""
        return self.limits.keep_dead_ms if state in _KEPT_WHOLE else self.limits.keep_done_ms

    def take_due(self, now: Now, limit: int) -> list[str]:
        """About ``limit`` keys that are due. A key whose task no record moves is handed over again."""
        self._wall_to_elapsed_ns = now.elapsed_ns - now.wall_ns
        self.see(now)
        self.requeue_untouched()
        keys = self.elapsed.expire(now.elapsed_ns, limit)
        self._handed_elapsed.update(keys)
        by_wall = self.wall.expire(now.wall_ns, limit)
        self._handed_wall.update(by_wall)
        keys += [key for key in by_wall if key not in self._handed_elapsed]
        over = self.kept_wheel.expire(now.elapsed_ns, limit)
        self._handed_kept.update(over)
        return keys + over

    def next_wake_ns(self, now: Now, horizon_ns: int) -> int:
        """When to call `take_due` again, in ns of elapsed time; sets ``earliest_added_ns`` to the horizon."""
        self.requeue_untouched()
        self.earliest_added_ns = now.elapsed_ns + horizon_ns
        elapsed_ns = self.elapsed.next_wake_ns(now.elapsed_ns, horizon_ns)
        wall_ns = self.wall.next_wake_ns(now.wall_ns, horizon_ns)
        kept_ns = self.kept_wheel.next_wake_ns(now.elapsed_ns, horizon_ns)
        return min(elapsed_ns, now.elapsed_ns + wall_ns - now.wall_ns, kept_ns)

    def requeue_untouched(self) -> None:
        """Put back into the wheels every key that was handed over and not moved.

        There is one only if the journal had no space for its record.
        """
        while self._handed_elapsed:
            key = self._handed_elapsed.pop()
            self.elapsed.schedule(key, self._elapsed_deadline(key))
        while self._handed_wall:
            key = self._handed_wall.pop()
            self.wall.schedule(key, self._wall_deadline(key))
        while self._handed_kept:
            key = self._handed_kept.pop()
            self.kept_wheel.schedule(key, self._forget_ns_of(key))

    # -- changing -------------------------------------------------------------------------------

    def put(self, key: str, old: Task, new: Task) -> None:
        """Replace ``old`` by ``new``, with timers, counts and indexes."""
        self.remove(key, old)
        self.insert(key, new)

    def turn(self, key: str, task: Task, state: State, flight: int) -> None:
        """``put`` for a task that moves from one live state to another and stays the same otherwise.

        A task that has no timers gets none by it.
        """
        before, was = timers(task), task.state
        # A plain integer, as unpacked: msgspec writes a member of an enumeration even if it is the default.
        task.state, task.flight = int(state), flight
        self.table[key] = pack(task)
        if before != _NO_TIMERS and (after := timers(task)) != before:
            self._stop_timers(key, *before)
            self._start_timers(key, *after)
        self.counts[was] -= 1
        self.counts[state] += 1
        counts = self.queues[key[: key.index("/")]].counts
        counts[was] -= 1
        counts[state] += 1

    def insert(self, key: str, task: Task) -> None:
        """Add a task whose key has no timers, counts or indexes: new, or just removed by ``remove``."""
        self.table[key] = pack(task)
        if self._replaying:
            return
        state = task.state
        if state == _SCHEDULED and task.expiry_ns is None and task.expiry_ms is None:  # most; see timers()
            elapsed_ns, wall_ms = task.deadline_ns, None if task.deadline_ns is not None else task.due_ms
        else:
            elapsed_ns, wall_ms = self.timers(task)
        self._start_timers(key, elapsed_ns, wall_ms)
        self.counts[state] += 1
        self.queue(key[: key.index("/")]).counts[state] += 1
        if state >= _FIRST_END:
            self.kept(state)[key] = None
            forget_ns = self.forget_ns(task)
            self.kept_wheel.schedule(key, forget_ns)
            self.earliest_added_ns = min(self.earliest_added_ns, forget_ns)
        if task.group is not None:
            self.groups.setdefault(task.group, {})[key] = None

    def insert_fresh(
        self, homes: Sequence[Shard], keys: Sequence[str], rows: Sequence[bytes],
        deadlines_ns: Sequence[int], queues: dict[str, int],
    ) -> None:  # fmt: skip
        """``insert`` for a batch of new tasks that wait for an elapsed deadline, without expiry or group.

        ``homes``: the shard of each key, looked up since the table last changed. ``queues``: how many tasks
        each queue gets.
        """
        self.table.put_run(homes, keys, rows)
        self.elapsed.schedule_many(keys, deadlines_ns)
        self.earliest_added_ns = min(self.earliest_added_ns, *deadlines_ns)
        self._count(_SCHEDULED, queues)

    def _count(self, state: int, queues: dict[str, int]) -> None:
        """Add to the counts of each queue its number of tasks, all in this state."""
        self.counts[state] += sum(queues.values())
        for name, count in queues.items():
            self.queue(name).counts[state] += count

    def _follow_all(self) -> None:
        """Derive timers, counts and groups of all rows; there are none before. About 1 us a row."""
        assert not any(self.counts), "what follows from rows is derived into nothing"
        kept_ms = [self.kept_ms(state) for state in range(STATES)]
        for rows in self.table.slices(FOLLOWED_ROWS):
            names: list[list[str]] = [[] for _ in range(STATES)]
            keys, deadlines_ns = list[str](), list[int]()
            ended, forgotten_ns = list[str](), list[int]()
            for key, row in rows:
                seen = indexed(row)
                state = seen.state
                names[state].append(key[: key.index("/")])
                deadline_ns = seen.deadline_ns
                if state >= _FIRST_END:
                    ended.append(key)
                    if deadline_ns is None:
                        deadline_ns = seen.ended_ms * NS_PER_MS - self.ahead_at_start_ns
                    forgotten_ns.append(deadline_ns + kept_ms[state] * NS_PER_MS)
                elif (
                    state == _SCHEDULED
                    and deadline_ns is not None
                    and seen.expiry_ns is None
                    and seen.expiry_ms is None
                ):
                    keys.append(key)
                    deadlines_ns.append(deadline_ns)
                else:
                    self._start_timers(key, *timers(unpack(row)))
                if seen.group is not None:
                    self.groups.setdefault(seen.group, {})[key] = None
            if keys:
                self.elapsed.schedule_many(keys, deadlines_ns)
            if ended:
                self.kept_wheel.schedule_many(ended, forgotten_ns)
            for state, of_state in enumerate(names):
                self._count(state, Counter(of_state))

    def remove(self, key: str, task: Task) -> None:
        """Undo ``insert``, except for the row: the caller replaces it or removes it from the table."""
        if self._replaying:
            return
        state = task.state
        if state != _RUNNING:  # a running task has no timers
            self._stop_timers(key, *self.timers(task))
        self.counts[state] -= 1
        self.queues[key[: key.index("/")]].counts[state] -= 1
        if state >= _FIRST_END:
            del self.kept(state)[key]
            if key in self._handed_kept:
                self._handed_kept.remove(key)
            else:
                self.kept_wheel.cancel(key, self.forget_ns(task))
        if task.group is not None:
            members = self.groups[task.group]
            del members[key]
            if not members:
                del self.groups[task.group]

    def _start_timers(self, key: str, elapsed_ns: int | None, wall_ms: int | None) -> None:
        if elapsed_ns is not None:
            self.elapsed.schedule(key, elapsed_ns)
            if elapsed_ns < self.earliest_added_ns:
                self.earliest_added_ns = elapsed_ns
        if wall_ms is not None:
            self.wall.schedule(key, wall_ms * NS_PER_MS)
            self.earliest_added_ns = min(
                self.earliest_added_ns, wall_ms * NS_PER_MS + self._wall_to_elapsed_ns
            )

    def _stop_timers(self, key: str, elapsed_ns: int | None, wall_ms: int | None) -> None:
        if elapsed_ns is not None:
            if key in self._handed_elapsed:
                self._handed_elapsed.remove(key)
            else:
                self.elapsed.cancel(key, elapsed_ns)
        if wall_ms is not None:
            if key in self._handed_wall:
                self._handed_wall.remove(key)
            else:
                self.wall.cancel(key, wall_ms * NS_PER_MS)

    def kept(self, state: int) -> OrderedDict[str, None]:
        return self.kept_dead if state in _KEPT_WHOLE else self.kept_done

    def queue(self, name: str) -> Queue:
        """The queue of this name; made if there is none."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue([0] * STATES)
        return queue

    def drop_idle_queue(self, name: str) -> None:
        queue = self.queues[name]
        if not queue.paused and not any(queue.counts):
            del self.queues[name]

    def _elapsed_deadline(self, key: str) -> int:
        deadline_ns, _ = timers(unpack(self.table[key]))
        assert deadline_ns is not None
        return deadline_ns

    def _forget_ns_of(self, key: str) -> int:
        return self.forget_ns(unpack(self.table[key]))

    def _wall_deadline(self, key: str) -> int:
        _, wall_ms = self.timers(unpack(self.table[key]))
        assert wall_ms is not None
        return wall_ms * NS_PER_MS


# -- the table of tasks at rest: key to row, in shards -----------------------------------------------------
# One big dict would stop the loop for tens of milliseconds whenever it grows, and cannot be walked in
# slices while it changes. A thousand small ones have neither problem. The table does not decode the rows.

SHARDS: Final = 1024
_MASK: Final = SHARDS - 1
_SHIFT: Final = 32  # a shard's dict uses the low bits of the hash, so they must differ within one shard

Shard = dict[str, bytes]


class Table:
    """``key -> row`` (packed bytes). Every operation costs the same with 10 rows and 10 million."""

    def __init__(self) -> None:
        self.shards: list[Shard] = [{} for _ in range(SHARDS)]
        self._emptied = [0] * SHARDS
        self.size = 0  # bytes of all keys and rows

    def homes(self, keys: Iterable[str]) -> list[Shard]:
        """The shard of each key, valid until a key is removed. `decide_batch` looks up in it, then adds."""
        shards = self.shards
        return [shards[hash(key) >> _SHIFT & _MASK] for key in keys]

    def get(self, key: str) -> bytes | None:
        return self.shards[hash(key) >> _SHIFT & _MASK].get(key)

    def __getitem__(self, key: str) -> bytes:
        return self.shards[hash(key) >> _SHIFT & _MASK][key]

    def __setitem__(self, key: str, row: bytes) -> None:
        shard = self.shards[hash(key) >> _SHIFT & _MASK]
        old = shard.get(key)
        self.size += len(key) + len(row) if old is None else len(row) - len(old)
        shard[key] = row

    def put_new(self, key: str, row: bytes) -> bool:
        """Add a key that is not there; False, and no change, if it is there."""
        shard = self.shards[hash(key) >> _SHIFT & _MASK]
        if key in shard:
            return False
        shard[key] = row
        self.size += len(key) + len(row)
        return True

    def put_run(self, homes: Sequence[Shard], keys: Sequence[str], rows: Sequence[bytes]) -> None:
        """Add keys that are not there; ``homes`` must be looked up since a key was last removed."""
        for home, key, row in zip(homes, keys, rows, strict=True):
            home[key] = row
        self.size += sum(map(len, keys)) + sum(map(len, rows))

    def pop(self, key: str) -> None:
        """Remove a key that is there; a shard that has lost most of its rows is rebuilt to free memory."""
        number = hash(key) >> _SHIFT & _MASK
        shard = self.shards[number]
        self.size -= len(key) + len(shard.pop(key))
        self._emptied[number] += 1
        if self._emptied[number] > 64 + 2 * len(shard):
            self.shards[number] = dict(shard)
            self._emptied[number] = 0

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def slices(self, size: int = 256) -> Iterator[list[tuple[str, bytes]]]:
        """All rows, at most ``size`` at a time; the table may change between two slices.

        A row that is there from beginning to end is returned exactly once. One that is added, changed or
        removed meanwhile is returned once or not at all, as it was when its shard was reached.
        """
        for number in range(SHARDS):
            rows = list(self.shards[number].items())
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All rows; the table may not change meanwhile."""
        for shard in self.shards:
            yield from shard.items()
