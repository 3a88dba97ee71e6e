"""Ready tasks by queue and destination, and the constraints that they wait for.

A *lane* holds the ready tasks of one queue for one destination, in the order in which they became ready. A
lane that is not empty is in exactly one of these deques: ``active`` (it may be tried), ``over_share`` (its
destination has its share of the permits), or the ``line`` of the constraint (its queue or its destination)
that does not allow an attempt now. So picking the next attempt is O(1) in tasks, lanes and destinations. Only
keys are kept; `Dispatcher` asks the engine whether a task is still ready.

Why no lane waits for ever: if lanes are in a constraint's line, either the constraint is closed, and the
event that opens it calls ``wake``, or one of its lanes is active. A lane that stops being active for another
reason than this constraint wakes the next one in its line. If lanes are over their share, either their
destination has attempts in flight, and the end of each readmits one, or one of its lanes is active.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain, count, islice
from typing import Final

from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.ports import TaskSource
from wheeltimer.delivery.window import TokenBucket, Window
from wheeltimer.protocol.task_view import State

WINDOWS_MAX: Final = 10_000  # above that number, the state of idle destinations is dropped
FORGET_TRIES: Final = 16  # destinations checked for that whenever a new one comes


class Constraint(ABC):
    """What a lane may have to wait for; ``line`` holds the lanes that wait for it.

    ``look_ns``: the instant at which `WakeHeap` wakes it; None: it does not.
    """

    __slots__ = ("line", "look_ns")

    def __init__(self) -> None:
        self.line: deque[Lane] = deque()
        self.look_ns: int | None = None

    @abstractmethod
    def wait_ns(self, now_ns: int) -> int | None:
        """0: an attempt may start; more: after that many ns; None: not before one in flight has ended."""


class Queue(Constraint):
    """A queue's own limits: attempts in flight and rate. Whether it is paused is state of the engine."""

    __slots__ = ("bucket", "concurrency", "in_flight", "lanes")

    def __init__(self, concurrency: int | None = None, bucket: TokenBucket | None = None) -> None:
        super().__init__()
        self.concurrency = concurrency
        self.bucket = bucket
        self.in_flight = 0
        self.lanes = 0

    def wait_ns(self, now_ns: int) -> int | None:
        if self.concurrency is not None and self.in_flight >= self.concurrency:
            return None
        return 0 if self.bucket is None else self.bucket.wait_ns(now_ns)


class DestinationState(Constraint):
    """A destination, its window and its lanes; ``going``: how many of them are active or over their share."""

    __slots__ = ("destination", "going", "lanes", "window")

    def __init__(self, destination: Destination, window: Window) -> None:
        super().__init__()
        self.destination = destination
        self.window = window
        self.lanes: dict[str, Lane] = {}
        self.going = 0

    def wait_ns(self, now_ns: int) -> int | None:
        return self.window.wait_ns(now_ns)


class KeyQueue:
    """Keys, first in first out. ``sieved``: keys that a pass of `Lanes.purge` has kept; taken first."""

    __slots__ = ("keys", "sieved")

    def __init__(self) -> None:
        self.keys: deque[str] = deque()
        self.sieved: deque[str] = deque()

    def __len__(self) -> int:
        return len(self.keys) + len(self.sieved)

    def take(self) -> str:
        return (self.sieved or self.keys).popleft()

    def give_back(self, key: str) -> None:
        (self.sieved or self.keys).appendleft(key)


class Lane:
    """Ready tasks of one queue for one destination.

    ``late`` holds tasks that were overdue when they came (a backlog, in due order), ``fresh`` those that came
    on time. Keys are taken from both in turn, so neither waits for the whole of the other.
    """

    __slots__ = ("fresh", "late", "name", "queue", "target", "turn", "waiting")

    def __init__(self, name: str, queue: Queue, target: DestinationState) -> None:
        self.name = name
        self.queue = queue
        self.target = target
        self.fresh = KeyQueue()
        self.late = KeyQueue()
        self.turn = False
        self.waiting = False  # it is active, over its share or in a constraint's line

    def __len__(self) -> int:
        return len(self.fresh) + len(self.late)

    def take(self) -> tuple[KeyQueue, str]:
        """The next key and the `KeyQueue` it was in; the lane must not be empty."""
        self.turn = not self.turn
        first, second = (self.late, self.fresh) if self.turn else (self.fresh, self.late)
        line = first if len(first) else second
        return line, line.take()

    def waiting_keys(self) -> Iterator[str]:
        """A copy of all keys, in order: 8 bytes and about 5 ns for each."""
        copies = [list(keys) for line in (self.late, self.fresh) for keys in (line.sieved, line.keys)]
        return chain.from_iterable(copies)


