"""What several tests of the daemon's parts share."""

from __future__ import annotations

import pytest

from tests.daemon.worlds import Stopwatch
from wheeltimer.daemon import requests, turn


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Stands still: a slice is never over. ``step_ns = SLICE_NS``: a slice is two tasks."""
    stopwatch = Stopwatch()
    monkeypatch.setattr(turn, "time", stopwatch)
    monkeypatch.setattr(requests, "time", stopwatch)
    return stopwatch
