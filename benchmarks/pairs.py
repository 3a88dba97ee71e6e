"""This version against another checkout, in turn: processor time, bytes and lateness as ratios of pairs.

``--against DIR`` names the other checkout; both run under this interpreter, with the same packages. What is
measured in a pair is cut into turns of a fraction of a second, one version's and at once the other's, and
which comes first alternates, so that a machine that slows down for seconds meets both. A ratio is this
version's mean by the other's.

The interval of a median of paired ratios is the one of the sign test: between two of the ordered ratios,
whatever their distribution is (Conover, Practical Nonparametric Statistics, section 3.2).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import timed, writers
from benchmarks.harness import (
    ROOT,
    Bound,
    Client,
    Daemon,
    Figures,
    Options,
    Process,
    Result,
    child,
    daemon,
    progress,
    wall_ms,
)
from benchmarks.nginx import nginx
from benchmarks.receiver import addresses

PAIRS: Final = 11
CONFIDENCE: Final = 0.95
RATIO_MAX: Final = 1.03  # of processor time and bytes
DONE_TIMEOUT_S: Final = 60
LOAD_S: Final = 150

Measured = dict[str, float]
"""What one version did in one part of a pair, by the name of the figure; a name ends in its unit."""
Part = Callable[["Side", int, Options], Measured]
"""Measures a side, given the pair's number."""

_LINE: Final = (
    b'{"op":"schedule","id":"pair-%03d-%011d","queue":"timed","at":%d,"url":"%s/callback",'
    b'"body":{"order":%20d,"note":"0123456789"}}\n'
)


class Side:
    """One version: its daemons for the parts that keep theirs, and what it did in each pair."""

    def __init__(self, root: Path, stack: contextlib.ExitStack, urls: list[str], receiver: Process) -> None:
        self.root = root
        self.urls = urls
        self.receiver = receiver
        self.port = int(receiver.first_line.split()[1])
        cores = sorted(os.sched_getaffinity(0))
        self._cpu = cores[0]
        self.writing = self._keep(stack)
        self.calling = self._keep(stack, "--concurrency", "32")
        self.timing = self._keep(stack)
        self.rounds = 0
        self.stored = 0
        self.called = 0
        self.found: list[Measured] = []

    def _keep(self, stack: contextlib.ExitStack, *flags: str) -> Daemon:
        target = stack.enter_context(daemon(*flags, root=self.root))
        target.running.pin(self._cpu)
        return target

    def measure(self, part: Part, number: int, turns: int, options: Options) -> None:
        """One of the ``turns`` of a part in pair ``number``; what is kept is their mean."""
        if len(self.found) <= number:
            self.found.append({})
        for name, value in part(self, number, options).items():
            self.found[number][name] = self.found[number].get(name, 0.0) + value / turns


def run(options: Options) -> Result:
    if options.against is None:
        # Without another version the pairs show how far two equal ones differ on this machine.
        progress("no --against DIR: this version is compared with itself")
    other = ROOT if options.against is None else options.against
    pairs = 3 if options.quick else PAIRS
    few = addresses(10)
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(child("receiver"))
        server = stack.enter_context(nginx(few, few, cores[-1]))
        if server is None:
            own = stack.enter_context(child("receiver", str(len(few))))
            own.pin(cores[-1])
        port = server.port if server else int(own.first_line.split()[1])
        urls = [f"http://{host}:{port}" for host in few]
        sides = [Side(root, stack, urls, receiver) for root in (ROOT, other)]
        for side in sides:  # the connections that later rounds keep, and the spare segments
            _delivery(side, 0, options)
        time.sleep(0 if options.quick else 3)
        for number in range(pairs):
            progress(f"pair {number + 1} of {pairs}")
            for part, turns in (dict.fromkeys(PARTS, 1) if options.quick else PARTS).items():
                for turn in range(turns):
                    for side in sides if (number + turn) % 2 else reversed(sides):
                        side.measure(part, number, turns, options)
    figures = {name: _ratios(sides[0].found, sides[1].found, name) for name in sides[0].found[0]}
    return Result({"against": other.name, "pairs": pairs, "ratios": figures}, _bounds(figures))


# -- the parts of a pair ----------------------------------------------------------------------------


def _schedule(side: Side, number: int, options: Options) -> Measured:
    """Many lines at a time, and one at a time from each of 16 connections."""
    found: Measured = {}
    counts = (4_000, 800) if options.quick else (16_000, 1_600)
    for name, depth, count in (("16x500", 500, counts[0]), ("16x1", 1, counts[1])):
        lines = writers.schedule_lines(side.stored, count, seed=options.seed)
        side.stored += count
        target = side.writing
        cpu_s, bytes_before = -target.running.cpu_s(), target.stats()["journal"]["live_bytes"]
        driven = writers.drive(target.address, lines, 16, depth, LOAD_S)
        assert driven.ok == count, f"{driven.ok} of {count} stored"
        cpu_s += target.running.cpu_s()
        live_bytes = target.stats()["journal"]["live_bytes"] - bytes_before
        found |= {
            f"schedule {name} cpu_us": cpu_s / count * 1e6,
            f"schedule {name} journal_bytes": live_bytes / count,
            f"schedule {name} wall_us": driven.seconds / count * 1e6,
        }
    return found


