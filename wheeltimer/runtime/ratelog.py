"""Rate-limited log lines, for what clients and receivers can trigger as often as they like."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    pass

QUIET_S: Final = 60  # at most ``most`` lines are logged in that time


class RateLimitedLog:
    """Log lines that clients or receivers can trigger: at most ``most`` in `QUIET_S`.

    Further ones are counted; the next line that is logged has their number.
    """

    def __init__(
        self, log: logging.Logger, level: int, most: int = 1, clock_s: Callable[[], float] = trio.current_time
    ) -> None:
        self._log, self._level, self._most, self._clock_s = log, level, most, clock_s
        self._until_s = float("-inf")
        self._said = self._unsaid = 0

    def say(self, text: str, *values: object) -> None:
        """Log or count one line; ``text`` and ``values`` as for ``logging``."""
        now_s = self._clock_s()
        if now_s >= self._until_s:
            self._until_s, self._said = now_s + QUIET_S, 0
        if self._said == self._most:
            self._unsaid += 1
            return
        self._log.log(
            self._level, f"{text} unsaid=%d; said at most %d times in %d s", *values, self._unsaid,
            self._most, QUIET_S,
        )  # fmt: skip
        self._said, self._unsaid = self._said + 1, 0

    def log_suppressed(self, text: str) -> None:
        """Call now and then: after `QUIET_S` log ``text`` with the count, if lines were suppressed."""
        if self._unsaid and self._clock_s() >= self._until_s:
            self.say(text)
