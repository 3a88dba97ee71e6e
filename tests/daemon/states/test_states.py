"""Every state and every input of the contract against the daemon as it runs: what the client is answered,
what ``get`` shows then, what a subscriber is told, and what the receiver and the hooks see.

The table is in ``waiting.py``, ``running.py`` and ``ended.py``, a row for every state and a cell for every
input; how to read a cell is said in ``story.py``, what the rows and columns stand for in ``rows.py`` and
``inputs.py``. ``python -m tests.daemon.states.story STATE`` prints a row as the daemon has it, to be held
against the contract.
"""

from __future__ import annotations

from typing import get_args

import pytest

from wheeltimer.protocol.requests import AnyCommand
from wheeltimer.protocol.task_view import State

from .inputs import INPUTS
from .rows import ROWS
from .story import tell
from .table import TABLE, expected


@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("state", ROWS)
def test_every_state_and_every_input(state: str, what: str) -> None:
    assert tell(state, what) == expected(state, what)


def test_no_cell_is_missing() -> None:
    assert list(TABLE) == list(ROWS)
    for state, row in TABLE.items():
        assert list(row) == list(INPUTS), state
    assert {state.partition(",")[0] for state in ROWS} == {state.word for state in State} | {"unknown"}


def test_every_request_that_is_about_tasks_is_a_column() -> None:
    words = {what.split(" ")[0].strip(",") for what in INPUTS}
    about_others = {"hello", "ping", "subscribe", "forecast", "stats"}
    assert words >= {str(command.__struct_config__.tag) for command in get_args(AnyCommand)} - about_others
