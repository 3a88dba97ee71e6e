"""Who may go now: permits, fairness between destinations, what is held, what waits for the disk.

A view of the engine's state: the lanes hold keys of tasks that were ``ready``, and each task is looked
at again before it starts, so one that was cancelled, changed or paused meanwhile costs nothing but its
place. The attempt itself is ``attempt.py``, the window of a destination ``window.py``.

A permit is taken before a nursery task is made: a million overdue tasks are keys in lanes, not nursery
tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

import trio

from wheeltimer.core.engine import Engine
from wheeltimer.core.outcomes import Answer
from wheeltimer.core.task import Now, State, Task, split_key
from wheeltimer.delivery.attempt import destination_of, late_ms_of
from wheeltimer.delivery.held import Held
from wheeltimer.delivery.lanes import Lane, Lanes, Queue
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.window import Window

LOOKS_MAX: Final = 64  # lanes looked at before the loop gets a turn; about 30 us where one starts
ROOM_RETRY_NS: Final = 1_000_000_000  # how long a start waits that found no room in the journal
SHARE: Final = 4  # no destination has more than this part of all permits while others wait
BACKLOG_MS: Final = 1_000  # a task this late when it comes belongs to a backlog
STALE_MIN: Final = 4_096  # keys of tasks no longer ready that the lanes may hold beyond those that are
_log = logging.getLogger("wheeltimer.delivery")


class Book(Protocol):
    """What the dispatcher needs of the ledger."""

    @property
    def engine(self) -> Engine: ...
    @property
    def now(self) -> Callable[[], Now]: ...
    def start(self, key: str, task: Task) -> bool: ...
    def outcome(self, key: str, answer: Answer) -> None: ...
    def dropped(self, key: str) -> None: ...
    def give_up(self, key: str) -> bool: ...


class Dispatcher:
    """Starts attempts of ready tasks, at most ``concurrency`` at a time.

    ``durable_lsn`` tells what is on disk: an attempt starts only when the record that made the task's
    present version is, and waits for nothing written later. ``queue_of`` and ``window_of`` make the
    gates of a queue and a destination from the settings.
    """

    def __init__(
        self,
        book: Book,
        send: Callable[[str, Task], Awaitable[Answer]],
        durable_lsn: Callable[[], int],
        concurrency: int,
        queue_of: Callable[[str], Queue] = lambda name: Queue(),
        window_of: Callable[[Destination], Window] = lambda destination: Window(),
    ) -> None:
        self._book = book
        self._send = send
        self._durable_lsn = durable_lsn
        self._concurrency = concurrency
        self._lanes = Lanes(queue_of, window_of)
        self._held = Held(book)
        self._unwritten: list[str] = []  # ready, but their record is not on disk yet
        self._paused: dict[str, list[Lane]] = {}
        self._timed: list[tuple[int, int, Lane]] = []  # lanes that wait for an instant: (ns, number, lane)
        self._timed_count = 0
        self._no_room_until_ns = 0
        self._spawn: Callable[[str, Task, Lane, int], None] | None = None
        self._wake = trio.Event()
        self._idle = trio.Event()
        self.in_flight = 0
        self.draining = False

    def __len__(self) -> int:
        """Keys that wait here."""
        return self._lanes.size + len(self._unwritten)

    # -- what comes in --------------------------------------------------------------------------

    def offer(self, key: str) -> None:
        """A task became ready. O(1)."""
        task = self._book.engine.get(key)
        assert task is not None
        if task.lsn > self._durable_lsn():
            self._unwritten.append(key)
            return
        now = self._book.now()
        queue, _ = split_key(key)
        destination = destination_of(task)
        lane = self._lanes.add(queue, destination, key, late=late_ms_of(task, now) > BACKLOG_MS)
        if lane.target.window.held_ns is not None:
            self._held.add(key, task, lane.target, now.elapsed_ns)
        self._wake.set()

    def committed(self) -> None:
        """More records are on disk: what waited for that may go."""
        if self._unwritten:
            keys, self._unwritten = self._unwritten, []
            for key in keys:
                task = self._book.engine.get(key)
                if task is not None and task.state == State.READY:
                    self.offer(key)
        if self._no_room_until_ns:
            self._no_room_until_ns = 0
            self._wake.set()

    def resumed(self, queue: str) -> None:
        """A queue is no longer paused: what waited for it may go."""
        for lane in self._paused.pop(queue, ()):
            self._lanes.leave(lane)
        self._wake.set()

    def reconfigure(
        self, queue_of: Callable[[str], Queue], window_of: Callable[[Destination], Window]
    ) -> None:
        """Settings have changed: what waits looks at its limits again."""
        self._lanes.reconfigure(queue_of, window_of)
        self._untime(lambda lane: True)
        self._wake.set()

    # -- choosing -------------------------------------------------------------------------------

    def pump(self, spawn: Callable[[str, Task, Lane, int], None]) -> int | None:
        """Start what may start, one slice: 0 where there is more to do at once, else the elapsed ns at
        which to look again, None for never. ``spawn`` is given (key, task, lane, started_ns).
        """
        now_ns = self._book.now().elapsed_ns
        wait_ns = self._held.sweep(now_ns)
        if wait_ns is not None and wait_ns <= now_ns:
            wait_ns = 0
        if self.draining:
            return None
        if now_ns < self._no_room_until_ns:
            return self._no_room_until_ns
        self._no_room_until_ns = 0
        self._wake_timed(now_ns)
        looks, over_share = 0, 0
        ring = self._lanes.ring
        while ring and self.in_flight < self._concurrency and over_share < len(ring):
            if looks == LOOKS_MAX:
                return 0
            looks += 1
            lane = ring.popleft()
            if not len(lane):
                self._lanes.leave(lane)
                continue
            if not self._gates_open(lane, now_ns):
                continue
            window = lane.target.window
            if window.in_flight >= max(1, self._concurrency // SHARE) and over_share < len(ring):
                ring.append(lane)
                over_share += 1
                continue
            over_share = 0
            if not self._start_first(lane, now_ns, spawn):
                self._no_room_until_ns = now_ns + ROOM_RETRY_NS
                return self._no_room_until_ns
        self._drop_stale()
        if self._timed and wait_ns != 0:
            wait_ns = self._timed[0][0] if wait_ns is None else min(wait_ns, self._timed[0][0])
        return wait_ns

    def _gates_open(self, lane: Lane, now_ns: int) -> bool:
        """Whether the lane may start something; else it is put in the line of what it waits for."""
        queue, target = lane.queue, lane.target
        if self._book.engine.paused(lane.name):
            self._paused.setdefault(lane.name, []).append(lane)
            self._lanes.wake(target)
            return False
        if queue.concurrency is not None and queue.in_flight >= queue.concurrency:
            queue.line.append(lane)
            self._lanes.wake(target)
            return False
        wait_ns = target.window.wait_ns(now_ns)
        if wait_ns is None:
            target.line.append(lane)
            self._lanes.wake(queue)
            return False
        if queue.bucket is not None:
            wait_ns = max(wait_ns, queue.bucket.wait_ns(now_ns))
        if wait_ns:
            heappush(self._timed, (now_ns + wait_ns, self._timed_count, lane))
            self._timed_count += 1
            self._lanes.wake(queue)
            return False
        return True

    def _wake_timed(self, now_ns: int) -> None:
        while self._timed and self._timed[0][0] <= now_ns:
            self._lanes.ring.append(heappop(self._timed)[2])

    def _untime(self, wanted: Callable[[Lane], bool]) -> None:
        """What lanes waited for an instant for has changed: they may try now. O(lanes that wait so)."""
        self._lanes.ring.extend(lane for _, _, lane in self._timed if wanted(lane))
        self._timed = [entry for entry in self._timed if not wanted(entry[2])]
        heapify(self._timed)

    def _start_first(self, lane: Lane, now_ns: int, spawn: Callable[[str, Task, Lane, int], None]) -> bool:
        """Start the lane's first task, if it is still ready; False where the journal has no room for it."""
        key = self._lanes.take(lane)
        task = self._book.engine.get(key)
        if task is None or task.state != State.READY or destination_of(task) != lane.target.destination:
            pass  # cancelled or changed since it became ready
        elif task.lsn > self._durable_lsn():
            self._unwritten.append(key)
        elif self._book.start(key, task):
            self.in_flight += 1
            lane.queue.in_flight += 1
            lane.target.window.start(now_ns)
            if lane.queue.bucket is not None:
                lane.queue.bucket.take(now_ns)
            spawn(key, task, lane, now_ns)
        else:
            self._lanes.give_back(lane, key)
            return False
        self._lanes.leave(lane)
        return True

    def _drop_stale(self) -> None:
        """Keys of tasks that are ready no longer must not pile up behind a gate that stays shut."""
        if self._lanes.size > 2 * self._book.engine.counts[State.READY] + STALE_MIN:
            self._lanes.keep_only(self._is_ready)

    def _is_ready(self, key: str) -> bool:
        task = self._book.engine.get(key)
        return task is not None and task.state == State.READY

    # -- running --------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start attempts until cancelled; attempts in flight are cancelled with it."""
        async with trio.open_nursery() as nursery:

            def spawn(key: str, task: Task, lane: Lane, started_ns: int) -> None:
                nursery.start_soon(self._attempt, key, task, lane, started_ns)

            task_status.started()
            while True:
                wake_ns = self.pump(spawn)
                if wake_ns == 0:
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.CancelScope() as scope:
                    if wake_ns is not None:
                        left_ns = wake_ns - self._book.now().elapsed_ns
                        scope.deadline = trio.current_time() + max(0, left_ns) / 1e9
                    await self._wake.wait()
                self._wake = trio.Event()

    async def _attempt(self, key: str, task: Task, lane: Lane, started_ns: int) -> None:
        """One attempt, kept apart from all others: a bug in it fails this attempt and is logged."""
        answer: Answer | None = None
        try:
            answer = await self._send(key, task)
        except Exception:  # noqa: BLE001 -- one of the two places that isolate; see the docstring
            _log.exception("attempt failed inside key=%s", key)
            answer = Answer(task.next_ms, 0, 0, error="internal: see the daemon's log")
        finally:
            if answer is None:
                self._ended(lane)
                lane.target.window.cut()
                self._book.dropped(key)
        self.finish(key, answer, lane, started_ns)

    def finish(self, key: str, answer: Answer, lane: Lane, started_ns: int) -> None:
        """Record an attempt's outcome and give its permits back."""
        target, now_ns = lane.target, self._book.now().elapsed_ns
        was_held = target.window.held_ns
        target.window.end(answer, started_ns, now_ns)
        if target.window.held_ns is not None and was_held is None:
            _log.warning("held destination=%s://%s", target.destination.scheme, target.destination.authority)
            self._held.hold(target, now_ns)
        elif was_held is not None and target.window.held_ns is None:
            _log.info("open destination=%s://%s", target.destination.scheme, target.destination.authority)
            self._held.open(target)
            self._untime(lambda lane: lane.target is target)
        elif was_held is not None:
            self._held.probed(target)
        self._ended(lane)
        self._book.outcome(key, answer)

    def _ended(self, lane: Lane) -> None:
        self.in_flight -= 1
        self._lanes.ended(lane)
        self._wake.set()
        if self.draining and not self.in_flight:
            self._idle.set()

    async def drain(self) -> None:
        """Start nothing more and wait until nothing is in flight."""
        self.draining = True
        if self.in_flight:
            await self._idle.wait()
