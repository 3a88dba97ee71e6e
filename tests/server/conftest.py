"""What several tests of the daemon's parts share."""

from __future__ import annotations

import pytest

from tests.daemon.worlds import Stopwatch
from wheeltimer.runtime import time_slices
from wheeltimer.server import scans, service


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Stands still: a slice is never over. ``step_ns = SLICE_NS``: a slice is two tasks."""
    stopwatch = Stopwatch()
    for module in (time_slices, service, scans):
        monkeypatch.setattr(module, "time", stopwatch)
    return stopwatch
