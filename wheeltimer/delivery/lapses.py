"""Attempts that were not made because of a shortage of this machine: how they end, when the next may start.

``shortage.py`` decides what is a shortage and how many attempts may be in flight; this file does the rest for
`Dispatcher`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wheeltimer.core.task import Now, split_key
from wheeltimer.delivery.callback import destination_of
from wheeltimer.delivery.lanes import Lane, Lanes
from wheeltimer.delivery.outage import Held
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.ports import TaskSource
from wheeltimer.delivery.shortage import PAUSE_MIN_NS, InFlightLimit, Reason
from wheeltimer.protocol.task_view import State

LOOKS_MAX: Final = 64  # lanes tried in one slice; one that starts an attempt takes about 30 us
BACKLOG_MS: Final = 1_000  # a task that is later than this when it becomes ready goes to ``Lane.late``


class Lapses:
    """Ends attempts that lapsed and puts their tasks back. ``keeps(destination)``: whether an attempt there
    probably needs no new connection.
    """

    def __init__(
        self,
        book: TaskSource,
        lanes: Lanes,
        held: Held,
        concurrency: int,
        keeps: Callable[[Destination], bool],
    ) -> None:
        self._book = book
        self._lanes = lanes
        self._held = held
        self._keeps = keeps
        self.in_flight_limit = InFlightLimit(concurrency, lambda: book.now().elapsed_ns / 1e9)
        self.waiting: list[tuple[int, str]] = []  # (start of the attempt, key) of tasks that are ready again

    def end(self, key: str, reason: Reason, lane: Lane, started_ns: int, now: Now, in_flight: int) -> bool:
        """An attempt was not made: keep the window as it is, give rate tokens and the task back.

        ``in_flight`` others are left. False: no port was free for too long, so the attempt counts as failed.
        """
        window = lane.target.window
        if reason != "ports":
            self.in_flight_limit.lapsed(in_flight, now.elapsed_ns)
        elif not window.short(now.elapsed_ns):  # ports are short for one destination at a time
            return False
        self.in_flight_limit.count(reason)
        window.cut()
        if lane.queue.bucket is not None:
            lane.queue.bucket.give_back()
        if self._book.lapsed(key, now):
            self.waiting.append((started_ns, key))
        return True

    def put_back(self) -> None:
        """Put tasks that are ready again at the heads of their lanes, in the order in which they had started.

        At most `LOOKS_MAX`, beginning with the last: all attempts that waited for one lookup lapse together.
        """
        waiting, now = sorted(self.waiting, reverse=True), self._book.now()
        self.waiting = waiting[LOOKS_MAX:]
        for started_ns, key in waiting[:LOOKS_MAX]:
            task = self._book.engine.get(key)
            if task is None or task.state != State.READY:
                continue
            queue, _ = split_key(key)
            late = task.late_ms(now) > BACKLOG_MS
            lane = self._lanes.add(queue, destination_of(task), key, late=late, first=True)
            if lane.target.window.held_ns is not None:
                self._held.lapsed(key, task, lane.target, started_ns, now.elapsed_ns)

    def wait_until_ns(self, lane: Lane, may_open: bool, now_ns: int) -> int:
        """0: the lane may start an attempt. Otherwise it needs a new connection during a shortage, and the
        result is the instant at which it may try again.

        ``may_open``: whether `in_flight_limit` allows one more connection.
        """
        until_ns = lane.target.window.short_until_ns
        if (may_open and until_ns <= now_ns) or self._keeps(lane.target.destination):
            return 0
        until_ns = max(until_ns, self.in_flight_limit.until_ns or 0)
        if len(self._lanes.active) > LOOKS_MAX:  # this slice does not try all: come again soon
            until_ns = min(until_ns, now_ns + PAUSE_MIN_NS)
        return until_ns
