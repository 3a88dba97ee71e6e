"""Two things that a daemon meets in the simulated world: its clocks and its listener."""

from __future__ import annotations

import socket
from typing import Final

import trio

from wheeltimer.core.task import Now

WALL_NS: Final = 1_750_000_000_000_000_000
UPTIME_NS: Final = 5_000_000_000  # what the elapsed clock shows when a machine is up


class SimClock:
    """The daemon's clocks. ``true_ns`` goes on through suspends and reboots; nobody but the world sees it."""

    def __init__(self, true_ns: int = 0, boots: int = 0) -> None:
        self._ahead_ns = true_ns - round(trio.current_time() * 1e9)
        self.wall_offset_ns = WALL_NS
        self.boots = boots
        self._up_ns = 0

    @property
    def boot_id(self) -> bytes:
        return b"boot%012d" % self.boots

    def true_ns(self) -> int:
        return round(trio.current_time() * 1e9) + self._ahead_ns

    def now(self) -> Now:
        true_ns = self.true_ns()
        return Now(true_ns - self._up_ns + UPTIME_NS, true_ns + self.wall_offset_ns)

    def elapsed_ns(self) -> int:
        return self.now().elapsed_ns

    def suspend(self, ns: int) -> None:
        """Time passes and nothing runs."""
        self._ahead_ns += ns

    def reboot(self) -> None:
        self.boots += 1
        self._up_ns = self.true_ns()


class Door(trio.abc.Listener[trio.SocketStream]):
    """The daemon's listener; ``connect`` gives a client its end."""

    def __init__(self) -> None:
        self._give, self._take = trio.open_memory_channel[trio.SocketStream](64)
        self._streams: list[trio.SocketStream] = []

    async def accept(self) -> trio.SocketStream:
        return await self._take.receive()

    async def aclose(self) -> None:
        self._give.close()
        await trio.lowlevel.checkpoint()

    def connect(self) -> trio.SocketStream:
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
        self._streams += [ours, theirs]
        self._give.send_nowait(theirs)
        return ours

    def shut(self) -> None:
        """The end of a process closes what it had open."""
        self._give.close()
        self._take.close()
        for stream in self._streams:
            stream.socket.close()
