"""``python -m tests.sharing.kinds KIND COUNT SEED``: one client, used as programs of this kind use it.

``WHEELTIMER_SERVER`` is the daemon, ``SHARING_TALLY`` the file of the tally. About COUNT requests are made.
Each kind makes its client, and uses it, before the threads or processes that share it exist.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import anyio

from tests.sharing.places import CutAfterCalls
from tests.sharing.tally import REQUESTS, URL, VARIABLE, Cut, Tally, limit_s
from wheeltimer import AsyncClient, Client

WORKERS: Final = 4
TASKS: Final = 8  # of an AsyncClient
SERVER: Final = os.environ["WHEELTIMER_SERVER"]
STREAMED: Final = 10  # tasks of a worker's last pipeline
KINDS: Final[dict[str, Callable[[int, random.Random], None]]] = {}
CLIENT: Client  # of this process, or of the process that it was forked from
TALLY: Tally


def kind(name: str) -> Callable[[Callable[[int, random.Random], None]], None]:
    def add(play: Callable[[int, random.Random], None]) -> None:
        KINDS[name] = play

    return add


def work(name: str, requests: int) -> None:
    """What a thread or process does with the client that it shares."""
    for number in range(requests // REQUESTS):
        TALLY.use(CLIENT, f"{name}-{number}")


@kind("threads")
def _threads(requests: int, chance: random.Random) -> None:
    """One of them has a pipeline open meanwhile: the lock must not be held between its replies."""

    def play(name: str) -> None:
        work(name, requests // WORKERS - STREAMED)
        TALLY.stream(CLIENT, f"{name}-stream", STREAMED)

    threads = [threading.Thread(target=play, args=(f"thread-{n}",)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pool(pool: Executor, requests: int) -> None:
    with pool:
        each = requests // (2 * WORKERS)
        futures = [pool.submit(work, f"job-{n}", each) for n in range(2 * WORKERS)]
        for future in futures:
            future.result()


@kind("ThreadPoolExecutor")
def _thread_pool(requests: int, chance: random.Random) -> None:
    _pool(ThreadPoolExecutor(WORKERS), requests)


@kind("ProcessPoolExecutor, fork")
def _process_pool(requests: int, chance: random.Random) -> None:
    _pool(ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")), requests)


@kind("multiprocessing, spawn")
def _spawn(requests: int, chance: random.Random) -> None:
    """A spawned process imports the program anew: its client is its own."""
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=spawned, args=(f"child-{n}", requests // WORKERS)) for n in range(WORKERS)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def spawned(name: str, requests: int) -> None:
    open_client()
    work(name, requests)


@kind("os.fork")
def _fork(requests: int, chance: random.Random) -> None:
    """The parent works beside its children, and a child has a child."""
    with _children(WORKERS - 1, requests // (WORKERS + 1)):
        work("parent", requests // (WORKERS + 1))
    work("parent-later", REQUESTS)


@kind("os.fork among threads")
def _fork_among_threads(requests: int, chance: random.Random) -> None:
    """Children that are forked in the middle of a thread's request: its lock is held, and not by theirs."""
    threads = [threading.Thread(target=work, args=(f"thread-{n}", requests // 4)) for n in range(2)]
    for thread in threads:
        thread.start()
    with contextlib.ExitStack() as stack:
        for n in range(4):
            time.sleep(chance.uniform(0, 0.02))
            stack.enter_context(_children(2, requests // 16, f"fork-{n}"))
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _children(number: int, requests: int, name: str = "child") -> Iterator[None]:
    """Forked children that work; the first of them forks again after its work."""
    pids = []
    for n in range(number):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                work(f"{name}-{n}", requests)
                if name == "child" and n == 0:
                    with _children(1, requests, "grandchild"):
                        work("child-0-later", REQUESTS)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    yield
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@kind("fork, parent idle")
def _fork_idle(requests: int, chance: random.Random) -> None:
    """The test looks at what was sent on the parent's connection while only the children work."""
    work("parent-before", REQUESTS)
    _tell("before")
    with _children(2, requests // 3):
        pass
    _tell("after")
    work("parent-after", REQUESTS)


def _tell(phase: str) -> None:
    print(phase, flush=True)
    assert sys.stdin.readline() == f"{phase}\n"


# --- interrupted -----------------------------------------------------------------------------------


class Alarm:
    """A handler of SIGALRM that raises; once more soon after the first time, while that is dealt with."""

    def __init__(self, error: type[BaseException]) -> None:
        self.left = 0  # 0: it does not raise
        self._error = error
        self._then_s = 0.0
        signal.signal(signal.SIGALRM, self._ring)

    def set(self, after_s: float, then_s: float) -> None:
        self.left, self._then_s = 2, then_s
        signal.setitimer(signal.ITIMER_REAL, after_s)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self.left:
            self.left -= 1
            signal.setitimer(signal.ITIMER_REAL, self._then_s if self.left else 0)
            raise self._error


def _alarmed(requests: int, chance: random.Random, name: str, alarm: Alarm) -> None:
    """Two alarms in each three requests, at random instants of the time that they usually take."""
    usual_s = 1e-3
    for number in range(requests // REQUESTS):
        began_s = time.monotonic()
        try:
            alarm.set(chance.uniform(0.02, 1.2) * usual_s, chance.uniform(10e-6, 300e-6))
            TALLY.use(CLIENT, f"{name}-{number}")
            alarm.left = 0
        except (Cut, KeyboardInterrupt):  # between two requests
            alarm.left = 0
        TALLY.use(CLIENT, f"{name}-{number}")
        usual_s += ((time.monotonic() - began_s) / 2 - usual_s) / 10


@kind("alarm raises")
def _alarm(requests: int, chance: random.Random) -> None:
    """As a soft time limit does."""
    _alarmed(requests // 2, chance, "alarm", Alarm(Cut))


@kind("KeyboardInterrupt")
def _keyboard_interrupt(requests: int, chance: random.Random) -> None:
    """The main thread is interrupted; two others go on with the same client."""
    threads = [threading.Thread(target=work, args=(f"thread-{n}", requests // 4)) for n in range(2)]
    for thread in threads:
        thread.start()
    _alarmed(requests // 4, chance, "main", Alarm(KeyboardInterrupt))
    for thread in threads:
        thread.join()


@kind("gevent.Timeout")
def _gevent_timeout(requests: int, chance: random.Random) -> None:
    """Greenlets; the time of about every second request is up before its answer comes."""
    import gevent

    def limited(limit_s: float, request: Callable[[], object]) -> object:
        with gevent.Timeout(limit_s, Cut):
            return request()

    def play(name: str) -> None:
        for number in range(requests // WORKERS // 2):
            asked = f"{name}-{number}"
            for request in (partial(_schedule, asked), partial(_get, asked)):
                TALLY.ask(asked, lambda request=request: limited(chance.uniform(0, 20e-3), request))

    gevent.joinall([gevent.spawn(play, f"greenlet-{n}") for n in range(WORKERS)], raise_error=True)


def _schedule(name: str) -> str:
    return CLIENT.schedule(URL, delay="1h", id=name, group=name).id


def _get(name: str) -> str:
    return CLIENT.get(name).id


@kind("an exception after any call")
def _after_any_call(requests: int, chance: random.Random) -> None:
    """At each place of the client's code where Python runs signal handlers, one after the other."""
    done = 0
    while done < requests:
        for play in (_first, _later, _many):
            place, raised = 0, True
            while raised:
                trace = CutAfterCalls(place)
                name = f"{play.__name__}-{done}"
                play(name, trace)
                TALLY.use(CLIENT, name)
                place, raised, done = place + 1, trace.raised, done + 1 + REQUESTS


def _first(name: str, trace: CutAfterCalls) -> None:
    """The first request of a client, which connects."""
    global CLIENT
    CLIENT.close()
    CLIENT = Client(SERVER)
    _later(name, trace)


def _later(name: str, trace: CutAfterCalls) -> None:
    """A request on a connection that is open."""
    TALLY.ask(name, lambda: trace.run(partial(_schedule, name)))


def _many(name: str, trace: CutAfterCalls) -> None:
    """A pipeline."""
    names = [f"{name}-{number}" for number in range(3)]
    tasks = [{"id": each, "url": URL, "delay": "1h"} for each in names]

    def request() -> list[str]:
        return [getattr(reply, "id", str(reply)) for reply in CLIENT.schedule_many(tasks)]

    TALLY.ask(names, lambda: trace.run(request))


# --- asynchronous ----------------------------------------------------------------------------------


async def _tasks(requests: int, chance: random.Random) -> None:
    """Tasks that share an AsyncClient; about every second request is cancelled before its answer comes."""
    usual_s = 10e-3

    async def ask(asked: object, request: Callable[[], Awaitable[object]]) -> None:
        nonlocal usual_s
        while True:
            began_s = time.monotonic()
            with anyio.move_on_after(chance.uniform(0, 3 * usual_s)):
                try:
                    got = await request()
                except Exception:  # noqa: BLE001
                    TALLY.failed()
                else:
                    TALLY.reply(asked, got)
                usual_s += (time.monotonic() - began_s - usual_s) / 10
                return
            usual_s *= 1.1  # the machine is slower than it was
            TALLY.cut()

    async def play(client: AsyncClient, name: str) -> None:
        for number in range(requests // TASKS // 2):
            await ask(f"{name}-{number}", lambda: _schedule_later(client, f"{name}-{number}"))  # noqa: B023
            await ask(f"{name}-{number}", lambda: _get_later(client, f"{name}-{number}"))  # noqa: B023

    async with AsyncClient(SERVER) as client, anyio.create_task_group() as group:
        for n in range(TASKS):
            group.start_soon(play, client, f"task-{n}")


async def _schedule_later(client: AsyncClient, name: str) -> str:
    return (await client.schedule(URL, delay="1h", id=name)).id


async def _get_later(client: AsyncClient, name: str) -> str:
    return (await client.get(name)).id


@kind("asyncio, cancelled")
def _asyncio(requests: int, chance: random.Random) -> None:
    anyio.run(_tasks, requests, chance, backend="asyncio")


@kind("trio, cancelled")
def _trio(requests: int, chance: random.Random) -> None:
    anyio.run(_tasks, requests, chance, backend="trio")


def open_client() -> None:
    """Make what the kinds use, and use it: what is shared is a connection that is open."""
    global CLIENT, TALLY
    TALLY = Tally(Path(os.environ[VARIABLE]))
    CLIENT = Client(SERVER)
    CLIENT.ping()


def main(name: str, requests: str, seed: str) -> None:
    # Where a lock is never given back, this shows it.
    faulthandler.dump_traceback_later(0.9 * limit_s(int(requests)), exit=True)
    open_client()
    KINDS[name](int(requests), random.Random(int(seed)))
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(*sys.argv[1:])
