"""The two campaigns of the simulated world; how one is played again stands in the note of its failure."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from tests.campaign import tried

from .crash import Recorded
from .plans import Plan, RandomWorld

CRASH_POINTS = 30_000
WORLDS = 500
CORES = os.cpu_count() or 1
ROOT = Path(__file__).parents[2]


def test_power_lost_at_every_operation_keeps_every_promise(thorough: bool) -> None:
    wanted, points, seeds = CRASH_POINTS * (10 if thorough else 1), 0, count(1)
    with processes() as pool:
        under_way = {pool.submit(crash_points, next(seeds)) for _ in range(2 * CORES)}
        while under_way:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            points += sum(run.result() for run in ended)
            if points < wanted:
                under_way |= {pool.submit(crash_points, next(seeds)) for _ in ended}
    tried("simulated crash points", points)
    assert points >= wanted


def crash_points(seed: int) -> int:
    return Recorded(seed).run()


def test_no_mixture_of_faults_breaks_a_promise(thorough: bool) -> None:
    worlds, ends = WORLDS * (10 if thorough else 1), Counter[str]()
    with processes() as pool:
        for some in pool.map(ends_of, range(worlds), chunksize=10):
            ends += some
    tried("random worlds", worlds)
    for end in ("power", "power at", "kill at", "drain", "read", "flip refused", "write"):
        assert ends[end], f"no world had {end}: {ends}"


def ends_of(seed: int) -> Counter[str]:
    world = RandomWorld(Plan.of(seed))
    world.run()
    return Counter(world.ends)


def processes() -> ProcessPoolExecutor:
    """One for each core: a world takes a whole Trio run, and what is patched for it, to itself.

    They collect cycles less often: each crash point leaves few, and looking for them takes 6 % of the time.
    """
    return ProcessPoolExecutor(
        CORES, mp_context=get_context("spawn"), initializer=gc.set_threshold, initargs=(20_000,)
    )


def test_the_same_seed_is_the_same_world_in_any_process() -> None:
    """To the last byte on disk, and whatever order sets have there: a failure can be played again."""
    script = (
        "from hashlib import sha256; from tests.simulation.crash import Recorded;"
        "run = Recorded(5); run.run(0);"
        "print(len(run.notes), sha256(repr([(n.op, n.what, n.moment, n.true_ns, n.disk)"
        " for n in run.notes]).encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, cwd=ROOT, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(told) == 1, told
    assert int(told.pop().split()[0]) > 100
