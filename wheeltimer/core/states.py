"""What a move of the table makes of one task: its next state, its end, its history.

Functions over a single task. Who makes the move, and what else follows from it, is in ``engine.py``.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from wheeltimer.core.records import Ended
from wheeltimer.core.task import TRANSITIONS, Input, Task, digest
from wheeltimer.protocol.task_view import Attempt, State

# Plain values: asking an enumeration for a member by name takes fifteen times as long, by number fifty.
_RUNNING, _DONE, _DEAD, _CANCELLED = map(int, (State.RUNNING, State.DONE, State.DEAD, State.CANCELLED))
_MOVES: Final = [[TRANSITIONS[state][what] for what in Input] for state in State]  # a list is found faster
# What brings a task to an end: while no attempt of it runs, and while one does.
_ENDINGS: Final = {
    _DONE: (Input.FINISH, Input.SUCCEED),
    _DEAD: (Input.GIVE_UP, Input.GIVE_UP),
    int(State.EXPIRED): (Input.EXPIRE, Input.EXPIRE),
    _CANCELLED: (Input.CANCEL, Input.STOP),
}


def moved(task: Task, what: Input) -> State:
    """The state that ``what`` brings ``task`` to. A move that the table forbids is a bug."""
    state = _MOVES[task.state][what]
    assert isinstance(state, State), f"{what.name} of a task that is {State(task.state).word}"
    return state


def check_end(task: Task, state: int) -> None:
    """AssertionError where ``task`` cannot end in this state."""
    assert task.state <= _RUNNING, f"{State(state).word} after {State(task.state).word}"
    assert moved(task, _ENDINGS[state][task.state == _RUNNING]) == state


def end(task: Task, record: Ended) -> None:
    """Make ``task`` what its end leaves of it."""
    state = int(record.state)
    if state in (_DONE, _CANCELLED):
        task.content = task.content or digest(task)
        task.body = None
    task.due_given_ms = task.due_ms
    task.state, task.flight, task.ended_ms, task.reason = state, 0, record.time_ms, record.reason
    task.stop, task.stop_reply = 0, None
    task.deadline_ns = task.expiry_ns = task.expiry_ms = None


def history(task: Task, attempt: Attempt, most: int) -> list[Attempt]:
    """The last ``most`` attempts, newest last; only the newest keeps its reply."""
    before = task.history or []
    kept = before[max(0, len(before) + 1 - most) :]
    if kept and kept[-1].reply is not None:
        kept[-1] = replace(kept[-1], reply=None)
    return [*kept, attempt]
