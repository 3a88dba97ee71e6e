"""The one place where a decision becomes true: reserve, apply, append, publish.

Everything that is written comes through ``submit`` or ``submit_run``: room in the journal is taken
first, so nothing ever needs undoing; then the engine's state moves; then the records wait for the next
commit. Memory runs ahead of the disk, the outside world does not: whoever answers or calls out waits
for the lsn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import trio

from wheeltimer.core import outcome
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy
from wheeltimer.core.schedule import RETRY_FULL_MS
from wheeltimer.core.schedule_batch import Batch
from wheeltimer.core.task import Now, Task, split_key
from wheeltimer.errors import Refused
from wheeltimer.journal import Journal
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime.clock import Clock

NO_ROOM: Final = {
    "": "its next file is being made, or attempts in flight have the rest; ask again",
    "disk space": "no disk space for its next file; ask again, and free some of its disk if that goes on",
    "file descriptors": "no file descriptors for its next file; ask again, and if that goes on raise"
    " LimitNOFILE (ulimit -n), or lower connections_max or concurrency",
    "memory": "no memory for its next file; ask again, and free some of the machine's if that goes on",
}  # by what the journal lacks
FORGET_MAX = 256  # ended tasks beyond those that are kept, forgotten per slice
# Records that make new work need ordinary room; all others may use the reserved segments.
_NEW_WORK = (r.Scheduled, r.Rescheduled, r.Paused)


class DurableEngine:
    """Engine, journal and clock together; used from one Trio run."""

    def __init__(self, engine: Engine, journal: Journal, clock: Clock, policy: Policy) -> None:
        self.engine = engine
        self.journal = journal
        self.policy = policy
        self._observers: dict[type[r.Record], tuple[Callable[[Any], None], ...]] = {}
        self._apply = engine.apply
        self.now: Callable[[], Now] = clock.now
        # Told after an outcome, an end or what is forgotten: wakes the ticker, and sees to a commit soon.
        self.changed: Callable[[], None] = journal.flush
        self._random = random.Random()  # for jitter and ids: nothing here is a secret
        self._held: dict[str, int] = {}  # bytes reserved for the outcome of each attempt in flight

    def chance(self) -> int:
        """32 random bits."""
        return self._random.getrandbits(32)

    def observe(self, kind: type[r.Record], observer: Callable[[Any], None]) -> Callable[[], None]:
        """Call ``observer`` with every record of ``kind`` after it was applied, before it is durable.

        An observer that shows a record to the outside waits for ``journal.durable_lsn``. Observers of one
        kind are called in the order in which they came. The returned function ends this observation alone.
        While ``Scheduled`` is observed no batch is taken: each new task is decided and reported by itself.
        """

        def observed(record: Any) -> None:  # of this call alone: the same observer may observe twice
            observer(record)

        def end() -> None:
            left = tuple(each for each in self._observers[kind] if each is not observed)
            if left:
                self._observers[kind] = left
            else:
                del self._observers[kind]

        self._observers[kind] = (*self._observers.get(kind, ()), observed)
        return end

    def submit(self, records: Sequence[r.Written], reserved: int = 0) -> bool:
        """Make ``records``, one decision, true. False where the journal has no room: nothing changed.

        ``reserved`` bytes were taken for this decision before; they are used or given back.
        """
        journal, first = self.journal, records[0]
        if self._held and not reserved and not self._grow_reservation(first):
            return False
        written = [r.encode(record) for record in records]
        size = sum(map(len, written))
        if not reserved:
            reserved = size
            new_work = type(first) in _NEW_WORK and not (isinstance(first, r.Paused) and not first.paused)
            if not journal.reserve(size, essential=not new_work):
                return False
        assert size <= reserved, f"{size} bytes for a decision with {reserved} reserved"
        for record in records:
            self._apply(record)
        journal.append(written, reserved, hold=True)
        for record in records:
            self._tell(record)
        return True

    def apply_volatile(self, record: r.Volatile) -> None:
        """Make a record true that is not written, and so cannot lack room."""
        self._apply(record)
        self._tell(record)

    def _tell(self, record: r.AnyRecord) -> None:
        for observer in self._observers.get(type(record), ()):
            observer(record)

    def submit_run(self, run: Batch) -> bool:
        """``submit`` for a run of new tasks at once; False where it must be done one by one."""
        journal = self.journal
        if r.Scheduled in self._observers or run.size > journal.decision_bytes_max:
            return False
        if not journal.reserve(run.size):
            return False
        self.engine.insert_fresh(run.homes, run.keys, run.rows, run.deadlines_ns, run.queues)
        journal.append(run.records, run.size, hold=True)
        return True

    def _grow_reservation(self, first: r.Written) -> bool:
        """A change of a running task may make its outcome larger: room for that is taken now."""
        if not isinstance(first, (r.Scheduled, r.Rescheduled, r.Stopping)) or first.key not in self._held:
            return True
        if isinstance(first, r.Stopping):
            task, reply = self.engine.get(first.key), first.reply
            assert task is not None
        else:
            task, reply = first.task, None
        size, held = outcome.outcome_bytes_max(self.engine, task, reply), self._held[first.key]
        if size > held:
            # Taken whole before the old is given back: room is counted in sectors for each reservation.
            if not self.journal.reserve(size, essential=isinstance(first, r.Stopping)):
                return False
            self.journal.release(held)
            self._held[first.key] = size
        return True

    def submit_or_refuse(self, records: Sequence[r.Written]) -> None:
        """``submit`` for a client's request: no room is the refusal ``full``."""
        if not self.submit(records):
            raise self.no_room()

    def no_room(self) -> Refused:
        """The refusal of a request that the journal has no room for, with what to do about it."""
        why = NO_ROOM[self.journal.lacks]
        return Refused("full", f"the journal has no room just now: {why}", retry_after_ms=RETRY_FULL_MS)

    # -- attempts -------------------------------------------------------------------------------

    def start(self, key: str, task: Task, now: Now) -> bool:
        """Begin an attempt of a ready task ``now``; False where no room for its outcome can be reserved."""
        size = outcome.outcome_bytes_max(self.engine, task)
        if not self.journal.reserve(size, essential=True):
            return False
        self._held[key] = size
        self.apply_volatile(outcome.start(key, task, now))
        return True

    def outcome(self, key: str, answer: Answer, now: Now) -> None:
        """Record what came of the attempt in flight, which ended ``now``."""
        queue, _ = split_key(key)
        records = outcome.attempt_ended(
            self.engine,
            self.policy.queue(queue),
            key,
            answer,
            now,
            self.journal.next_lsn,
            self.chance(),
        )
        done = self.submit(records, self._held.pop(key))
        assert done, "room for an outcome is reserved"
        self.changed()

    def lapsed(self, key: str, now: Now) -> bool:
        """The attempt in flight was not made: its room is given back. True: the task is ready again.

        If a cancel or finish is stored the task ends, and that record is written into the room.
        """
        what = outcome.lapsed(self.engine, key, now, self.journal.next_lsn)
        reserved = self._held.pop(key)
        ready = False
        if isinstance(what, r.Lapsed):
            self.journal.release(reserved)
            self.apply_volatile(what)
            task = self.engine.get(key)
            ready = task is not None and task.state == State.READY
        else:
            done = self.submit(what, reserved)
            assert done, "room for an outcome is reserved"
        self.changed()
        return ready

    def dropped(self, key: str) -> None:
        """An attempt was cut short by the end of the daemon: it was not made."""
        self.journal.release(self._held.pop(key))

    def give_up(self, key: str) -> bool:
        """End a ready task whose destination stayed down; False where the journal has no room."""
        records = outcome.give_up(self.engine, key, self.now(), self.journal.next_lsn, "destination_down")
        done = self.submit(records)
        self.changed()
        return done

    # -- time -----------------------------------------------------------------------------------

    def forget(self, now: Now) -> int:
        """Forget the oldest ends where more are kept than may be, at most ``FORGET_MAX``; how many that were.

        Those that were kept long enough the wheel hands over.
        """
        engine, limits = self.engine, self.engine.limits
        keys: list[str] = []
        for kept, most in (
            (engine.kept_done, limits.keep_done_max),
            (engine.kept_dead, limits.keep_dead_max),
        ):
            over = min(len(kept) - most, FORGET_MAX - len(keys))
            keys += islice(kept, max(0, over))
        if keys and self.submit([r.Forgotten(keys, now.wall_ms)]):
            return len(keys)
        return 0

    def recovered(self, keys: set[str]) -> bool:
        """End a slice of the tasks among ``keys`` that a stored cancel or finish waits for; takes those away.

        False where the journal had no room for one of them.
        """
        for key in list(islice(keys, FORGET_MAX)):
            task = self.engine.get(key)
            if task is not None and task.stop and task.state < State.DONE:
                records = outcome.stopped(self.engine, key, task, self.now(), self.journal.next_lsn)
                if not self.submit(records):
                    return False
            keys.discard(key)
        return True


# -- a wait that many callers share ------------------------------------------------------------------------

OUTCOME_HOLD_S: Final = 0.005  # how long an outcome may wait for others to share its commit


class Debounce:
    """Does something a moment after it was asked for, once for all who asked meanwhile; ``first`` at once.

    Nobody waits for the commit of an outcome, and a commit for each of a thousand a second would cost
    timers more than the callbacks do. A crash repeats at most what ended in the last commit, as ever.
    """

    def __init__(self, first: Callable[[], None]) -> None:
        self._first = first
        self._asked = trio.Event()

    def ask(self) -> None:
        self._first()
        self._asked.set()

    async def run(self, do: Callable[[], None]) -> None:
        while True:
            await self._asked.wait()
            await trio.sleep(OUTCOME_HOLD_S)
            self._asked = trio.Event()
            do()
