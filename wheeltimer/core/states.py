"""The table of moves between states, and the effect of a move on one task: next state, end, history.

``engine.py`` makes the moves and updates what is derived from the states: counts, timers, indexes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from msgspec.structs import replace

from wheeltimer.core.records import Ended
from wheeltimer.core.task import Task, digest
from wheeltimer.protocol.task_view import Attempt, State


class Input(IntEnum):
    """Everything that can happen to a known task."""

    REPLACE = 0  # schedule with on_conflict "replace"
    RESCHEDULE = 1
    CANCEL = 2
    FINISH = 3
    REDRIVE = 4
    DUE = 5  # the wheel hands it over
    START = 6  # an attempt begins
    SUCCEED = 7  # an attempt of the present version met the success rule
    RETRY = 8  # an attempt ended or lapsed and another is planned: retry, poll, or a newer version
    GIVE_UP = 9  # no attempts left, a final answer, or the destination stayed down
    EXPIRE = 10
    CANCEL_AFTER_ATTEMPT = 11  # a stored cancel takes effect when the attempt ends
    PURGE = 12  # retention is over
    LAPSE = 13  # the attempt in flight was not made after all


_S, _R, _X = State.SCHEDULED, State.READY, State.RUNNING
_D, _F, _E, _C = State.DONE, State.DEAD, State.EXPIRED, State.CANCELLED

# A row for every state, a cell for every input. A string is the error code the client gets;
# None is a move that only a bug can cause.
TRANSITIONS: Final[dict[State, dict[Input, State | str | None]]] = {
    _S: {
        Input.REPLACE: _S, Input.RESCHEDULE: _S, Input.CANCEL: _C, Input.FINISH: _D,
        Input.REDRIVE: "conflict", Input.DUE: _R, Input.START: None, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: None, Input.EXPIRE: _E, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: None, Input.LAPSE: None,
    },
    _R: {
        Input.REPLACE: _S, Input.RESCHEDULE: _S, Input.CANCEL: _C, Input.FINISH: _D,
        Input.REDRIVE: "conflict", Input.DUE: None, Input.START: _X, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: _F, Input.EXPIRE: _E, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: None, Input.LAPSE: None,
    },
    _X: {
        Input.REPLACE: _X, Input.RESCHEDULE: _X, Input.CANCEL: _X, Input.FINISH: _X,
        Input.REDRIVE: "conflict", Input.DUE: None, Input.START: None, Input.SUCCEED: _D,
        Input.RETRY: _S, Input.GIVE_UP: _F, Input.EXPIRE: _E, Input.CANCEL_AFTER_ATTEMPT: _C,
        Input.PURGE: None, Input.LAPSE: _R,
    },
    _D: {
        Input.REPLACE: _S, Input.RESCHEDULE: "too_late", Input.CANCEL: "too_late", Input.FINISH: _D,
        Input.REDRIVE: "conflict", Input.DUE: None, Input.START: None, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: None, Input.EXPIRE: None, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: _D, Input.LAPSE: None,
    },
    _F: {
        Input.REPLACE: _S, Input.RESCHEDULE: "too_late", Input.CANCEL: "too_late", Input.FINISH: "too_late",
        Input.REDRIVE: _S, Input.DUE: None, Input.START: None, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: None, Input.EXPIRE: None, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: _F, Input.LAPSE: None,
    },
    _E: {
        Input.REPLACE: _S, Input.RESCHEDULE: "too_late", Input.CANCEL: "too_late", Input.FINISH: "too_late",
        Input.REDRIVE: _S, Input.DUE: None, Input.START: None, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: None, Input.EXPIRE: None, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: _E, Input.LAPSE: None,
    },
    _C: {
        Input.REPLACE: _S, Input.RESCHEDULE: "too_late", Input.CANCEL: _C, Input.FINISH: "too_late",
        Input.REDRIVE: "conflict", Input.DUE: None, Input.START: None, Input.SUCCEED: None,
        Input.RETRY: None, Input.GIVE_UP: None, Input.EXPIRE: None, Input.CANCEL_AFTER_ATTEMPT: None,
        Input.PURGE: _C, Input.LAPSE: None,
    },
}  # fmt: skip


# Plain values: asking an enumeration for a member by name takes fifteen times as long, by number fifty.
_RUNNING, _DONE, _DEAD, _CANCELLED = map(int, (State.RUNNING, State.DONE, State.DEAD, State.CANCELLED))
_MOVES: Final = [[TRANSITIONS[state][what] for what in Input] for state in State]  # faster than the dicts
# The input that ends a task in this state: while no attempt is in flight, and while one is.
_ENDINGS: Final = {
    _DONE: (Input.FINISH, Input.SUCCEED),
    _DEAD: (Input.GIVE_UP, Input.GIVE_UP),
    int(State.EXPIRED): (Input.EXPIRE, Input.EXPIRE),
    _CANCELLED: (Input.CANCEL, Input.CANCEL_AFTER_ATTEMPT),
}


def moved(task: Task, what: Input) -> State:
    """The state of ``task`` after ``what``. A move that the table forbids is a bug."""
    state = _MOVES[task.state][what]
    assert isinstance(state, State), f"{what.name} of a task that is {State(task.state).word}"
    return state


def check_end(task: Task, state: int) -> None:
    """Raises AssertionError if ``task`` cannot end in this state."""
    assert task.state <= _RUNNING, f"{State(state).word} after {State(task.state).word}"
    assert moved(task, _ENDINGS[state][task.state == _RUNNING]) == state


def end(task: Task, record: Ended) -> None:
    """Change ``task`` into its ended form: no timers, no stored stop, no body unless dead or expired."""
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
