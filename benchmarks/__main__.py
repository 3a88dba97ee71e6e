"""``python -m benchmarks NAME``: runs one benchmark and prints what it found."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from benchmarks import report
from benchmarks.harness import Options
from benchmarks.machine import Pauses, facts

NAMES: Final = (
    "accuracy",
    "schedule",
    "interference",
    "idle_clients",
    "hostile",
    "memory",
    "delivery",
    "backlog",
    "compaction",
    "endurance",
    "pairs",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="which one")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--seed", type=int, default=1, help="of due instants and ids (default 1)")
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run, not how fast")
    parser.add_argument("--strace", action="store_true", help="schedule: count system calls per commit too")
    parser.add_argument("--profile", action="store_true", help="delivery: where the daemon's time goes")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="pairs: another checkout, which this one is compared with"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write NAME.json and plots there")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _unwind)
    options = Options(given.seed, given.quick, given.strace, given.profile, given.out, given.against)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    about, pauses = facts(), Pauses()
    result = importlib.import_module(f"benchmarks.{given.name}").run(options)
    about["longest_pause_ms"] = pauses.longest_ms
    found = report.document(given.name, options, about, result)
    if given.out is not None:
        (given.out / f"{given.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found) if given.json else report.text(found))
    return 0


def _unwind(number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the run through every ``finally``: no process is left behind."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
