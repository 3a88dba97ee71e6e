"""Whether a lane may start an attempt now: its constraints, and its destination's share of the permits."""

from __future__ import annotations

from wheeltimer.delivery.lanes import Constraint, Lane, Lanes, WakeHeap
from wheeltimer.delivery.outage import Held
from wheeltimer.delivery.ports import TaskSource
from wheeltimer.delivery.window import most, share


class Entry:
    """The checks of `Dispatcher` for a lane that it took from the active lanes."""

    def __init__(
        self, book: TaskSource, lanes: Lanes, held: Held, alarms: WakeHeap, concurrency: int
    ) -> None:
        self._book = book
        self._lanes = lanes
        self._held = held
        self._alarms = alarms
        self._concurrency = concurrency

    def gates_open(self, lane: Lane, now_ns: int) -> bool:
        """Whether queue and destination allow an attempt; else the lane waits for the one that does not."""
        if self._book.engine.paused(lane.name):
            self._held.paused(lane.name, now_ns)
            self._lanes.wait(lane, lane.queue)
            return False
        gate: Constraint
        for gate in (lane.queue, lane.target):
            wait_ns = gate.wait_ns(now_ns)
            if wait_ns != 0:
                if wait_ns is not None:
                    self._alarms.set(gate, now_ns + wait_ns)
                self._lanes.wait(lane, gate)
                return False
        return True

    def has_share(self, lane: Lane, in_flight: int, limit: int) -> bool:
        """Whether the lane's destination has all the permits that it may have now.

        ``limit``: the permits of all destinations during a shortage. Attempts on kept connections may exceed
        it; then ``concurrency`` is shared.
        """
        mine = lane.target.window.in_flight
        permits = limit if in_flight < limit else self._concurrency
        if mine >= share(permits, in_flight, mine):
            return True
        return mine >= most(permits) and self._lanes.others_go(lane.target)
