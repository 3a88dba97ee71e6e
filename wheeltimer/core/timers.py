"""Two wheels on one time line: tasks overdue at the start must not delay tasks that become due after it.

A start after an outage may find a million tasks overdue. A wheel hands over the earliest first, and needs
half a minute for a million; a task that becomes due meanwhile would wait behind all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from wheeltimer.core.wheel import HashedWheelTimer

OVERDUE_NS: Final = 1_000_000_000  # a key overdue by more when the `TimerPair` is made is old
OLD_SHARE: Final = 4  # at least 1/OLD_SHARE of the keys handed over at a time are old, if there are any


class TimerPair:
    """Like a `HashedWheelTimer`, but old keys and all other keys are each in their own order.

    Whether a key is old follows from its deadline alone, so it is not stored. ``now_ns``: of the start.
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
        """Add ``key``."""
        self._wheel(deadline_ns).schedule(key, deadline_ns)

    def schedule_many(self, keys: Sequence[str], deadlines_ns: Sequence[int]) -> None:
        """`schedule` for each of at least one key, in about half the time if none is old."""
        if min(deadlines_ns) >= self._old_before_ns:
            self._fresh.schedule_many(keys, deadlines_ns)
            return
        for key, deadline_ns in zip(keys, deadlines_ns, strict=True):
            self.schedule(key, deadline_ns)

    def cancel(self, key: str, deadline_ns: int) -> None:
        """Remove ``key``."""
        self._wheel(deadline_ns).cancel(key, deadline_ns)

    def expire(self, now_ns: int, limit: int) -> list[str]:
        """Hand over about ``limit`` keys that are due: those that are not old first, and some old ones."""
        keys = self._fresh.expire(now_ns, limit)
        if len(self._old):
            keys += self._old.expire(now_ns, max(limit // OLD_SHARE, limit - len(keys)))
        return keys

    def next_wake_ns(self, now_ns: int, horizon_ns: int) -> int:
        """When `expire` has something to do, as `HashedWheelTimer.next_wake_ns`."""
        wake_ns = self._fresh.next_wake_ns(now_ns, horizon_ns)
        return min(wake_ns, self._old.next_wake_ns(now_ns, horizon_ns)) if len(self._old) else wake_ns

    def check(self) -> None:
        """Derive everything again and compare. O(keys)."""
        self._old.check()
        self._fresh.check()
