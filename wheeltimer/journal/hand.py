"""A thread that does one caller's blocking work in order, and wakes the loop with as little delay as it can.

A hop to Trio's pool and back costs 0.2 ms; a queue one way and an eventfd the other, half of that. Jobs
go in by one atomic hand-over and results come out by another: nothing else is shared. What the jobs
do is the committer's business; :class:`Inline` does them in the loop, for worlds without threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import trio

Job = Callable[[], None]
_ASIDE: Final = trio.CapacityLimiter(4)  # threads that look at files; a crowd of subscribers asks at once
IDLE_S: Final = 0.002  # a disk that had nothing to do for so long is idle


class Hand(Protocol):
    """Somebody who does blocking work. At most one job is under way; its end is told by :meth:`done`."""

    def start(self, idle: Job) -> None:
        """Gets ready; ``idle`` is done when no job has come for a moment after the last."""
        ...

    def submit(self, job: Job) -> None:
        """Hands a job over. An :class:`OSError` of it, or of ``idle``, comes out of :meth:`done`."""
        ...

    async def done(self) -> None:
        """Waits until a job has ended; raises the :class:`OSError` that it, or ``idle`` since, raised."""
        ...

    async def aside(self, work: Callable[[], bool]) -> bool:
        """Does work that nobody waits for, beside the jobs."""
        ...

    async def stop(self) -> None:
        """Waits for the job under way and ends; safe to call twice, and never cancelled half-way."""
        ...


class Thread:
    """The real hand: a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ends: deque[OSError | None] = deque()
        self._thread: threading.Thread | None = None
        self._eventfd = -1
        self._over = False

    def start(self, idle: Job) -> None:
        assert self._thread is None, "a hand is started once"
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._work, args=(idle,), name="journal")
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    async def done(self) -> None:
        while not self._ends:
            assert not self._over, "the journal's thread died"
            await trio.lowlevel.wait_readable(self._eventfd)
            os.eventfd_read(self._eventfd)
        error = self._ends.popleft()
        if error is not None:
            raise error

    async def aside(self, work: Callable[[], bool]) -> bool:
        return await trio.to_thread.run_sync(work, limiter=_ASIDE)

    async def stop(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        with trio.CancelScope(shield=True):
            while not self._over:
                await trio.lowlevel.wait_readable(self._eventfd)
                os.eventfd_read(self._eventfd)
        thread.join()  # its last words are said: this does not wait
        os.close(self._eventfd)

    def _work(self, idle: Job) -> None:
        at_rest = True  # nothing to do but wait for the next job, however long
        try:
            while True:
                try:
                    job = self._jobs.get(timeout=None if at_rest else IDLE_S)
                except Empty:
                    at_rest = True
                    self._do(idle)
                    continue
                if job is None:
                    return
                at_rest = not self._do(job)  # after an error nothing is done that nobody asked for
                if not at_rest:
                    self._ends.append(None)
                    os.eventfd_write(self._eventfd, 1)
        finally:
            self._over = True
            os.eventfd_write(self._eventfd, 1)  # a thread that dies of a bug is noticed too

    def _do(self, job: Job) -> bool:
        """Whether it went well; an error is told."""
        try:
            job()
        except OSError as exc:
            self._ends.append(exc)
            os.eventfd_write(self._eventfd, 1)
            return False
        return True


class Inline:
    """A hand for tests and simulated disks: every job is done at once, in the loop, in the caller."""

    def __init__(self) -> None:
        self._ends: deque[OSError | None] = deque()
        self._idle: Job | None = None
        self._ended = trio.Event()

    def start(self, idle: Job) -> None:
        self._idle = idle

    def submit(self, job: Job) -> None:
        assert self._idle is not None
        try:
            job()
            self._ends.append(None)
            self._idle()
        except OSError as exc:
            self._ends.append(exc)
        self._ended.set()

    async def done(self) -> None:
        while not self._ends:
            await self._ended.wait()
            self._ended = trio.Event()
        error = self._ends.popleft()
        if error is not None:
            raise error

    async def aside(self, work: Callable[[], bool]) -> bool:
        await trio.lowlevel.checkpoint()
        return work()

    async def stop(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
