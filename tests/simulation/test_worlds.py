"""The two campaigns of the simulated world; how one is played again stands in the note of its failure."""

from __future__ import annotations

from collections import Counter

import pytest

from .crash import Recorded
from .plans import Plan, RandomWorld

CRASH_POINTS = 30_000
WORLDS = 500


def test_power_lost_at_every_operation_keeps_every_promise(
    thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, points, runs = CRASH_POINTS * (10 if thorough else 1), 0, 0
    while points < wanted:
        runs += 1
        points += Recorded(runs).run(wanted - points)
    _say(capsys, "simulated crash points, each recovered and checked", points)
    assert points == wanted


def test_no_mixture_of_faults_breaks_a_promise(thorough: bool, capsys: pytest.CaptureFixture[str]) -> None:
    worlds, ends = WORLDS * (10 if thorough else 1), Counter[str]()
    for seed in range(worlds):
        world = RandomWorld(Plan.of(seed))
        world.run()
        ends.update(world.ends)
    _say(capsys, "random worlds, everything delivered in the end", worlds)
    for end in ("power", "power at", "kill at", "drain", "read", "flip refused", "write"):
        assert ends[end], f"no world had {end}: {ends}"


def _say(capsys: pytest.CaptureFixture[str], what: str, count: int) -> None:
    """The one place to tell how much was tried."""
    with capsys.disabled():
        print(f"\ntried {count:,} {what}")
