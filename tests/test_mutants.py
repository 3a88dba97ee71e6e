"""The suite is tried itself: code that is broken on purpose must not pass it."""

from __future__ import annotations

import os
import random

from tests.mutants import MUTANTS, ROOT, broken, catch

SAMPLE = 5


def test_every_mutant_still_breaks_something() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    for mutant in MUTANTS:
        text = (ROOT / "wheeltimer" / mutant.file).read_text()
        assert broken(text, mutant) != text, mutant.name


def test_mutants_are_caught(thorough: bool) -> None:
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed={seed}; WT_SEED={seed} repeats it")
    for mutant in MUTANTS if thorough else random.Random(seed).sample(MUTANTS, SAMPLE):
        print(f"{mutant.name}: {catch(mutant)}")
