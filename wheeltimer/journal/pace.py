"""How long the disk takes to sync, and what the operator is told when that is long."""

from __future__ import annotations

import logging
import time
from typing import Final

from .disk import Disk

SLOW_SYNC_MS: Final = 1000
"""A sync that takes longer is counted: requests wait for it, and clients begin to give up."""
QUIET_S: Final = 60
"""After one warning the next comes no sooner: a disk that is slow is so for many syncs."""
_QUIET_NS: Final = QUIET_S * 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_log = logging.getLogger("wheeltimer.journal")


class Pace:
    """Counts since the start; written by the thread that syncs, read by the loop."""

    def __init__(self) -> None:
        self.slow_syncs = 0
        self.sync_ms_max = 0
        self._quiet_until_ns = self._stuck_quiet_until_ns = 0

    def sync(self, disk: Disk, fd: int, name: str) -> None:
        """``disk.fdatasync(fd)``, timed; ``name`` is the file's. Raises :class:`OSError`.

        The time of the process and not of the day: a suspended machine makes no disk slow.
        """
        began_ns = time.perf_counter_ns()
        disk.fdatasync(fd)
        now_ns = time.perf_counter_ns()
        took_ms = (now_ns - began_ns) // _NS_PER_MS
        if took_ms > self.sync_ms_max:
            self.sync_ms_max = took_ms
        if took_ms > SLOW_SYNC_MS:
            self.slow_syncs += 1
            if now_ns >= self._quiet_until_ns:
                self._quiet_until_ns = now_ns + _QUIET_NS
                _log.warning(
                    "disk is slow, requests wait for it and timers do not: fdatasync of %s took ms=%d"
                    " slow_syncs=%d; said at most once in %d s",
                    name, took_ms, self.slow_syncs, QUIET_S,
                )  # fmt: skip

    def stuck(self, least_ms: int, unsynced_bytes: int) -> None:
        """A commit under way has waited so long and waits still: said before it ends, for it may never."""
        now_ns = time.perf_counter_ns()
        if now_ns >= self._stuck_quiet_until_ns:
            self._stuck_quiet_until_ns = now_ns + _QUIET_NS
            _log.warning(
                "disk does not answer: a commit has waited for over ms=%d unsynced_bytes=%d",
                least_ms, unsynced_bytes,
            )  # fmt: skip
