"""The committer's hand without a thread: a job takes simulated time, then is done at one moment, in the
loop.

The seam is ``wheeltimer.journal.worker.Hand``, behind which production has a thread. As there, the loop goes
on while a job waits for the disk, a moment without a job is idle, and the job that was handed over is done
however the run ends. What a job does (encode, write, sync) is production's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from wheeltimer.journal.worker import IDLE_S, Job


class SimHand:
    """``delay_s`` says how long each job takes; ``did`` is told of every job that went well."""

    def __init__(self, delay_s: Callable[[], float], did: Callable[[Job], None] | None = None) -> None:
        self._delay_s = delay_s
        self._did = did
        self._job: Job | None = None
        self._given = trio.Event()
        self._idle: Job | None = None
        self._at_rest = True

    def start(self, idle: Job) -> None:
        self._idle = idle

    def submit(self, job: Job) -> None:
        assert self._job is None, "one job at a time"
        self._job = job
        self._given.set()

    async def done(self) -> None:
        while self._job is None:
            if self._at_rest:
                await self._given.wait()
            else:
                with trio.move_on_after(IDLE_S):
                    await self._given.wait()
            self._given = trio.Event()
            if self._job is None and not self._at_rest:
                self._at_rest = True
                assert self._idle is not None
                self._idle()
        await trio.sleep(self._delay_s())
        job, self._job = self._job, None
        self._at_rest = False
        job()
        if self._did is not None:
            self._did(job)

    async def aside(self, work: Callable[[], bool]) -> bool:
        await trio.sleep(self._delay_s())
        return work()

    async def stop(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            with suppress(OSError):
                job()
                if self._did is not None:
                    self._did(job)
        await trio.lowlevel.cancel_shielded_checkpoint()
