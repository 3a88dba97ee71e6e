"""Kept connections: a stack per destination, with limits; no I/O except closing.

The connection used last is used next, so surplus connections of a burst become idle and are closed. Every
step is O(1) in connections and destinations; httpx's own pool walks them all for every request.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from wheeltimer.delivery.http_connection import Connection
from wheeltimer.errors import BadValue

IDLE_PER_DESTINATION_MAX = 128  # the default of window_max, so that a full window keeps all its connections
IDLE_MAX = 1_024  # twice the default concurrency; bounded because of file descriptors
IDLE_S = 30  # servers close kept connections after 5 s (Node) to 75 s (nginx)
AGE_S = 240  # a name may get another address: a connection that is always busy would never notice
AGE_SPREAD_S = 60  # spread of AGE_S, so that connections opened in one burst do not all end at once
_PORTS = {"http": 80, "https": 443}


class Destination(NamedTuple):
    """Scheme, host and port. ``host`` is in lower case, IDNA-encoded, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Destination:
        """Raises BadValue for a scheme that is not http or https, or no host."""
        if url.scheme not in _PORTS or not url.host:
            raise BadValue(f"not an http or https URL: {url}", "url")
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])

    @property
    def authority(self) -> str:
        """Host and port as in a URL and in Host; the scheme's default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port as at the start of a URL."""
        return f"{self.scheme}://{self.authority}"


@dataclass(slots=True)
class Counters:
    """What a transport did since it was made."""

    opened: int = 0  # connections made
    reused: int = 0  # exchanges begun on a kept connection
    resent: int = 0  # requests sent a second time because the kept connection was stale
    found_closed: int = 0  # kept connections that had been closed or had unread bytes before they were used
    evicted: int = 0  # connections closed for their idle time, age or number


class Pool:
    """Idle connections: a stack per destination, and all of them in the order in which they became idle.

    Every step is O(1) (amortized: each connection is closed once). Time is an argument.
    """

    def __init__(self, per_destination_max: int, total_max: int, idle_s: float, counters: Counters) -> None:
        self._stacks: dict[Destination, deque[Connection]] = {}
        self._order: OrderedDict[Connection, Destination] = OrderedDict()
        self._per_destination_max = per_destination_max
        self._total_max = total_max
        self._idle_s = idle_s
        self._counters = counters

    def __len__(self) -> int:
        return len(self._order)

    def take(self, destination: Destination, now_s: float) -> Connection | None:
        """The connection used last that is not idle for too long and quiet; others on the way are closed."""
        self.close_idle(now_s)
        while (stack := self._stacks.get(destination)) is not None:
            connection = stack.pop()
            self._forget(connection, destination, stack)
            if connection.is_quiet():
                return connection
            self._counters.found_closed += 1
            connection.close()
        return None

    def put(self, connection: Connection, destination: Destination, now_s: float) -> None:
        """Keep a connection, or close it if it is too old: the next one looks the name up again."""
        if now_s - connection.opened_s >= AGE_S + connection.sock.fileno() % AGE_SPREAD_S:
            self._counters.evicted += 1
            connection.close()
            return
        connection.idle_since = now_s
        stack = self._stacks.setdefault(destination, deque())
        stack.append(connection)
        self._order[connection] = destination
        if len(stack) > self._per_destination_max:
            self._evict(stack[0])
        elif len(self._order) > self._total_max:
            self._evict(next(iter(self._order)))

    def close_idle(self, now_s: float) -> None:
        """Close connections that are idle for longer than the limit. O(connections closed)."""
        while self._order:
            oldest = next(iter(self._order))
            if now_s - oldest.idle_since < self._idle_s:
                return
            self._evict(oldest)

    def give_up(self, count: int) -> int:
        """Close up to ``count`` connections, those idle longest first; return how many were closed."""
        closed = min(count, len(self._order))
        for _ in range(closed):
            self._evict(next(iter(self._order)))
        return closed

    def keeps(self, destination: Destination) -> bool:
        """Whether a connection to the destination is kept; the receiver may have closed it."""
        return destination in self._stacks

    def close_all(self) -> None:
        while self._order:
            self._evict(next(iter(self._order)))

    def _evict(self, oldest: Connection) -> None:
        """Close a connection, which must be the oldest of its destination."""
        destination = self._order[oldest]
        stack = self._stacks[destination]
        popped = stack.popleft()
        assert popped is oldest
        self._forget(oldest, destination, stack)
        self._counters.evicted += 1
        oldest.close()

    def _forget(self, connection: Connection, destination: Destination, stack: deque[Connection]) -> None:
        del self._order[connection]
        if not stack:
            del self._stacks[destination]
