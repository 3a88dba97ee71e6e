"""Waiting for an elapsed instant, to a tenth of a millisecond: one protocol, two implementations.

Trio's own sleep rounds up to a millisecond and more. A Linux timerfd on CLOCK_BOOTTIME wakes at the instant
itself and counts suspended time; a second one on CLOCK_REALTIME wakes at once if the wall clock is set. Both
are in one small epoll, so a wait is one nursery task on one descriptor. Without timerfd, :class:`SleepTimer`
uses Trio's sleep. It does not notice a step of the wall clock, so the caller reads the clock once a second.

After a wake-up the caller must check for itself what is due and whether the wall clock was stepped.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import sys
import time
from typing import Final, Protocol

import trio

from wheeltimer.runtime.clock import Clock, SystemClock

_NS_PER_S: Final = 1_000_000_000
_FAR_S: Final = 1 << 33  # the year 2242, still 64 bits of ns: only the cancellation of this timer is of use
_TFD_TIMER_ABSTIME: Final = 1  # <linux/timerfd.h>
_TFD_TIMER_CANCEL_ON_SET: Final = 2


class DeadlineTimer(Protocol):
    """One deadline, one waiter. Not safe from other threads."""

    def arm(self, deadline_elapsed_ns: int) -> None:
        """Set or move the deadline, also during a `wait`; one in the past wakes it at once. O(1)."""
        ...

    async def wait(self) -> None:
        """Return at or after the deadline, earlier only if the wall clock was set.

        Without a deadline it waits for ``arm``. Each deadline serves one wait: call ``arm`` before the next.
        Always a checkpoint.
        """
        ...

    def close(self) -> None:
        """Close the descriptors; not during a `wait`. May be called twice."""
        ...


def open_timer(clock: Clock) -> DeadlineTimer:
    """The best timer that this system has for ``clock`` (a clock of the tests gets Trio's sleep)."""
    if isinstance(clock, SystemClock) and sys.platform == "linux":
        return TimerfdTimer()
    return SleepTimer(clock)


if sys.platform == "linux":

    class TimerfdTimer:
        """:class:`DeadlineTimer` on two timerfds. Raises OSError if no descriptor is left."""

        def __init__(self) -> None:
            self._deadline_fd = _timerfd_create(time.CLOCK_BOOTTIME)
            self._wall_fd = _timerfd_create(time.CLOCK_REALTIME)
            self._either = select.epoll()
            for fd in (self._deadline_fd, self._wall_fd):
                self._either.register(fd, select.EPOLLIN)
            self._watch_wall()
            self._closed = False

        def arm(self, deadline_elapsed_ns: int) -> None:
            # An absolute 0 would disarm the timer; 1 ns after boot is in the past as well.
            deadline_elapsed_ns = max(1, deadline_elapsed_ns)
            _timerfd_settime(self._deadline_fd, _TFD_TIMER_ABSTIME, deadline_elapsed_ns)

        async def wait(self) -> None:
            while True:
                await trio.lowlevel.wait_readable(self._either.fileno())
                woken = False
                # Read both: one that stays readable would make the next wait return at once.
                if _expired(self._deadline_fd):
                    woken = True
                if _expired(self._wall_fd):
                    self._watch_wall()
                    woken = True
                if woken:
                    return  # else the deadline was moved between the epoll event and the read

        def close(self) -> None:
            if self._closed:
                return
            self._closed = True
            self._either.close()
            os.close(self._deadline_fd)
            os.close(self._wall_fd)

        def _watch_wall(self) -> None:
            flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
            _timerfd_settime(self._wall_fd, flags, _FAR_S * _NS_PER_S)


class SleepTimer:
    """:class:`DeadlineTimer` on Trio's sleep: any clock, any system, up to some ms late."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline_elapsed_ns: int | None = None
        self._sleep: trio.CancelScope | None = None

    def arm(self, deadline_elapsed_ns: int) -> None:
        self._deadline_elapsed_ns = deadline_elapsed_ns
        if self._sleep is not None:
            self._sleep.deadline = self._wake_time()

    async def wait(self) -> None:
        assert self._sleep is None, "a timer has one waiter"
        await trio.lowlevel.checkpoint()
        while self._deadline_elapsed_ns is None or self._clock.elapsed_ns() < self._deadline_elapsed_ns:
            # Trio's clock and `_clock` may differ a little, and arm() may move the deadline away while the
            # scope is already ending: so only `_clock` ends the loop.
            with trio.CancelScope(deadline=self._wake_time()) as self._sleep:
                try:
                    await trio.sleep_forever()
                finally:
                    self._sleep = None
        self._deadline_elapsed_ns = None

    def close(self) -> None:
        self._deadline_elapsed_ns = None

    def _wake_time(self) -> float:
        """The deadline on Trio's clock, in its float seconds, a microsecond late rather than early."""
        if self._deadline_elapsed_ns is None:
            return float("inf")
        left_ns = self._deadline_elapsed_ns - self._clock.elapsed_ns()
        return trio.current_time() + max(0, left_ns + 1_000) / _NS_PER_S


def _expired(fd: int) -> bool:
    """Read the timerfd; whether it had expired or was cancelled."""
    try:
        os.read(fd, 8)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
        return True  # the wall clock was set
    return True


if sys.version_info >= (3, 13) and sys.platform == "linux":

    def _timerfd_create(clock_id: int) -> int:
        return os.timerfd_create(clock_id, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _timerfd_settime(fd: int, flags: int, at_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=flags, initial=at_ns)

elif sys.platform == "linux":
    # The os module has timerfd from 3.13 on; before that the C library's two functions are called.

    class _TimeSpec(ctypes.Structure):
        _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

    class _TimerSpec(ctypes.Structure):
        _fields_ = [("interval", _TimeSpec), ("value", _TimeSpec)]

    def _open_libc() -> ctypes.CDLL:
        # glibc by its name, not a preloaded library: libfaketime's timerfd_settime takes every absolute
        # instant for one of the wall clock. If the C library is not glibc, take the symbol of any library.
        try:
            return ctypes.CDLL("libc.so.6", use_errno=True)
        except OSError:
            return ctypes.CDLL(None, use_errno=True)

    _libc = _open_libc()
    _libc.timerfd_create.argtypes = (ctypes.c_int, ctypes.c_int)
    _libc.timerfd_settime.argtypes = (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.POINTER(_TimerSpec),
        ctypes.POINTER(_TimerSpec),
    )

    def _timerfd_create(clock_id: int) -> int:
        fd: int = _libc.timerfd_create(clock_id, os.O_NONBLOCK | os.O_CLOEXEC)
        return _checked(fd)

    def _timerfd_settime(fd: int, flags: int, at_ns: int) -> None:
        spec = _TimerSpec(value=_TimeSpec(*divmod(at_ns, _NS_PER_S)))
        _checked(_libc.timerfd_settime(fd, flags, ctypes.byref(spec), None))

    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
