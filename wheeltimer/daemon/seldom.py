"""A log line that clients can cause as often as they like, and that is said now and then."""

from __future__ import annotations

import logging
from typing import Final

import trio

QUIET_S: Final = 60  # after one such line the next comes no sooner


class Seldom:
    """The first is said at once; the next, at least ``QUIET_S`` later, says how many were not between."""

    def __init__(self, log: logging.Logger, level: int) -> None:
        self._log, self._level = log, level
        self._quiet_until_s = float("-inf")
        self._unsaid = 0

    def say(self, text: str, *values: object) -> None:
        """``text`` and ``values`` as for ``logging``; call it in Trio."""
        now_s = trio.current_time()
        if now_s < self._quiet_until_s:
            self._unsaid += 1
            return
        self._log.log(
            self._level, f"{text} unsaid=%d; said at most once in %d s", *values, self._unsaid, QUIET_S
        )
        self._unsaid, self._quiet_until_s = 0, now_s + QUIET_S
