"""A start with a great many overdue tasks for one destination, and receivers that take their time.

``overdue``: the tasks come due while the daemon is down; after the start they go out at the pace of their
destination, which answers in 20 ms, while fresh ones for another come due on time. Few ended tasks are kept
there: what one that is kept costs is for ``memory`` to say. ``50 ms``: callbacks at an
even rate to a receiver that answers in 50 ms, alone and beside one that never answers; no backlog may grow.
``fast``: a receiver that answers at once, alone and beside a hundred that take four to six seconds, in turn
and more than once, because a p99 of so few is noisy: the figures are those of the median run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

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
    progress,
    sleep_until,
    wall_ms,
)
from benchmarks.receiver import addresses, arrivals

SCRAMBLE: Final = 7919  # a prime: tasks are stored in another order than that in which they come due
STORED_PER_MS: Final = 15  # a pace at which any machine stores tasks; the first comes due after the last
DUE_PER_MS: Final = 20
OVERDUE_MS: Final = 1100  # by so much at least, so that all of it is a backlog
WINDOW_MAX: Final = 128
STALL_S: Final = 60
MIB: Final = 1 << 20
GROWTH_MIB_MAX: Final = 32  # of about 340
JUDGED: Final = ("arrived", "early", "twice", "end_to_end_ms")
PAIRS: Final = 3
SLOW: Final = 100
SLOW_TASKS: Final = 60  # for each, so that all of them want permits the whole time
_LINE: Final = (
    b'{"op":"schedule","id":"old-%07d","queue":"old","at":%d,"url":"http://127.0.0.1:%05d/slow/20",'
    b'"body":{"order":%20d,"note":"0123456789"}}\n'
)


def run(options: Options) -> Result:
    old, fresh, rate, over_s = (20_000, 200, 300, 2) if options.quick else (1_000_000, 1000, 1000, 15)
    cores = sorted(os.sched_getaffinity(0))
    progress(f"{old:,} overdue; about four minutes where that is a million")
    figures: Figures = {"overdue": _overdue(old, fresh, options.seed, cores)}
    for name, dead in (("50 ms alone", False), ("50 ms beside a dead one", True)):
        progress(name)
        figures[name] = _paced(rate, over_s, dead, options.seed, cores)
    runs: dict[str, list[Figures]] = {"fast alone": [], "fast beside 100 slow": []}
    for seed in range(options.seed, options.seed + (1 if options.quick else PAIRS)):
        for (name, done), slow in zip(runs.items(), (0, SLOW), strict=True):
            progress(f"{name}, seed {seed}")
            done.append(_fast(rate // 2, over_s, slow, seed, cores))
    figures |= {name: _median(done) for name, done in runs.items()}
    found, alone, beside, fast, crowded = figures.values()
    bounds = [
        Bound("fresh beside a backlog, end to end p99 ms", _p99_ms(found["fresh"]), 50),
        Bound("memory grows while the backlog goes out, MiB", found["rss_growth_mib"], GROWTH_MIB_MAX),
        Bound("out of due order by so many places", found["out_of_order_max"], 2 * WINDOW_MAX + DUE_PER_MS),
        Bound("50 ms alone, ready tasks at most, second half", alone["ready_max_later"], rate // 5),
        Bound("50 ms beside a dead one, the same", beside["ready_max_later"], rate // 5),
        Bound(
            "p99 ms added by the dead one",
            round(_p99_ms(beside) - _p99_ms(alone), 3),
            10,
        ),
        Bound(
            "fast beside 100 slow against alone, p99",
            round(_p99_ms(crowded) / _p99_ms(fast), 2),
            2,
        ),
    ]
    return Result(figures, bounds)


# --- overdue at the start --------------------------------------------------------------------------


@dataclass
class _Backlog:
    """What has arrived of it, looked at piece by piece."""

    count: int = 0
    twice: int = 0
    out_of_order_max: int = 0
    seen: set[str] = field(default_factory=set)

    def take(self, receiver: Process) -> None:
        for each in arrivals(receiver):
            self.out_of_order_max = max(self.out_of_order_max, abs(int(each.id[4:]) - self.count))
            self.twice += each.id in self.seen
            self.seen.add(each.id)
            self.count += 1


def _overdue(old: int, fresh: int, seed: int, cores: list[int]) -> Figures:
    few_kept = "[limits]\nkeep_done_max = 10_000\n"
    with daemon(config=few_kept) as target, child("receiver") as slow, child("receiver") as fast:
        for one in (slow, fast):
            one.pin(cores[-1])
        due_ms = _store(target, old, int(slow.first_line.split()[1]))
        target.stop()
        sleep_until(due_ms + OVERDUE_MS)
        assert slow.ask("count") == 0, "some were sent before the restart"
        target.start()
        target.running.pin(cores[0])
        assert target.tasks == old, f"{target.tasks} of {old} tasks were recovered"
        began = time.perf_counter()
        backlog = _Backlog()
        rss = [target.running.rss_bytes()]
        port = int(fast.first_line.split()[1])
        from_ms, until_ms = timed.put(target, port, fresh, 10 * fresh, seed=seed, lead_ms=4000)
        _watch(target, slow, backlog, rss, lambda: wall_ms() >= from_ms)
        before = backlog.count
        _watch(target, slow, backlog, rss, lambda: wall_ms() >= until_ms + 500)
        during = backlog.count
        seen = timed.collect(fast, fresh, until_ms)
        judged = timed.judged(target, seen, fresh)
        _watch(target, slow, backlog, rss, lambda: backlog.count >= old)
        seconds = time.perf_counter() - began
        figures = {
            "tasks": old,
            "recovered_ms": target.recovered_ms,
            "sent_before_the_fresh": before,
            "sent_when_the_fresh_were": during,
            "per_s": round(old / seconds),
            "twice": backlog.twice,
            "out_of_order_max": backlog.out_of_order_max,
            "rss_mib_first_most_last": [round(size / MIB) for size in (rss[0], max(rss), rss[-1])],
            "rss_growth_mib": round((max(rss) - rss[0]) / MIB),
            "fresh": {name: judged[name] for name in ("tasks", "arrived", "early", "twice", "end_to_end_ms")},
        }
        target.stop()
    return figures


def _store(target: Daemon, count: int, port: int) -> int:
    """Store the backlog, none of it due before the last is in; when the last will be due, Unix ms."""
    lead_ms = 2500 + count // STORED_PER_MS
    from_ms = wall_ms() + lead_ms
    order = [number * SCRAMBLE % count for number in range(count)]
    lines = [_LINE % (number, from_ms + number // DUE_PER_MS, port, number) for number in order]
    stored = writers.drive(target.address, lines, 4, 500, lead_ms / 1000)
    assert stored.ok == count, f"{stored.ok} of {count} stored"
    assert wall_ms() < from_ms - 500, "storing took longer than the lead"
    return from_ms + count // DUE_PER_MS


def _watch(
    target: Daemon, slow: Process, backlog: _Backlog, rss: list[int], over: Callable[[], bool]
) -> None:
    """Take in what arrives, and the daemon's memory, until it is over."""
    stalled = time.perf_counter() + STALL_S
    while not over():
        before = backlog.count
        backlog.take(slow)
        rss.append(target.running.rss_bytes())
        if backlog.count > before:
            stalled = time.perf_counter() + STALL_S
        assert time.perf_counter() < stalled, f"the backlog stands still at {backlog.count}"
        time.sleep(0.2)


