"""Tasks of destinations that are down: when each has waited as long as it would have gone on trying.

A held task uses no attempt. It ends ``dead`` when its own rule would have used up its attempts, had each
failed at once, counted from when it became held; never before the destination was probed in vain, and not
while its queue is paused. Everything is done in slices: a destination may go down with a million tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

from wheeltimer.core.engine import Engine
from wheeltimer.core.outcomes import rule_of
from wheeltimer.core.retry import CHANCE_MAX, Rule, next_delay_ms
from wheeltimer.core.task import NS_PER_MS, State, Task, split_key
from wheeltimer.delivery.lanes import Target

SLICE_MAX: Final = 64  # tasks looked at per sweep; about 10 us each
ROOM_RETRY_NS: Final = 1_000_000_000


class Book(Protocol):
    """What is needed of the ledger."""

    @property
    def engine(self) -> Engine: ...
    def give_up(self, key: str) -> bool: ...


class _Entry(NamedTuple):
    """``at_ns``: when the task gives up. It counts only while the target is held since ``held_ns``."""

    at_ns: int
    number: int
    key: str
    lsn: int
    held_ns: int
    target: Target


@lru_cache(maxsize=1024)
def rest_ms(rule: Rule, failures: int) -> int:
    """From the next attempt to the last, when each fails at once: the rule's nominal delays, added up."""
    total, failed = 0, failures + 1
    while (delay_ms := next_delay_ms(rule, failed, CHANCE_MAX // 2)) is not None:
        total += delay_ms
        failed += 1
    return total


class Held:
    """The tasks of all held destinations, by when they give up."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._heap: list[_Entry] = []
        self._count = 0
        self._coming: deque[tuple[Target, int, Iterator[str]]] = deque()  # of targets that went down just now
        self._unprobed: dict[Target, deque[_Entry]] = {}
        self._probed: deque[_Entry] = deque()

    def hold(self, target: Target, now_ns: int) -> None:
        """A destination went down: what is in its lanes is taken in, a slice at each ``sweep``."""
        keys = [key for lane in target.lanes.values() for key in (*lane.late, *lane.fresh)]
        self._coming.append((target, now_ns, iter(keys)))

    def add(self, key: str, task: Task, target: Target, now_ns: int) -> None:
        """A task became ready for a destination that is held."""
        held_ns = target.window.held_ns
        assert held_ns is not None
        at_ns = now_ns + rest_ms(rule_of(task), task.failures) * NS_PER_MS
        heappush(self._heap, _Entry(at_ns, self._count, key, task.lsn, held_ns, target))
        self._count += 1

    def probed(self, target: Target) -> None:
        """A probe failed: those that waited for one may give up."""
        self._probed.extend(self._unprobed.pop(target, ()))

    def open(self, target: Target) -> None:
        """The destination answers again; entries of this hold are passed over when they come up."""
        self._unprobed.pop(target, None)

    def sweep(self, now_ns: int) -> int | None:
        """One slice: elapsed ns at which to sweep again (now: more to do at once), None for never."""
        left = SLICE_MAX
        left -= self._take_in(left)
        while left and self._probed:
            left -= 1
            if not self._end(self._probed.popleft(), now_ns):
                return now_ns + ROOM_RETRY_NS
        while left and self._heap and self._heap[0].at_ns <= now_ns:
            left -= 1
            if not self._end(heappop(self._heap), now_ns):
                return now_ns + ROOM_RETRY_NS
        if self._coming or self._probed:
            return now_ns
        return self._heap[0].at_ns if self._heap else None

    def _take_in(self, most: int) -> int:
        taken = 0
        while self._coming and taken < most:
            target, held_ns, keys = self._coming[0]
            key = next(keys, None) if target.window.held_ns == held_ns else None
            if key is None:
                self._coming.popleft()
                continue
            taken += 1
            task = self._book.engine.get(key)
            if task is not None and task.state == State.READY:
                self.add(key, task, target, held_ns)
        return taken

    def _end(self, entry: _Entry, now_ns: int) -> bool:
        """Let the task of a due entry give up, unless it has moved on; False where there was no room."""
        target = entry.target
        if target.window.held_ns != entry.held_ns:
            return True
        task = self._book.engine.get(entry.key)
        if task is None or task.state != State.READY or task.lsn != entry.lsn:
            return True
        if self._book.engine.paused(split_key(entry.key)[0]):
            self.add(entry.key, task, target, max(now_ns, entry.at_ns) + ROOM_RETRY_NS)
        elif not target.window.probes:
            self._unprobed.setdefault(target, deque()).append(entry)
        elif not self._book.give_up(entry.key):
            heappush(self._heap, entry)
            return False
        return True
