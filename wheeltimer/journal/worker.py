"""A thread that does the committer's blocking jobs in order, and wakes the loop with little delay.

Trio's thread pool takes 0.2 ms to a thread and back; a queue to the thread and an eventfd back take half of
that. Jobs go through one thread-safe queue and results through another: nothing else is shared. The committer
defines the jobs; :class:`InlineWorker` does them in the loop, for simulations without threads.

Work that no commit waits for has threads of its own. All are started with the worker and kept, so that the
journal goes on if the system has no thread left later.
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
IDLE_S: Final = 0.002  # after this time without a job, ``idle`` is called


class Worker(Protocol):
    """Does blocking jobs. At most one is under way; :meth:`done` returns when it has ended."""

    def start(self, idle: Job) -> None:
        """Starts the threads; ``idle`` is called once `IDLE_S` have passed without a job after the last."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job. :meth:`done` raises its :class:`OSError`, or that of ``idle``."""
        ...

    async def done(self) -> None:
        """Waits until a job has ended; raises the :class:`OSError` of the job, or of ``idle`` since."""
        ...

    async def aside(self, work: Callable[[], bool]) -> bool:
        """Does work that no commit waits for, beside the jobs; returns its result."""
        ...

    async def stop(self) -> None:
        """Waits for the job under way and ends; safe to call twice, and never cancelled half-way."""
        ...


class WorkerThread:
    """The worker of the daemon: a thread of its own, from :meth:`start` to :meth:`stop`."""

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
        """Does ``work`` in a thread; after :meth:`stop`, in the loop. It is never cancelled half-way, because
        it writes to variables of the caller."""
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
            if not thread.daemon:  # a read for a subscriber may hang in a disk; its end is not needed
                thread.join()
        os.close(self._eventfd)

    def _work_aside(self) -> None:
        while (job := self._asides.get()) is not None:
            job()

    def _work(self, idle: Job) -> None:
        at_rest = True  # wait for the next job without a time-out
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
                at_rest = not self._do(job)  # after an error ``idle`` is not called
                if not at_rest:
                    self._ends.append(None)
                    os.eventfd_write(self._eventfd, 1)
        finally:
            self._over = True
            os.eventfd_write(self._eventfd, 1)  # wakes ``done`` also if the thread ends by a bug

    def _do(self, job: Job) -> bool:
        """Does a job; True if it succeeded, else its error is passed to :meth:`done`."""
        try:
            job()
        except OSError as exc:
            self._ends.append(exc)
            os.eventfd_write(self._eventfd, 1)
            return False
        return True


class InlineWorker:
    """A worker for tests and simulated disks: ``submit`` does each job at once, in the loop."""

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
