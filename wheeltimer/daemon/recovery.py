"""From the journal's frames to the engine's state, deadlines on this boot's time line.

The journal knows files and frames; the engine knows records. This is the one place where both are
read together at start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import trio

from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.rebase import Rebase
from wheeltimer.core.task import NS_PER_MS, Now
from wheeltimer.daemon.ledger import Ledger
from wheeltimer.errors import JournalDamaged
from wheeltimer.journal import Clocks, Journal

ROOM_RETRY_S: Final = 0.5
_log = logging.getLogger("wheeltimer")
Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


class Recovered(NamedTuple):
    """What a start found: records applied, and keys whose end a stored cancel or finish asks for."""

    records: int
    stopping: set[str]


def recover(
    journal: Journal, engine: Engine, boot_id: bytes, now: Now, progress: Progress | None = None
) -> Recovered:
    """Apply every record of the journal. Blocking: about 3 us a record.

    Raises JournalDamaged for a record that is no record of ours in a frame that verifies, and what
    reading the files raises.
    """
    count, stopping = 0, set[str]()
    for frame in journal.replay(progress):
        rebase = None
        if frame.clocks.boot_id != boot_id:
            rebase = _rebase(journal, frame.clocks, now)
        try:
            records = r.decode_all(frame.payload)
            stopping.update(engine.replay(records, rebase))
        except msgspec.MsgspecError as error:
            raise JournalDamaged(
                f"lsn {frame.first_lsn}: the frame verifies and holds no records of this version: {error}"
            ) from error
        count += len(records)
    engine.replayed()
    return Recovered(count, stopping)


def _rebase(journal: Journal, written: Clocks, now: Now) -> Rebase:
    """Deadlines of another boot: through the wall clock, by that boot's last reading of both clocks.

    What is left to wait is never more than was left when the frame was ``written``: a wall clock that was
    wrong on either side of the restart cannot put a task off for ever. What is overdue stays so: a backlog
    keeps its order, and says how late it is.
    """
    last = journal.last_clocks_of(written.boot_id)
    assert last is not None, "a frame's own clocks are known"
    # The reading is in whole ms: the ms after it makes the deadline late, never early.
    offset_ns = (last.wall_ms + 1) * NS_PER_MS - last.boottime_ns

    def rebase(deadline_ns: int) -> int:
        left_ns = deadline_ns + offset_ns - now.wall_ns
        return now.elapsed_ns + min(left_ns, deadline_ns - written.boottime_ns)

    return rebase


async def end_stopped(ledger: Ledger, keys: set[str]) -> None:
    """End the tasks that a stored cancel or finish waits for, before an attempt of theirs can start.

    In slices; where the journal is full, when it has room again.
    """
    told = False
    while keys:
        if ledger.recovered(keys):
            ledger.journal.flush()
            await trio.lowlevel.checkpoint()
            continue
        if not told:
            _log.warning("the journal has no room for %d ends, waiting: free some of its disk", len(keys))
            told = True
        await trio.sleep(ROOM_RETRY_S)
