"""Fixtures of the recipes: a world for a page, once as it goes and once with a kill -9 in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.process.conftest import home
from tests.process.daemon import Home
from tests.recipes.world import Page, World

__all__ = ["home"]  # a fixture of the process tests
Open = Callable[..., World]
KILLED = pytest.mark.parametrize("killed", [True], ids=["killed"], indirect=True)  # it is about the kill
ONCE = pytest.mark.parametrize("killed", [False], ids=["runs-on"], indirect=True)  # a kill would tell no more


@pytest.fixture(params=[False, True], ids=["runs-on", "killed"])
def killed(request: pytest.FixtureRequest) -> bool:
    """Whether ``World.accident`` is one."""
    assert isinstance(request.param, bool)
    return request.param


@pytest.fixture
def open_world(home: Home, killed: bool) -> Iterator[Open]:
    """``open_world(page, began)``: its daemon runs; at the end nothing may have come early."""
    worlds: list[World] = []
    with ExitStack() as stack:

        def open_(page: Page, began: str = "2030-01-31T07:00:00Z") -> World:
            world = World(page, home, began, killed=killed)
            stack.enter_context(world.receiver)
            world.start()
            worlds.append(world)
            return world

        yield open_
        for world in worlds:
            world.client.close()
            assert world.daemon.process.poll() is None, "the daemon is gone"
            world.check()
