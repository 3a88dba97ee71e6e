"""A thread that does one caller's blocking work in order, and wakes the loop with as little delay as it can.

A hop to Trio's pool and back costs 0.2 ms; a queue one way and an eventfd the other, half of that. Jobs
go in by one atomic hand-over and results come out by another: nothing else is shared. What the jobs
do is the committer's business; :class:`InlineWorker` does them in the loop, for worlds without threads.

Work that no commit waits for has threads of its own. All are started with the hand and kept: a system that
has no thread left later does not stop the journal.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import trio

from wheeltimer.errors import StorageFailed

Job = Callable[[], None]
ASIDE_THREADS: Final = 2  # one zeroes a spare segment, which is slow; the other reads for subscribers
IDLE_S: Final = 0.002  # a disk that had nothing to do for so long is idle


class Worker(Protocol):
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


class WorkerThread:
    """The real hand: a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._asides: SimpleQueue[Job | None] = SimpleQueue()
        self._ends: deque[OSError | None] = deque()
        self._threads: list[threading.Thread] = []
        self._eventfd = -1
        self._over = self._stopped = False

    def start(self, idle: Job) -> None:
        assert self._eventfd < 0, "a hand is started once"
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._start(threading.Thread(target=self._work, args=(idle,), name="journal"))
        for number in range(ASIDE_THREADS):
            name = f"journal aside {number}"
            self._start(threading.Thread(target=self._work_aside, name=name, daemon=True))

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError as error:  # the system's limit
            raise StorageFailed(f"a thread of the journal cannot be started: {error}") from error
        self._threads.append(thread)

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
        """Does ``work`` in a thread; after :meth:`stop`, in the loop. It is never cancelled half-way: what it
        writes to belongs to the caller."""
        if self._stopped:
            await trio.lowlevel.checkpoint()
            return work()
        token, ended = trio.lowlevel.current_trio_token(), trio.Event()
        result: list[bool] = []
        failure: list[BaseException] = []

        def job() -> None:
            try:
                result.append(work())
            except BaseException as error:  # noqa: BLE001 -- raised again in the caller's task
                failure.append(error)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(ended.set)

        self._asides.put(job)
        with trio.CancelScope(shield=True):
            await ended.wait()
        if failure:
            raise failure[0]
        return result[0]

    async def stop(self) -> None:
        if self._stopped or self._eventfd < 0:
            return
        self._stopped = True
        self._jobs.put(None)
        for _ in range(ASIDE_THREADS):
            self._asides.put(None)
        with trio.CancelScope(shield=True):
            while self._threads and not self._over:
                await trio.lowlevel.wait_readable(self._eventfd)
                os.eventfd_read(self._eventfd)
        for thread in self._threads:
            if not thread.daemon:  # a read for a subscriber may hang in a disk; nothing waits for its end
                thread.join()
        os.close(self._eventfd)

    def _work_aside(self) -> None:
        while (job := self._asides.get()) is not None:
            job()

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


class InlineWorker:
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
