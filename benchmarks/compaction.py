"""Compaction: how small the journal stays, how long a start takes, and what timers notice of it.

Endurance: a share of all tasks lives long, the others are cancelled at once; written until the journal has
taken ten times what is live. Lateness: pairs in turn of the same writers on the same tasks and the same small
segments, which are compacted all the time, once by the daemon as it is and once by one that does not compact.
Beside the lateness stands what other programs took from the daemon meanwhile: where that is much, it
tells of them.
"""

from __future__ import annotations

import statistics
import time
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
    progress,
    sleep_until,
    wall_ms,
)

MIB: Final = 1 << 20
SHARES: Final = (0, 50, 99)
"""Of a hundred tasks, so many live long."""
TIMES_LIVE: Final = 10
BATCH: Final = 500
BODY: Final = "x" * 300
RATE_PER_S: Final = 1000
PAIRS: Final = 5
KEEP: Final = "[limits]\nkeep_done_max = 1000\n"


def run(options: Options) -> Result:
    live_mib, segment_mib = (2, 1) if options.quick else (100, 64)
    figures: Figures = {}
    bounds: list[Bound] = []
    for share in SHARES:
        progress(f"a journal of which {share} % live long; about two minutes")
        found = _endure(share, live_mib * MIB, segment_mib * MIB)
        figures[f"{share} % live long"] = found
        bounds.append(Bound(f"journal over its bound MiB, {share} %", found["over_bound_mib"], 0))
    alone: list[Figures] = []
    beside: list[Figures] = []
    with child("receiver") as receiver:
        for number in range(1 if options.quick else PAIRS):
            seed = options.seed + number
            progress(f"lateness, pair {number + 1} of {1 if options.quick else PAIRS}")
            for runs, module in ((alone, "benchmarks.uncompacted"), (beside, "wheeltimer")):
                runs.append(_late(receiver, seed, module, options.quick))
    for name, runs in (("without compaction", alone), ("with compaction", beside)):
        figures[name] = {
            "timer_p99_ms": statistics.median(each["timer_ms"]["p99"] for each in runs),
            "end_to_end_p99_ms": statistics.median(each["end_to_end_ms"]["p99"] for each in runs),
            "compactions": statistics.median(each["compactions"] for each in runs),
            "starved_percent": statistics.median(each["starved_percent"] for each in runs),
            "each_timer_p99_ms": [each["timer_ms"]["p99"] for each in runs],
            "each_end_to_end_p99_ms": [each["end_to_end_ms"]["p99"] for each in runs],
        }
    assert figures["with compaction"]["compactions"] > 0 or options.quick, "nothing was compacted"
    without, with_it = figures["without compaction"], figures["with compaction"]
    for name in ("timer_p99_ms", "end_to_end_p99_ms"):
        bounds.append(Bound(f"{name}, with against without", round(with_it[name] / without[name], 2), 2))
    return Result(figures, bounds)


def _config(segment_bytes: int) -> str:
    return f"[journal]\nsegment_bytes = {segment_bytes}\nhistory_bytes = 0\n{KEEP}"


def _endure(share: int, live_bytes: int, segment_bytes: int) -> Figures:
    """Write ten times ``live_bytes`` in tasks of which ``share`` in a hundred live long, up to that much."""
    with daemon(config=_config(segment_bytes)) as target, Client(target.address) as client:
        written = number = 0
        began = time.monotonic()
        about: dict[str, Any] = {"live_bytes": 0}
        while written < TIMES_LIVE * live_bytes:
            long = share if about["live_bytes"] < live_bytes else 0
            written += _batch(client, number, long)
            number += BATCH
            if number % (20 * BATCH) == 0:
                about = client.ask(op="stats")["journal"]
        took_s = time.monotonic() - began
        time.sleep(2)  # what is under way ends; what is live is added up
        stats = client.ask(op="stats")
        about = stats["journal"]
        target.stop()
        target.start()
        return {
            "tasks": number, "written_mib": written // MIB, "took_s": round(took_s, 1),
            "live_mib": round(about["live_bytes"] / MIB, 1), "journal_mib": round(about["bytes"] / MIB, 1),
            "over_bound_mib": round((about["bytes"] - 2 * about["live_bytes"] - 4 * segment_bytes) / MIB, 1),
            "compactions": about["compactions"], "carried": about["carried"],
            "timer_p99_ms": stats["lateness_us"]["p99"] / 1000, "start_ms": target.recovered_ms,
        }  # fmt: skip


def _batch(client: Client, number: int, long: int) -> int:
    """Tasks of which so many in a hundred stay; the bytes of their bodies."""
    numbers = range(number, number + BATCH)
    new = b'{"op":"schedule","id":"t%d","url":"http://127.0.0.1:9/","delay":"30d","body":"%s"}\n'
    _done(client, [new % (each, BODY.encode()) for each in numbers])
    _done(client, [b'{"op":"cancel","id":"t%d"}\n' % each for each in numbers if each % 100 >= long])
    return BATCH * len(BODY)


def _done(client: Client, lines: list[bytes]) -> None:
    """Small segments have little room for what comes at once: what is refused as full is asked again."""
    while lines:
        replies = client.ask_all_raw(lines)
        left = [line for line, reply in zip(lines, replies, strict=True) if b'"full"' in reply]
        refused = [reply for reply in replies if b'"ok":false' in reply]
        assert len(left) == len(refused), refused[:2]
        lines = left
        time.sleep(0.02 if lines else 0)


def _late(receiver: Process, seed: int, module: str, quick: bool) -> Figures:
    """Lateness of callbacks at their rate beside a gentle writer whose tasks come and go."""
    over_s = 1 if quick else 10
    count = over_s * RATE_PER_S
    port = int(receiver.first_line.split()[1])
    with daemon(config=_config(MIB), module=module) as target, Client(target.address) as client:
        held = writers.schedule_lines(0, 2_000 if quick else 50_000, seed=seed)
        writers.drive(target.address, held, 1, 100, 60)
        seen_before = receiver.ask("count")
        lead_ms = 400 * over_s + 600
        _, until_ms = timed.put(target, port, count, over_s * 1000, seed=seed, lead_ms=lead_ms)
        starved_s, began_s = target.running.starved_s(), time.monotonic()
        done = _churn(target, client, until_ms)
        starved = (target.running.starved_s() - starved_s) / (time.monotonic() - began_s)
        seen = timed.collect(receiver, seen_before + count, until_ms)
        return timed.judged(target, seen, count) | {
            "compactions": done, "starved_percent": round(100 * starved, 1),
        }  # fmt: skip


def _churn(target: Daemon, client: Client, until_ms: int) -> int:
    """About 2,000 tasks a second, each cancelled at once; how many compactions there were."""
    number = 0
    while (began_ms := wall_ms()) < until_ms:
        _batch(client, number, 0)
        number += BATCH
        sleep_until(began_ms + 250)
    done: int = target.stats()["journal"]["compactions"]
    return done
