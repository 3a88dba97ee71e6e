"""What a figure means nothing without: machine, versions, commit, and whether the machine stood still."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks.harness import ROOT, Figures

PAUSE_LOOK_S: Final = 0.02
_PACKAGES: Final = ("trio", "msgspec", "httpx", "h11", "httptools")


class Pauses:
    """Watches for moments in which nothing ran here at all, as when a virtual machine is halted.

    ``longest_ms`` is how much longer than asked for a sleep took: a figure measured across a long one
    says nothing about the daemon.
    """

    def __init__(self) -> None:
        self.longest_ms = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            began_ns = time.monotonic_ns()
            time.sleep(PAUSE_LOOK_S)
            over_ms = (time.monotonic_ns() - began_ns) // 1_000_000 - int(PAUSE_LOOK_S * 1000)
            self.longest_ms = max(self.longest_ms, over_ms)


def facts() -> Figures:
    """Machine, versions and commit: what a figure means nothing without."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "machine": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(Path(tempfile.gettempdir())),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Type of the file system that holds ``folder``: the longest mount point above it."""
    found, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, this_kind, *_ = line.split()
        if folder.is_relative_to(point) and len(point) >= len(found):
            found, kind = point, this_kind
    return kind


def _commit() -> str:
    """The commit, with ``+`` where files differ from it; ``unknown`` outside a git checkout."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return text.strip()
