"""The state of all tasks, and ``apply``: the only thing that changes it, live and in recovery.

An input becomes records in ``deciding.py`` (what clients ask) or ``outcomes.py`` (what time and
receivers bring); a record becomes a new state here. Nothing here reads a clock, draws a number or
writes a byte. Counts, timers and indexes all follow from the rows and change together with them in
``rows.py``; ``check`` derives them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.carrying import ended_at
from wheeltimer.core.checking import check
from wheeltimer.core.limits import Limits
from wheeltimer.core.rebase import Rebase, rebased
from wheeltimer.core.rows import Rows
from wheeltimer.core.task import (
    TRANSITIONS,
    Attempt,
    Input,
    Now,
    State,
    Task,
    digest,
    pack,
    unpack,
)

# Plain values: asking an enumeration for a member by name takes fifteen times as long, by number fifty.
_SCHEDULED, _RUNNING, _DONE, _DEAD, _CANCELLED = map(
    int, (State.SCHEDULED, State.RUNNING, State.DONE, State.DEAD, State.CANCELLED)
)
_INPUT_DUE, _INPUT_START = Input.DUE, Input.START
_MOVES: Final = [[TRANSITIONS[state][what] for what in Input] for state in State]  # a list is found faster
# What brings a task to an end: while no attempt of it runs, and while one does.
_ENDINGS: Final = {
    _DONE: (Input.FINISH, Input.SUCCEED),
    _DEAD: (Input.GIVE_UP, Input.GIVE_UP),
    int(State.EXPIRED): (Input.EXPIRE, Input.EXPIRE),
    _CANCELLED: (Input.CANCEL, Input.STOP),
}


class Engine(Rows):
    """All tasks, their timers and counts. ``tick_ns`` and ``wheel_size`` shape both wheels."""

    def __init__(self, limits: Limits, now: Now, tick_ns: int, wheel_size: int) -> None:
        super().__init__(limits, now, tick_ns, wheel_size)
        # Versions whose attempt is in flight while a newer one waits: their own rules judge its answer.
        self.superseded: dict[str, Task] = {}
        self.outcomes = {"succeeded": 0, "failed": 0, "not_yet": 0}
        self._rebase: Rebase | None = None
        self._replaying = self._ends_moved = False
        # Key and task between its last ``Attempted`` and its ``Ended``, which is the next record.
        self._leaving: tuple[str, Task] | None = None
        self._appliers: dict[type, Callable[..., None]] = {
            r.Scheduled: self._scheduled,
            r.Rescheduled: self._rescheduled,
            r.Attempted: self._attempted,
            r.Stopping: self._stopping,
            r.Ended: self._ended,
            r.Paused: self._paused,
            r.Forgotten: self._forgotten,
            r.Carried: self._carried,
            r.Counted: self._counted,
            r.Due: self._due,
            r.Started: self._started,
        }

    # -- changing -------------------------------------------------------------------------------

    def apply(self, record: r.AnyRecord) -> None:
        """Make ``record`` true. A move that the table of transitions forbids is a bug."""
        self._appliers[type(record)](record)

    def replay(self, records: Iterable[r.Replayed], rebase: Rebase | None) -> list[str]:
        """Apply what an earlier run wrote; ``rebase`` for records of another boot, else None. Keys of tasks
        that a stored cancel or finish was seen for.

        Volatile records were never written; where one must have come between, it is supplied. A record
        of a task that is not there is passed over: what made the task was given up by compaction, so it was
        forgotten later, or a later record holds it whole (``carrying.py``).
        """
        self._replaying, self._rebase = True, rebase
        stops: list[str] = []
        left = iter(records)
        while (read := self._replay_fresh(left)) is not None:
            if isinstance(read, r.RawScheduled):
                self._scheduled(r.Scheduled(read.key, read.time_ms, unpack(read.task)))
                continue
            if isinstance(read, r.Stopping) or (
                isinstance(read, r.Carried) and read.task is not None and read.task.stop
            ):
                stops.append(read.key)
            self.apply(read)
        self._replaying, self._rebase = False, None
        return stops

    def replayed(self) -> None:
        """Call once all is replayed: ended tasks that were carried find their place in the order of ends.

        About 1 us for each ended task that is kept, where one was carried.
        """
        if self._ends_moved:
            self._ends_moved = False
            for kept in (self.kept_done, self.kept_dead):
                for _, key in sorted((ended_at(self.table[key]), key) for key in kept):
                    kept.move_to_end(key)

    def _replay_fresh(self, left: Iterator[r.Replayed]) -> r.Replayed | None:
        """Take in plain new tasks, most of what a start reads, by the run; answers the first other record.

        Their rows stay as they were written: they are not made into tasks and packed again.
        """
        table, rebase, other = self.table, self._rebase, None
        keys: list[str] = []
        deadlines_ns: list[int] = []
        for record in left:
            if type(record) is not r.RawScheduled:
                other = record
                break
            key, row = record.key, bytes(record.task)
            deadline_ns = r.plain_deadline(row)
            if deadline_ns is not None and rebase is not None:
                task = rebased(unpack(row), rebase)
                row, deadline_ns = pack(task), task.deadline_ns
            if deadline_ns is None or not table.put_new(key, row):
                other = record
                break
            keys.append(key)
            deadlines_ns.append(deadline_ns)
        if keys:
            self._follow_fresh(keys, deadlines_ns, Counter([key.partition("/")[0] for key in keys]))
        return other

    def _scheduled(self, record: r.Scheduled) -> None:
        task = record.task
        if self._rebase is not None:
            task = rebased(task, self._rebase)
        row = self.table.get(record.key)
        if row is None:
            self.insert(record.key, task)
        else:
            self._new_version(record.key, unpack(row), task, Input.REPLACE)

    def _rescheduled(self, record: r.Rescheduled) -> None:
        task = record.task if self._rebase is None else rebased(record.task, self._rebase)
        if self._unknown(record.key):
            self.insert(record.key, task)
            return
        old = unpack(self.table[record.key])
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
        assert task.state == state, f"a new version that is {State(task.state).word}"
        self.put(key, old, task)

    def _attempted(self, record: r.Attempted) -> None:
        if self._unknown(record.key):
            self.outcomes[record.attempt.outcome] += 1
            return
        self._supply_volatile(record.key, record.time_ms, _INPUT_START)
        old = unpack(self.table[record.key])
        assert old.state == _RUNNING, f"an attempt ended of a task that is {State(old.state).word}"
        task = old if record.ends else replace(old)
        task.history = self._history(old, record.attempt)
        if record.attempt.version == old.version:
            task.attempts, task.failures, task.polls = old.attempts + 1, record.failures, record.polls
            if not record.ends:
                task.next_given_ms = record.next_ms
                task.deadline_ns = record.deadline_ns
                if self._rebase is not None and record.deadline_ns is not None:
                    task.deadline_ns = self._rebase(record.deadline_ns)
        self.superseded.pop(record.key, None)
        self.outcomes[record.attempt.outcome] += 1
        if record.ends:
            self._leaving = record.key, task
        else:
            # A plain integer, as unpacked: msgspec leaves a default out of the row only where it is one.
            task.state, task.flight = int(self._move(old, Input.AGAIN)), 0
            self.put(record.key, old, task)

    def _history(self, task: Task, attempt: Attempt) -> list[Attempt]:
        """The last attempts, newest last; only the newest keeps its reply."""
        history = task.history or []
        kept = history[max(0, len(history) + 1 - self.limits.history_max) :]
        if kept and kept[-1].reply is not None:
            kept[-1] = replace(kept[-1], reply=None)
        return [*kept, attempt]

    def _stopping(self, record: r.Stopping) -> None:
        if self._unknown(record.key):
            return
        old = unpack(self.table[record.key])
        running = old.state == State.RUNNING or (self._replaying and old.state == State.SCHEDULED)
        assert running, f"a stop is stored for a task that is {State(old.state).word}"
        self.put(record.key, old, replace(old, stop=record.stop, stop_reply=record.reply))

    def _ended(self, record: r.Ended) -> None:
        if self._unknown(record.key):
            return
        state = int(record.state)
        if state == _DEAD:
            self._supply_volatile(record.key, record.time_ms, _INPUT_DUE)
        if self._leaving is None:
            task = unpack(self.table[record.key])
        else:
            (key, task), self._leaving = self._leaving, None
            assert key == record.key, f"the attempt that ended was of {key}"
        assert task.state <= _RUNNING, f"{State(state).word} after {State(task.state).word}"
        assert self._move(task, _ENDINGS[state][task.state == _RUNNING]) == state
        self.remove(record.key, task)
        if state in (_DONE, _CANCELLED):
            task.content = task.content or digest(task)
            task.body = None
        task.due_given_ms = task.due_ms
        task.state, task.flight, task.ended_ms, task.reason = state, 0, record.time_ms, record.reason
        task.stop, task.stop_reply = 0, None
        task.deadline_ns = task.expiry_ns = task.expiry_ms = None
        self.insert(record.key, task)

    def _paused(self, record: r.Paused) -> None:
        queue = self.queue(record.queue)
        queue.paused, queue.paused_lsn = record.paused, record.lsn
        self.drop_idle_queue(record.queue)

    def _forgotten(self, record: r.Forgotten) -> None:
        rows = [(key, unpack(self.table[key])) for key in record.keys if not self._unknown(key)]
        for _, old in rows:
            self._move(old, Input.FORGET)
        for key, old in rows:
            self.remove(key, old)
            self.table.pop(key)
            self.drop_idle_queue(key[: key.index("/")])

    def _carried(self, record: r.Carried) -> None:
        task, row = record.task, self.table.get(record.key)
        if task is None:
            queue = self.queue(record.key)
            queue.paused, queue.paused_lsn = True, record.lsn
        elif self._replaying:
            if self._rebase is not None:
                task = rebased(task, self._rebase)
            if row is not None:
                self.remove(record.key, unpack(row))
            self.insert(record.key, task)
            self._ends_moved |= task.state >= State.DONE
        else:  # the copy was made of the task as it is: only where it stands is new
            assert row is not None
            live = unpack(row)
            live.carried_lsn = task.carried_lsn
            self.table[record.key] = pack(live)

    def _counted(self, record: r.Counted) -> None:
        self.outcomes.update(succeeded=record.succeeded, failed=record.failed, not_yet=record.not_yet)

    def _due(self, record: r.Due) -> None:
        self.turn(record.key, record.task, self._move(record.task, _INPUT_DUE), 0)

    def _started(self, record: r.Started) -> None:
        task = record.task
        assert record.version == task.version, "an attempt of an older version began"
        self.turn(record.key, task, self._move(task, _INPUT_START), task.version)

    def _unknown(self, key: str) -> bool:
        """Whether a record that is replayed is of a task that is not there; see ``replay``."""
        return self._replaying and self.table.get(key) is None

    def _supply_volatile(self, key: str, time_ms: int, upto: Input) -> None:
        """In recovery, apply the volatile records that must have come before this one."""
        if self._replaying:
            task = unpack(self.table[key])
            if task.state == _SCHEDULED:
                self._due(r.Due(key, time_ms, task, 0))
                if upto is _INPUT_START:
                    self._started(r.Started(key, time_ms, task.version, task.attempts + 1, task))

    # -- the parts of a change ------------------------------------------------------------------

    @staticmethod
    def _move(task: Task, what: Input) -> State:
        state = _MOVES[task.state][what]
        assert isinstance(state, State), f"{what.name} of a task that is {State(task.state).word}"
        return state

    def check(self) -> None:
        """Derive everything again from the rows; AssertionError names what has drifted. O(tasks)."""
        check(self)
