"""``python -m tests.process.fake_boot serve ...``: the daemon, told that the machine was booted anew.

No process can be given another boot id or another uptime, so the clock that the daemon is made with is
replaced here, and nothing else. Wall time stays the system's (or libfaketime's).
"""

from __future__ import annotations

import os

from wheeltimer.cli import main
from wheeltimer.core.task import Now
from wheeltimer.daemon import run
from wheeltimer.runtime.clock import SystemClock

BOOT_ID = "OTHER_BOOT_ID"  # 32 hex digits
UPTIME_NS = "OTHER_BOOT_UPTIME_NS"  # what is added to the true uptime; may be negative


class OtherBoot:
    """The system's clocks, moved to another boot."""

    def __init__(self) -> None:
        self.boot_id = bytes.fromhex(os.environ[BOOT_ID])
        self._moved_ns = int(os.environ[UPTIME_NS])
        self._clock = SystemClock()

    def now(self) -> Now:
        now = self._clock.now()
        return Now(now.elapsed_ns + self._moved_ns, now.wall_ns)

    def elapsed_ns(self) -> int:
        return self._clock.elapsed_ns() + self._moved_ns


if __name__ == "__main__":
    vars(run)["SystemClock"] = OtherBoot
    main(prog_name="wheeltimer")
