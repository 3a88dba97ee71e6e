"""Tools of the system that some process tests need, and what happens where one is missing.

In CI (``CI=true``) a missing tool fails the test: what nobody notices there is never installed. For
everybody else it is skipped, with the tool's name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

_FAKETIME_PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)


def missing(reason: str) -> NoReturn:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}; CI has to have it", pytrace=False)
    pytest.skip(reason)


def need(name: str) -> str:
    """The path of a command (``strace``), or of libfaketime for ``faketime``."""
    if name == "faketime":
        for place in _FAKETIME_PLACES:
            for library in Path("/").glob(place[1:]):
                return str(library)
        missing("libfaketime is not installed (package faketime)")
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed")
    return path
