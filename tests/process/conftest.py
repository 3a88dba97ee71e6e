"""Fixtures of the process tests: a home for daemons, and a receiver of callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import Home
from tests.process.receiver import Receiver


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty data folder; daemons that still run at the end of the test are killed."""
    with Home(tmp_path) as home:
        yield home


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
