"""A dispatcher over a real engine, with receivers that answer when and as the test says, on a still clock.

``World`` is one daemon without disk, sockets and Trio: requests go in as lines, the wheel hands over, the
dispatcher pumps, attempts end by hand (``end``) or by ``receive`` as simulated time passes (``run``).
``check`` derives again what the dispatcher must keep true; it knows nothing of how lanes are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import Any, Final

from tests.core.driver import Driver
from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import NS_PER_MS, Now, Task, key_of, split_key
from wheeltimer.delivery.callback import destination_of
from wheeltimer.delivery.dispatcher import CROWD_TRIES, Dispatcher
from wheeltimer.delivery.lanes import Lane, Queue
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.shortage import Reason, Shortage
from wheeltimer.delivery.window import TokenBucket, Window
from wheeltimer.protocol.task_view import State

NS_PER_S: Final = 1_000_000_000
FOREVER_NS: Final = 1 << 62
Rate = tuple[int, int]  # count, in so many ms


@dataclass
class Flight:
    """One attempt under way."""

    key: str
    task: Task
    lane: Lane
    started_ns: int


@dataclass
class Config:
    """Limits of queues and destinations, as the settings would give them."""

    queues: dict[str, tuple[int | None, Rate | None]] = field(default_factory=dict)
    hosts: dict[str, tuple[int, Rate | None]] = field(default_factory=dict)

    def queue_of(self, name: str) -> Queue:
        concurrency, rate = self.queues.get(name, (None, None))
        return Queue(concurrency, TokenBucket(*rate) if rate else None)

    def window_of(self, destination: Destination) -> Window:
        if destination.host not in self.hosts:
            return Window()
        size_max, rate = self.hosts[destination.host]
        return Window(size_max, TokenBucket(*rate) if rate else None)


class FakeBook:
    """The ledger's door for the dispatcher, over the core's test driver; ``room`` is the journal's."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.room = True

    @property
    def engine(self) -> Engine:
        return self._driver.engine

    @property
    def now(self) -> Callable[[], Now]:
        return lambda: self._driver.now

    def start(self, key: str, task: Task, now: Now) -> bool:
        assert self._driver.task(key) == task
        assert now == self._driver.now
        if self.room:
            self._driver.start(key)
        return self.room

    def outcome(self, key: str, answer: Answer, now: Now) -> None:
        self._driver.outcome(key, answer, chance=1 << 31)

    def lapsed(self, key: str, now: Now) -> bool:
        self._driver.lapse(key)
        return self._driver.state(key) == "ready"

    def dropped(self, key: str) -> None:
        raise AssertionError("nothing is cut short here")

    def give_up(self, key: str) -> bool:
        if self.room:
            self._driver.give_up(key)
        return self.room


Receive = Callable[[Task], tuple[int, Answer | Shortage]]


def answer(status: int | None = 200, **fields: Any) -> Answer:
    return Answer(0, 0, 0, status, **fields)


def no_answer(kind: str = "connect", given_ms: int = 3_000) -> Answer:
    """``given_ms``: the time-out that ran out, where ``kind`` is one."""
    return Answer(0, 0, 0, error=f"{kind}: as told", given_ms=given_ms if kind == "timeout" else None)


