"""The journal's thread: when the disk counts as idle, and what happens when work or the thread dies."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import trio_test

from wheeltimer.journal import worker as worker_module
from wheeltimer.journal.worker import WorkerThread

WITHIN_S = 10.0


def fail() -> None:
    raise OSError(28, "no space")


def die() -> None:
    raise RuntimeError("a bug")


@trio_test
async def test_the_disk_is_idle_once_after_the_last_job() -> None:
    hand, idle, done = WorkerThread(), threading.Semaphore(0), list[int]()
    hand.start(idle.release)
    with trio.fail_after(WITHIN_S):
        for n in range(3):
            hand.submit(lambda n=n: done.append(n))
            await hand.done()
            assert await trio.to_thread.run_sync(lambda: idle.acquire(timeout=WITHIN_S))
        await hand.stop()
    assert done == [0, 1, 2]
    assert not idle.acquire(blocking=False), "idle twice after one job"


@trio_test
async def test_after_an_error_nothing_is_done_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "IDLE_S", 0.0)
    hand, idle = WorkerThread(), threading.Event()
    hand.start(idle.set)
    with trio.fail_after(WITHIN_S):
        hand.submit(fail)
        with pytest.raises(OSError, match="no space"):
            await hand.done()
        assert not await trio.to_thread.run_sync(lambda: idle.wait(0.05))
        await hand.stop()


@trio_test
async def test_an_error_of_the_idle_disk_is_told() -> None:
    hand = WorkerThread()
    hand.start(fail)
    with trio.fail_after(WITHIN_S):
        hand.submit(lambda: None)
        await hand.done()
        with pytest.raises(OSError, match="no space"):
            await hand.done()
        await hand.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@trio_test
async def test_a_thread_that_died_is_noticed_however_busy_the_loop_was() -> None:
    hand = WorkerThread()
    hand.start(die)
    with trio.fail_after(WITHIN_S):
        hand.submit(lambda: None)
        for thread in threading.enumerate():
            if thread.name == "journal":
                thread.join(
                    WITHIN_S
                )  # the loop sees neither the job's end nor the thread's before both are there
        await hand.done()
        with pytest.raises(AssertionError, match="died"):
            await hand.done()
        await hand.stop()
