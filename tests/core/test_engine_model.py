"""The engine against the naive model: every reply, every field, every step; and a replay after every step.

An example is a list of small integers; ``Play`` turns each row of them into one step on both sides.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.core.side_by_side import STEP, STEPS, Play


def play(steps: list[tuple[int, int, int, int]]) -> None:
    game = Play()
    try:
        for step in steps:
            game.step(*step)
            game.compare()
        game.driver.crash(boot=True, down_ms=86_400_000)
    except BaseException:
        note("\n".join(game.story))
        raise


def test_the_engine_does_what_the_contract_says(thorough: bool) -> None:
    @settings(
        max_examples=10_000 if thorough else 1_000,
        deadline=None,
        database=None,
        derandomize=not thorough,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.lists(STEP, min_size=STEPS, max_size=STEPS))
    def run(steps: list[tuple[int, int, int, int]]) -> None:
        play(steps)

    run()
