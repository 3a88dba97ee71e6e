"""Timer lateness at 1,000 tasks a second: alone, beside writers, beside scans of a million tasks.

Each part has a daemon's start of its own, because the lateness in ``stats`` counts from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks import timed, writers
from benchmarks.harness import (
    Bound,
    Client,
    Daemon,
    Figures,
    Options,
    Process,
    Result,
    child,
    daemon,
    wall_ms,
)

RATE_PER_S: Final = 1000
LOAD_S: Final = 150  # loading gives up then

Load = Callable[[Daemon, int], Figures]
"""Works until a Unix instant (ms); says what it did."""


def run(options: Options) -> Result:
    over_s, held = (1, 20_000) if options.quick else (10, 1_000_000)
    figures: Figures = {}
    with child("receiver") as receiver:
        with daemon() as target:
            figures["alone"] = _measure(target, receiver, over_s, options.seed, _idle)
        with daemon() as target:
            writing = _writing(250_000 * over_s, options.seed)
            figures["writers 16 x 500"] = _measure(target, receiver, over_s, options.seed, writing)
        with daemon() as target:
            stored = writers.drive(
                target.address, writers.schedule_lines(0, held, seed=options.seed), 4, 500, LOAD_S
            )
            assert stored.ok == held, f"{stored.ok} of {held} stored"
            loads: tuple[tuple[str, Load], ...] = (
                ("list paged", _paging), ("list state", _scanning(state="done")),
                ("list queue", _scanning(queue="default")),
            )  # fmt: skip
            for number, (name, load) in enumerate(loads[:1] if options.quick else loads):
                target.stop()
                target.start()
                found = _measure(target, receiver, over_s, options.seed + number, load)
                figures[f"{name} over {held:,}"] = found
    bounds = [Bound(f"timer p99 ms, {name}", found["timer_ms"]["p99"], 10) for name, found in figures.items()]
    return Result(figures, bounds)


def _measure(target: Daemon, receiver: Process, over_s: int, seed: int, load: Load) -> Figures:
    """Lateness of ``over_s`` seconds of tasks while ``load`` works."""
    port = int(receiver.first_line.split()[1])
    seen_before = receiver.ask("count")
    count = over_s * RATE_PER_S
    lead_ms = 400 * over_s + 600  # more tasks take longer to store
    _, until_ms = timed.put(target, port, count, over_s * 1000, seed=seed, lead_ms=lead_ms)
    starved_s = -target.running.starved_s()
    did = load(target, until_ms)
    seen = timed.collect(receiver, seen_before + count, until_ms)
    starved_s += target.running.starved_s()
    return timed.judged(target, seen, count) | did | {"starved_s": round(starved_s, 2)}


def _idle(target: Daemon, until_ms: int) -> Figures:
    return {}


def _writing(count: int, seed: int) -> Load:
    """16 connections with 500 schedules under way on each, flat out."""
    lines = writers.schedule_lines(0, count, seed=seed)

    def load(target: Daemon, until_ms: int) -> Figures:
        driven = writers.drive(target.address, lines, 16, 500, (until_ms - wall_ms()) / 1000)
        return {"schedules_per_s": round(driven.per_s)}

    return load


def _paging(target: Daemon, until_ms: int) -> Figures:
    """Page after page of 1,000, from the beginning again at the end."""
    pages, cursor, took_s = 0, None, 0.0
    with Client(target.address) as client:
        while wall_ms() < until_ms:
            request: dict[str, Any] = {"op": "list", "limit": 1000} | ({"cursor": cursor} if cursor else {})
            began = time.perf_counter()
            cursor = client.ask(**request).get("cursor")
            took_s += time.perf_counter() - began
            pages += 1
    return {"lists": pages, "list_s": round(took_s / pages, 3)}


def _scanning(**filters: str) -> Load:
    """One scan after the other, each over all tasks."""

    def load(target: Daemon, until_ms: int) -> Figures:
        scans, took_s = 0, 0.0
        with Client(target.address) as client:
            while wall_ms() < until_ms:
                began = time.perf_counter()
                client.ask(op="list", limit=1, **filters)
                took_s += time.perf_counter() - began
                scans += 1
        return {"lists": scans, "list_s": round(took_s / scans, 3)}

    return load
