"""Shortages of this machine: an attempt cannot begin for lack of a descriptor, thread, port or memory.

That is not a failure of the receiver, so no attempt is counted: `Shortage` is raised before the request is
sent, `Dispatcher` puts the task back (``core/records.py``, `Lapsed`), and `InFlightLimit` bounds the attempts
in flight until the shortage ends. `reason_of` maps errors of the system to shortages.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

import trio

from wheeltimer.errors import WheeltimerError
from wheeltimer.runtime.ratelog import RateLimitedLog

Reason = Literal["descriptors", "threads", "ports", "memory", "watches"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
ADVICE: Final[dict[Reason, str]] = {
    "descriptors": "raise LimitNOFILE (ulimit -n), or lower concurrency or connections_max",
    "threads": "raise TasksMax (ulimit -u)",
    "ports": "widen net.ipv4.ip_local_port_range",
    "memory": "raise MemoryMax, or lower concurrency",
    "watches": "raise fs.epoll.max_user_watches",
}
PAUSE_MIN_NS: Final = 10_000_000
PAUSE_MAX_NS: Final = 1_000_000_000
LOOKUP_DESCRIPTORS: Final = 2  # that the system's resolver may have open at a time: a file and a socket

_BY_ERRNO: Final[dict[int, Reason]] = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
    errno.ENOSPC: "watches",  # of epoll; no socket call fails with it
    errno.EADDRNOTAVAIL: "ports",
    errno.EADDRINUSE: "ports",
    errno.EAGAIN: "ports",  # of connect(2), in the place of EADDRNOTAVAIL
}
_log = logging.getLogger("wheeltimer.delivery")


class Shortage(WheeltimerError):
    """An attempt could not begin: this machine lacks ``reason``. Its request was not sent, or only on a kept
    connection that the receiver had closed without an answer.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


def reason_of(error: BaseException) -> Reason | None:
    """What is short if a system call or the interpreter raised ``error``; None: not a shortage."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, socket.gaierror):  # its errno is one of EAI_*; with EAI_SYSTEM it is a plain OSError
        return "memory" if error.errno == socket.EAI_MEMORY else None
    if isinstance(error, OSError):
        return None if error.errno is None else _BY_ERRNO.get(error.errno)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "threads"
    return None


def reason_within(error: BaseException) -> Reason | None:
    """The first `reason_of` among an error, its causes and the members of groups; None if there is none."""
    waiting, seen = [error], 0
    while waiting and seen < 64:
        error, seen = waiting.pop(0), seen + 1
        reason = reason_of(error)
        if reason is not None:
            return reason
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        if error.__cause__ is not None:
            waiting.append(error.__cause__)
    return None


def no_descriptors(count: int = LOOKUP_DESCRIPTORS) -> bool:
    """Whether the system has fewer than ``count`` descriptors left. About 2 us.

    For libraries that do not report it: if they cannot open their files, getaddrinfo reports an unknown name
    and OpenSSL an untrusted certificate.
    """
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.eventfd(0))
    except OSError as error:
        return reason_of(error) == "descriptors"
    finally:
        for fd in opened:
            os.close(fd)
    return False


@contextmanager
def no_memory_is_a_shortage() -> Iterator[None]:
    """Turns MemoryError into Shortage, for code that runs before the first byte of a request."""
    try:
        yield
    except MemoryError as error:
        raise Shortage("memory", "no memory to begin an attempt") from error


class InFlightLimit:
    """How many attempts may be in flight during a shortage. Time is an argument, in elapsed ns.

    A lapse sets ``limit`` to the number in flight, for one pause. After it one more attempt may start. If
    that lapses too, the next pause is twice as long, up to `PAUSE_MAX_NS`; if it does not, twice as many more
    may start after half the pause. So a lasting shortage costs about one lapse a second, and ``limit`` is
    back at ``concurrency`` within two seconds of its end. ``until_ns``: the end of the pause; None: no
    shortage.
    """

    def __init__(self, concurrency: int, clock_s: Callable[[], float] = trio.current_time) -> None:
        self._concurrency = self.limit = concurrency
        self.until_ns: int | None = None
        self.lapses: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self._pause_ns = PAUSE_MIN_NS
        self._step = 1  # how many more may start after the pause
        self._calm = True  # no attempt has lapsed since ``limit`` was last raised
        self._lines = {reason: RateLimitedLog(_log, logging.WARNING, clock_s=clock_s) for reason in REASONS}

    def count(self, reason: Reason) -> None:
        """Count and log one lapse."""
        self.lapses[reason] += 1
        self._lines[reason].say(
            "attempts not made, they are tried again short_of=%s lapsed=%d; %s",
            reason, self.lapses[reason], ADVICE[reason],
        )  # fmt: skip

    def lapsed(self, in_flight: int, now_ns: int) -> None:
        """An attempt lapsed; ``in_flight`` are left."""
        self.limit = min(self.limit, in_flight)
        if self.until_ns is None:
            self._pause_ns = PAUSE_MIN_NS
        elif self._calm:
            self._pause_ns = min(2 * self._pause_ns, PAUSE_MAX_NS)
        else:
            return  # an attempt from before the pause
        self._calm, self._step = False, 1
        self.until_ns = now_ns + self._pause_ns

    def look(self, now_ns: int) -> int:
        """``limit``, brought up to date."""
        while self.until_ns is not None and self.until_ns <= now_ns:
            if self._calm:
                self._step *= 2
                self._pause_ns = max(self._pause_ns // 2, PAUSE_MIN_NS)
            self._calm = True
            self.limit += self._step
            self.until_ns += self._pause_ns
            if self.limit >= self._concurrency:
                self.limit, self.until_ns = self._concurrency, None
        return self.limit
