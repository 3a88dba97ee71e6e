"""Plays one world again: ``python -m tests.simulation world SEED``, or ``... crash SEED``."""

from __future__ import annotations

import sys

from .crash import Recorded
from .plans import Plan, RandomWorld


def main() -> None:
    what, seed = sys.argv[1], int(sys.argv[2])
    if what == "world":
        plan = Plan.of(seed)
        print(plan)
        world = RandomWorld(plan)
        world.run()
        assert world.world is not None
        print(f"kept every promise: lives ended by {world.ends}, {len(world.world.history.calls)} callbacks")
    else:
        recorded = Recorded(seed)
        print(f"kept every promise at {recorded.run()} crash points of {len(recorded.notes)} operations")


if __name__ == "__main__":
    main()
