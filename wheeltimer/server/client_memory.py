"""Memory that all clients together make the daemon hold, under one bound; replies that wait for a commit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Final, Protocol

from wheeltimer.runtime.ratelog import RateLimitedLog
from wheeltimer.settings import Limits

RELIEF: Final = 7  # eighths of clients_bytes_max: down to that, connections are closed once it is exceeded
_log = logging.getLogger("wheeltimer.server")


class Holder(Protocol):
    """A connection, as far as its memory is concerned."""

    @property
    def held_bytes(self) -> int:
        """Bytes of replies that the client has not read, and of requests that are not answered."""
        ...

    def cut(self) -> None:
        """Close the connection and free what it holds."""
        ...


class ClientMemory:
    """One per daemon.

    ``held_bytes`` is the sum over all holders, ``uncommitted_bytes`` that of replies which wait for a commit.
    """

    def __init__(self, limits: Limits) -> None:
        self.held_bytes = 0
        self.uncommitted_bytes = 0
        self.holders: Collection[Holder] = ()  # the open connections, as `Server` has them
        self._limits = limits
        self._waiting: deque[tuple[int, int, Callable[[], None]]] = deque()  # lsn, bytes, callback
        self._cuts = RateLimitedLog(_log, logging.WARNING)

    @property
    def waiting(self) -> int:
        """How many pieces of replies wait for a commit."""
        return len(self._waiting)

    def hold(self, more: int) -> None:
        """Add ``more`` (may be negative) to the bytes held. Beyond the bound, cut the largest holders."""
        self.held_bytes += more
        if more <= 0 or self.held_bytes <= self._limits.clients_bytes_max:
            return
        # Less than the bound, so that the next byte does not sort all holders again.
        enough = self._limits.clients_bytes_max * RELIEF // 8
        for holder in sorted(self.holders, key=lambda each: each.held_bytes, reverse=True):
            if self.held_bytes <= enough:
                break
            self._cuts.say(
                "clients held too much, closed those with the most held_bytes=%d", holder.held_bytes
            )
            holder.cut()

    def await_commit(self, lsn: int, size: int, send: Callable[[], None]) -> None:
        """Call ``send`` once ``lsn`` is durable; ``size`` bytes of replies wait for it."""
        self.uncommitted_bytes += size
        self._waiting.append((lsn, size, send))

    def committed(self, lsn: int) -> None:
        """Everything up to ``lsn`` is on disk: send the replies that waited for it."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= lsn:
            _, size, send = waiting.popleft()
            self.uncommitted_bytes -= size
            send()
