"""When a request may be decided: time slices, the journal's backlog, malformed lines, the drain.

Timers, attempts and their outcomes do not pass here: a disk that hangs delays only replies to clients.
"""

from __future__ import annotations

from typing import Final

import trio

from wheeltimer.errors import Refused
from wheeltimer.journal import Journal
from wheeltimer.protocol import requests as c
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.server.client_memory import ClientMemory

# After work t on malformed lines a connection rests for 4 t, one connection at a time: together they take at
# most a fifth of the loop.
REST_FACTOR: Final = 4
_REFUSED_IN_DRAIN: Final = (c.Schedule, c.Reschedule, c.Redrive)


class Admission:
    """One per daemon, for the requests of all clients."""

    def __init__(self, journal: Journal, turn: TimeSlices, memory: ClientMemory) -> None:
        self.turn = turn
        self.draining = False
        self.debt_ns = 0  # work on malformed lines, for which the connection that sent them must `rest`
        self.slow_lines = trio.Lock()  # connections whose lines come in drops are read one after the other
        self._journal = journal
        self._memory = memory
        self._gate = trio.Lock()
        self._resting = trio.Lock()

    async def admit(self, began_ns: int = 0, *, light: bool = False) -> int:
        """Wait for a time slice (unless ``began_ns`` is one) and until the backlog is below its bound.

        Returns what ``TimeSlices.take`` returns. Raises StorageFailed if the journal fails meanwhile.
        """
        began_ns = began_ns or await self.turn.take(light=light)
        while self._backlogged():
            async with self._gate:  # one caller waits for the disk, the others for the lock, in order
                journal = self._journal
                while self._backlogged():
                    await journal.wait_durable(journal.durable_lsn + 1)
            began_ns = await self.turn.take(light=light)
        return began_ns

    def _backlogged(self) -> bool:
        journal = self._journal
        return journal.unsynced_bytes + self._memory.uncommitted_bytes >= journal.unsynced_bytes_max

    async def rest(self) -> None:
        """Pay for ``debt_ns``, under a lock: the bound of `REST_FACTOR` holds for any number of clients."""
        worked_ns, self.debt_ns = self.debt_ns, 0
        async with self._resting:
            await trio.sleep(REST_FACTOR * worked_ns / 1e9)

    def refuse_in_drain(self, command: c.AnyCommand) -> None:
        """Raise Refused for new work while the daemon stops."""
        if self.draining and isinstance(command, _REFUSED_IN_DRAIN):
            raise Refused("draining", "the daemon is stopping; ask its successor")