class Lanes:
    """All lanes and their constraints. ``active``: lanes that may be tried; ``over_share``: lanes whose
    destination has its share of the permits. ``size`` counts all keys."""

    def __init__(
        self, new_queue: Callable[[str], Queue], new_window: Callable[[Destination], Window]
    ) -> None:
        self._new_queue = new_queue
        self._new_window = new_window
        self.active: deque[Lane] = deque()
        self.over_share: OrderedDict[DestinationState, deque[Lane]] = (
            OrderedDict()
        )  # a share is a destination's
        self.queues: dict[str, Queue] = {}
        self.targets: OrderedDict[Destination, DestinationState] = OrderedDict()
        self.size = 0

    def add(self, name: str, destination: Destination, key: str, *, late: bool, first: bool = False) -> Lane:
        """Put a ready task's key at the end of its lane, or (``first``) at its head."""
        target = self.targets.get(destination)
        if target is None:
            self._forget_idle()
            target = self.targets[destination] = DestinationState(destination, self._new_window(destination))
        lane = target.lanes.get(name)
        if lane is None:
            queue = self.queues.get(name)
            if queue is None:
                queue = self.queues[name] = self._new_queue(name)
            queue.lanes += 1
            lane = target.lanes[name] = Lane(name, queue, target)
        line = lane.late if late else lane.fresh
        line.give_back(key) if first else line.keys.append(key)
        self.size += 1
        if not lane.waiting:
            lane.waiting = True
            self._stand(lane)
        return lane

    def _stand(self, lane: Lane) -> None:
        """Make a new lane active, unless others wait for its constraints already: then behind those."""
        for gate in (lane.queue, lane.target):
            if gate.line:
                gate.line.append(lane)
                return
        self._go(lane)

    # -- active lanes, and those over their share -----------------------------------------------

    def _go(self, lane: Lane) -> None:
        self.active.append(lane)
        lane.target.going += 1

    def next(self) -> Lane:
        """Take the first active lane; the caller must put it somewhere else, or call ``leave``."""
        lane = self.active.popleft()
        lane.target.going -= 1
        return lane

    def others_go(self, target: DestinationState) -> bool:
        """Whether a lane of another destination waits for a permit."""
        crowded = self.over_share.get(target, ())
        return len(self.over_share) > bool(crowded) or len(self.active) > target.going - len(crowded)

    def crowd_in(self, lane: Lane) -> None:
        """The lane's destination has its share of the permits: wait until more permits are free."""
        self.over_share.setdefault(lane.target, deque()).append(lane)
        lane.target.going += 1
        self.wake(lane.queue)

    def readmit(self) -> None:
        """Make a lane over its share active again, of the destination that waits longest."""
        target = next(iter(self.over_share))
        self.over_share.move_to_end(target)
        self._uncrowd(target)

    def _uncrowd(self, target: DestinationState) -> None:
        line = self.over_share[target]
        self.active.append(line.popleft())
        if not line:
            del self.over_share[target]

    def take(self, lane: Lane) -> tuple[KeyQueue, str]:
        self.size -= 1
        return lane.take()

    def give_back(self, lane: Lane, line: KeyQueue, key: str) -> None:
        """The key taken from the lane could not start: make it the first again, and the lane too."""
        line.give_back(key)
        lane.turn = not lane.turn
        self.size += 1
        self.active.appendleft(lane)
        lane.target.going += 1

    def leave(self, lane: Lane, now_ns: int) -> None:
        """Call for a lane taken with `next`: makes it active again, or drops it if it is empty."""
        if len(lane):
            self._go(lane)
            return
        lane.waiting = False
        del lane.target.lanes[lane.name]
        lane.queue.lanes -= 1
        for gate in (lane.queue, lane.target):
            if gate.line and gate.wait_ns(now_ns) is not None:
                self.wake(gate)
        self._next_of_crowd(lane.target)
        self._drop_queue(lane.name, lane.queue)

    def pass_over(self, lane: Lane) -> bool:
        """The lane's constraints allow an attempt, but a shortage does not: let another lane of its queue
        try. True: there is one."""
        waited = bool(lane.queue.line)
        self.wake(lane.queue)
        self._go(lane)
        return waited

    def _next_of_crowd(self, target: DestinationState) -> None:
        """Call after a lane stopped being active without starting an attempt. If its destination has nothing
        in flight, no end of an attempt will readmit its lanes over their share, so readmit one now."""
        if not target.window.in_flight and target in self.over_share:
            self._uncrowd(target)

    # -- constraints ----------------------------------------------------------------------------

    def wait(self, lane: Lane, gate: Constraint) -> None:
        """A lane taken with `next` waits for this constraint; a lane in the line of its other one may try."""
        gate.line.append(lane)
        self.wake(lane.target if gate is lane.queue else lane.queue)
        self._next_of_crowd(lane.target)

    def wake(self, gate: Constraint) -> None:
        """A constraint may have opened: the first lane in its line may try, and later wakes the next one."""
        if gate.line:
            self._go(gate.line.popleft())

    def wake_all(self, gate: Constraint) -> None:
        """The constraint's limits have changed: all lanes in its line may try. O(those lanes)."""
        while gate.line:
            self._go(gate.line.popleft())

    def ended(self, lane: Lane) -> None:
        """An attempt of this lane has ended; its constraints may have opened."""
        lane.queue.in_flight -= 1
        if lane.target in self.over_share:  # it has one attempt less, so it need not wait for `readmit`
            self._uncrowd(lane.target)
        self.wake(lane.queue)
        self.wake(lane.target)
        self.targets.move_to_end(lane.target.destination)
        self._drop_queue(lane.name, lane.queue)

    def reconfigure(
        self, new_queue: Callable[[str], Queue], new_window: Callable[[Destination], Window]
    ) -> None:
        """Settings have changed: apply the new limits, and let all waiting lanes try again. O(lanes)."""
        self._new_queue, self._new_window = new_queue, new_window
        for name, queue in self.queues.items():
            fresh = new_queue(name)
            queue.concurrency = fresh.concurrency
            if queue.bucket is None or fresh.bucket is None or queue.bucket.rate != fresh.bucket.rate:
                queue.bucket = fresh.bucket
            self.wake_all(queue)
        for destination, target in self.targets.items():
            target.window.limit(new_window(destination))
            self.wake_all(target)

    def _drop_queue(self, name: str, queue: Queue) -> None:
        if not queue.lanes and not queue.in_flight and queue.bucket is None:
            self.queues.pop(name, None)

    def _forget_idle(self) -> None:
        """Drop the state of idle destinations beyond `WINDOWS_MAX`, those idle longest first."""
        for _ in range(FORGET_TRIES):  # more than the one that is added: the number shrinks after a burst
            if len(self.targets) < WINDOWS_MAX:
                return
            destination, target = next(iter(self.targets.items()))
            if not target.lanes and not target.window.in_flight:
                del self.targets[destination]
            else:
                self.targets.move_to_end(destination)

    # -- keys that are not wanted any more ------------------------------------------------------

    def purge(self, wanted: Callable[[str], bool]) -> Iterator[None]:
        """Drop keys that are not wanted, and duplicates; each step of the iterator checks one key."""
        for target in list(self.targets.values()):
            for lane in list(target.lanes.values()):
                for line in (lane.late, lane.fresh):
                    yield from self._sieve_line(line, wanted)

    def _sieve_line(self, line: KeyQueue, wanted: Callable[[str], bool]) -> Iterator[None]:
        seen: set[str] = set()
        for _ in range(len(line.keys)):
            if not line.keys:  # taken meanwhile
                break
            key = line.keys.popleft()
            if key not in seen and wanted(key):
                seen.add(key)
                line.sieved.append(key)
            else:
                self.size -= 1
            yield
        line.sieved.extend(line.keys)  # keys that came meanwhile
        line.keys, line.sieved = line.sieved, deque()


