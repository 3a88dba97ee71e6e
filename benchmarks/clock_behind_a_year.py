"""A daemon whose wall clock is a year behind, under a boot of its own:
``python -m benchmarks.clock_behind_a_year DIR``.

Production's own composition on the given folder, with the ready line of ``wheeltimer serve``: what is
scheduled with it is a year old for the daemon that starts on the folder next.
"""

from __future__ import annotations

import sys
from typing import Final

import trio

from wheeltimer.core.task import Now
from wheeltimer.daemon.run import Daemon
from wheeltimer.runtime.clock import SystemClock
from wheeltimer.settings import load

YEAR_MS: Final = 365 * 86_400_000


class _YearBehind(SystemClock):
    __slots__ = ()

    def now(self) -> Now:
        now = super().now()
        return Now(now.elapsed_ns, now.wall_ns - YEAR_MS * 1_000_000)


if __name__ == "__main__":
    settings = load({"listen": ("127.0.0.1:0",), "data_dir": sys.argv[1]}, {})
    daemon = Daemon(settings, _YearBehind(b"a boot long gone"))
    daemon.recover()
    sys.exit(trio.run(daemon.run))
