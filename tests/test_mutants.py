"""The suite is tried itself: code that is broken on purpose must not pass it."""

from __future__ import annotations

import os
import random
import re
from typing import Final

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, broken, catch

SAMPLE: Final = 5
_TESTS: Final = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)


def test_every_mutant_still_breaks_something() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    for mutant in MUTANTS:
        text = (ROOT / "wheeltimer" / mutant.file).read_text()
        assert broken(text, mutant) != text, mutant.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_names_tests_that_are_there(mutant: Mutant) -> None:
    """Where ``-k`` picks none, a mutant is not let pass but never tried."""
    paths, _, word = mutant.tests.partition(" -k ")
    files = [file for path in paths.split() for file in (ROOT / path, *(ROOT / path).rglob("test_*.py"))]
    names = [name for file in files if file.is_file() for name in _TESTS.findall(file.read_text())]
    assert any(word in name for name in names), f"{mutant.tests} picks no test"


def test_mutants_are_caught(thorough: bool) -> None:
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed={seed}; WT_SEED={seed} repeats it")
    for mutant in MUTANTS if thorough else random.Random(seed).sample(MUTANTS, SAMPLE):
        print(f"{mutant.name}: {catch(mutant)}")
