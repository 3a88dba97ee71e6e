"""Timer lateness at 1,000 tasks a second: alone, beside writers, subscribers, a group cancel, and scans.

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
    sleep_until,
    wall_ms,
)

RATE_PER_S: Final = 1000
LOAD_S: Final = 150  # loading gives up then
SUBSCRIBERS: Final = 100
CHURN_PER_S: Final = 1800  # tasks made and cancelled besides: with 3 events of each timed one, over 5,000/s
CHURN_MS: Final = 20  # between two batches of them
GROUP: Final = 100_000

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
            listening = _subscribed(SUBSCRIBERS, options.seed)
            figures[f"{SUBSCRIBERS} subscribers"] = _measure(
                target, receiver, over_s, options.seed, listening
            )
        with daemon() as target:
            group = held // 10
            lines = [
                line.replace(b'"delay"', b'"group":"gang","delay"')
                for line in writers.schedule_lines(0, group, seed=options.seed)
            ]
            assert writers.drive(target.address, lines, 4, 500, LOAD_S).ok == group
            target.stop()
            target.start()
            found = _measure(target, receiver, over_s, options.seed, _cancelling(group))
            figures[f"group cancel of {group:,}"] = found
        with daemon() as target:
            stored = writers.drive(
                target.address, writers.schedule_lines(0, held, seed=options.seed), 4, 500, LOAD_S
            )
            assert stored.ok == held, f"{stored.ok} of {held} stored"
            loads: tuple[tuple[str, Load], ...] = (
                ("list paged", _paging), ("forecast", _scanning("forecast", horizon="2h")),
                ("list state", _scanning("list", limit=1, state="done")),
                ("list queue", _scanning("list", limit=1, queue="default")),
            )  # fmt: skip
            for number, (name, load) in enumerate(loads[:2] if options.quick else loads):
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


def _scanning(op: str, **fields: object) -> Load:
    """One scan after the other, each over all tasks."""

    def load(target: Daemon, until_ms: int) -> Figures:
        scans, took_s = 0, 0.0
        with Client(target.address) as client:
            while wall_ms() < until_ms:
                began = time.perf_counter()
                client.ask(op=op, **fields)
                took_s += time.perf_counter() - began
                scans += 1
        return {"scans": scans, "scan_s": round(took_s / scans, 3)}

    return load


def _cancelling(count: int) -> Load:
    """One request that cancels a whole group, when the timed tasks are under way."""

    def load(target: Daemon, until_ms: int) -> Figures:
        sleep_until(until_ms - 1000 * (until_ms - wall_ms()) // 2000)
        began = time.perf_counter()
        with Client(target.address) as client:
            assert client.ask(op="cancel", group="gang")["cancelled"] == count
        return {"cancel_s": round(time.perf_counter() - began, 3)}

    return load


def _subscribed(count: int, seed: int) -> Load:
    """Subscribers to everything; tasks that are made and cancelled bring more events."""
    pairs = CHURN_PER_S * CHURN_MS // 1000

    def load(target: Daemon, until_ms: int) -> Figures:
        number = 0
        with (
            child("listeners", str(target.address[1]), str(count), "subscribe") as listeners,
            Client(target.address) as client,
        ):
            began_ms = next_ms = wall_ms()
            while next_ms < until_ms:
                lines = writers.schedule_lines(number, pairs, seed=seed)
                lines += writers.cancel_lines(number, pairs)
                client.ask_many(lines)
                number += pairs
                next_ms += CHURN_MS
                sleep_until(next_ms)
            seen = listeners.ask("count")
        over_s = (wall_ms() - began_ms) / 1000
        assert not seen["closed"], f"{seen['closed']} subscribers were not fast enough"
        return {
            "events_per_s": round(seen["lines"] / count / over_s),
            "mbyte_per_s": round(seen["bytes"] / over_s / 1e6),
        }

    return load
