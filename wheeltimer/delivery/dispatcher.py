"""Who may go now: permits, and the order of what is ready.

A view of the engine's state: the heap holds keys of tasks that are ``ready``, and each is looked at
again before it starts, so a task that was cancelled, changed or paused meanwhile costs nothing but its
place. The attempt itself is ``attempt.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Final, Protocol

import trio

from wheeltimer.core.engine import Engine
from wheeltimer.core.outcomes import Answer
from wheeltimer.core.task import State, Task, split_key

STARTS_MAX: Final = 32  # attempts begun before the loop gets a turn; about 30 us each
ROOM_RETRY_S: Final = 1.0  # how often a start that found no room in the journal is tried at least
_log = logging.getLogger("wheeltimer.delivery")


class Book(Protocol):
    """What the dispatcher needs of the ledger."""

    @property
    def engine(self) -> Engine: ...
    def start(self, key: str, task: Task) -> bool: ...
    def outcome(self, key: str, answer: Answer) -> None: ...
    def dropped(self, key: str) -> None: ...


class Dispatcher:
    """Starts attempts of ready tasks in due order, at most ``concurrency`` at a time.

    ``durable_lsn`` tells what is on disk: an attempt starts only when the record that made the task's
    present version is, and waits for nothing written later.
    """

    def __init__(
        self,
        book: Book,
        send: Callable[[str, Task], Awaitable[Answer]],
        durable_lsn: Callable[[], int],
        concurrency: int,
    ) -> None:
        self._book = book
        self._send = send
        self._durable_lsn = durable_lsn
        self._concurrency = concurrency
        self._ready: list[tuple[int, int, str]] = []  # (next_ms, lsn, key)
        self._unwritten: list[tuple[int, int, str]] = []  # ready, but their record is not on disk yet
        self._paused: dict[str, list[tuple[int, int, str]]] = {}
        self._wake = trio.Event()
        self._no_room = False  # the last start found none for its outcome
        self.in_flight = 0
        self.draining = False
        self._idle = trio.Event()

    def offer(self, key: str) -> None:
        """A task became ready. O(log ready)."""
        task = self._book.engine.get(key)
        assert task is not None
        heappush(self._ready, (task.next_ms, task.lsn, key))
        self._wake.set()

    def resumed(self, queue: str) -> None:
        """A queue is no longer paused: what waited for it may go."""
        for entry in self._paused.pop(queue, ()):
            heappush(self._ready, entry)
        self._wake.set()

    def committed(self) -> None:
        """More records are on disk: what waited for that, or for the room that it gives back, may go."""
        for entry in self._unwritten:
            heappush(self._ready, entry)
        if self._unwritten or self._no_room:
            self._unwritten.clear()
            self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start attempts until cancelled; attempts in flight are cancelled with it."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                # Room comes back with commits; on a full disk there are none, and it comes unannounced.
                with trio.move_on_after(ROOM_RETRY_S if self._no_room else math.inf):
                    await self._wake.wait()
                self._wake = trio.Event()
                self._no_room = False
                starts = 0
                while self._ready and self.in_flight < self._concurrency and not self.draining:
                    if starts == STARTS_MAX:
                        self._wake.set()
                        await trio.lowlevel.checkpoint()
                        break
                    if not self._start_first(nursery):
                        break
                    starts += 1

    def _start_first(self, nursery: trio.Nursery) -> bool:
        """Take the first entry; False where nothing more can start now."""
        entry = heappop(self._ready)
        _, lsn, key = entry
        engine = self._book.engine
        task = engine.get(key)
        if task is None or task.state != State.READY or task.lsn != lsn:
            return True  # cancelled, replaced or changed since it became ready
        queue, _ = split_key(key)
        if engine.paused(queue):
            self._paused.setdefault(queue, []).append(entry)
        elif lsn > self._durable_lsn():
            self._unwritten.append(entry)
        elif self._book.start(key, task):
            self.in_flight += 1
            nursery.start_soon(self._attempt, key, task)
        else:
            heappush(self._ready, entry)
            self._no_room = True
            return False
        return True

    async def _attempt(self, key: str, task: Task) -> None:
        """One attempt, kept apart from all others: a bug in it fails this attempt and is logged."""
        answer: Answer | None = None
        try:
            answer = await self._send(key, task)
        except Exception:  # noqa: BLE001 -- one of the two places that isolate; see the docstring
            _log.exception("attempt failed inside key=%s", key)
            answer = Answer(task.next_ms, 0, 0, error="internal: see the daemon's log")
        finally:
            self.in_flight -= 1
            if answer is None:
                self._book.dropped(key)
        self._book.outcome(key, answer)
        self._wake.set()
        if self.draining and not self.in_flight:
            self._idle.set()

    async def drain(self) -> None:
        """Start nothing more and wait until nothing is in flight."""
        self.draining = True
        if self.in_flight:
            await self._idle.wait()
