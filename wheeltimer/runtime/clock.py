"""Reads the clocks of deadlines: elapsed time, wall time, and whether the wall clock was stepped.

There are two clocks because there are two kinds of deadline. A ``delay`` counts *elapsed* time, which cannot
be set and goes on while the machine is suspended (CLOCK_BOOTTIME). An ``at`` follows the *wall* clock, also
if an operator or NTP sets it (CLOCK_REALTIME). No other file reads them. A decision takes one :class:`Now`,
so that a deadline is computed and compared with the same moment.

Elsewhere: ``Now`` and its arithmetic (``core/task.py``), waiting for an instant (``timer.py``), waking the
wheels (``shard/ticker.py``), units and RFC 3339 text (``protocol/units.py``), how long a slice of work takes,
which is not an instant (``time_slices.py``).
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
"""How far wall minus elapsed may move between two readings before it counts as a step.

NTP slews by at most 500 ppm, which is 0.5 ms in the second between two readings, and the two clocks are read
within ``_SANDWICH_NS``, or as near as a few attempts allow. 20 ms is far above both. A smaller step makes an
``at`` task late by at most 20 ms, until the next reading.
"""

_SANDWICH_NS: Final = 50_000  # if the two clocks were read further apart, they are read again
_SANDWICHES_MAX: Final = 4  # after four attempts the closest pair is taken: the machine is busy
_CLOCK_ELAPSED: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_CLOCK_WALL: Final = time.CLOCK_REALTIME
_PROC: Final = Path("/proc")
_FIRST_NAMESPACE: Final = "time:[4026531834]"  # PROC_TIME_INIT_INO of the kernel: that of init


class Clock(Protocol):
    """The clocks as the daemon uses them: :class:`SystemClock`, or the clock of the tests."""

    @property
    def boot_id(self) -> bytes:
        """16 bytes that identify the elapsed clock, different for every boot: elapsed instants of two boots
        cannot be compared."""
        ...

    def now(self) -> Now:
        """The present moment."""
        ...

    def elapsed_ns(self) -> int:
        """The elapsed clock alone, for measuring."""
        ...


class SystemClock:
    """The machine's clocks. Only tests give ``boot_id``.

    If the system has no boot id (only Linux has one), each process counts as a boot of its own. A restart
    then converts deadlines through the wall clock, which is correct but less exact.
    """

    __slots__ = ("_boot_id",)

    def __init__(self, boot_id: bytes | None = None) -> None:
        self._boot_id = read_boot_id() if boot_id is None else boot_id
        assert len(self._boot_id) == 16

    @property
    def boot_id(self) -> bytes:
        return self._boot_id

    def now(self) -> Now:
        """Both clocks. About 1 us.

        A thread that is preempted between the two readings would see a step that did not happen. So the wall
        clock is read between two readings of the elapsed clock, and again if those are too far apart. The
        second elapsed reading is used: the rest of the gap makes a deadline late, never early.
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
    """16 bytes that identify this process's elapsed clock: the id of the boot or, in a time namespace whose
    clock differs, a hash of that id and the difference (time_namespaces(7)).

    Random bytes if the system has no boot id: the process then counts as a boot of its own.
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
    """How far this CLOCK_BOOTTIME is ahead of the machine's; 0 without a time namespace. Raises OSError,
    ValueError.

    The kernel shows the offsets of the namespace that *children* get. If the process has unshared only that
    one, its own offset is unknown, unless it is in the first namespace, whose offset is 0.
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
    """By how many ns the wall clock was stepped between two moments of one boot; 0 if it was not.

    Positive: the wall clock was set forward. A suspend is not a step (both clocks go on). Slewing is not one
    either, if ``previous`` is the last reading and not the first one.
    """
    moved_ns = (now.wall_ns - now.elapsed_ns) - (previous.wall_ns - previous.elapsed_ns)
    return moved_ns if abs(moved_ns) > tolerance_ns else 0


def monotonic_us() -> int:
    """CLOCK_MONOTONIC, which a service manager compares with its own reading; the daemon uses it for nothing
    else."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
