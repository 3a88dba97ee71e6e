"""Compaction's half of the core: which tasks stand in the oldest segments, and the copy that is made of one.

The journal removes its oldest segments when nothing in them is needed any more. The rows alone decide what
is needed. A task *stands at* the newest record that holds all of it: the one that made its present version
(``lsn``), or a later copy (``carried_lsn``). Rows that stand at ``upto_lsn`` or before are carried: copied
to the end of the journal, where they then stand. After a walk over all rows no task stands at ``upto_lsn``
or before, and a trim may follow: tasks that were added during the walk stand later anyway.

Why nothing is lost and no forgotten task comes back, whatever the order of records:

- A trim removes the oldest records only, never one between two that stay. So replay reads the last part of
  each key's records without a gap. It never puts in a task by an old record whose later end is gone.
- That part may begin in the middle: with an outcome, an end or a ``Forgotten`` of a task whose first records
  are gone. Replay skips those while the key is not in the table. Then either a record follows that holds all
  of the task as it was at that moment (a schedule, a reschedule, a copy), and every record after it meets
  the state it was written for; or none follows, because the task was forgotten.
- A copy is made and appended in one step of the loop: it holds the result of all records before it, and
  the records after it continue from it. If older records of the task are still there, replay replaces the
  task that they made by the copy.
- A copy of a ready or running task has the state ``scheduled``, as after a restart: an attempt without a
  recorded outcome was not made. A stored cancel or finish is in the copy, and the next start carries it out.
  While an old version's attempt is in flight, the copy is of the version that waits; if the outcome is
  recorded later, replay applies it to that version, as it would without a copy.
- Deadlines in the copy are those of the row, on the time line of the boot whose id the frame has.
- Paused queues stand at the record that paused them. The counts of attempts by outcome are replaced by
  those of the last ``Counted``, which is written before every trim.
- Ended tasks that were carried are not replayed in the order of their ends: it is made again from
  ``ended_ms`` (``Engine.replayed``).
- A crash at any point leaves copies beside their originals (the trim was not written), or segments that a
  trim in the journal declares removed (the unlink was not made). Both give the same state; a task that was
  already carried stands later and is not carried again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.row import written
from wheeltimer.core.task import Task
from wheeltimer.protocol.task_view import State

if TYPE_CHECKING:
    from wheeltimer.core.engine import Engine

STEPPED_NS: Final = 1_000_000_000  # if the wall clock was set by more, copies have elapsed time too
COPY_BYTES: Final = 32
"""What a copy takes in the journal beside key and row: the record's frame, its time, ``carried_lsn``."""


def newest_full_lsn(row: bytes) -> int:
    """The lsn of the newest record that holds all of the task. 0.3 us."""
    found = written(row)
    return max(found.lsn, found.carried_lsn)


def copy_of(engine: Engine, key: str, task: Task, time_ms: int, lsn: int) -> r.Carried:
    """The record, with this ``lsn``, that makes the task stand there; with the state that a restart gives it.

    If the wall clock was set since the start, the elapsed time of an end no longer follows from its wall time
    and the clocks of the copy's frame: the copy has both.
    """
    state = task.state if task.state >= State.DONE else int(State.SCHEDULED)
    copy = replace(task, state=state, flight=0, carried_lsn=lsn)
    if task.state >= State.DONE and abs(engine.ahead_ns - engine.ahead_at_start_ns) > STEPPED_NS:
        copy.deadline_ns = engine.ended_ns(task)
    return r.Carried(key, time_ms, copy)


def copies_beside_tasks(engine: Engine, upto_lsn: int, time_ms: int, lsn: int, at_most: int) -> r.Records:
    """Records other than tasks that must be written again before everything up to ``upto_lsn`` is dropped:
    queues paused there, and the counts of attempts by outcome.

    ``lsn`` is the first record's. At most ``at_most`` queues a call, the counts with the last of them.
    O(queues).
    """
    paused = (name for name, queue in engine.queues.items() if queue.paused and queue.paused_lsn <= upto_lsn)
    some = list(islice(paused, at_most + 1))
    records: r.Records = [r.Carried(name, time_ms, None, lsn + at) for at, name in enumerate(some[:at_most])]
    if len(some) <= at_most:
        records.append(r.Counted(time_ms, **engine.outcomes))
    return records
