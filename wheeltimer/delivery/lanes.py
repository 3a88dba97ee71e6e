"""What waits to be sent, by queue and destination, and what each of them waits for.

A *lane* is the ready tasks of one queue for one destination, in the order they became ready. A lane
that holds something stands in exactly one line: the ring of those that may go, or the line of the gate
(its queue's or its destination's) that is shut. So picking the next attempt costs the same whatever
the number of tasks, lanes and destinations. Only keys are kept: whether a task is still ready is the
engine's to say.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.window import Bucket, Window

WINDOWS_MAX: Final = 10_000  # destinations remembered while nothing goes to them


class Gate:
    """What a lane may have to wait for: ``line`` holds the lanes that do."""

    __slots__ = ("line",)

    def __init__(self) -> None:
        self.line: deque[Lane] = deque()


class Queue(Gate):
    """A queue's own limits: attempts in flight and rate; ``paused`` is the engine's."""

    __slots__ = ("bucket", "concurrency", "in_flight", "lanes")

    def __init__(self, concurrency: int | None = None, bucket: Bucket | None = None) -> None:
        super().__init__()
        self.concurrency = concurrency
        self.bucket = bucket
        self.in_flight = 0
        self.lanes = 0


class Target(Gate):
    """A destination, its window and the lanes that go there."""

    __slots__ = ("destination", "lanes", "window")

    def __init__(self, destination: Destination, window: Window) -> None:
        super().__init__()
        self.destination = destination
        self.window = window
        self.lanes: dict[str, Lane] = {}


class Lane:
    """Ready tasks of one queue for one destination.

    ``late`` holds what was overdue when it came (a backlog, in due order), ``fresh`` what came on time;
    they are taken in turn, so neither waits for the whole of the other.
    """

    __slots__ = ("fresh", "late", "name", "queue", "target", "turn", "waiting")

    def __init__(self, name: str, queue: Queue, target: Target) -> None:
        self.name = name
        self.queue = queue
        self.target = target
        self.fresh: deque[str] = deque()
        self.late: deque[str] = deque()
        self.turn = False
        self.waiting = False  # it stands in a line or in the ring

    def __len__(self) -> int:
        return len(self.fresh) + len(self.late)

    def take(self) -> str:
        """The next key; the lane holds at least one."""
        self.turn = not self.turn
        first, second = (self.late, self.fresh) if self.turn else (self.fresh, self.late)
        return first.popleft() if first else second.popleft()


class Lanes:
    """All lanes, their gates, and the ring of those that may go. ``len`` counts the keys in them."""

    def __init__(
        self, new_queue: Callable[[str], Queue], new_window: Callable[[Destination], Window]
    ) -> None:
        self._new_queue = new_queue
        self._new_window = new_window
        self.ring: deque[Lane] = deque()
        self.queues: dict[str, Queue] = {}
        self.targets: OrderedDict[Destination, Target] = OrderedDict()
        self.size = 0

    def add(self, name: str, destination: Destination, key: str, *, late: bool) -> Lane:
        """Put a ready task's key at the end of its lane."""
        target = self.targets.get(destination)
        if target is None:
            target = self.targets[destination] = Target(destination, self._new_window(destination))
            self._forget_idle()
        lane = target.lanes.get(name)
        if lane is None:
            queue = self.queues.get(name)
            if queue is None:
                queue = self.queues[name] = self._new_queue(name)
            queue.lanes += 1
            lane = target.lanes[name] = Lane(name, queue, target)
        (lane.late if late else lane.fresh).append(key)
        self.size += 1
        if not lane.waiting:
            lane.waiting = True
            self.ring.append(lane)
        return lane

    def take(self, lane: Lane) -> str:
        self.size -= 1
        return lane.take()

    def give_back(self, lane: Lane, key: str) -> None:
        """The lane's first key could not start after all: it stays first, and the lane first in the ring."""
        lane.fresh.appendleft(key)
        self.size += 1
        self.ring.appendleft(lane)

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        """Drop keys that are not wanted any more, and what was put in twice. O(keys)."""
        for target in self.targets.values():
            for lane in target.lanes.values():
                for line in (lane.fresh, lane.late):
                    kept = [key for key in dict.fromkeys(line) if wanted(key)]
                    self.size -= len(line) - len(kept)
                    line.clear()
                    line.extend(kept)

    def leave(self, lane: Lane) -> None:
        """The lane was taken out of the ring or a line: back to the ring, or away when it is empty."""
        if len(lane):
            self.ring.append(lane)
            return
        lane.waiting = False
        del lane.target.lanes[lane.name]
        lane.queue.lanes -= 1
        self._drop_queue(lane.name, lane.queue)

    def wake(self, gate: Gate) -> None:
        """A gate has opened: the first lane in its line may try, and wakes the next if it cannot go."""
        if gate.line:
            self.ring.append(gate.line.popleft())

    def _drop_queue(self, name: str, queue: Queue) -> None:
        if not queue.lanes and not queue.in_flight and queue.bucket is None:
            self.queues.pop(name, None)

    def ended(self, lane: Lane) -> None:
        """An attempt of this lane has ended; its gates may have opened."""
        lane.queue.in_flight -= 1
        self.wake(lane.queue)
        self.wake(lane.target)
        self.targets.move_to_end(lane.target.destination)
        self._drop_queue(lane.name, lane.queue)

    def reconfigure(
        self, new_queue: Callable[[str], Queue], new_window: Callable[[Destination], Window]
    ) -> None:
        """Settings have changed: limits hold at once, and all that waits looks at them again. O(lanes)."""
        self._new_queue, self._new_window = new_queue, new_window
        for name, queue in self.queues.items():
            fresh = new_queue(name)
            queue.concurrency, queue.bucket = fresh.concurrency, fresh.bucket
            self.ring.extend(queue.line)
            queue.line.clear()
        for destination, target in self.targets.items():
            target.window.limit(new_window(destination))
            self.ring.extend(target.line)
            target.line.clear()

    def _forget_idle(self) -> None:
        """Forget the destination that was idle longest, where too many are remembered."""
        if len(self.targets) <= WINDOWS_MAX:
            return
        for destination, target in self.targets.items():
            if not target.lanes and not target.window.in_flight and target.window.held_ns is None:
                del self.targets[destination]
                return
