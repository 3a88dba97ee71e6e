"""``python -m benchmarks.uncompacted serve ...``: the daemon without compaction, to be compared with it."""

from __future__ import annotations

import trio

from wheeltimer.cli import main
from wheeltimer.daemon import run
from wheeltimer.shard.compactor import Compactor


class _Idle(Compactor):
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()


if __name__ == "__main__":
    vars(run)["Compactor"] = _Idle
    main(prog_name="wheeltimer")
