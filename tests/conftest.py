"""Options and fixtures that every test shares; no helper that one room alone needs."""

from __future__ import annotations

import pytest

from tests import campaign


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the long campaigns (ten times the cases)")


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """True when the long campaigns were asked for."""
    return bool(request.config.getoption("--thorough"))


_QUICK_ROOMS = ("protocol", "core", "runtime", "shard", "server", "settings", "daemon", "client")
_LONG = ("test_engine_model.py", "test_wheel.py", "test_hostile.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``quick`` what also runs on the other Python versions: rooms without processes or disks."""
    for item in items:
        path = item.path
        if path.parent.name in _QUICK_ROOMS and path.name not in _LONG:
            item.add_marker("quick")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        campaign.took(report.duration)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the campaigns tried, in one table."""
    if lines := campaign.table():
        terminalreporter.section("what was tried")
        for line in lines:
            terminalreporter.line(line)
