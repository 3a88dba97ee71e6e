"""What a million pending tasks cost: memory, idle processor time, recovery; what cancelled ones give back.

20 bytes of id, 40 of URL (all different), 50 of body; deadlines over one hour and over 30 days.
"""

from __future__ import annotations

import signal
import time
from typing import Final

from benchmarks import writers
from benchmarks.harness import Bound, Daemon, Figures, Options, Result, daemon

DAY_MS: Final = 86_400_000
KEEP_DONE_MAX: Final = 10_000
IDLE_S: Final = 5
LOAD_S: Final = 150  # loading gives up then


def run(options: Options) -> Result:
    tasks = 20_000 if options.quick else 1_000_000
    spreads = {"one hour": writers.HOUR_MS} | ({} if options.quick else {"30 days": 30 * DAY_MS})
    figures = {name: _load(tasks, spread_ms, options) for name, spread_ms in spreads.items()}
    bounds = [Bound(f"MB resident, {name}", f["loaded_mb"], limit) for (name, f), limit in zip(
        figures.items(), (400, 450), strict=False)]  # fmt: skip
    for name, found in figures.items():
        bounds += [
            Bound(f"idle processor %, {name}", found["idle_cpu_percent"], 1),
            Bound(f"recovery ms, {name}", found["recovered_ms"], 4000),
            Bound(f"MB after replacing 80 % / MB loaded, {name}", found["replaced_to_loaded"], 1.1),
        ]
    return Result(figures, bounds)


def _load(tasks: int, spread_ms: int, options: Options) -> Figures:
    part = tasks * 8 // 10
    with daemon(config=f"[limits]\nkeep_done_max = {KEEP_DONE_MAX}\n") as target:
        empty = target.running.rss_bytes()
        began = time.perf_counter()
        _schedule(target, 0, tasks, spread_ms, options.seed)
        found: Figures = {"tasks": tasks, "load_s": round(time.perf_counter() - began, 1)}
        found |= {"empty_mb": _mb(empty), "loaded_mb": _mb(target.running.rss_bytes())}
        found["bytes_per_task"] = round((target.running.rss_bytes() - empty) / tasks)
        time.sleep(2.5)  # the journal's last marker is synced after a second of rest
        idle_s = 1 if options.quick else IDLE_S
        cpu_s = -target.running.cpu_s()
        time.sleep(idle_s)
        found["idle_cpu_percent"] = round((cpu_s + target.running.cpu_s()) / idle_s * 100, 2)
        target.stop(signal.SIGKILL)
        target.start()
        assert target.tasks == tasks, f"{target.tasks} of {tasks} recovered"
        found |= {"recovered_ms": target.recovered_ms, "start_cpu_s": round(target.running.cpu_s(), 2)}
        found |= {"recovered_mb": _mb(target.running.rss_bytes())}
        driven = writers.drive(target.address, writers.cancel_lines(0, part), 4, 500, LOAD_S)
        assert driven.ok == part, f"{driven.ok} of {part} cancelled"
        time.sleep(1.5)  # what retention no longer covers is forgotten in slices
        found["cancelled_mb"] = _mb(target.running.rss_bytes())
        _schedule(target, tasks, part, spread_ms, options.seed)
        found["replaced_mb"] = _mb(target.running.rss_bytes())
        found["replaced_to_loaded"] = round(found["replaced_mb"] / found["loaded_mb"], 2)
    return found


def _schedule(target: Daemon, first: int, count: int, spread_ms: int, seed: int) -> None:
    lines = writers.schedule_lines(first, count, seed=seed, spread_ms=spread_ms)
    driven = writers.drive(target.address, lines, 4, 500, LOAD_S)
    assert driven.ok == count, f"{driven.ok} of {count} stored"


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
