"""Keys in the lanes of tasks that are ready no longer: dropped before they pile up behind a shut gate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from wheeltimer.delivery.lanes import Lanes
from wheeltimer.delivery.ports import Book
from wheeltimer.protocol.task_view import State

STALE_MIN: Final = 4_096  # keys of tasks no longer ready that the lanes may hold beyond those that are


class Stale:
    """Passes over all keys, in slices, when there are about twice as many as ready tasks."""

    def __init__(self, book: Book, lanes: Lanes) -> None:
        self._book = book
        self._lanes = lanes
        self._sieve: Iterator[None] | None = None
        self._surplus = 0  # keys beyond those of ready tasks that the last pass left

    def drop(self, looks_max: int) -> bool:
        """One slice, where a pass is due or under way; whether there is more to do."""
        ready = self._book.engine.counts[State.READY]
        if self._sieve is None:
            if self._lanes.size <= 2 * ready + self._surplus + STALE_MIN:
                return False
            self._sieve = self._lanes.sieve(self._is_ready)
        if sum(1 for _ in islice(self._sieve, looks_max)) == looks_max:
            return True
        self._sieve = None
        self._surplus = max(0, self._lanes.size - ready)
        return False

    def _is_ready(self, key: str) -> bool:
        task = self._book.engine.get(key)
        return task is not None and task.state == State.READY