def _delivery(side: Side, number: int, options: Options) -> Measured:
    """Callbacks that are all due at one instant, from then until the last outcome is durable."""
    tasks, lead_ms = (300, 600) if options.quick else (2_000, 1_000)
    due_ms = wall_ms() + lead_ms
    urls = [url.encode() for url in side.urls]
    lines = [_LINE % (side.rounds, n, due_ms, urls[n % len(urls)], n) for n in range(tasks)]
    side.rounds += 1
    target = side.calling
    driven = writers.drive(target.address, lines, 1, 500, lead_ms / 1000)
    assert driven.ok == tasks, f"{driven.ok} of {tasks} stored"
    assert wall_ms() < due_ms, "storing took longer than the lead"
    side.called += tasks
    time.sleep((due_ms - wall_ms()) / 1000)
    cpu_s = -target.running.cpu_s()
    began = time.perf_counter() - (wall_ms() - due_ms) / 1000
    with Client(target.address) as client:
        stats = client.ask(op="stats")
        while stats["tasks"]["done"] < side.called:
            assert time.perf_counter() < began + DONE_TIMEOUT_S, f"not all done: {stats['tasks']}"
            time.sleep(0.02)
            stats = client.ask(op="stats")
    assert stats["attempts"]["succeeded"] == side.called, stats["attempts"]
    return {
        "delivery cpu_us": (cpu_s + target.running.cpu_s()) / tasks * 1e6,
        "delivery wall_us": (time.perf_counter() - began) / tasks * 1e6,
        "delivery live_bytes": stats["journal"]["live_bytes"] / side.called,
    }


def _memory(side: Side, number: int, options: Options) -> Measured:
    """Resident bytes of a pending task, on a daemon of its own."""
    tasks = 20_000 if options.quick else 300_000
    with daemon(root=side.root) as target:
        empty = target.running.rss_bytes()
        lines = writers.schedule_lines(0, tasks, seed=options.seed)
        assert writers.drive(target.address, lines, 4, 500, LOAD_S).ok == tasks
        return {
            "memory bytes_per_task": (target.running.rss_bytes() - empty) / tasks,
            "memory empty_bytes": empty,
        }


def _accuracy(side: Side, number: int, options: Options) -> Measured:
    return _late("accuracy", side, 2 * number, options, writing=False)


def _interference(side: Side, number: int, options: Options) -> Measured:
    """Lateness beside 16 connections that write without pause."""
    return _late("interference", side, 2 * number + 1, options, writing=True)


def _late(name: str, side: Side, number: int, options: Options, *, writing: bool) -> Measured:
    """1,000 tasks a second, open loop; end to end, because the daemon's own figure covers all rounds."""
    over_ms, lead_ms = (500, 500) if options.quick else (2000, 800)
    target, receiver = side.timing, side.receiver
    seen_before = receiver.ask("count")
    seed = options.seed * 1000 + number
    if writing:  # made before the tasks are stored: it takes a second
        lines = writers.schedule_lines(number * 1_000_000, over_ms * 250, seed=options.seed)
    _, until_ms = timed.put(target, side.port, over_ms, over_ms, seed=seed, lead_ms=lead_ms)
    if writing:
        writers.drive(target.address, lines, 16, 500, (until_ms - wall_ms()) / 1000)
    seen = timed.collect(receiver, seen_before + over_ms, until_ms)
    judged = timed.judged(target, seen, over_ms)
    assert (judged["arrived"], judged["early"], judged["twice"]) == (over_ms, 0, 0), judged
    late_ms = judged["end_to_end_ms"]
    return {f"{name} p50_wall_ms": late_ms["p50"], f"{name} p99_wall_ms": late_ms["p99"]}


PARTS: Final = {_schedule: 12, _delivery: 6, _memory: 1, _accuracy: 1, _interference: 1}
"""How many turns each has in a pair."""


# -- ratios -----------------------------------------------------------------------------------------


def _ratios(ours: list[Measured], theirs: list[Measured], name: str) -> Figures:
    ratios = sorted(one[name] / two[name] for one, two in zip(ours, theirs, strict=True))
    low, high = interval(len(ratios))
    return {
        "this": round(median(one[name] for one in ours), 3),
        "other": round(median(two[name] for two in theirs), 3),
        "ratio": round(median(ratios), 4),
        "low": round(ratios[low], 4),
        "high": round(ratios[high], 4),
    }


def interval(count: int) -> tuple[int, int]:
    """The places of the two of ``count`` ordered values that hold their median with `CONFIDENCE`.

    The first and last where there are too few values for that.
    """
    missed = low = 0
    while 2 * (missed + math.comb(count, low)) <= (1 - CONFIDENCE) * 2**count:
        missed += math.comb(count, low)
        low += 1
    low = max(0, low - 1)
    return low, count - 1 - low


def _bounds(figures: Figures) -> list[Bound]:
    bounds = []
    for name, found in figures.items():
        if "wall" in name:  # the interval contains 1, or lies below it
            bounds.append(Bound(f"{name}: low end of the ratio's interval", found["low"], 1.0))
        else:
            bounds.append(Bound(f"{name}: ratio", found["ratio"], RATIO_MAX))
    return bounds
