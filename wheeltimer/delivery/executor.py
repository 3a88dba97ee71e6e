"""Waiting for many replies at a time: one nursery task, one epoll, no task per exchange.

A Trio task that waits for one socket costs two passes through the scheduler, a cancel scope and a system
call to be woken once: a third of a callback. Here a socket is entered once in its life, edge-triggered, and
one task takes what arrived for all of them. What to do with it is the *flight*'s, a call that never waits.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from typing import Final, Protocol

import trio

from wheeltimer.delivery.http_connection import Connection

FLIGHTS_PER_TURN_MAX: Final = 24  # that go on before the loop gets a turn; about 60 us each
_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class PendingReply(Protocol):
    """What waits for a socket. ``deadline_s`` is on Trio's clock."""

    @property
    def deadline_s(self) -> float: ...

    @property
    def unread(self) -> bool:
        """Whether ``arrived`` left something, so that others have their turn."""
        ...

    def arrived(self) -> bool:
        """The socket can be read or written; take what is there. True: it waits no more."""
        ...

    def overdue(self) -> None:
        """The deadline has passed; it waits no more."""
        ...

    def cut(self) -> None:
        """The daemon ends; it waits no more."""
        ...


class ReplyPoller:
    """The flights under way, by socket. ``run`` is a nursery task; what flies when it ends is cut."""

    def __init__(self, new_epoll: Callable[[], select.epoll] = select.epoll) -> None:
        self._epoll = new_epoll()
        self._flights: dict[int, PendingReply] = {}
        self._look_s = math.inf  # no flight is overdue before
        self._sleep: trio.CancelScope | None = None

    def add(self, flight: PendingReply, connection: Connection) -> None:
        """Wait for what arrives at a connection from now on. O(1). Raises OSError if epoll takes no more."""
        if self._epoll.closed:  # whoever starts attempts may learn of the end a moment later
            flight.cut()
            return
        if not connection.watched:  # closing it is what takes it out
            connection.watched = True
            self._epoll.register(connection.sock, _EVENTS)
        self._flights[connection.sock.fileno()] = flight
        if flight.deadline_s < self._look_s:
            self._look_s = flight.deadline_s
            if self._sleep is not None:
                self._sleep.deadline = self._look_s

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake flights until cancelled."""
        task_status.started()
        try:
            while True:
                with trio.CancelScope(deadline=self._look_s) as self._sleep:  # entering one costs 4 us
                    while True:
                        await trio.lowlevel.wait_readable(self._epoll)
                        self._wake()
                self._sleep = None
                self._end_overdue(trio.current_time())
        finally:
            while self._flights:
                self._flights.popitem()[1].cut()
            self._epoll.close()

    def _wake(self) -> None:
        flights = self._flights
        for fd, _ in self._epoll.poll(0, FLIGHTS_PER_TURN_MAX):
            flight = flights.pop(fd, None)  # None: an idle connection, which is looked at before it is used
            if flight is not None and not flight.arrived():
                flights[fd] = flight  # it was out: an outcome that ends the daemon is not cut on top of that
                if flight.unread:
                    self._epoll.modify(fd, _EVENTS)  # no edge will tell of what is there already

    def _end_overdue(self, now_s: float) -> None:
        """O(flights), and seldom: not before the first of those that flew at the last look is overdue.

        Where the process stood still, a reply that came in time may not have been looked at yet.
        """
        for fd, flight in list(self._flights.items()):
            if flight.deadline_s <= now_s:
                del self._flights[fd]
                landed = flight.arrived()
                while not landed and flight.unread:
                    landed = flight.arrived()
                if not landed:
                    flight.overdue()
        self._look_s = min((flight.deadline_s for flight in self._flights.values()), default=math.inf)
