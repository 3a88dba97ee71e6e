"""A log line that others can cause as often as they like, and that is said now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

QUIET_S: Final = 60  # in so long at most ``most`` such lines are said


class Seldom:
    """The first ``most`` are said at once, the others counted; after ``QUIET_S`` the next says how many."""

    def __init__(
        self, log: logging.Logger, level: int, most: int = 1, clock_s: Callable[[], float] = trio.current_time
    ) -> None:
        self._log, self._level, self._most, self._clock_s = log, level, most, clock_s
        self._until_s = float("-inf")
        self._said = self._unsaid = 0

    def say(self, text: str, *values: object) -> None:
        """``text`` and ``values`` as for ``logging``."""
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

    def say_rest(self, text: str) -> None:
        """The count of those that were not said, where no other line has come to bring it."""
        if self._unsaid and self._clock_s() >= self._until_s:
            self.say(text)
