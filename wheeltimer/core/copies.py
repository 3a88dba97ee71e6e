"""Compaction's half of the core: which tasks stand in the oldest segments, and the copy that is made of one.

The journal gives up its oldest segments when nothing in them is needed any more. What is needed is
told by the rows alone. A task *stands at* the newest record that holds all of it: the one that made its
present version (``lsn``), or a later copy (``carried_lsn``). Rows that stand at ``upto_lsn`` or before
are carried: copied to the end of the journal, where they then stand. After a walk over all rows no task
stands in what ends at ``upto_lsn``, and a trim may follow: tasks that came meanwhile stand later anyway.

Why nothing is lost and nothing rises again, whatever the order of records:

- Only the oldest records go, never one between two that stay. So of what happened to a key, replay sees
  the end of the story, whole. A task is never put in by an old record whose later end is gone.
- The story may begin in the middle: an outcome, an end, what is forgotten, of a task whose beginning is
  gone. Replay passes those over as long as the key is not there. Then comes a record that holds all of
  the task as it was at that moment (a schedule, a reschedule, a copy), and from there on every record
  meets the state it was written for; or none comes, and then the task was forgotten.
- A copy is made and appended in one step of the loop: it holds what all records before it led to, and
  the records after it carry on from it. Where older records of the task are still there, replay puts
  the copy in the place of the same task, made by them.
- A copy of a ready or running task says ``scheduled``, as a restart would: an attempt without a recorded
  outcome was not made. A stored cancel or finish is in the copy, and is carried out at the next start. While
  an old version's attempt is in flight the copy is of the version that waits; the outcome, should it
  still come, finds that task, as it would without a copy.
- Deadlines in the copy are those of the row, on the time line of the boot whose id the frame has.
- Paused queues stand at the record that paused them. The counts of attempts by outcome are replaced by
  those of the last ``Counted``, which goes before every trim.
- Ended tasks that were carried are not replayed in the order of their ends: it is made again from
  ``ended_ms`` (``Engine.replayed``).
- A crash at any point leaves copies beside what they were made of (the trim was not written), or
  segments that a trim in the journal declares gone (the unlink was not made). Both mean the same state;
  what was carried already stands later and is not carried again.
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

STEPPED_NS: Final = 1_000_000_000  # a wall clock that was slewed by more: copies have elapsed time too
COPY_BYTES: Final = 32
"""What a copy takes in the journal beside key and row: the record's frame, its time, ``carried_lsn``."""


def newest_full_lsn(row: bytes) -> int:
    """The lsn of the newest record that holds all of the task. 0.3 us."""
    found = written(row)
    return max(found.lsn, found.carried_lsn)


def copy_of(engine: Engine, key: str, task: Task, time_ms: int, lsn: int) -> r.Carried:
    """The record that makes the task stand at ``lsn``, its own; as a restart would find the task.

    If the wall clock was set since the start, the elapsed time of an end no longer follows from its wall time
    and the clocks of the copy's frame: the copy has both.
    """
    state = task.state if task.state >= State.DONE else int(State.SCHEDULED)
    copy = replace(task, state=state, flight=0, carried_lsn=lsn)
    if task.state >= State.DONE and abs(engine.ahead_ns - engine.ahead_at_start_ns) > STEPPED_NS:
        copy.deadline_ns = engine.ended_ns(task)
    return r.Carried(key, time_ms, copy)


def copies_beside_tasks(engine: Engine, upto_lsn: int, time_ms: int, lsn: int, at_most: int) -> r.Records:
    """What else goes before the trim of all up to ``upto_lsn``: queues paused there, and the counts.

    ``lsn`` is the first record's. ``at_most`` queues at once, the counts with the last of them. O(queues).
    """
    paused = (name for name, queue in engine.queues.items() if queue.paused and queue.paused_lsn <= upto_lsn)
    some = list(islice(paused, at_most + 1))
    records: r.Records = [r.Carried(name, time_ms, None, lsn + at) for at, name in enumerate(some[:at_most])]
    if len(some) <= at_most:
        records.append(r.Counted(time_ms, **engine.outcomes))
    return records
