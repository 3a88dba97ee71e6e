"""The state of all tasks, and ``apply``: the only thing that changes it, live and in recovery.

An input becomes records in ``deciding.py`` (what clients ask) or ``outcomes.py`` (what time and
receivers bring); a record becomes a new state here. Nothing here reads a clock, draws a number or
writes a byte. Counts, timers and indexes all follow from the rows and change together with them in
``_insert`` and ``_remove``; ``check`` derives them again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.checking import check
from wheeltimer.core.limits import Limits
from wheeltimer.core.rebase import Rebase, rebased
from wheeltimer.core.table import MASK, SHIFT, Table
from wheeltimer.core.task import (
    NS_PER_MS,
    TRANSITIONS,
    Attempt,
    Input,
    Now,
    State,
    Task,
    digest,
    pack,
    timers,
    unpack,
)
from wheeltimer.core.wheel import HashedWheelTimer

STATES: Final = len(State)
# Plain integers: comparing with a member of an enumeration takes three times as long.
_SCHEDULED: Final = int(State.SCHEDULED)
_READY: Final = int(State.READY)
_FIRST_END: Final = int(State.DONE)


class Queue(Struct, gc=False):
    """What is known of one queue: its tasks by state, and whether it is paused."""

    counts: list[int]
    paused: bool = False


class Engine:
    """All tasks, their timers and counts. ``tick_ns`` and ``wheel_size`` shape both wheels."""

    def __init__(self, limits: Limits, now: Now, tick_ns: int, wheel_size: int) -> None:
        self.limits = limits
        self.table = Table()
        self.queues: dict[str, Queue] = {}
        self.groups: dict[str, dict[str, None]] = {}
        self.counts = [0] * STATES
        # Versions whose attempt is in flight while a newer one waits: their own rules judge its answer.
        self.superseded: dict[str, Task] = {}
        self.outcomes = {"succeeded": 0, "failed": 0, "not_yet": 0}
        # Ended tasks in the order of their end: those without bodies, and those kept whole.
        self.kept_done: OrderedDict[str, None] = OrderedDict()
        self.kept_dead: OrderedDict[str, None] = OrderedDict()
        self.elapsed = HashedWheelTimer(tick_ns, wheel_size, self._elapsed_deadline, now.elapsed_ns)
        self.wall = HashedWheelTimer(tick_ns, wheel_size, self._wall_deadline, now.wall_ns)
        # The earliest timer put in since whoever wakes the wheels last set this, as elapsed ns.
        self.soonest_ns = 0
        self._wall_to_elapsed_ns = now.elapsed_ns - now.wall_ns
        self._rebase: Rebase | None = None
        self._replaying = False
        self._appliers: dict[type, Callable[..., None]] = {
            r.Scheduled: self._scheduled,
            r.Rescheduled: self._rescheduled,
            r.Attempted: self._attempted,
            r.Stopping: self._stopping,
            r.Ended: self._ended,
            r.Paused: self._paused,
            r.Forgotten: self._forgotten,
            r.Carried: self._carried,
            r.Due: self._due,
            r.Started: self._started,
        }

    # -- asking ---------------------------------------------------------------------------------

    @property
    def live(self) -> int:
        """Tasks that have not ended."""
        return self.counts[0] + self.counts[1] + self.counts[2]

    def get(self, key: str) -> Task | None:
        """A copy of the task: changing it changes nothing."""
        row = self.table.get(key)
        return None if row is None else unpack(row)

    def paused(self, queue: str) -> bool:
        known = self.queues.get(queue)
        return known is not None and known.paused

    # -- time -----------------------------------------------------------------------------------

    def hand_over(self, now: Now, limit: int) -> list[str]:
        """About ``limit`` keys that a wheel says are due. A key stays in its wheel until a record moves it:
        one that could not be recorded is handed over again.
        """
        self._wall_to_elapsed_ns = now.elapsed_ns - now.wall_ns
        keys = self.elapsed.expire(now.elapsed_ns, limit)
        for key in keys:
            self.elapsed.schedule(key, self._elapsed_deadline(key))
        for key in self.wall.expire(now.wall_ns, limit):
            self.wall.schedule(key, self._wall_deadline(key))
            if key not in keys:
                keys.append(key)
        return keys

    # -- changing -------------------------------------------------------------------------------

    def apply(self, record: r.AnyRecord) -> None:
        """Make ``record`` true. A move that the table of transitions forbids is a bug."""
        self._appliers[type(record)](record)

    def replay(self, records: Iterable[r.Written], rebase: Rebase | None) -> None:
        """Apply what an earlier run wrote; ``rebase`` for records of another boot, else None.

        Volatile records were never written; where one must have come between, it is supplied.
        """
        self._replaying, self._rebase = True, rebase
        for record in records:
            self._appliers[type(record)](record)
        self._replaying, self._rebase = False, None

    def _scheduled(self, record: r.Scheduled) -> None:
        task = record.task
        if self._rebase is not None:
            task = rebased(task, record.time_ms, self._rebase)
        row = self.table.get(record.key)
        if row is None:
            self._insert(record.key, task)
        else:
            self._new_version(record.key, unpack(row), task, Input.REPLACE)

    def _rescheduled(self, record: r.Rescheduled) -> None:
        old = unpack(self.table[record.key])
        task = record.task if self._rebase is None else rebased(record.task, record.time_ms, self._rebase)
        self._new_version(
            record.key, old, task, Input.REDRIVE if State(old.state).ended else Input.RESCHEDULE
        )

    def _new_version(self, key: str, old: Task, task: Task, what: Input) -> None:
        state = self._move(old, what)
        assert task.version == old.version + 1, f"version {task.version} after {old.version}"
        if state is State.RUNNING:  # it waits until the attempt in flight has ended
            task = replace(task, state=state, flight=old.flight)
            if old.flight == old.version:
                self.superseded[key] = old
        self._put(key, old, task)

    def _attempted(self, record: r.Attempted) -> None:
        self._supply_volatile(record.key, record.time_ms, Input.START)
        old = unpack(self.table[record.key])
        assert old.state == State.RUNNING, f"an attempt ended of a task that is {State(old.state).word}"
        task = replace(old, history=self._history(old, record.attempt))
        if record.attempt.version == old.version:
            task.attempts, task.failures, task.polls = old.attempts + 1, record.failures, record.polls
            if not record.ends:
                task.next_given_ms = record.next_ms
                task.deadline_ns = record.deadline_ns
                if self._rebase is not None and record.deadline_ns is not None:
                    span_ms = (record.next_ms or record.time_ms) - record.time_ms
                    task.deadline_ns = self._rebase(record.deadline_ns, span_ms)
        if not record.ends:
            # A plain integer, as unpacked: msgspec leaves a default out of the row only where it is one.
            task.state, task.flight = int(self._move(old, Input.AGAIN)), 0
        self.superseded.pop(record.key, None)
        self.outcomes[record.attempt.outcome] += 1
        self._put(record.key, old, task)

    def _history(self, task: Task, attempt: Attempt) -> list[Attempt]:
        """The last attempts, newest last; only the newest keeps its reply."""
        history = task.history or []
        kept = history[max(0, len(history) + 1 - self.limits.history_max) :]
        if kept and kept[-1].reply is not None:
            kept[-1] = replace(kept[-1], reply=None)
        return [*kept, attempt]

    def _stopping(self, record: r.Stopping) -> None:
        old = unpack(self.table[record.key])
        running = old.state == State.RUNNING or (self._replaying and old.state == State.SCHEDULED)
        assert running, f"a stop is stored for a task that is {State(old.state).word}"
        self._put(record.key, old, replace(old, stop=record.stop, stop_reply=record.reply))

    def _ended(self, record: r.Ended) -> None:
        end = State(record.state)
        if end is State.DEAD:
            self._supply_volatile(record.key, record.time_ms, Input.DUE)
        old = unpack(self.table[record.key])
        assert not State(old.state).ended, f"{end.word} after {State(old.state).word}"
        running = old.state == State.RUNNING
        what = {
            State.DONE: Input.SUCCEED if running else Input.FINISH,
            State.DEAD: Input.GIVE_UP,
            State.EXPIRED: Input.EXPIRE,
            State.CANCELLED: Input.STOP if running else Input.CANCEL,
        }[end]
        assert self._move(old, what) is end
        task = replace(
            old, state=end, flight=0, ended_ms=record.time_ms, reason=record.reason, stop=0, stop_reply=None,
            deadline_ns=None, expiry_ns=None, expiry_ms=None, due_given_ms=old.due_ms,
        )  # fmt: skip
        if end in (State.DONE, State.CANCELLED):
            task.content = old.content or digest(old)
            task.body = None
        self._put(record.key, old, task)

    def _paused(self, record: r.Paused) -> None:
        self._queue(record.queue).paused = record.paused
        self._drop_idle_queue(record.queue)

    def _forgotten(self, record: r.Forgotten) -> None:
        rows = [(key, unpack(self.table[key])) for key in record.keys]
        for _, old in rows:
            self._move(old, Input.FORGET)
        for key, old in rows:
            self._remove(key, old)
            self.table.pop(key)
            self._drop_idle_queue(key[: key.index("/")])

    def _carried(self, record: r.Carried) -> None:
        row = self.table.get(record.key)
        if record.task is None:
            self._queue(record.key).paused = True
        else:
            # Only recovery comes here: the live state is what the copy was made of.
            task = record.task if self._rebase is None else rebased(record.task, record.time_ms, self._rebase)
            if row is not None:
                self._remove(record.key, unpack(row))
            self._insert(record.key, task)

    def _due(self, record: r.Due) -> None:
        old = unpack(self.table[record.key])
        self._put(record.key, old, replace(old, state=self._move(old, Input.DUE)))

    def _started(self, record: r.Started) -> None:
        old = unpack(self.table[record.key])
        assert record.version == old.version, "an attempt of an older version began"
        self._put(record.key, old, replace(old, state=self._move(old, Input.START), flight=old.version))

    def _supply_volatile(self, key: str, time_ms: int, upto: Input) -> None:
        """In recovery, apply the volatile records that must have come before this one."""
        if self._replaying:
            task = unpack(self.table[key])
            if task.state == State.SCHEDULED:
                self._due(r.Due(key, time_ms))
                if upto is Input.START:
                    self._started(r.Started(key, time_ms, task.version, task.attempts + 1))

    # -- the parts of a change ------------------------------------------------------------------

    @staticmethod
    def _move(task: Task, what: Input) -> State:
        state = TRANSITIONS[State(task.state)][what]
        assert isinstance(state, State), f"{what.name} of a task that is {State(task.state).word}"
        return state

    def _put(self, key: str, old: Task, new: Task) -> None:
        """Replace ``old`` by ``new``; timers, counts and indexes follow."""
        self._remove(key, old)
        self._insert(key, new)

    def _insert(self, key: str, task: Task) -> None:
        """Put in a task that is not there. The way every new task comes: nothing is done twice here."""
        self.table[key] = pack(task)
        state = task.state
        if state == _SCHEDULED and task.expiry_ns is None and task.expiry_ms is None:  # most; see timers()
            elapsed_ns, wall_ms = task.deadline_ns, None if task.deadline_ns is not None else task.due_ms
        else:
            elapsed_ns, wall_ms = timers(task)
        if elapsed_ns is not None:
            self.elapsed.schedule(key, elapsed_ns)
            if elapsed_ns < self.soonest_ns:
                self.soonest_ns = elapsed_ns
        if wall_ms is not None:
            self.wall.schedule(key, wall_ms * NS_PER_MS)
            self.soonest_ns = min(self.soonest_ns, wall_ms * NS_PER_MS + self._wall_to_elapsed_ns)
        self.counts[state] += 1
        name = key[: key.index("/")]
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue([0] * STATES)
        queue.counts[state] += 1
        if state >= _FIRST_END:
            self.kept(state)[key] = None
        if task.group is not None:
            self.groups.setdefault(task.group, {})[key] = None

    def insert_fresh(
        self, keys: Sequence[str], rows: Sequence[bytes], deadlines_ns: Sequence[int], queues: dict[str, int]
    ) -> None:
        """``_insert`` for a run of new tasks that wait for an elapsed deadline and have nothing else."""
        shards = self.table.shards
        for key, row in zip(keys, rows, strict=True):
            shards[hash(key) >> SHIFT & MASK][key] = row
        self.elapsed.schedule_many(keys, deadlines_ns)
        self.soonest_ns = min(self.soonest_ns, *deadlines_ns)
        self.counts[_SCHEDULED] += len(keys)
        for name, count in queues.items():
            self._queue(name).counts[_SCHEDULED] += count

    def _remove(self, key: str, task: Task) -> None:
        """``_insert`` undone; the row itself is left to be replaced, or to ``_forgotten``."""
        elapsed_ns, wall_ms = timers(task)
        if elapsed_ns is not None:
            self.elapsed.cancel(key, elapsed_ns)
        if wall_ms is not None:
            self.wall.cancel(key, wall_ms * NS_PER_MS)
        state = task.state
        self.counts[state] -= 1
        self.queues[key[: key.index("/")]].counts[state] -= 1
        if state >= _FIRST_END:
            del self.kept(state)[key]
        if task.group is not None:
            members = self.groups[task.group]
            del members[key]
            if not members:
                del self.groups[task.group]

    def kept(self, state: int) -> OrderedDict[str, None]:
        return self.kept_done if state in (State.DONE, State.CANCELLED) else self.kept_dead

    def _queue(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue([0] * STATES)
        return queue

    def _drop_idle_queue(self, name: str) -> None:
        queue = self.queues[name]
        if not queue.paused and not any(queue.counts):
            del self.queues[name]

    def _elapsed_deadline(self, key: str) -> int:
        deadline_ns, _ = timers(unpack(self.table[key]))
        assert deadline_ns is not None
        return deadline_ns

    def _wall_deadline(self, key: str) -> int:
        _, wall_ms = timers(unpack(self.table[key]))
        assert wall_ms is not None
        return wall_ms * NS_PER_MS

    def check(self) -> None:
        """Derive everything again from the rows; AssertionError names what has drifted. O(tasks)."""
        check(self)
