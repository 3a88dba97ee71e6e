"""What SIGTERM and SIGINT do before the daemon listens for them, and when it no longer does.

Between the two it drains (``run.py``). A process that ends by itself has an exit code that says why: a
signal in its last moments must not take the place of that, so nothing is left to the system's default.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once(unless: Callable[[], bool]) -> None:
    """Until somebody listens, a signal ends the process as by default, ``unless`` it is ending anyway.

    It stays what it is where whoever started the process has it ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if unless():
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def ignore() -> None:
    """All is done and the exit code is known: not even the interpreter's own end gives way to a signal."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
