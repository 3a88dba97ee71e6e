"""The state of all tasks, and ``apply``: the only thing that changes it.

``replay`` does the same for what an earlier run of the daemon wrote, ``insert_fresh`` (``store.py``) for a
batch of new tasks.

An input becomes records in ``schedule.py`` and ``control.py`` (clients' requests) or ``outcome.py`` (time and
receivers' answers); a record becomes a new state here. Nothing here reads a clock, draws a number or
writes a byte. Counts, timers and indexes all follow from the rows and change together with them in
``store.py``; ``check`` derives them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core import states
from wheeltimer.core.replay import Rebase, rebased
from wheeltimer.core.row import Copied, copied
from wheeltimer.core.states import Input
from wheeltimer.core.store import KEPT_EXACT, KEPT_TICK_NS, TaskStore
from wheeltimer.core.task import NS_PER_MS, Now, Task, pack, unpack
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.task_view import State

# Plain values: asking an enumeration for a member by name takes fifteen times as long, by number fifty.
_SCHEDULED, _READY, _RUNNING, _DONE, _DEAD = map(
    int, (State.SCHEDULED, State.READY, State.RUNNING, State.DONE, State.DEAD)
)
_INPUT_DUE, _INPUT_START, _INPUT_LAPSE = Input.DUE, Input.START, Input.LAPSE


class Engine(TaskStore):
    """All tasks, their timers and counts. ``tick_ns`` and ``wheel_size`` shape both wheels."""

    def __init__(self, limits: Limits, now: Now, tick_ns: int, wheel_size: int) -> None:
        super().__init__(limits, now, tick_ns, wheel_size)
        # Versions whose attempt is in flight while a newer one waits: their rules apply to its answer.
        self.superseded: dict[str, Task] = {}
        self.outcomes = {"succeeded": 0, "failed": 0, "not_yet": 0}
        self._rebase: Rebase | None = None
        # Key and task between a task's last ``Attempted`` and its ``Ended``, which is the next record.
        self._leaving: tuple[str, Task] | None = None
        # In a replay: ends so far, in their order. If it is a ``Copied``, the row is already an ended task's.
        self._ends: dict[str, r.Ended | Copied] = {}
        self._ends_ns: dict[str, int] = {}  # their elapsed time, if their wall time is too far off
        self._ends_copied = False
        self._stops: list[str] = []
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
            r.Lapsed: self._lapsed,
        }
        self._replayers = self._appliers | {
            r.RawScheduled: self._scheduled_row,
            r.Ended: self._end_waits,
            r.Forgotten: self._forgotten_again,
            r.RawCarried: self._carried_row,
        }

    # -- changing -------------------------------------------------------------------------------

    def apply(self, record: r.AnyRecord) -> None:
        """Carry out ``record``. A move that the table of transitions forbids is a bug."""
        self._appliers[type(record)](record)

    def replay(
        self, records: Iterable[r.RawRecord], rebase: Rebase | None, ahead_ns: int | None = None
    ) -> list[str]:
        """Apply what an earlier run wrote. Returns the keys of tasks with a stored cancel or finish.

        ``rebase``: for records of another boot, else None. ``ahead_ns``: the wall time of an end in them,
        minus its elapsed time on this boot's line. Only rows change: call ``replayed`` before anything else.

        Volatile records were never written; their effect is supplied. A record of a task that is not there
        is skipped: compaction removed the record that made the task, so the task was forgotten later, or a
        later record holds all of it (``copies.py``). An end is applied only when all is read: most tasks
        that have ended are forgotten, or start again, before that.
        """
        self._replaying, self._rebase, self._stops = True, rebase, []
        present_ns = self.ahead_ns
        self.ahead_ns = present_ns if ahead_ns is None else ahead_ns
        replayers = self._replayers
        for record in records:
            replayers[type(record)](record)
        self._rebase, self.ahead_ns = None, present_ns
        return self._stops

    def replayed(self) -> None:
        """Call once all is replayed: applies the ends, and derives timers, counts and indexes from the rows.

        About 1 us for each task, 5 us for one that has ended.
        """
        ends, self._ends, table = self._ends, {}, self.table
        for key, end in ends.items():
            if isinstance(end, r.Ended):
                task = unpack(table[key])
                if end.state == _DEAD and task.state == _SCHEDULED:
                    task.state = _READY  # as the volatile ``Due``, which was not written, left it
                states.check_end(task, end.state)
                states.end(task, end)
                task.deadline_ns = self._ends_ns.get(key)
                table[key] = pack(task)
        self._ends_ns.clear()
        order = [(end.time_ms, key, end.state) for key, end in ends.items()]
        if self._ends_copied:  # copies are in no order
            order.sort()
            self._ends_copied = False
        for _, key, state in order:
            self.kept(state)[key] = None
        self._follow_all()
        self._replaying = False

    def _scheduled_row(self, record: r.RawScheduled) -> None:
        """Keeps a new task's row as it was written, without decoding it: most of what a start reads."""
        if self._rebase is not None or not self.table.put_new(record.key, bytes(record.task)):
            self._scheduled(r.Scheduled(record.key, record.time_ms, unpack(record.task)))

    def _scheduled(self, record: r.Scheduled) -> None:
        task = record.task if self._rebase is None else rebased(record.task, self._rebase)
        old = self._known(record.key)
        if old is None:
            self.insert(record.key, task)
        else:
            self._new_version(record.key, old, task, Input.REPLACE)

    def _rescheduled(self, record: r.Rescheduled) -> None:
        task = record.task if self._rebase is None else rebased(record.task, self._rebase)
        old = self._known(record.key)
        if old is None:
            assert self._replaying, f"a new version of {record.key}, which is not there"
            self.insert(record.key, task)
        else:
            self._new_version(
                record.key, old, task, Input.REDRIVE if State(old.state).ended else Input.RESCHEDULE
            )

    def _new_version(self, key: str, old: Task, task: Task, what: Input) -> None:
        state = states.moved(old, what)
        assert task.version == old.version + 1, f"version {task.version} after {old.version}"
        if state is State.RUNNING:  # it waits until the attempt in flight has ended
            task = replace(task, state=state, flight=old.flight)
            if old.flight == old.version:
                self.superseded[key] = old
        assert task.state == state, f"a new version that is {State(task.state).word}"
        self.put(key, old, task)
        if self._replaying:
            self._ends.pop(key, None)

    def _attempted(self, record: r.Attempted) -> None:
        old = self._brought_to(_RUNNING, record.key)
        if old is None:
            self.outcomes[record.attempt.outcome] += 1
            return
        assert old.state == _RUNNING, f"an attempt ended of a task that is {State(old.state).word}"
        task = old if record.ends else replace(old)
        task.history = states.history(old, record.attempt, self.limits.history_max)
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
            # A plain integer, as unpacked: msgspec writes an enumeration's member even if it is the default.
            task.state, task.flight = int(states.moved(old, Input.RETRY)), 0
            self.put(record.key, old, task)

    def _stopping(self, record: r.Stopping) -> None:
        old = self._known(record.key)
        if self._replaying:
            if old is None:
                return
            self._stops.append(record.key)
        assert old is not None, f"a stop is stored for {record.key}, which is not there"
        running = _SCHEDULED if self._replaying else _RUNNING  # ``Started`` is never written
        assert old.state == running, f"a stop is stored for a task that is {State(old.state).word}"
        self.put(record.key, old, replace(old, stop=record.stop, stop_reply=record.reply))

    def _end_waits(self, record: r.Ended) -> None:
        key = record.key
        if self._leaving is not None:
            self._ended(record)
            self._ends[key] = Copied(record.state, 0, record.time_ms)
        elif self.table.get(key) is not None:
            assert key not in self._ends, f"the end of {key}, which has ended"
            self._ends[key] = record
            self._ends_ns.pop(key, None)
            if (ended_ns := self._ended_apart(record.state, record.time_ms)) is not None:
                self._ends_ns[key] = ended_ns

    def _ended(self, record: r.Ended) -> None:
        if self._leaving is None:
            task = unpack(self.table[record.key])
        else:
            (key, task), self._leaving = self._leaving, None
            assert key == record.key, f"the attempt that ended was of {key}"
        states.check_end(task, record.state)
        self.superseded.pop(record.key, None)  # there if a stored stop ended the task after a lapse
        self.remove(record.key, task)
        states.end(task, record)
        task.deadline_ns = self._ended_apart(record.state, record.time_ms)
        self.insert(record.key, task)

    def _paused(self, record: r.Paused) -> None:
        queue = self.queue(record.queue)
        queue.paused, queue.paused_lsn = record.paused, record.lsn
        self.drop_idle_queue(record.queue)

    def _forgotten(self, record: r.Forgotten) -> None:
        rows = [(key, unpack(self.table[key])) for key in record.keys]
        for _, old in rows:
            states.moved(old, Input.PURGE)
        for key, old in rows:
            self.remove(key, old)
            self.table.pop(key)
            self.drop_idle_queue(key[: key.index("/")])

    def _forgotten_again(self, record: r.Forgotten) -> None:
        for key in record.keys:
            if self._ends.pop(key, None) is not None:
                self.table.pop(key)
            else:
                assert self.table.get(key) is None, f"{key} is forgotten and has not ended"

    def _carried(self, record: r.Carried) -> None:
        """The copy was made of the task as it is now: only ``carried_lsn`` changes."""
        if record.task is None:
            self._paused_at(record.key, record.lsn)
            return
        live = unpack(self.table[record.key])
        live.carried_lsn = record.task.carried_lsn
        self.table[record.key] = pack(live)

    def _carried_row(self, record: r.RawCarried) -> None:
        """The copy replaces the row that is there, if any; its own row stays as it was written."""
        key, row = record.key, bytes(record.task)
        if row == r.NIL:
            self._paused_at(key, record.lsn)
            return
        copy = copied(row)
        row = self._copy_of_now(row, copy)
        if not self.table.put_new(key, row):
            self.table[key] = row
            self._ends.pop(key, None)
        if copy.state >= _DONE:
            self._ends[key] = copy
            self._ends_copied = True
        if copy.stop:
            self._stops.append(key)

    def _ended_apart(self, state: int, ended_ms: int, ended_ns: int | None = None) -> int | None:
        """The elapsed time of an end, if the one computed from its wall time and the clocks at the start is
        wrong by more than a second and more than 1/`KEPT_EXACT` of the task's retention; else None.

        ``ended_ns``: the elapsed time of the end, if known.
        """
        stepped_ns = abs(self.ahead_ns - self.ahead_at_start_ns)
        if ended_ns is None and self._rebase is None and stepped_ns <= KEPT_TICK_NS:
            return None  # nearly always: the wall clock was not set since the start
        wall_ns = ended_ms * NS_PER_MS
        ended_ns = wall_ns - self.ahead_ns if ended_ns is None else ended_ns
        if self._rebase is not None:
            ended_ns = min(ended_ns, self.start_ns)  # it is past, whatever that boot's wall clock showed
        error_ns = abs(wall_ns - self.ahead_at_start_ns - ended_ns)
        tolerance_ns = max(KEPT_TICK_NS, self.kept_ms(state) * NS_PER_MS // KEPT_EXACT)
        return ended_ns if error_ns > tolerance_ns else None

    def _copy_of_now(self, row: bytes, copy: Copied) -> bytes:
        """A copied row with its elapsed times on this boot's line; unchanged if it has none."""
        if copy.state < _DONE:
            return row if self._rebase is None else pack(rebased(unpack(row), self._rebase))
        ended_ns = copy.deadline_ns
        if ended_ns is not None and self._rebase is not None:
            ended_ns = self._rebase(ended_ns)
        ended_ns = self._ended_apart(copy.state, copy.time_ms, ended_ns)
        if ended_ns == copy.deadline_ns:
            return row
        return pack(replace(unpack(row), deadline_ns=ended_ns))

    def _paused_at(self, name: str, lsn: int) -> None:
        queue = self.queue(name)
        queue.paused, queue.paused_lsn = True, lsn

    def _counted(self, record: r.Counted) -> None:
        self.outcomes.update(succeeded=record.succeeded, failed=record.failed, not_yet=record.not_yet)

    def _due(self, record: r.Due) -> None:
        self.turn(record.key, record.task, states.moved(record.task, _INPUT_DUE), 0)

    def _started(self, record: r.Started) -> None:
        task = record.task
        assert record.version == task.version, "an attempt of an older version began"
        self.turn(record.key, task, states.moved(task, _INPUT_START), task.version)

    def _lapsed(self, record: r.Lapsed) -> None:
        key, task = record.key, record.task
        assert not task.stop, f"the attempt of {key} lapsed, and its stored stop is passed over"
        present = task.flight == task.version
        state = states.moved(task, _INPUT_LAPSE if present else Input.RETRY)
        self.superseded.pop(key, None)
        self.put(key, task, replace(task, state=int(state), flight=0))

    def _known(self, key: str) -> Task | None:
        """The task, None if it is not there."""
        row = self.table.get(key)
        if row is None:
            return None
        task = unpack(row)
        if self._replaying and (end := self._ends.get(key)) is not None:
            task.state = end.state
        return task

    def _brought_to(self, state: int, key: str) -> Task | None:
        """The task of a record. In a replay: None if it is not there (see ``replay``), and in ``state`` if it
        was scheduled, because volatile records, which are not written, came between.
        """
        task = self._known(key)
        if self._replaying:
            if task is not None and task.state == _SCHEDULED:
                task.state, task.flight = state, task.version if state == _RUNNING else 0
        else:
            assert task is not None, f"a record of {key}, which is not there"
        return task
