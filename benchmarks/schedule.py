"""Durable schedules a second by connections and depth, and one round trip against a bare write and sync.

A schedule counts when its ``"ok":true`` came back: it is on disk then. The bare write is made between the
round trips, on the same file system and of as many bytes as the daemon's frame, so that drift cancels.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import writers
from benchmarks.harness import Bound, Client, Daemon, Figures, Options, Result, daemon, spread
from wheeltimer.journal.frame import HEADER, MAGIC, SECTOR_BYTES, Kind, extent_bytes

CELLS: Final = ((1, 1), (1, 100), (16, 1), (16, 100), (16, 500), (64, 500))
LINES_PER_S: Final = 400_000  # built ahead for a round; more than the daemon takes
BARE_FILE_BYTES: Final = 32 << 20


def run(options: Options) -> Result:
    """All cells, the 1 x 1 ratio, and with ``strace`` the syncs per commit."""
    cells = ((16, 500),) if options.quick else CELLS
    rounds, seconds = (1, 0.5) if options.quick else (5, 1.5)
    figures: Figures = {"cells": [_cell(*cell, rounds, seconds, options.seed) for cell in cells]}
    figures["round_trip"] = round_trip = _round_trip(100 if options.quick else 3000, options.seed)
    if options.strace:
        figures["strace"] = _strace(options.seed)
    best = next(cell for cell in figures["cells"] if (cell["connections"], cell["depth"]) == (16, 500))
    return Result(
        figures,
        [
            Bound("16 x 500 schedules/s", best["schedules_per_s"], 150_000, at_least=True),
            Bound("1 x 1 round trip / bare write + fdatasync", round_trip["ratio_to_overwrite"], 3.0),
        ],
    )


def _cell(connections: int, depth: int, rounds: int, seconds: float, seed: int) -> Figures:
    """One shape of load on a fresh daemon: a round to warm up, then ``rounds``."""
    results = []
    cpu_s = commits = 0.0
    with daemon() as target:
        first = 0
        per_s = min(LINES_PER_S, connections * depth * 10_000)
        for number in range(rounds + 1):
            count = int(per_s * seconds) // connections * connections
            lines = writers.schedule_lines(first, count, seed=seed)
            first += count
            before = target.running.cpu_s(), target.stats()["journal"]["commits"]
            driven = writers.drive(target.address, lines, connections, depth, seconds)
            assert driven.ok == driven.replies, f"{driven.replies - driven.ok} schedules were refused"
            if number:
                results.append(driven)
                cpu_s += target.running.cpu_s() - before[0]
                commits += target.stats()["journal"]["commits"] - before[1]
    accepted = sum(driven.ok for driven in results)
    return {
        "connections": connections,
        "depth": depth,
        "schedules_per_s": round(median(driven.per_s for driven in results)),
        "rounds_per_s": [round(driven.per_s) for driven in results],
        "daemon_cpu_s_per_100k": round(cpu_s / accepted * 100_000, 3),
        "daemon_cpu_share": round(cpu_s / sum(driven.seconds for driven in results), 2),
        "commits": round(commits),
        "records_per_commit": round(accepted / commits, 1),
    }


def _round_trip(trips: int, seed: int) -> Figures:
    """Median of one schedule at a time, against the bare write of its frame, one after the other."""
    warm_up = trips // 10
    lines = writers.schedule_lines(0, warm_up + trips, seed=seed)
    trip_us: list[float] = []
    with daemon() as target, Client(target.address) as client:
        time.sleep(1.5)  # the spare segments are laid down, the journal is at rest
        for line in lines[:warm_up]:
            client.ask_raw(line)
        frame_bytes = _frame_bytes(target)
        with bare_files(target.folder) as (overwritten, appended):
            overwrite, append = _Bare(overwritten, frame_bytes), _Bare(appended, frame_bytes)
            for line in lines[warm_up:]:
                began_ns = time.perf_counter_ns()
                reply = client.ask_raw(line)
                trip_us.append((time.perf_counter_ns() - began_ns) / 1000)
                assert b'"ok":true' in reply, reply
                overwrite.write()
                append.write()
    trip, over, app = median(trip_us), median(overwrite.took_us), median(append.took_us)
    return {
        "round_trip_us": spread(trip_us),
        "bare_overwrite_us": spread(overwrite.took_us),
        "bare_append_us": spread(append.took_us),
        "bytes": frame_bytes,
        "ratio_to_overwrite": round(trip / over, 2),
        "ratio_to_append": round(trip / app, 2),
    }


class _Bare:
    """pwrite and fdatasync of one frame's bytes, each after the last."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._data = os.urandom(size)
        self._at = 0
        self.took_us: list[float] = []

    def write(self) -> None:
        began_ns = time.perf_counter_ns()
        os.pwrite(self._fd, self._data, self._at)
        os.fdatasync(self._fd)
        self.took_us.append((time.perf_counter_ns() - began_ns) / 1000)
        self._at += len(self._data)


@contextmanager
def bare_files(folder: Path) -> Iterator[tuple[int, int]]:
    """Two descriptors: a file that holds synced zeros, as a segment does, and an empty one that grows."""
    overwritten = os.open(folder / "bare-overwrite", os.O_RDWR | os.O_CREAT, 0o600)
    appended = os.open(folder / "bare-append", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for at in range(0, BARE_FILE_BYTES, 1 << 20):
            os.pwrite(overwritten, bytes(1 << 20), at)
        os.fsync(overwritten)
        os.fsync(appended)
        yield overwritten, appended
    finally:
        os.close(overwritten)
        os.close(appended)


def _frame_bytes(target: Daemon) -> int:
    """Median size on disk of the commits so far, read from the journal's own frames."""
    sizes = []
    for path in target.data.iterdir():
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # a spare segment got its final name
        for at in range(0, len(data) - HEADER.size, SECTOR_BYTES):
            if data[at + 4 : at + 8] == MAGIC:
                fields = HEADER.unpack_from(data, at)
                if fields[7] == Kind.BATCH:
                    sizes.append(extent_bytes(fields[3]))
    return int(median(sizes))


def _strace(seed: int) -> Figures:
    """fdatasync and pwrite64 calls per commit while 16 x 500 writers run, counted by the system."""
    if shutil.which("strace") is None:
        return {"skipped": "no strace on this machine"}
    lines = writers.schedule_lines(0, 400_000, seed=seed)
    with daemon() as target:
        time.sleep(2)  # the spare segments are laid down before counting begins
        counts = target.folder / "strace"
        command = ["strace", "-f", "-c", "-e", "trace=fdatasync,pwrite64", "-o", str(counts), "-p"]
        tracer = subprocess.Popen([*command, str(target.running.pid)], stderr=subprocess.PIPE)
        try:
            assert tracer.stderr is not None
            tracer.stderr.readline()  # "Process N attached"
            commits = -target.stats()["journal"]["commits"]
            driven = writers.drive(target.address, lines, 16, 500, 5)
            commits += target.stats()["journal"]["commits"]
            time.sleep(0.2)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
        # columns: % time, seconds, usecs/call, calls, errors (blank for none), syscall
        rows = re.findall(r"^(?: *\S+){3} +(\d+)(?: +\d+)? +(\w+)$", counts.read_text(), re.MULTILINE)
    calls = {name: int(count) for count, name in rows if name != "total"}
    return {
        "schedules": driven.ok,
        "commits": commits,
        "calls": calls,
        "fdatasync_per_commit": round(calls.get("fdatasync", 0) / commits, 3),
    }
