"""Parts of a task as clients see them: its state, one attempt of its history, and the rule of its polls."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from msgspec import Struct


class State(IntEnum):
    """The states of the contract; in the last four the task has ended."""

    SCHEDULED = 0
    READY = 1
    RUNNING = 2
    DONE = 3
    DEAD = 4
    EXPIRED = 5
    CANCELLED = 6

    @property
    def ended(self) -> bool:
        return self >= State.DONE

    @property
    def word(self) -> str:
        """The state's name on the wire."""
        return STATE_WORDS[self]


STATE_WORDS: Final = tuple(state.name.lower() for state in State)


STATE_BY_WORD: Final = {state.name.lower(): state for state in State}


class Poll(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask again after ``every`` while the answer is "not yet", up to ``max`` such answers; each wait is
    ``factor`` times the last, at most ``cap``.
    """

    every: int | str
    max: int = 120
    factor: int | float = 1
    cap: int | str = "1h"


class Attempt(Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of a task's history. ``started`` is Unix ms; ``ms`` is how long the attempt took."""

    attempt: int
    version: int
    started: int
    late_ms: int
    ms: int
    outcome: str
    status: int | None = None
    error: str | None = None
    reply: str | None = None
