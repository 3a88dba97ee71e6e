"""The only reader of the clocks that tasks go by: elapsed time, wall time, and whether one moved.

Two clocks, because the promise has two halves. A ``delay`` counts *elapsed* time, which nobody can
set and which goes on while the machine is suspended (CLOCK_BOOTTIME). An ``at`` follows the *wall*
clock wherever an operator or NTP puts it (CLOCK_REALTIME). Every instant in the daemon comes from one
:class:`Now`, so that whoever compares a deadline and whoever computes one agree on the moment.

What lives elsewhere: ``Now`` itself and its arithmetic (``core/task.py``), waiting for an instant
(``timer.py``), waking the wheels (``shard/ticker.py``), units and RFC 3339 text (``protocol/units.py``), and
how long a slice of work takes, which is no instant (``time_slices.py``).
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from pathlib import Path
from time import clock_gettime_ns
from typing import Final, Protocol

from wheeltimer.core.task import NS_PER_MS, Now

STEP_TOLERANCE_NS: Final = 20 * NS_PER_MS
"""How far wall minus elapsed may move between two looks before it counts as a step.

NTP slews by at most 500 ppm, 0.5 ms in the second between two looks, and a look is taken within
``_SANDWICH_NS`` or is the best of a few: 20 ms is far above both, and a step smaller than it can make
an ``at`` task late by no more than that, until the next look.
"""

_SANDWICH_NS: Final = 50_000  # the two clocks were read this close together, or are read again
_SANDWICHES_MAX: Final = 4  # on a machine this busy the best of four has to do
_CLOCK_ELAPSED: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_CLOCK_WALL: Final = time.CLOCK_REALTIME
_PROC: Final = Path("/proc")
_FIRST_NAMESPACE: Final = "time:[4026531834]"  # PROC_TIME_INIT_INO of the kernel: that of init


class Clock(Protocol):
    """What the daemon asks of time; :class:`SystemClock` and the tests' clock both answer it."""

    @property
    def boot_id(self) -> bytes:
        """16 bytes that name the elapsed clock, another one for every boot: elapsed instants mean something
        under one of them only."""
        ...

    def now(self) -> Now:
        """The present moment."""
        ...

    def elapsed_ns(self) -> int:
        """The elapsed clock alone, for measuring."""
        ...


class SystemClock:
    """The machine's clocks. ``boot_id`` is given by tests only; a process cannot be told another one.

    Where the system has no boot id (it is Linux's), each process is a boot of its own: deadlines then
    go through the wall clock over a restart, which is right, if less exact.
    """

    __slots__ = ("_boot_id",)

    def __init__(self, boot_id: bytes | None = None) -> None:
        self._boot_id = read_boot_id() if boot_id is None else boot_id
        assert len(self._boot_id) == 16

    @property
    def boot_id(self) -> bytes:
        return self._boot_id

    def now(self) -> Now:
        """Both clocks, the wall first: about 1 us.

        A thread that is preempted between two readings would see a step that never was. So the wall is
        read between two looks at the elapsed clock, and again while those lie too far apart. The later
        look counts: what is left of the gap makes a deadline late, never early.
        """
        best: Now | None = None
        best_width_ns = 0
        for _ in range(_SANDWICHES_MAX):
            before_ns = clock_gettime_ns(_CLOCK_ELAPSED)
            wall_ns = clock_gettime_ns(_CLOCK_WALL)
            after_ns = clock_gettime_ns(_CLOCK_ELAPSED)
            width_ns = after_ns - before_ns
            if width_ns <= _SANDWICH_NS:
                return Now(after_ns, wall_ns)
            if best is None or width_ns < best_width_ns:
                best, best_width_ns = Now(after_ns, wall_ns), width_ns
        assert best is not None
        return best

    def elapsed_ns(self) -> int:
        return clock_gettime_ns(_CLOCK_ELAPSED)


def read_boot_id(proc: Path = _PROC) -> bytes:
    """What names this process's elapsed clock, 16 bytes: the id of the boot and, in a time namespace whose
    clock is another one, a hash of the id and what that clock is ahead by (time_namespaces(7)).

    A random one if the system has none: this process is then a boot of its own.
    """
    try:
        text = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        boot_id = uuid.UUID(text.strip()).bytes
        ahead_ns = _namespace_ahead_ns(proc / "self")
    except (OSError, ValueError):
        return uuid.uuid4().bytes
    if ahead_ns == 0:
        return boot_id
    return hashlib.blake2b(b"%s%d" % (boot_id, ahead_ns), digest_size=16).digest()


def _namespace_ahead_ns(own: Path) -> int:
    """What CLOCK_BOOTTIME is ahead of the machine's; 0 without a time namespace. Raises OSError, ValueError.

    The kernel shows the offsets of the namespace that *children* get. A process may have
    unshared its children's only, so that the two differ: then only the first namespace's offset is known.
    """
    try:
        text = (own / "timens_offsets").read_text(encoding="ascii")
        present, children = (os.readlink(own / "ns" / name) for name in ("time", "time_for_children"))
    except FileNotFoundError:  # a kernel without such namespaces
        return 0
    if present == _FIRST_NAMESPACE:
        return 0
    if present != children:
        raise ValueError("the offset of this time namespace is not known")
    offsets = {fields[0]: fields[1:] for fields in map(str.split, text.splitlines()) if len(fields) == 3}
    if "boottime" not in offsets:
        raise ValueError("the offset of CLOCK_BOOTTIME is not shown")
    seconds, ns = offsets["boottime"]
    return int(seconds) * 1_000_000_000 + int(ns)


def stepped(previous: Now, now: Now, tolerance_ns: int = STEP_TOLERANCE_NS) -> int:
    """By how many ns the wall clock was stepped between two moments of one boot; 0 when it was not.

    Positive: the wall clock was put forward. A suspend is no step (both clocks go on), nor is slewing,
    as long as ``previous`` is the last moment looked at and not the first one.
    """
    moved_ns = (now.wall_ns - now.elapsed_ns) - (previous.wall_ns - previous.elapsed_ns)
    return moved_ns if abs(moved_ns) > tolerance_ns else 0


def monotonic_us() -> int:
    """CLOCK_MONOTONIC, which a service manager compares with its own; nothing here is timed by it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
