"""Waiting for many replies at a time: one nursery task, one epoll, no nursery task per exchange.

A nursery task that waits for one socket costs two passes through the scheduler, a cancel scope and a system
call: a third of a callback. Here each socket is registered once in its life, edge-triggered, and one nursery
task calls ``arrived`` of the `PendingReply` of each socket that has news. That call never waits.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from typing import Final, Protocol

import trio

from wheeltimer.delivery.http_connection import Connection

FLIGHTS_PER_TURN_MAX: Final = 24  # replies handled in one pass of the loop; about 60 us each
_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class PendingReply(Protocol):
    """A reply that waits for its socket. ``deadline_s`` is on Trio's clock."""

    @property
    def deadline_s(self) -> float: ...

    @property
    def unread(self) -> bool:
        """Whether ``arrived`` left bytes unread, so that other replies are handled first."""
        ...

    def arrived(self) -> bool:
        """The socket can be read or written: do so. True: this reply has ended and is removed."""
        ...

    def overdue(self) -> None:
        """The deadline has passed; this reply was removed."""
        ...

    def cut(self) -> None:
        """The daemon ends; this reply was removed."""
        ...


class ReplyPoller:
    """Pending replies by socket. ``run`` is a nursery task; replies still pending when it ends are cut."""

    def __init__(self, new_epoll: Callable[[], select.epoll] = select.epoll) -> None:
        self._epoll = new_epoll()
        self._flights: dict[int, PendingReply] = {}
        self._look_s = math.inf  # no reply is overdue before that
        self._sleep: trio.CancelScope | None = None

    def add(self, flight: PendingReply, connection: Connection) -> None:
        """Wait for the reply on a connection. O(1). Raises OSError if epoll takes no more sockets."""
        if self._epoll.closed:  # `run` has ended, and the dispatcher may end a moment later
            flight.cut()
            return
        if not connection.watched:  # closing the socket removes it from the epoll
            connection.watched = True
            self._epoll.register(connection.sock, _EVENTS)
        self._flights[connection.sock.fileno()] = flight
        if flight.deadline_s < self._look_s:
            self._look_s = flight.deadline_s
            if self._sleep is not None:
                self._sleep.deadline = self._look_s

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle replies until cancelled."""
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
            flight = flights.pop(fd, None)  # None: an idle connection, which is checked before it is used
            if flight is not None and not flight.arrived():
                flights[fd] = flight  # removed before: if ``arrived`` raises, ``cut`` must not follow
                if flight.unread:
                    self._epoll.modify(fd, _EVENTS)  # bytes that are there already cause no edge

    def _end_overdue(self, now_s: float) -> None:
        """End replies past their deadline. O(pending), but only once the first of the last look is overdue.

        Each is read before: if the process was stopped, its reply may have come in time.
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
