"""When a request may be decided: time slices, the disk's backlog, lines that are no requests, the drain.

Timers, attempts and their outcomes do not pass here: a disk that hangs delays the replies of clients only.
"""

from __future__ import annotations

from typing import Final

import trio

from wheeltimer.errors import Refused
from wheeltimer.journal import Journal
from wheeltimer.protocol import requests as c
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.client_memory import ClientMemory

REST_FACTOR: Final = 4  # clients whose lines are no requests take a fifth of the loop, all together
_REFUSED_IN_DRAIN: Final = (c.Schedule, c.Reschedule, c.Redrive)


class Admission:
    """One per daemon, for all that clients ask."""

    def __init__(self, journal: Journal, turn: TimeSlices, memory: ClientMemory) -> None:
        self.turn = turn
        self.draining = False
        self.debt_ns = 0  # work on lines that were no requests; the connection that had it done rests for it
        self.slow_lines = trio.Lock()  # clients whose lines come in drops are read one after the other
        self._journal = journal
        self._memory = memory
        self._gate = trio.Lock()
        self._resting = trio.Lock()

    async def admit(self, began_ns: int = 0, *, light: bool = False) -> int:
        """Wait for a time slice, unless it was taken, and while too much waits for the disk.

        Returns what ``TimeSlices.take`` returns.

        Raises StorageFailed when the disk does not come back.
        """
        began_ns = began_ns or await self.turn.take(light=light)
        while self._backlogged():
            async with self._gate:  # one waits for the disk, the others for that one: each is let in alone
                journal = self._journal
                while self._backlogged():
                    await journal.wait_durable(journal.durable_lsn + 1)
            began_ns = await self.turn.take(light=light)
        return began_ns

    def _backlogged(self) -> bool:
        journal = self._journal
        return journal.unsynced_bytes + self._memory.uncommitted_bytes >= journal.unsynced_bytes_max

    async def rest(self) -> None:
        """One after the other: however many connections send rubbish, the loop is for others too."""
        worked_ns, self.debt_ns = self.debt_ns, 0
        async with self._resting:
            await trio.sleep(REST_FACTOR * worked_ns / 1e9)

    def refuse_in_drain(self, command: c.AnyCommand) -> None:
        """Raise Refused for new work while the daemon stops."""
        if self.draining and isinstance(command, _REFUSED_IN_DRAIN):
            raise Refused("draining", "the daemon is stopping; ask its successor")
