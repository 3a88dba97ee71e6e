"""What idle clients cost the others: 100 busy connections alone, and beside 1,000 that say nothing.

Both are measured in turn on one daemon, several pairs, and their medians compared: so a machine that slows
down in the middle slows down both.
"""

from __future__ import annotations

from statistics import median
from typing import Final

from benchmarks import writers
from benchmarks.harness import Bound, Figures, Options, Result, child, daemon

BUSY: Final = 100
IDLE: Final = 1000
KEPT: Final = 0.9  # of the requests a second
LINES_PER_S: Final = 60_000  # more than are answered, one at a time on each connection


def run(options: Options) -> Result:
    pairs, seconds, idle = (1, 0.3, 50) if options.quick else (5, 4.0, IDLE)
    found: list[Figures] = []
    first = 0
    with daemon() as target:
        for _ in range(pairs):
            row = {}
            for name, count in (("alone", 0), ("beside", idle)):
                lines = writers.schedule_lines(first, int(LINES_PER_S * seconds), seed=options.seed)
                first += len(lines)
                with child("listeners", str(target.address[1]), str(count)):
                    row[name] = round(writers.drive(target.address, lines, BUSY, 1, seconds).per_s)
            found.append(row)
    alone, beside = (median(row[name] for row in found) for name in ("alone", "beside"))
    figures = {"requests_per_s": found, "median_alone": alone, "median_beside": beside, "idle": idle}
    return Result(
        figures, [Bound("requests/s beside idle clients, of those alone", beside / alone, KEPT, True)]
    )