class World:
    """``receive`` gives each attempt's (ms until it ends, answer or shortage); else they end by ``end``."""

    def __init__(
        self, concurrency: int = 512, config: Config | None = None, receive: Receive | None = None
    ) -> None:
        self.driver = Driver()
        self.book = FakeBook(self.driver)
        self.config = config or Config()
        self.receive = receive
        self.concurrency = concurrency
        self.durable_lsn = 0
        self.autocommit = True
        self.flights: dict[str, Flight] = {}
        self.started: list[tuple[int, str]] = []  # (ns, key) of every attempt begun
        self.kept: set[str] = set()  # hosts that a connection is kept to
        self.pumps = 0
        self._ends: list[tuple[int, int, str, Answer | Shortage]] = []
        self.restart()

    def restart(self) -> None:
        """A new dispatcher: it knows nothing."""
        self.flights.clear()
        self._ends.clear()
        self.dispatcher = Dispatcher(
            self.book, never, lambda: self.durable_lsn, self.concurrency,
            self.config.queue_of, self.config.window_of,
            keeps=lambda destination: destination.host in self.kept,
        )  # fmt: skip

    # -- what clients do ------------------------------------------------------------------------

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        reply = self.driver.ask(op, **fields)
        if self.autocommit:
            self.commit()
        return reply

    def schedule(self, id: str, host: str = "a", delay: int | str | None = 0, **fields: Any) -> str:
        fields.setdefault("url", f"http://{host}/")
        reply = self.ask("schedule", id=id, delay=delay, **fields)
        assert reply["ok"], reply
        return key_of(fields.get("queue", "default"), id)

    def pause(self, queue: str) -> None:
        self.ask("pause", queue=queue)
        self.dispatcher.paused(queue)

    def resume(self, queue: str) -> None:
        self.ask("resume", queue=queue)
        self.dispatcher.resumed(queue)

    def commit(self) -> None:
        self.durable_lsn = self.driver.journal.next_lsn - 1
        self.dispatcher.committed()

    def reconfigure(self, config: Config) -> None:
        self.config = config
        self.dispatcher.reconfigure(config.queue_of, config.window_of)

    # -- what time does -------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        return self.driver.now.elapsed_ns

    def tick(self) -> None:
        """The wheel hands over what is due."""
        for key in self.driver.tick():
            task = self.driver.task(key)
            if task.state == State.READY:
                self.dispatcher.enqueue(key, task, task.late_ms(self.driver.now))

    def pump(self) -> int | None:
        """Pump until there is no more to do at once; when to look again."""
        for _ in range(100_000):
            self.pumps += 1
            wake_ns = self.dispatcher.pump(self._spawn)
            if self.autocommit:
                self.commit()  # of ends and their hooks
            if wake_ns != 0:
                assert wake_ns is None or wake_ns > self.now_ns, "it asks to be called at once, for ever"
                return wake_ns
        raise AssertionError("the dispatcher is never done")

    def settle(self) -> int | None:
        self.tick()
        return self.pump()

    def _spawn(self, key: str, task: Task, lane: Lane, start: Now) -> None:
        assert key not in self.flights, f"two attempts of {key} at a time"
        assert not self.book.engine.paused(lane.name), f"{key} starts although its queue is paused"
        assert task.lsn <= self.durable_lsn, f"{key} goes out before its record is durable"
        assert destination_of(task) == lane.target.destination
        window = lane.target.window
        assert window.in_flight <= (1 if window.held_ns is not None else window.size)
        self.flights[key] = Flight(key, task, lane, start.elapsed_ns)
        self.started.append((self.now_ns, key))
        if self.receive is not None:
            ms, told = self.receive(task)
            heappush(self._ends, (self.now_ns + ms * NS_PER_MS, len(self.started), key, told))

    def end(self, key: str, told: Answer | Shortage | None = None) -> None:
        """The attempt in flight of ``key`` ends so."""
        if isinstance(told, Shortage):
            self.lapse(key, told.reason)
            return
        flight = self.flights.pop(key)
        self.dispatcher.finish(key, told or answer(), flight.lane, flight.started_ns)
        if self.autocommit:
            self.commit()

    def lapse(self, key: str, reason: Reason = "descriptors") -> None:
        """The attempt in flight of ``key`` could not begin."""
        flight = self.flights.pop(key)
        self.dispatcher.lapse(key, Shortage(reason, "as told"), flight.lane, flight.started_ns)
        if self.autocommit:
            self.commit()

    def end_all(self, told: Answer | None = None) -> list[str]:
        """All that is in flight ends, oldest first, and what may start then does."""
        keys = list(self.flights)
        for key in keys:
            self.end(key, told)
        self.settle()
        return keys

    def run(self, ms: int, each: Callable[[], object] = lambda: None) -> None:
        """Let so much time pass, with all that happens in it at its own instant; ``each`` after every one."""
        until_ns = self.now_ns + ms * NS_PER_MS
        while True:
            wake_ns = self.settle()
            each()
            engine = self.book.engine
            soonest = [until_ns, FOREVER_NS if wake_ns is None else wake_ns]
            soonest.append(engine.elapsed.next_wake_ns(self.now_ns, NS_PER_S))
            wall_ns = engine.wall.next_wake_ns(self.driver.now.wall_ns, NS_PER_S)
            soonest.append(self.now_ns + wall_ns - self.driver.now.wall_ns)
            if self._ends:
                soonest.append(self._ends[0][0])
            to_ns = min(soonest)
            if to_ns >= until_ns and not (self._ends and self._ends[0][0] <= until_ns):
                self.driver.pass_ns(until_ns - self.now_ns)
                self.settle()
                each()
                return
            self.driver.pass_ns(max(0, to_ns - self.now_ns))
            while self._ends and self._ends[0][0] <= self.now_ns:
                _, _, key, told = heappop(self._ends)
                self.end(key, told)

    # -- looking --------------------------------------------------------------------------------

    def state(self, key: str) -> str:
        return self.driver.state(key)

    def counts(self) -> dict[str, int]:
        return {state.word: count for state, count in zip(State, self.book.engine.counts, strict=True)}

    def window(self, host: str = "a") -> Window:
        return self.dispatcher._lanes.targets[Destination("http", host, 80)].window

    def to_hosts(self) -> Counter[str]:
        """Attempts in flight by host."""
        return Counter(destination_of(flight.task).host for flight in self.flights.values())

    def check(self, wake_ns: int | None, forgotten: bool = True) -> None:
        """What must hold when ``pump`` has said ``wake_ns``: counts, limits, and nothing is forgotten."""
        dispatcher, engine = self.dispatcher, self.book.engine
        lanes, flights = dispatcher._lanes, self.flights.values()
        assert dispatcher.in_flight == len(self.flights) == engine.counts[State.RUNNING]
        assert dispatcher.in_flight <= self.concurrency
        for name, queue in lanes.queues.items():
            assert queue.in_flight == sum(split_key(flight.key)[0] == name for flight in flights), name
        crowd = list(chain.from_iterable(lanes.over_share.values()))
        assert all(lanes.over_share.values()), "a destination without lanes stands in the crowd"
        stands = Counter(map(id, (*lanes.active, *crowd)))
        for gate in (*lanes.queues.values(), *lanes.targets.values()):
            stands.update(map(id, gate.line))
        assert set(stands.values()) <= {1}, "a lane stands in two lines"
        going = Counter(id(lane.target) for lane in (*lanes.active, *crowd))
        in_lanes: set[str] = {*dispatcher._awaiting_commit, *dispatcher._written}
        in_lanes.update(key for _, key in dispatcher._lapses.waiting)
        size = all_lanes = 0
        for target in lanes.targets.values():
            mine = sum(flight.lane.target is target for flight in flights)
            assert target.window.in_flight == mine, target.destination
            assert target.going == going[id(target)]
            assert lanes.others_go(target) == (sum(going.values()) > target.going)
            if forgotten and target in lanes.over_share and not mine:
                free = dispatcher.in_flight < self.concurrency and self.book.room and not dispatcher.draining
                assert not free, "all lanes wait in the crowd for an end, and nothing is in flight"
            for lane in target.lanes.values():
                all_lanes += 1
                size += len(lane)
                in_lanes.update(lane.waiting_keys())
                assert lane.waiting
                assert stands[id(lane)] == 1, "a lane stands nowhere"
                assert lane.queue is lanes.queues[lane.name]
                if forgotten:
                    self._check_lane(lane, wake_ns)
        assert sum(stands.values()) == all_lanes
        assert lanes.size == size
        ready = [key for key in self.known() if self.driver.task(key).state == State.READY]
        assert set(ready) <= in_lanes, "a ready task is in no lane"

    def known(self) -> Iterable[str]:
        return [key for key, _ in self.book.engine.table.items()]

    def _check_lane(self, lane: Lane, wake_ns: int | None) -> None:
        """Whatever is ready and may go has gone; what an instant opens is looked at then."""
        dispatcher, engine = self.dispatcher, self.book.engine
        if not any(self._starts(key, lane) for key in lane.waiting_keys()) or engine.paused(lane.name):
            return
        waits = [lane.queue.wait_ns(self.now_ns), lane.target.window.wait_ns(self.now_ns)]
        if None in waits:
            busy = lane.queue.in_flight if waits[0] is None else lane.target.window.in_flight
            assert busy, "a lane waits for the end of an attempt, and none is in flight"
            return
        wait_ns = max(wait or 0 for wait in waits)
        if dispatcher.in_flight == self.concurrency or dispatcher.draining:
            return  # all permits are out: the end of an attempt is what is waited for
        if wait_ns:
            assert wake_ns is not None
            assert wake_ns <= self.now_ns + wait_ns, "it will be looked at too late"
        elif self.book.room and not self._is_short(lane, wake_ns):
            crowd = dispatcher._lanes.over_share
            in_crowd = lane in crowd.get(lane.target, ())
            assert in_crowd, "forgotten: ready, its gates are open, and it has not started"
            assert dispatcher.in_flight, "alone, and not started"
            if len(crowd) <= CROWD_TRIES:
                limit = dispatcher._lapses.in_flight_limit.limit
                assert dispatcher._entry.has_share(lane, dispatcher.in_flight, limit), (
                    "it may have another permit, and has not got it"
                )

    def _is_short(self, lane: Lane, wake_ns: int | None) -> bool:
        """Whether the lane waits for something of our own; then it is looked at in time."""
        dispatcher = self.dispatcher
        may_open = dispatcher.in_flight < dispatcher._lapses.in_flight_limit.limit
        until_ns = dispatcher._lapses.wait_until_ns(lane, may_open, self.now_ns)
        assert not until_ns or (wake_ns is not None and wake_ns <= until_ns), "it will be looked at too late"
        return until_ns != 0

    def _starts(self, key: str, lane: Lane) -> bool:
        task = self.book.engine.get(key)
        return (
            task is not None and task.state == State.READY and destination_of(task) == lane.target.destination
        )


async def never(key: str, task: Task) -> Answer:
    raise AssertionError("attempts are simulated")
