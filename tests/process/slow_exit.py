"""``python -m tests.process.slow_exit serve ...``: the daemon, slow to end in two places where it says so.

Log lines come first, then a wait that is long enough for a signal: ``last words: loop`` when the listener for
signals is gone and Trio still runs, ``last words: interpreter`` when Trio has ended.
"""

from __future__ import annotations

import atexit
import sys
import time

from wheeltimer.cli import main
from wheeltimer.delivery.transport import Transport

WAIT_S = 0.5


def _say(what: str) -> None:
    print(f"last words: {what}", file=sys.stderr, flush=True)
    time.sleep(WAIT_S)


class _Slow(Transport):
    async def aclose(self) -> None:
        _say("loop")
        await super().aclose()


if __name__ == "__main__":
    from wheeltimer.daemon import build

    vars(build)["Transport"] = _Slow
    atexit.register(_say, "interpreter")
    main(prog_name="wheeltimer")
