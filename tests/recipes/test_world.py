"""The world that the recipes run in: what its methods promise to their tests."""

from __future__ import annotations

from tests.recipes.conftest import ONCE, Open
from tests.recipes.world import Answer, Page

BROKEN = Answer(500, b"out of order")
TASKS = 8  # of about a third of them a look would come before they are due


@ONCE
def test_a_task_that_is_due_at_the_end_of_this_millisecond_is_waited_for(open_world: Open) -> None:
    """Else `pass_all` finds no task that waits, because the only one runs, and ends before it began."""
    world = open_world(Page("growing-delays.md"))
    world.receiver.answers["/webhook"] = [BROKEN]
    url = world.local("http://127.0.0.1:9000/webhook")
    for number in range(TASKS):
        world.ask("schedule", id=f"t{number}", queue="webhooks", url=url)
        world.settle()
        assert len(world.receiver.of("/webhook")) == number + 1, "not due yet is not settled"
