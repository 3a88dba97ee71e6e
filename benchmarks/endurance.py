"""Millions of tasks come and go beside a million that stay, one of them a year old.

A cycle is one task, scheduled and brought to its end through the daemon's own port: of a thousand, twenty
are delivered to a receiver on this machine, the others end half by ``finish`` and half by ``cancel``, as
fast as four connections with 100 requests under way on each make them. The delivered ones are due while the
others are written: their lateness is that under full load.

The folder is looked at all the while (``folder_most_mib``) and at rest after the last cycle; memory after
each round. The year-old task is made by the daemon itself, a year ago by its clock
(``clock_behind_a_year.py``).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks import timed, writers
from benchmarks.clock_behind_a_year import YEAR_MS
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
    percentile,
    progress,
    wall_ms,
)

MIB: Final = 1 << 20
DELIVERED: Final = 20
"""Of a thousand cycles."""
YEARS: Final = 5
"""After which the old task is due."""
LOOK_S: Final = 0.1
STALL_S: Final = 1200
START_S: Final = 300  # beside other programs; what it took is a figure
_FINISH: Final = b'{"op":"finish","id":"%020d"}\n'
_CANCEL: Final = b'{"op":"cancel","id":"%020d"}\n'


def run(options: Options) -> Result:
    live, cycles, rounds = (5_000, 20_000, 4) if options.quick else (1_000_000, 5_000_000, 20)
    segment_bytes = MIB if options.quick else 64 * MIB
    config = (
        f"[journal]\nsegment_bytes = {segment_bytes}\nhistory_bytes = 0\n[limits]\nkeep_done_max = {live}\n"
    )
    with child("receiver") as receiver, daemon(config=config) as target:
        target.stop()
        due_ms = _old_task(target)
        target.start()
        _drive(target, writers.schedule_lines(0, live, seed=options.seed))
        after: list[Figures] = []
        late_ns: list[int] = []
        with _Watch(target) as watch:
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}")
                first, count = live + number * cycles // rounds, cycles // rounds
                seen = _round(target, receiver, first, count, options.seed + number)
                late_ns += seen.pop("late_ns")
                after.append(seen | _state(target))
        time.sleep(2)  # what is under way ends
        stats, state = target.stats(), _state(target)
        old = target.ask(op="get", id="old")["task"]
        target.stop(signal.SIGKILL)
        target.start(START_S)
        start_cpu_s = round(target.running.cpu_s(), 2)
        again = target.ask(op="get", id="old")["task"]
        assert old == again, f"{old} was {again} after a restart"
    assert (old["due"], old["next"], old["state"]) == (due_ms, due_ms, "scheduled"), old
    old_days = (wall_ms() - old["created"]) // (YEAR_MS // 365)
    middle, end = after[len(after) // 2 - 1], after[-1]
    late_ns.sort()
    figures: Figures = {
        "live": stats["tasks"], "cycles": cycles, "delivered": len(late_ns), "old_task_days": old_days,
        "lost": sum(each["lost"] for each in after), "early": sum(late < 0 for late in late_ns),
        "twice": sum(each["twice"] for each in after),
        "cycles_per_s": round(cycles / sum(each["took_s"] for each in after)),
        "folder_mib": state["folder_mib"], "live_mib": state["live_mib"], "folder_most_mib": watch.most_mib,
        "segment_mib": segment_bytes // MIB, "over_bound_mib": round(_over(state, segment_bytes), 1),
        "compactions": stats["journal"]["compactions"], "carried": stats["journal"]["carried"],
        "middle_mb": middle["rss_mb"], "end_mb": end["rss_mb"],
        "end_to_middle": round(end["rss_mb"] / middle["rss_mb"], 3),
        "start_ms": target.recovered_ms, "start_cpu_s": start_cpu_s, "found": target.tasks,
        "timer_ms": {name: us / 1000 for name, us in stats["lateness_us"].items()},
        "end_to_end_ms": {
            name: round(percentile(late_ns, permille) / 1e6, 2)
            for name, permille in (("p50", 500), ("p99", 990), ("p999", 999), ("max", 1000))
        },
        "rounds": [
            {name: each[name] for name in ("took_s", "p99_ms", "rss_mb", "folder_mib", "live_mib")}
            for each in after
        ],
    }  # fmt: skip
    return Result(
        figures,
        [
            Bound("journal over twice what is live and four segments, MiB", figures["over_bound_mib"], 0),
            Bound("memory at the end to that in the middle", figures["end_to_middle"], 1.1),
            Bound("tasks lost", figures["lost"], 0),
            Bound("callbacks before their due instant", figures["early"], 0),
            Bound("callbacks made twice", figures["twice"], 0),
            Bound("days since the old task was made", old_days, 365, at_least=True),
            Bound("live tasks found by the next start", target.tasks, live, at_least=True),
        ],
    )  # fmt: skip


def _old_task(target: Daemon) -> int:
    """Have a task scheduled a year ago; its due in Unix ms."""
    command = [sys.executable, "-m", "benchmarks.clock_behind_a_year", str(target.data)]
    with (target.folder / "log").open("ab") as log:
        process = Process(command, log)
    ready = process.wait_ready()
    words = dict(word.split("=", 1) for word in ready.split() if "=" in word)
    host, _, port = words["listen"].rpartition(":")
    with Client((host, int(port))) as client:
        url = "http://127.0.0.1:9/old"
        due_ms: int = client.ask(op="schedule", id="old", url=url, delay=YEARS * YEAR_MS)["due"]
    code = process.stop()
    assert code == 0, f"the daemon of a year ago ended with {code}"
    return due_ms


def _drive(target: Daemon, lines: list[bytes]) -> None:
    driven = writers.drive(target.address, lines, 4, 100, STALL_S)
    assert driven.ok == len(lines), f"{driven.ok} of {len(lines)} were done"


def _round(target: Daemon, receiver: Process, first: int, count: int, seed: int) -> Figures:
    """Some cycles; those that are delivered are due while the others are written."""
    delivered = count * DELIVERED // 1000
    ends = (count - delivered) // 8 * 4  # by either: a multiple of the connections
    schedules = writers.schedule_lines(first, 2 * ends, seed=seed)
    finishes = [_FINISH % number for number in range(first, first + ends)]
    cancels = [_CANCEL % number for number in range(first + ends, first + 2 * ends)]
    before = receiver.ask("count")
    port = int(receiver.first_line.split()[1])
    over_ms = max(1000, delivered)
    began = time.monotonic()
    _, until_ms = timed.put(target, port, delivered, over_ms, seed=seed, lead_ms=500 + delivered // 5)
    for lines in (schedules, finishes, cancels):
        _drive(target, lines)
    took_s = time.monotonic() - began
    seen = timed.collect(receiver, before + delivered, until_ms)
    late_ns = sorted(arrival.late_ns for arrival in seen)
    once = len({arrival.id for arrival in seen})
    return {
        "took_s": round(max(took_s, time.monotonic() - began), 1), "late_ns": late_ns,
        "p99_ms": round(percentile(late_ns, 990) / 1e6, 1),
        "lost": delivered - once, "twice": len(seen) - once,
    }  # fmt: skip


def _state(target: Daemon) -> Figures:
    about = target.stats()["journal"]
    return {
        "rss_mb": round(target.running.rss_bytes() / 1e6, 1), "live_mib": round(about["live_bytes"] / MIB, 1),
        "folder_mib": round(_folder_bytes(target.data) / MIB, 1),
    }  # fmt: skip


def _over(state: Figures, segment_bytes: int) -> float:
    return float(state["folder_mib"] - 2 * state["live_mib"] - 4 * segment_bytes / MIB)


def _folder_bytes(folder: Path) -> int:
    """What its files take on the file system; one that goes while it is looked at counts no more."""
    total = 0
    for name in os.listdir(folder):
        try:
            total += os.stat(folder / name).st_blocks * 512
        except FileNotFoundError:
            continue
    return total


class _Watch:
    """Looks at the folder all the while."""

    def __init__(self, target: Daemon) -> None:
        self._folder = target.data
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most_mib = 0.0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most_mib = max(self.most_mib, round(_folder_bytes(self._folder) / MIB, 1))
