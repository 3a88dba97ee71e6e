"""Who is connected: how many, and how many of one address."""

from __future__ import annotations

from collections import Counter

import trio

from wheeltimer.settings import Limits


class ConnectionCounts:
    """Counts connections; those of Unix sockets have no address and count as a whole only."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()
        self.count = 0

    def refusal(self, address: str) -> str | None:
        """Why one more from here cannot stay, None where it can."""
        limits = self._limits
        if self.count >= limits.connections_max:
            return f"connections_max ({limits.connections_max}) are open"
        if address and self._of[address] >= limits.address_connections_max:
            return f"address_connections_max ({limits.address_connections_max}) are open from {address}"
        return None

    def enter(self, address: str) -> None:
        """One more."""
        self.count += 1
        self._of[address] += 1

    def leave(self, address: str) -> None:
        """One fewer; an address of which nobody is left is forgotten."""
        self.count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


def address_of(stream: trio.SocketStream) -> str:
    """Where a client connects from; empty for a Unix socket, and for one that is gone already."""
    try:
        peer = stream.socket.getpeername()
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""
