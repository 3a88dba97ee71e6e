"""Tasks of destinations that are down: each gives up after the time that its retries would have taken.

A held task uses no attempt. It ends ``dead`` once its retry rule would have used up its attempts, had each
failed at once. That time counts from when it became held, without the time its queue was paused, and the task
never ends before a probe of the destination has failed. All work is done in slices: a destination may go down
with a million tasks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final, NamedTuple

from wheeltimer.core.outcome import rule_of
from wheeltimer.core.task import NS_PER_MS, Task, split_key
from wheeltimer.delivery.lanes import DestinationState
from wheeltimer.delivery.ports import TaskSource
from wheeltimer.protocol.retry import CHANCE_MAX, Rule, budget_ms, next_delay_ms
from wheeltimer.protocol.task_view import State
from wheeltimer.runtime.ratelog import RateLimitedLog

SLICE_MAX: Final = 64  # tasks handled per sweep; about 10 us each
ROOM_RETRY_NS: Final = 1_000_000_000  # wait after a record for which the journal had no room
LINES_MAX: Final = 10  # log lines a minute about destinations that go down, and as many about those that open
PRUNE_MIN: Final = 4_096  # with fewer entries no pass for stale ones begins
_log = logging.getLogger("wheeltimer.delivery")


class _Entry(NamedTuple):
    """``at_ns``: when the task gives up. The entry is stale unless the target is held since ``held_ns``.

    ``paused_ns``: how long its queue had been paused in all when ``at_ns`` was computed.
    """

    at_ns: int
    number: int
    key: str
    lsn: int
    held_ns: int
    paused_ns: int
    target: DestinationState


@lru_cache(maxsize=1024)
def rest_ms(rule: Rule, failures: int) -> int:
    """Time from the next attempt to the last if each fails at once: the sum of the rule's nominal delays."""
    spent = (next_delay_ms(rule, failed, CHANCE_MAX // 2) or 0 for failed in range(1, failures + 1))
    return max(0, budget_ms(rule) - sum(spent))


class Held:
    """The tasks of all held destinations, ordered by when they give up."""

    def __init__(self, book: TaskSource) -> None:
        self._book = book
        self._heap: list[_Entry] = []
        self._count = 0
        self._incoming: deque[tuple[DestinationState, int, Iterator[str]]] = (
            deque()
        )  # of targets that went down just now
        self._awaiting_probe: dict[DestinationState, deque[_Entry]] = {}
        self._paused: dict[str, deque[_Entry]] = {}  # due, but their queue is paused
        # Tasks whose time came while their own attempt, the probe, was under way or waited for its retry:
        # lsn by key.
        self._overdue: dict[DestinationState, dict[str, int]] = {}
        self._recheck: deque[_Entry] = deque()  # due entries that waited for a probe or a resume
        self._paused_since_ns: dict[str, int] = {}
        self._paused_ns: dict[str, int] = {}  # by queue: how long it was paused in all, up to its last resume
        self._pruning: list[_Entry] = []
        self._prune_at = PRUNE_MIN
        self._downs = RateLimitedLog(_log, logging.WARNING, LINES_MAX, self._elapsed_s)
        self._opens = RateLimitedLog(_log, logging.INFO, LINES_MAX, self._elapsed_s)

    def _elapsed_s(self) -> float:
        return self._book.now().elapsed_ns / 1e9

    def __len__(self) -> int:
        """How many entries there are, stale ones included."""
        waiting = sum(map(len, (*self._awaiting_probe.values(), *self._paused.values())))
        return len(self._heap) + len(self._recheck) + len(self._pruning) + waiting

    # -- what comes in --------------------------------------------------------------------------

    def hold(self, target: DestinationState, now_ns: int) -> None:
        """A destination went down: the tasks in its lanes are added, a slice at each ``sweep``."""
        self._downs.say("held destination=%s", target.destination.origin)
        for lane in target.lanes.values():
            self._incoming.append((target, now_ns, lane.waiting_keys()))

    def add(self, key: str, task: Task, target: DestinationState, now_ns: int) -> None:
        """A task became held at ``now_ns``."""
        held_ns = target.window.held_ns
        assert held_ns is not None
        at_ns = now_ns
        if self._overdue.get(target, {}).pop(key, None) != task.lsn:
            at_ns += rest_ms(rule_of(task), task.failures) * NS_PER_MS
        paused_ns = self._paused_till(split_key(key)[0], now_ns) if self._paused_ns else 0
        heappush(self._heap, _Entry(at_ns, self._count, key, task.lsn, held_ns, paused_ns, target))
        self._count += 1

    def lapsed(self, key: str, task: Task, target: DestinationState, started_ns: int, now_ns: int) -> None:
        """A task of a held destination is ready again, as its attempt was not made.

        It has an entry, unless the destination went down or the task's time came during the attempt.
        """
        held_ns = target.window.held_ns
        assert held_ns is not None
        if started_ns <= held_ns or self._overdue.get(target, {}).get(key) == task.lsn:
            self.add(key, task, target, now_ns)

    def probed(self, target: DestinationState) -> None:
        """A probe failed: tasks that waited for that may give up."""
        self._recheck.extend(self._awaiting_probe.pop(target, ()))

    def open(self, target: DestinationState) -> None:
        """The destination answers again: entries of this hold are stale from now on."""
        self._opens.say("open destination=%s", target.destination.origin)
        self._awaiting_probe.pop(target, None)
        self._overdue.pop(target, None)

    def paused(self, queue: str, now_ns: int) -> None:
        """The queue is paused: the time of its tasks is stopped. A second call changes nothing."""
        self._paused_since_ns.setdefault(queue, now_ns)
        self._paused_ns.setdefault(queue, 0)

    def resumed(self, queue: str, now_ns: int) -> None:
        """The queue is no longer paused: the time of its tasks goes on."""
        since_ns = self._paused_since_ns.pop(queue, None)
        if since_ns is not None:
            self._paused_ns[queue] += now_ns - since_ns
        self._recheck.extend(self._paused.pop(queue, ()))

    def _paused_till(self, queue: str, now_ns: int) -> int:
        since_ns = self._paused_since_ns.get(queue, now_ns)
        return self._paused_ns.get(queue, 0) + max(0, now_ns - since_ns)

    # -- what goes out --------------------------------------------------------------------------

    def sweep(self, now_ns: int) -> int | None:
        """Do one slice; return the elapsed ns at which to sweep again (``now_ns``: at once), or None."""
        self._downs.log_suppressed("held destinations that were not named")
        self._opens.log_suppressed("open destinations that were not named")
        left = SLICE_MAX - self._take_in(SLICE_MAX)
        left -= self._prune(left)
        while left and self._recheck:
            left -= 1
            if not self._end(self._recheck.popleft(), now_ns):
                return now_ns + ROOM_RETRY_NS
        while left and self._heap and self._heap[0].at_ns <= now_ns:
            left -= 1
            if not self._end(heappop(self._heap), now_ns):
                return now_ns + ROOM_RETRY_NS
        if self._incoming or self._recheck or self._pruning:
            return now_ns
        if self._heap:
            return self._heap[0].at_ns
        if not self._awaiting_probe and not self._paused:
            self._paused_ns = {queue: self._paused_ns[queue] for queue in self._paused_since_ns}
        return None

    def _take_in(self, most: int) -> int:
        taken = 0
        while self._incoming and taken < most:
            target, held_ns, keys = self._incoming[0]
            key = next(keys, None) if target.window.held_ns == held_ns else None
            if key is None:
                self._incoming.popleft()
                continue
            taken += 1
            task = self._book.engine.get(key)
            if task is not None and task.state == State.READY:
                self.add(key, task, target, held_ns)
        return taken

    def _end(self, entry: _Entry, now_ns: int) -> bool:
        """Let the task of a due entry give up, unless the entry is stale or must wait for a probe or a
        resume. False: the journal had no room."""
        target, queue = entry.target, split_key(entry.key)[0]
        state = self._state(entry)
        if state is None:
            return True
        if self._book.engine.paused(queue):
            self.paused(queue, now_ns)
            self._paused.setdefault(queue, deque()).append(entry)
            return True
        paused_ns = self._paused_till(queue, now_ns)
        if paused_ns > entry.paused_ns:
            at_ns = entry.at_ns + paused_ns - entry.paused_ns
            heappush(self._heap, entry._replace(at_ns=at_ns, paused_ns=paused_ns))
        elif state is not State.READY:
            self._overdue.setdefault(target, {})[entry.key] = entry.lsn
        elif not target.window.probes:
            self._awaiting_probe.setdefault(target, deque()).append(entry)
        elif not self._book.give_up(entry.key):
            heappush(self._heap, entry)
            return False
        return True

    def _state(self, entry: _Entry) -> State | None:
        """The state of the entry's task; None if the entry is stale."""
        if entry.target.window.held_ns != entry.held_ns:
            return None
        task = self._book.engine.get(entry.key)
        if task is None or task.lsn != entry.lsn or task.state >= State.DONE:
            return None
        return State(task.state)

    def _prune(self, most: int) -> int:
        """Drop stale entries (the task changed or the destination opened): a slice of a pass over all.

        A pass begins once there are twice as many entries as the last one left, so its cost is spread.
        """
        if not self._pruning:
            if len(self._heap) <= self._prune_at:
                return 0
            self._pruning, self._heap = self._heap, []
            self._pruning.reverse()  # ``pop`` takes from the end, and a heap has the earliest entry in front
        looks = 0
        while self._pruning and looks < most:
            looks += 1
            entry = self._pruning.pop()
            if self._state(entry) is not None:
                heappush(self._heap, entry)
        if not self._pruning:
            self._prune_at = 2 * len(self._heap) + PRUNE_MIN
        return looks