# -- constraints that open at an instant: the next token of a rate, the end of a hold ----------------------


class WakeHeap:
    """Instants at which constraints are woken. An entry is valid if it equals ``gate.look_ns``."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Constraint]] = []  # (elapsed ns, number, constraint)
        self._number = count()

    @property
    def next_ns(self) -> int | None:
        """The earliest instant at which to call `due`; it may be that of an entry that is no longer valid."""
        return self._heap[0][0] if self._heap else None

    def set(self, gate: Constraint, at_ns: int) -> None:
        """Wake the constraint at this instant, or earlier if it was set to an earlier one."""
        if gate.look_ns is None or at_ns < gate.look_ns:
            gate.look_ns = at_ns
            heappush(self._heap, (at_ns, next(self._number), gate))

    def due(self, now_ns: int) -> Iterator[Constraint]:
        """Constraints whose instant has come, each once."""
        while self._heap and self._heap[0][0] <= now_ns:
            at_ns, _, gate = heappop(self._heap)
            if gate.look_ns == at_ns:
                gate.look_ns = None
                yield gate


# -- keys of tasks that are no longer ready ----------------------------------------------------------------
# They are dropped, so that they do not pile up in lanes that wait.

STALE_MIN: Final = 4_096  # with fewer stale keys no pass begins


class LanePurger:
    """Passes over all keys, in slices, once there are about twice as many keys as ready tasks."""

    def __init__(self, book: TaskSource, lanes: Lanes) -> None:
        self._book = book
        self._lanes = lanes
        self._sieve: Iterator[None] | None = None
        self._surplus = 0  # keys beyond those of ready tasks that the last pass left

    def drop(self, looks_max: int) -> bool:
        """Do one slice, if a pass is due or under way; return whether there is more to do."""
        ready = self._book.engine.counts[State.READY]
        if self._sieve is None:
            if self._lanes.size <= 2 * ready + self._surplus + STALE_MIN:
                return False
            self._sieve = self._lanes.purge(self._is_ready)
        if sum(1 for _ in islice(self._sieve, looks_max)) == looks_max:
            return True
        self._sieve = None
        self._surplus = max(0, self._lanes.size - ready)
        return False

    def _is_ready(self, key: str) -> bool:
        task = self._book.engine.get(key)
        return task is not None and task.state == State.READY
