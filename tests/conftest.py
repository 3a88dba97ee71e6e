"""Options and fixtures that every test shares; no helper that one room alone needs."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the long campaigns (ten times the cases)")


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """True when the long campaigns were asked for."""
    return bool(request.config.getoption("--thorough"))
