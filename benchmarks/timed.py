"""Tasks due at whole milliseconds in the near future, and what became of them at a receiver.

Open loop: the tasks are stored before the first is due, so a daemon that is late cannot slow down what
it is measured with.
"""

from __future__ import annotations

import random
import time
from typing import Final

from benchmarks import writers
from benchmarks.harness import Daemon, Figures, Process, sleep_until, spread, wall_ms
from benchmarks.receiver import Arrival, arrivals

ARRIVAL_TIMEOUT_MS: Final = 15_000
_LINE: Final = (
    b'{"op":"schedule","id":"timed-%06d-%07d","queue":"timed","at":%d,'
    b'"url":"http://127.0.0.1:%05d/%b","body":{"order":%20d,"note":"0123456789"}}\n'
)


def put(
    target: Daemon, port: int, count: int, over_ms: int, *, seed: int, lead_ms: int, path: str = "callback"
) -> tuple[int, int]:
    """Store ``count`` tasks due over ``over_ms``, the first in about ``lead_ms``: (from, until) in Unix ms.

    ``seed`` makes the due instants, and the ids: one daemon takes each seed once. ``path`` is the receiver's.
    """
    chance = random.Random(seed)
    offsets = [chance.randrange(over_ms) for _ in range(count)]
    from_ms = wall_ms() + lead_ms
    lines = [
        _LINE % (seed, number, from_ms + at, port, path.encode(), number) for number, at in enumerate(offsets)
    ]
    stored = writers.drive(target.address, lines, 1, 500, lead_ms / 1000)
    assert stored.ok == count, f"{stored.ok} of {count} were stored"
    assert wall_ms() < from_ms, "storing took longer than the lead"
    return from_ms, from_ms + over_ms


def collect(receiver: Process, count: int, until_ms: int) -> list[Arrival]:
    """All that arrived when ``count`` did, or when the last is long overdue."""
    sleep_until(until_ms)
    while wall_ms() < until_ms + ARRIVAL_TIMEOUT_MS and receiver.ask("count") < count:
        time.sleep(0.05)
    time.sleep(0.3)  # a second callback of a task would come now
    return arrivals(receiver)


def judged(target: Daemon, seen: list[Arrival], count: int) -> Figures:
    """Arrived, early, twice; lateness end to end and the timer's own, in ms."""
    timer_us = target.stats()["lateness_us"]
    return {
        "tasks": count,
        "arrived": len({arrival.id for arrival in seen}),
        "early": sum(arrival.late_ns < 0 for arrival in seen),
        "twice": len(seen) - len({arrival.id for arrival in seen}),
        "end_to_end_ms": {name: round(ns / 1e6, 3) for name, ns in spread([a.late_ns for a in seen]).items()},
        "timer_ms": {name: us / 1000 for name, us in timer_us.items()},
    }
