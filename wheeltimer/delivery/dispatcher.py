"""Which attempt may start now: permits, fairness among destinations, held tasks, tasks not yet on disk.

The lanes hold keys of tasks that were ``ready``. Each task is looked up again before its attempt starts: if
it was cancelled, changed or paused meanwhile, only its key was kept for nothing. The attempt itself is
``callback.py``, the window of a destination ``window.py``.

A permit is taken before a nursery task is made, so a million overdue tasks are a million keys, not a million
nursery tasks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Final

import trio

from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now, Task, split_key
from wheeltimer.delivery.callback import Again, Landing, destination_of
from wheeltimer.delivery.entry import Entry
from wheeltimer.delivery.lanes import Lane, LanePurger, Lanes, Queue, WakeHeap
from wheeltimer.delivery.lapses import BACKLOG_MS, LOOKS_MAX, Lapses
from wheeltimer.delivery.outage import ROOM_RETRY_NS, Held
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.ports import TaskSource
from wheeltimer.delivery.shortage import Shortage
from wheeltimer.delivery.window import Window
from wheeltimer.protocol.task_view import State

CROWD_TRIES: Final = 4  # lanes over their share that are tried again if no active lane is left
Begin = Callable[[str, Task, Now, Callable[[Landing], None]], Again | None]
Spawn = Callable[[str, Task, Lane, Now], None]
_READY: Final = int(State.READY)
_log = logging.getLogger("wheeltimer.delivery")


class Dispatcher:
    """Starts attempts of ready tasks, at most ``concurrency`` at a time.

    ``durable_lsn()``: everything up to it is on disk. An attempt starts once the record of the task's present
    version is, and waits for no later one. ``queue_of`` and ``window_of`` make the constraints of a queue and
    a destination from the settings. ``begin`` and ``flush`` are a ``Sender``'s; ``keeps(destination)``:
    whether an attempt there probably needs no new connection.
    """

    def __init__(
        self, book: TaskSource, send: Callable[[str, Task], Awaitable[Answer]],
        durable_lsn: Callable[[], int], concurrency: int,
        queue_of: Callable[[str], Queue] = lambda name: Queue(),
        window_of: Callable[[Destination], Window] = lambda destination: Window(),
        begin: Begin | None = None, flush: Callable[[], None] = lambda: None,
        keeps: Callable[[Destination], bool] = lambda destination: False,
    ) -> None:  # fmt: skip
        self._book = book
        self._send = send
        self._begin = begin
        self._flush = flush
        self._durable_lsn = durable_lsn
        self._concurrency = concurrency
        self._lanes = Lanes(queue_of, window_of)
        self._held = Held(book)
        self._awaiting_commit: list[str] = []  # ready, but their record is not on disk yet
        self._written: deque[str] = deque()  # of these the record may be on disk by now
        self._alarms = WakeHeap()
        self._stale = LanePurger(book, self._lanes)
        self._lapses = Lapses(book, self._lanes, self._held, concurrency, keeps)
        self._entry = Entry(book, self._lanes, self._held, self._alarms, concurrency)
        self.lapses = self._lapses.in_flight_limit.lapses  # since the start, by reason
        self._no_room_until_ns = 0
        self._wake = trio.Event()
        self._wake_ns: int | None = None  # when ``run`` pumps again without being woken
        self._spawn: Spawn  # made by ``run``
        self._idle = trio.Event()
        self.in_flight = 0
        self.draining = False

    def __len__(self) -> int:
        """How many keys wait here."""
        return self._lanes.size + len(self._awaiting_commit) + len(self._written) + len(self._lapses.waiting)

    def enqueue(self, key: str, task: Task, late_ms: int) -> None:
        """A task became ready, ``late_ms`` after it was due. Call `dispatch_now` after a few. O(1)."""
        if task.lsn > self._durable_lsn():
            self._awaiting_commit.append(key)
            return
        queue, _ = split_key(key)
        lane = self._lanes.add(queue, destination_of(task), key, late=late_ms > BACKLOG_MS)
        if lane.target.window.held_ns is not None:
            self._held.add(key, task, lane.target, self._book.now().elapsed_ns)

    def committed(self) -> None:
        """More records are on disk: tasks that waited for that may start."""
        if self._awaiting_commit:
            self._written.extend(self._awaiting_commit)
            self._awaiting_commit.clear()
            self._offer_written()  # at once, so that tasks that come due next do not overtake them
            self._wake.set()
        if self._no_room_until_ns:
            self._no_room_until_ns = 0
            self._wake.set()

    def _offer_written(self) -> bool:
        """Put a slice of the tasks that waited for the disk into their lanes; True if there are more."""
        for _ in range(min(LOOKS_MAX, len(self._written))):
            key = self._written.popleft()
            task = self._book.engine.get(key)
            if task is not None and task.state == _READY:
                self.enqueue(key, task, task.late_ms(self._book.now()))
        return bool(self._written)

    def paused(self, queue: str) -> None:
        """A queue was paused: the time until its held tasks give up is stopped."""
        self._held.paused(queue, self._book.now().elapsed_ns)

    def resumed(self, queue: str) -> None:
        """A queue is no longer paused: wake the lanes that waited for it."""
        self._held.resumed(queue, self._book.now().elapsed_ns)
        if queue in self._lanes.queues:
            self._lanes.wake_all(self._lanes.queues[queue])
        self._wake.set()

    def reconfigure(
        self, queue_of: Callable[[str], Queue], window_of: Callable[[Destination], Window]
    ) -> None:
        """Settings have changed: waiting lanes check the new limits."""
        self._lanes.reconfigure(queue_of, window_of)
        self._wake.set()

    def pump(self, spawn: Spawn) -> int | None:
        """Start the attempts that may start, one slice: return 0 if there is more to do at once, else the
        elapsed ns at which to pump again, None for never. Calls ``spawn(key, task, lane, start)`` for each.
        """
        now_ns = self._book.now().elapsed_ns
        wait_ns = self._held.sweep(now_ns)
        if self._offer_written() or (wait_ns is not None and wait_ns <= now_ns):
            wait_ns = 0
        if self.draining:
            return None
        if now_ns < self._no_room_until_ns:
            return self._no_room_until_ns
        self._wake_due(now_ns)
        looks = tries = passed = 0
        lanes, entry, limit = self._lanes, self._entry, self._lapses.in_flight_limit.look(now_ns)
        while self.in_flight < self._concurrency:
            if not lanes.active:
                if not lanes.over_share or tries == CROWD_TRIES:
                    break
                tries += 1
                lanes.readmit()
            if looks == LOOKS_MAX:
                return 0
            looks += 1
            lane = lanes.next()
            if not len(lane):
                lanes.leave(lane, now_ns)
            elif not entry.gates_open(lane, now_ns):
                tries = max(0, tries - 1)  # one competitor less: another lane over its share may try
            elif short_ns := self._lapses.wait_until_ns(lane, self.in_flight < limit, now_ns):
                passed = 0 if lanes.pass_over(lane) else passed + 1
                wait_ns = short_ns if wait_ns is None else min(wait_ns, short_ns)
                if passed >= min(len(lanes.active), LOOKS_MAX):
                    break
                continue
            elif entry.has_share(lane, self.in_flight, limit):
                lanes.crowd_in(lane)
            elif self._start_first(lane, spawn):
                tries = 0
                if lanes.over_share:  # so that active lanes cannot starve those over their share
                    lanes.readmit()
            else:
                self._no_room_until_ns = now_ns + ROOM_RETRY_NS
                return self._no_room_until_ns
            passed = 0
        if self._stale.drop(LOOKS_MAX) or self._lapses.waiting:
            return 0
        alarm_ns = self._alarms.next_ns
        return min((ns for ns in (wait_ns, alarm_ns) if ns is not None), default=None)

    def _wake_due(self, now_ns: int) -> None:
        """Wake lanes whose instant has come, and put back tasks whose attempts lapsed."""
        self._no_room_until_ns = 0
        for gate in self._alarms.due(now_ns):
            self._lanes.wake(gate)
        if self._lapses.waiting:
            self._lapses.put_back()

    def _start_first(self, lane: Lane, spawn: Spawn) -> bool:
        """Start the lane's first task, if it is still ready; False if the journal has no room for that."""
        now, (line, key) = self._book.now(), self._lanes.take(lane)
        now_ns = now.elapsed_ns
        task = self._book.engine.get(key)
        if task is None or task.state != _READY or destination_of(task) != lane.target.destination:
            pass  # cancelled or changed meanwhile
        elif task.lsn > self._durable_lsn():
            self._awaiting_commit.append(key)
        elif self._book.start(key, task, now):
            self.in_flight += 1
            lane.queue.in_flight += 1
            lane.target.window.start(now_ns)
            if lane.queue.bucket is not None:
                lane.queue.bucket.take(now_ns)
            spawn(key, task, lane, now)
        else:
            self._lanes.give_back(lane, line, key)
            return False
        self._lanes.leave(lane, now_ns)
        return True

    # -- running --------------------------------------------------------------------------------

    def dispatch_now(self) -> None:
        """Start attempts at once: due tasks must not wait until Trio runs ``run`` again."""
        wake_ns = self._start()
        if wake_ns is not None and (self._wake_ns is None or wake_ns < self._wake_ns):
            self._wake.set()

    def _start(self) -> int | None:
        """One `pump`, then send all requests that began in it."""
        wake_ns = self.pump(self._spawn)
        self._flush()
        return wake_ns

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start attempts until cancelled; attempts in flight are cancelled with it."""
        async with trio.open_nursery() as nursery:

            def spawn(key: str, task: Task, lane: Lane, start: Now) -> None:
                again: Again | None = partial(self._send, key, task)
                started_ns = start.elapsed_ns
                if self._begin is not None:
                    try:
                        again = self._begin(key, task, start, partial(landed, key, lane, started_ns))
                    except Exception as bug:  # noqa: BLE001 -- fails this attempt, as in its own task
                        again = partial(_raise, bug)
                if again is not None:
                    nursery.start_soon(self._attempt, again, key, lane, started_ns)

            def landed(key: str, lane: Lane, started_ns: int, landing: Landing) -> None:
                if isinstance(landing, Answer):
                    self.finish(key, landing, lane, started_ns)
                elif landing is None or nursery.cancel_scope.cancel_called:
                    self._cut(key, lane)
                else:
                    nursery.start_soon(self._attempt, landing, key, lane, started_ns)

            self._spawn = spawn
            task_status.started()
            try:
                while True:
                    self._wake_ns = wake_ns = self._start()
                    left_ns = 0 if wake_ns is None else max(0, wake_ns - self._book.now().elapsed_ns)
                    with nullcontext() if wake_ns is None else trio.move_on_after(left_ns / 1e9):
                        await self._wake.wait()
                    self._wake = trio.Event()
            finally:
                self.draining = True  # the nursery is closing, so no attempt may start or continue in it
                nursery.cancel_scope.cancel()

    async def _attempt(self, go: Again, key: str, lane: Lane, started_ns: int) -> None:
        """Run one attempt, isolated from all others: an unexpected exception fails it and is logged."""
        outcome: Answer | Shortage | None = None
        try:
            outcome = await go()
        except Shortage as short:
            outcome = short
        except Exception:  # noqa: BLE001 -- one of the places that isolate; see the docstring
            _log.exception("attempt failed inside key=%s", key)
            outcome = Answer(self._book.now().wall_ms, 0, 0, error="internal: see the daemon's log")
        finally:
            if outcome is None:
                self._cut(key, lane)
        if isinstance(outcome, Shortage):
            self.lapse(key, outcome, lane, started_ns)
        else:
            self.finish(key, outcome, lane, started_ns)

    def lapse(self, key: str, short: Shortage, lane: Lane, started_ns: int) -> None:
        """An attempt was not made because of a shortage of this machine: give its permits back."""
        now = self._book.now()
        if self._lapses.end(key, short.reason, lane, started_ns, now, self.in_flight - 1):
            self._ended(lane)
            self._wake.set()
        else:
            self.finish(key, Answer(now.wall_ms, 0, 0, error=f"connect: {short}"), lane, started_ns)

    def _cut(self, key: str, lane: Lane) -> None:
        """An attempt was cut short by the end of the daemon: it counts as not made."""
        self._ended(lane)
        lane.target.window.cut()
        self._book.dropped(key)

    def finish(self, key: str, answer: Answer, lane: Lane, started_ns: int) -> None:
        """Record an attempt's outcome and give its permits back."""
        target, now = lane.target, self._book.now()
        now_ns = now.elapsed_ns
        was_held = target.window.held_ns
        target.window.end(answer, started_ns, now_ns)
        if target.window.held_ns is not None and was_held is None:
            self._held.hold(target, now_ns)
        elif was_held is not None and target.window.held_ns is None:
            self._held.open(target)
        elif was_held is not None:
            self._held.probed(target)
        if was_held is not None or target.window.held_ns is not None:
            self._wake.set()
        self._ended(lane)
        self._book.outcome(key, answer, now)

    def _ended(self, lane: Lane) -> None:
        self.in_flight -= 1
        self._lanes.ended(lane)
        if self._lanes.size:  # else no key waits for the permit
            self._wake.set()
        if self.draining and not self.in_flight:
            self._idle.set()

    async def drain(self) -> None:
        """Start no more attempts and wait until none is in flight."""
        self.draining = True
        if self.in_flight:
            await self._idle.wait()


async def _raise(bug: Exception) -> Answer:
    raise bug
