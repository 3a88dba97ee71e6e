"""A moment's wait that many share; what is done then is the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

OUTCOME_HOLD_S: Final = 0.005  # how long an outcome may wait for others to share its commit


class Soon:
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