# --- receivers that take their time ----------------------------------------------------------------


@contextlib.contextmanager
def _deaf() -> Iterator[str]:
    """The URL of a receiver that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def _paced(rate: int, over_s: int, dead: bool, seed: int, cores: list[int]) -> Figures:
    with daemon() as target, child("receiver") as receiver, _deaf() as nowhere:
        target.running.pin(cores[0])
        receiver.pin(cores[-1])
        port = int(receiver.first_line.split()[1])
        if dead:
            line = b'{"op":"schedule","id":"dead-%%07d","queue":"dead","url":"%b","timeout":"1s"}\n'
            line %= nowhere.encode()
            writers.drive(target.address, [line % number for number in range(500)], 1, 500, 10)
            time.sleep(1)
        _, warm_ms = timed.put(target, port, rate, 1000, seed=seed, lead_ms=1000, path="slow/50")
        timed.collect(receiver, rate, warm_ms)  # its window has opened
        count = rate * over_s
        from_ms, until_ms = timed.put(
            target, port, count, over_s * 1000, seed=seed + 1, lead_ms=1000 + count // STORED_PER_MS,
            path="slow/50",
        )  # fmt: skip
        sleep_until(from_ms)
        ready = _ready(target, until_ms)
        seen = timed.collect(receiver, rate + count, until_ms)
        judged = timed.judged(target, seen, count)
    return {
        "rate_per_s": rate,
        "ready_max": max(ready),
        "ready_max_later": max(ready[len(ready) // 2 :]),
        **{name: judged[name] for name in JUDGED},
    }


def _fast(rate: int, over_s: int, slow: int, seed: int, cores: list[int]) -> Figures:
    with daemon() as target, child("receiver") as fast, child("receiver", str(SLOW)) as others:
        target.running.pin(cores[0])
        for one in (fast, others):
            one.pin(cores[-1])
        line = b'{"op":"schedule","id":"slow-%07d","queue":"slow","url":"http://%b:%05d/slow/%04d"}\n'
        port = int(others.first_line.split()[1])
        hosts = [host.encode() for host in addresses(SLOW)[:slow]]
        order = range(slow * SLOW_TASKS)  # each takes a time of its own: they must not all answer at once
        lines = [line % (n, hosts[n % slow], port, 4000 + 20 * (n % slow)) for n in order]
        if lines:
            writers.drive(target.address, lines, 1, 500, 30)
        count = rate * over_s
        _, until_ms = timed.put(
            target, int(fast.first_line.split()[1]), count, over_s * 1000, seed=seed, lead_ms=3000
        )
        seen = timed.collect(fast, count, until_ms)
        judged = timed.judged(target, seen, count)
        running = target.stats()["tasks"]["running"]
        assert running >= slow, f"{running} attempts in flight: the slow ones were done"
    return {
        "rate_per_s": rate,
        **{name: judged[name] for name in JUDGED},
    }


def _median(runs: Sequence[Figures]) -> Figures:
    """The run whose p99 is the median of all, with each one's."""
    ranked = sorted(runs, key=_p99_ms)
    return ranked[len(ranked) // 2] | {"each_p99_ms": [_p99_ms(run) for run in runs]}


def _p99_ms(run: Figures) -> float:
    p99_ms: float = run["end_to_end_ms"]["p99"]
    return p99_ms


def _ready(target: Daemon, until_ms: int) -> list[int]:
    """How many tasks for the living receiver were due and not yet sent, again and again."""
    found = []
    with Client(target.address) as client:
        while wall_ms() < until_ms:
            queues = client.ask(op="stats")["queues"]
            found.append(queues.get("timed", {}).get("ready", 0))
            time.sleep(0.05)
    return found
