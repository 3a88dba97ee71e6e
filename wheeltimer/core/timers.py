"""Two wheels on one time line: what was overdue at the start must not hold up what comes due after it.

A start after an outage may find a million tasks overdue. A wheel hands over what is due earliest first, and
a million take it half a minute; whatever comes due meanwhile would stand behind them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from wheeltimer.core.wheel import HashedWheelTimer

OVERDUE_NS: Final = 1_000_000_000  # overdue by more when the line is made: old
OLD_SHARE: Final = 4  # of what is handed over at a time, old keys are at least this part, where there are any


class TimerPair:
    """As a `HashedWheelTimer`, but for the order: old keys among themselves, all others among themselves.

    A key is old by its deadline alone, so it needs no place to be remembered in. ``now_ns`` is the start.
    """

    def __init__(self, tick_ns: int, wheel_size: int, deadline_of: Callable[[str], int], now_ns: int) -> None:
        self._old_before_ns = now_ns - OVERDUE_NS
        self._old = HashedWheelTimer(tick_ns, wheel_size, deadline_of, now_ns)
        self._fresh = HashedWheelTimer(tick_ns, wheel_size, deadline_of, now_ns)

    def __len__(self) -> int:
        return len(self._old) + len(self._fresh)

    def _wheel(self, deadline_ns: int) -> HashedWheelTimer:
        return self._old if deadline_ns < self._old_before_ns else self._fresh

    def schedule(self, key: str, deadline_ns: int) -> None:
        """Take ``key`` in."""
        self._wheel(deadline_ns).schedule(key, deadline_ns)

    def schedule_many(self, keys: Sequence[str], deadlines_ns: Sequence[int]) -> None:
        """`schedule` for each of at least one, in about half the time where none is old."""
        if min(deadlines_ns) >= self._old_before_ns:
            self._fresh.schedule_many(keys, deadlines_ns)
            return
        for key, deadline_ns in zip(keys, deadlines_ns, strict=True):
            self.schedule(key, deadline_ns)

    def cancel(self, key: str, deadline_ns: int) -> None:
        """Take ``key`` out."""
        self._wheel(deadline_ns).cancel(key, deadline_ns)

    def expire(self, now_ns: int, limit: int) -> list[str]:
        """Hand over about ``limit`` keys that are due: what is not old first, and some of what is."""
        keys = self._fresh.expire(now_ns, limit)
        if len(self._old):
            keys += self._old.expire(now_ns, max(limit // OLD_SHARE, limit - len(keys)))
        return keys

    def next_wake_ns(self, now_ns: int, horizon_ns: int) -> int:
        """When `expire` has something to do, as the wheel says it."""
        wake_ns = self._fresh.next_wake_ns(now_ns, horizon_ns)
        return min(wake_ns, self._old.next_wake_ns(now_ns, horizon_ns)) if len(self._old) else wake_ns

    def check(self) -> None:
        """Derive everything again and compare. O(keys)."""
        self._old.check()
        self._fresh.check()
