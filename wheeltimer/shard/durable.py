"""The one place where a decision is carried out: reserve, apply, append, publish.

Every write goes through ``submit`` or ``submit_run``: space in the journal is reserved first, so nothing has
to be undone; then the engine's state changes; then the records wait for the next commit. The engine's state
is ahead of the disk, replies and callbacks are not: code that sends one waits for the lsn.
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
}  # by ``Journal.lacks``
FORGET_MAX = 256  # ended tasks beyond ``keep_*_max`` that are forgotten per slice
# Records of new work may not use the reserved segments; all others may.
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
        # Called after outcomes, ends and forgotten tasks: wakes the ticker, and has a commit made soon.
        self.changed: Callable[[], None] = journal.flush
        self._random = random.Random()  # for jitter and ids, which are no secrets
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
        """Carry out ``records``, one decision. False, with no change, if the journal has no space.

        ``reserved``: bytes that were reserved for this decision before; they are used or given back.
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
        """Apply a record that is not written and so needs no space."""
        self._apply(record)
        self._tell(record)

    def _tell(self, record: r.AnyRecord) -> None:
        for observer in self._observers.get(type(record), ()):
            observer(record)

    def submit_run(self, run: Batch) -> bool:
        """``submit`` for a batch of new tasks; False, without a change, if they must go one by one."""
        journal = self.journal
        if r.Scheduled in self._observers or run.size > journal.decision_bytes_max:
            return False
        if not journal.reserve(run.size):
            return False
        self.engine.insert_fresh(run.homes, run.keys, run.rows, run.deadlines_ns, run.queues)
        journal.append(run.records, run.size, hold=True)
        return True

    def _grow_reservation(self, first: r.Written) -> bool:
        """Reserve more for the outcome of a running task if this change may make it larger; False if there is
        no space."""
        if not isinstance(first, (r.Scheduled, r.Rescheduled, r.Stopping)) or first.key not in self._held:
            return True
        if isinstance(first, r.Stopping):
            task, reply = self.engine.get(first.key), first.reply
            assert task is not None
        else:
            task, reply = first.task, None
        size, held = outcome.outcome_bytes_max(self.engine, task, reply), self._held[first.key]
        if size > held:
            # A new reservation of the full size, before the old one is released: each is in whole sectors.
            if not self.journal.reserve(size, essential=isinstance(first, r.Stopping)):
                return False
            self.journal.release(held)
            self._held[first.key] = size
        return True

    def submit_or_refuse(self, records: Sequence[r.Written]) -> None:
        """``submit`` for a client's request: raises the refusal ``full`` if the journal has no space."""
        if not self.submit(records):
            raise self.no_room()

    def no_room(self) -> Refused:
        """The refusal of a request if the journal has no space, with what the operator can do."""
        why = NO_ROOM[self.journal.lacks]
        return Refused("full", f"the journal has no room just now: {why}", retry_after_ms=RETRY_FULL_MS)

    # -- attempts -------------------------------------------------------------------------------

    def start(self, key: str, task: Task, now: Now) -> bool:
        """Begin an attempt of a ready task ``now``; False if no space for its outcome can be reserved."""
        size = outcome.outcome_bytes_max(self.engine, task)
        if not self.journal.reserve(size, essential=True):
            return False
        self._held[key] = size
        self.apply_volatile(outcome.start(key, task, now))
        return True

    def outcome(self, key: str, answer: Answer, now: Now) -> None:
        """Record the outcome of the attempt in flight, which ended ``now``."""
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
        """Record that the attempt in flight was not made, release its reservation. True: the task is ready.

        If a cancel or finish is stored the task ends, and that record uses the reservation.
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
        """Release the reservation of an attempt that the end of the daemon cut short: it was not made."""
        self.journal.release(self._held.pop(key))

    def give_up(self, key: str) -> bool:
        """End a ready task whose destination stayed down; False if the journal has no space."""
        records = outcome.give_up(self.engine, key, self.now(), self.journal.next_lsn, "destination_down")
        done = self.submit(records)
        self.changed()
        return done

    # -- time -----------------------------------------------------------------------------------

    def forget(self, now: Now) -> int:
        """Forget the oldest ended tasks beyond ``keep_*_max``, at most ``FORGET_MAX``; returns how many.

        Tasks whose retention is over are handed over by the wheel.
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
        """End up to ``FORGET_MAX`` tasks of ``keys`` that have a stored cancel or finish; removes their keys.

        False if the journal had no space for one of them.
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
    """Calls ``do`` `OUTCOME_HOLD_S` after ``ask``, once for all calls meanwhile; ``first`` at once.

    No client waits for the commit of an outcome, and at a thousand outcomes a second a commit for each would
    delay timers more than the callbacks do. A crash repeats the attempts whose outcome is not on disk, as
    without the delay.
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
