"""``python -m tests.recipes.clocked ...``: the command line, daemon included, on a clock that a test moves.

Three numbers in a file that the test writes and every process maps: the daemon, its successor after a kill
-9, and the client commands. The clock goes on where the test moves it, and by itself at a tenth of its speed:
a busy machine does not make a time-out of 5 s pass while a command starts, and what waits for a moment still
gets it. Elapsed time, wall time and Trio's own clock (time-outs, waits) are one. Nothing else is replaced.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
import time
from pathlib import Path
from time import clock_gettime_ns

import trio

from wheeltimer.cli import main, output
from wheeltimer.core.task import Now
from wheeltimer.daemon import run
from wheeltimer.runtime.clock import read_boot_id

FILE = "RECIPES_CLOCK"  # a path; moved ns, true elapsed ns at the start, wall ns at the start, little-endian
SLOWER = 10
LOOK_S = 0.005  # a loop that waits sees a move after so long at the latest
_FORMAT = "<qqq"


def make(path: Path, wall_ns: int) -> None:
    """A clock that says ``wall_ns`` now."""
    path.write_bytes(struct.pack(_FORMAT, 0, clock_gettime_ns(time.CLOCK_BOOTTIME), wall_ns))


class MovedClock(trio.abc.Clock):
    """What the file says the time is; answers as ``runtime.clock.SystemClock`` and as Trio's clock."""

    def __init__(self, path: Path | None = None) -> None:
        self.boot_id = read_boot_id()
        with (path or Path(os.environ[FILE])).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), struct.calcsize(_FORMAT))
        self._began_ns: int
        self._wall_ns: int
        _, self._began_ns, self._wall_ns = struct.unpack(_FORMAT, self._map[:])

    def move(self, ns: int) -> None:
        """For everybody who has this file open. One number in one piece: nobody sees half a move."""
        assert ns >= 0
        self._map[:8] = struct.pack("<q", self._moved_ns + ns)

    @property
    def _moved_ns(self) -> int:
        moved: int = struct.unpack("<q", self._map[:8])[0]
        return moved

    def _passed_ns(self) -> int:
        true_ns: int = clock_gettime_ns(time.CLOCK_BOOTTIME) - self._began_ns
        return true_ns // SLOWER + self._moved_ns

    def now(self) -> Now:
        passed_ns = self._passed_ns()
        return Now(self._began_ns + passed_ns, self._wall_ns + passed_ns)

    def elapsed_ns(self) -> int:
        passed_ns = self._passed_ns()
        return self._began_ns + passed_ns

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.elapsed_ns() / 1e9

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(max(0.0, deadline - self.current_time()) * SLOWER, LOOK_S)


if __name__ == "__main__":
    vars(run)["SystemClock"] = vars(run)["LoopClock"] = MovedClock
    vars(trio)["run"] = functools.partial(trio.run, clock=MovedClock())  # of the client commands
    vars(output)["now_ms"] = lambda: MovedClock().now().wall_ms
    main(prog_name="wheeltimer")
