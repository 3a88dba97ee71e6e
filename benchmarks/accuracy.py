"""How late callbacks are: 10,000 tasks over 10 s to a receiver on this machine, open loop.

End to end is from the due instant to the first byte of the request at the receiver, on one wall clock;
the timer's own lateness is what the daemon says, from the due instant to the hand-over for delivery.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import timed
from benchmarks.harness import Bound, Options, Result, child, daemon, percentile
from benchmarks.receiver import Arrival


def run(options: Options) -> Result:
    count, over_ms, lead_ms = (500, 1000, 1000) if options.quick else (10_000, 10_000, 4000)
    with child("receiver") as receiver, daemon() as target:
        port = int(receiver.first_line.split()[1])
        _, until_ms = timed.put(target, port, count, over_ms, seed=options.seed, lead_ms=lead_ms)
        seen = timed.collect(receiver, count, until_ms)
        figures = timed.judged(target, seen, count)
    if options.out is not None:
        figures["plot"] = _plot(options.out / "accuracy.png", seen, figures["timer_ms"])
    return Result(
        figures,
        [
            Bound("tasks that arrived", figures["arrived"], count, at_least=True),
            Bound("callbacks before their due instant", figures["early"], 0),
            Bound("callbacks made twice", figures["twice"], 0),
            Bound("end to end p99 ms", figures["end_to_end_ms"]["p99"], 10),
            Bound("timer p99 ms", figures["timer_ms"]["p99"], 1),
        ],
    )


def _plot(path: Path, seen: list[Arrival], timer_ms: dict[str, float]) -> str:
    """The share of callbacks that were at most so late; the file's name, or why there is none."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "none: matplotlib is not installed (the bench extra)"
    late_ms = sorted(arrival.late_ns / 1e6 for arrival in seen)
    shares = [(number + 1) / len(late_ms) for number in range(len(late_ms))]
    p99_ms = percentile(late_ms, 990)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.step(late_ms, shares, where="post", label="end to end")
    marks = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    axes.plot([timer_ms[name] for name in marks], list(marks.values()), "o", label="timer (daemon's figure)")
    axes.axvline(p99_ms, linestyle=":", label=f"end to end p99 {p99_ms:.2f} ms")
    axes.set(xscale="log", xlabel="late by (ms)", ylabel="share", title=f"{len(seen):,} callbacks")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    return path.name
