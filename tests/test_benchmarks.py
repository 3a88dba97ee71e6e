"""Every benchmark runs in its quick form, says what its report needs, and leaves nothing behind.

No figure that depends on speed is judged here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.harness import ROOT, Bound, percentile, spread
from benchmarks.pairs import interval
from benchmarks.profile import read_stacks
from benchmarks.writers import HOUR_MS, cancel_lines, schedule_lines

TIMEOUT_S = 180  # for a machine that is busy; a quick run takes seconds
FACTS = {
    "seed",
    "quick",
    "machine",
    "cores",
    "system",
    "file_system",
    "python",
    "packages",
    "commit",
    "longest_pause_ms",
}
FIGURES = {
    "accuracy": {"tasks", "arrived", "early", "twice", "end_to_end_ms", "timer_ms", "plot"},
    "schedule": {"cells", "round_trip"},
    "interference": {
        "alone", "writers 16 x 500", "100 subscribers", "group cancel of 2,000", "list paged over 20,000",
        "forecast over 20,000",
    },
    "idle_clients": {"requests_per_s", "median_alone", "median_beside", "idle"},
    "hostile": {"kinds"},
    "memory": {"one hour"},
    "delivery": {"receiver", "setups", "stock_httpx", "lateness"},
    "backlog": {
        "overdue", "50 ms alone", "50 ms beside a dead one", "fast alone", "fast beside 100 slow",
    },
    "compaction": {
        "0 % live long", "50 % live long", "99 % live long", "without compaction", "with compaction",
    },
    "endurance": {
        "live", "cycles", "delivered", "old_task_days", "lost", "early", "twice", "cycles_per_s",
        "folder_mib", "live_mib", "folder_most_mib", "segment_mib", "over_bound_mib", "compactions",
        "carried", "middle_mb", "end_mb", "end_to_middle", "start_cpu_s", "start_ms", "found", "timer_ms",
        "end_to_end_ms", "rounds",
    },
    "pairs": {"against", "pairs", "ratios"},
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The folder that a run puts its own folders in; empty again afterwards."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    assert _processes_with(str(folder)) == []


def _processes_with(word: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if word in line:
            found.append(line)
    return found


def _start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(home)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_quick_run_reports_its_fields_and_leaves_nothing(name: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _start(home, name, "--quick", "--json", "--seed", "7", "--out", str(out)) as run:
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    assert found == json.loads((out / f"{name}.json").read_text())
    assert found.keys() >= FACTS
    assert (found["benchmark"], found["seed"], found["quick"]) == (name, 7, True)
    assert set(found["figures"]) == FIGURES[name]
    assert found["bounds"]
    assert all(set(bound) == {"name", "value", "must_be", "met"} for bound in found["bounds"])
    if name == "accuracy":
        figures = found["figures"]
        assert (figures["arrived"], figures["early"], figures["twice"]) == (figures["tasks"], 0, 0)


def test_a_profile_tells_own_time_from_that_of_what_was_called() -> None:
    stacks = (
        "main (wheeltimer/a.py:1);go (wheeltimer/a.py:7);send (trio/io.py:3) 30\n"
        "main (wheeltimer/a.py:1);go (wheeltimer/a.py:9) 60\n"
        "main (wheeltimer/a.py:2) 10\n"
    )
    assert read_stacks(stacks) == {
        "samples": 100,
        "own_percent": {"go (wheeltimer/a.py)": 60, "send (trio/io.py)": 30, "main (wheeltimer/a.py)": 10},
        "within_percent": {"main (wheeltimer/a.py)": 100, "go (wheeltimer/a.py)": 90},
    }


def test_an_ended_run_leaves_no_process_and_no_folder(home: Path) -> None:
    with _start(home, "memory") as run:
        try:
            until = time.monotonic() + TIMEOUT_S
            while not _processes_with(f"--data-dir {home}") and time.monotonic() < until:
                time.sleep(0.05)
            assert _processes_with(f"--data-dir {home}"), "the daemon did not start"
        finally:
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 128 + signal.SIGTERM


def test_the_report_holds_machine_and_every_benchmark(tmp_path: Path) -> None:
    for name, met in (("first", True), ("second", False)):
        found = {
            "benchmark": name, "seed": 7, "quick": False, "machine": "a machine", "load_before": 0.5,
            "longest_pause_ms": 5 if met else 9000,
            "figures": {"parts": {"one": {"per_s": 1234}, "two": {"other": 2}}, "rows": [{"a": 1.5}], "n": 3},
            "bounds": [{"name": "n", "value": 3, "must_be": "at most 2", "met": met}],
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "first.png").touch()
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(tmp_path)], cwd=ROOT, check=True)
    text = (tmp_path / "report.md").read_text()
    for part in ("- machine: a machine", "- seed: 7", "- n: 3 (at most 2: met)", "- n: 3 (at most 2: MISSED)",
                 "| one | 1,234 |  |", "| 1.5 |", "![first](first.png)",
                 "stood still for 9000 ms"):  # fmt: skip
        assert part in text


def test_a_percentile_is_never_below_what_it_says() -> None:
    values = list(range(1, 1001))
    assert [percentile(values, permille) for permille in (500, 990, 999, 1000)] == [500, 990, 999, 1000]
    assert percentile([5], 500) == 5
    assert percentile([1, 2], 501) == 2
    assert spread([3, 1, 2]) == {"p50": 2, "p99": 3, "p999": 3, "max": 3}


def test_the_interval_of_a_median_has_the_places_of_the_sign_test() -> None:
    # Tables of the binomial distribution: with 11 values the 2nd and 10th hold the median in 98.8 %.
    assert [interval(count) for count in (3, 6, 11, 15, 25)] == [(0, 2), (0, 5), (1, 9), (3, 11), (7, 17)]


def test_a_bound_on_its_limit_is_met() -> None:
    assert Bound("a", 10, 10).met
    assert not Bound("a", 10.1, 10).met
    assert Bound("a", 10, 10, at_least=True).met
    assert not Bound("a", 9.9, 10, at_least=True).met


def test_lines_have_one_length_and_the_sizes_that_the_report_states() -> None:
    lines = schedule_lines(95, 10, seed=1, spread_ms=720 * HOUR_MS)
    assert len({len(line) for line in lines}) == 1
    assert lines == schedule_lines(95, 10, seed=1, spread_ms=720 * HOUR_MS)
    for number, line in enumerate(lines, 95):
        request = json.loads(line)
        assert len(request["id"]) == 20
        assert len(request["url"]) == 40
        assert int(request["id"]) == number
        assert HOUR_MS <= request["delay"] <= 721 * HOUR_MS
        body = line[line.index(b'"body":') + 7 : line.rindex(b"}")]
        assert len(body) == 50
    assert len({json.loads(line)["url"] for line in lines}) == 10
    assert [json.loads(line)["id"] for line in cancel_lines(95, 10)] == [
        json.loads(line)["id"] for line in lines
    ]
