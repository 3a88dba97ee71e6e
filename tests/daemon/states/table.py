"""The whole table, put together from its files."""

from __future__ import annotations

from typing import Final

from .ended import CELLS as ENDED
from .running import CELLS as RUNNING
from .waiting import CELLS as WAITING

TABLE: Final = WAITING | RUNNING | ENDED


def expected(state: str, what: str) -> str:
    """The cell; ``as ever`` is the story where nothing but reading is done."""
    ever = TABLE[state]["get"].split("; ")[2]
    line = TABLE[state][what]
    return line.removesuffix("as ever") + ever if line.endswith("; as ever") else line


def state_after(state: str, what: str) -> str:
    """State and version, as the cell has them."""
    return expected(state, what).split("; ")[1]
