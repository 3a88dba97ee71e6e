"""What others feel of clients that mean harm: p99 of durable schedules, alone and beside each kind.

Alone and beside are measured in turn, several pairs, and their medians compared. The daemon has a processor
of its own; the attackers give way to the measuring client on the other.
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Final

from benchmarks import writers
from benchmarks.attackers import KINDS
from benchmarks.harness import Bound, Client, Daemon, Figures, Options, Result, child, daemon, percentile

TIMES_MAX: Final = 2.0
EVERY_S: Final = 0.002  # a request of the measured client


def run(options: Options) -> Result:
    pairs, seconds, kinds = (1, 0.2, ["rubbish"]) if options.quick else (3, 1.5, list(KINDS))
    figures: Figures = {}
    number = 0
    own = os.sched_getaffinity(0)
    with daemon() as target:
        if len(own) > 1:
            target.running.pin(min(own))
            os.sched_setaffinity(0, {max(own)})
        try:
            for kind in kinds:
                alone, beside = list[float](), list[float]()
                for _ in range(pairs):
                    alone.append(_p99_ms(target, number, seconds, options.seed))
                    with child("attackers", str(target.address[1]), kind):
                        time.sleep(seconds / 5)
                        beside.append(_p99_ms(target, number + 100_000, seconds, options.seed))
                    number += 200_000
                figures[kind] = {
                    "alone_p99_ms": round(median(alone), 2),
                    "beside_p99_ms": round(median(beside), 2),
                    "times": round(median(beside) / median(alone), 2),
                    "rss_mb": round(target.running.rss_bytes() / 1e6),
                }
        finally:
            os.sched_setaffinity(0, own)
    bounds = [
        Bound(f"p99 beside / alone, {kind}", found["times"], TIMES_MAX) for kind, found in figures.items()
    ]
    return Result({"kinds": figures}, bounds)


def _p99_ms(target: Daemon, first: int, seconds: float, seed: int) -> float:
    """Of one request after the other, each at its own time, from send to durable reply."""
    lines = writers.schedule_lines(first, int(seconds / EVERY_S), seed=seed)
    took = []
    with Client(target.address) as client:
        next_s = time.perf_counter()
        until_s = next_s + 2 * seconds  # where each answer takes long, fewer are asked for
        for line in lines:
            if time.perf_counter() > until_s:
                break
            while (left_s := next_s - time.perf_counter()) > 0:
                time.sleep(left_s)
            began_s = time.perf_counter()
            reply = client.ask_raw(line)
            took.append((time.perf_counter() - began_s) * 1000)
            assert b'"ok":true' in reply, reply
            next_s = max(next_s + EVERY_S, began_s)
    return percentile(sorted(took), 990)
