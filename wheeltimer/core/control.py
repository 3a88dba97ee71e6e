"""Requests that end tasks or start ended ones again: cancel, finish, redrive; and pause and resume.

Like those of ``schedule.py``, these functions change nothing and return records. The ``*_one`` functions
decide for one task that was found; requests that name a group or a queue call them for each member.
"""

from __future__ import annotations

from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import end
from wheeltimer.core.schedule import check_version, find, full, refuse_ended, set_expiry
from wheeltimer.core.states import Input
from wheeltimer.core.task import STOP_CANCEL, STOP_FINISH, Now, Task, content_of
from wheeltimer.errors import BadValue, Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.replies import CancelReply, FinishReply, PauseReply, RedriveReply
from wheeltimer.protocol.task_view import State
from wheeltimer.protocol.units import parse_instant_ms


def cancel_one(engine: Engine, key: str, task: Task, now: Now, lsn: int) -> r.Records:
    """Records that cancel this task; none if it is already cancelled or being stopped."""
    return _stop_one(engine, key, task, now, lsn, STOP_CANCEL, None)


def _stop_one(
    engine: Engine, key: str, task: Task, now: Now, lsn: int, stop: int, reply: bytes | None
) -> r.Records:
    what = Input.CANCEL if stop == STOP_CANCEL else Input.FINISH
    refuse_ended(task, what)
    if task.state == State.RUNNING:
        # A finish overrides a stored cancel (the task then always ends done), nothing overrides a finish.
        return [] if task.stop >= stop else [r.Stopping(key, now.wall_ms, stop, reply)]
    if task.state >= State.DONE:
        return []
    state = State.CANCELLED if stop == STOP_CANCEL else State.DONE
    return end(engine, key, task, state, now, lsn, finish_reply=reply)


def _find_one(engine: Engine, command: c.Cancel | c.Finish | c.Redrive) -> tuple[str, Task]:
    """The task that ``id`` names. A ``group`` beside it is refused, because it would have no effect."""
    assert command.id is not None
    if command.group is not None:
        raise BadValue("group: either id or group expected, not both", "group")
    return find(engine, command.id, command.queue)


def cancel(engine: Engine, command: c.Cancel, now: Now, lsn: int) -> tuple[r.Records, CancelReply]:
    """Cancel the one task that ``id`` names."""
    key, task = _find_one(engine, command)
    check_version(task, command.if_version)
    records = cancel_one(engine, key, task, now, lsn)
    running = task.state == State.RUNNING
    return records, CancelReply(True, 0 if running else bool(records) + 0, int(running), command.reply_seq)


def finish(engine: Engine, command: c.Finish, now: Now, lsn: int) -> tuple[r.Records, FinishReply]:
    """End the one task that ``id`` names as ``done``, from outside."""
    key, task = _find_one(engine, command)
    reply = finish_reply(engine, command)
    records = finish_one(engine, key, task, now, lsn, reply)
    running = task.state == State.RUNNING
    return records, FinishReply(True, 0 if running else bool(records) + 0, int(running), command.reply_seq)


def finish_reply(engine: Engine, command: c.Finish) -> bytes | None:
    """The JSON that the client gives in place of the callback's reply, checked."""
    if not command.reply:
        return None
    reply = bytes(command.reply)
    if len(reply) > engine.limits.body_bytes_max:
        raise Refused(
            "bad_request", f"reply: at most {engine.limits.body_bytes_max} bytes expected", field="reply"
        )
    c.check_depth(reply, "reply")
    return reply


def finish_one(engine: Engine, key: str, task: Task, now: Now, lsn: int, reply: bytes | None) -> r.Records:
    """Records that finish this task; none if it is already done or being finished."""
    return _stop_one(engine, key, task, now, lsn, STOP_FINISH, reply)


def redrive(engine: Engine, command: c.Redrive, now: Now, lsn: int) -> tuple[r.Records, RedriveReply]:
    """Start again the one dead or expired task that ``id`` names."""
    key, task = _find_one(engine, command)
    refuse_ended(task, Input.REDRIVE)
    if engine.live >= engine.limits.tasks_max:
        raise full(engine)
    return redrive_one(engine, key, task, now, lsn), RedriveReply(True, 1, command.reply_seq)


def redrive_one(engine: Engine, key: str, old: Task, now: Now, lsn: int) -> r.Records:
    """A new version, due now, of a dead or expired task."""
    task = replace(
        old, version=old.version + 1, lsn=lsn, born_lsn=old.born, state=0, attempts=0, failures=0, polls=0,
        due_given_ms=now.wall_ms, next_given_ms=None, deadline_ns=now.elapsed_at(now.wall_ms),
        ended_ms=None, reason=None, content=content_of(old),
    )  # fmt: skip
    if task.expires_at is not None and parse_instant_ms(task.expires_at, "expires_at") <= now.wall_ms:
        task.expires_at = None
    set_expiry(engine, task)
    return [r.Rescheduled(key, now.wall_ms, task)]


def pause(engine: Engine, command: c.Pause | c.Resume, now: Now, lsn: int) -> tuple[r.Records, PauseReply]:
    """Pause or resume a queue; a queue that holds nothing yet can be paused too."""
    queue = c.check_name(command.queue, "queue")
    paused = isinstance(command, c.Pause)
    records: r.Records = []
    if paused != engine.paused(queue):
        records = [r.Paused(queue, now.wall_ms, paused, lsn)]
    return records, PauseReply(True, queue, paused, command.reply_seq)
