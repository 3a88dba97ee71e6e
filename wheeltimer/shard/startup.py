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
from wheeltimer.core.replay import Rebase
from wheeltimer.core.task import NS_PER_MS, Now
from wheeltimer.errors import JournalDamaged
from wheeltimer.journal import Boot, Clocks, Journal
from wheeltimer.shard.durable import DurableEngine

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
    """Apply every record of the journal. Blocking: about 2 us a record.

    Raises JournalDamaged for a record that is no record of ours in a frame that verifies, and what
    reading the files raises.
    """
    count, stopping, between_ns = 0, set[str](), dict[bytes, int]()
    for frame in journal.replay(progress):
        rebase, ahead_ns = None, _ahead_ns(frame.clocks)
        if frame.clocks.boot_id != boot_id:
            written = frame.clocks
            # Ends of other boots go by the wall clock, corrected by what it was set later in their boot.
            ahead_ns += engine.ahead_at_start_ns - _ahead_ns(journal.boots[written.boot_id].last)
            if written.boot_id not in between_ns:
                between_ns[written.boot_id] = _between_ns(journal.boots, written.boot_id, boot_id, now)
            rebase = _rebase(written, between_ns[written.boot_id], now)
        try:
            records = r.decode_recovered(frame.payload)
            stopping.update(engine.replay(records, rebase, ahead_ns))
        except msgspec.MsgspecError as error:
            raise JournalDamaged(
                f"lsn {frame.first_lsn}: the frame verifies and holds no records of this version: {error}"
            ) from error
        count += len(records)
    try:
        engine.replayed()
    except msgspec.MsgspecError as error:
        raise JournalDamaged(f"all frames verify and one holds no task of this version: {error}") from error
    return Recovered(count, stopping)


def _between_ns(boots: dict[bytes, Boot], of_record: bytes, this: bytes, now: Now) -> int:
    """What makes an elapsed instant of the boot ``of_record`` one of ``this`` boot: through the wall clock.

    In either boot, and in those between, somebody may have set that clock, which moves no delay. So the way
    goes from the last reading of the one to the first of the other, and what each boot between did to
    the wall clock is taken off.
    """
    order = list(boots)
    later = [boots[each] for each in order[order.index(of_record) + 1 :]]
    begun = Clocks(this, now.elapsed_ns, now.wall_ns // NS_PER_MS)
    if later and order[-1] == this:
        begun = later.pop().first
    steps_ns = sum(_ahead_at_most_ns(boot.last) - _ahead_ns(boot.first) for boot in later)
    return _ahead_at_most_ns(boots[of_record].last) + steps_ns - _ahead_ns(begun)


def _rebase(written: Clocks, between_ns: int, now: Now) -> Rebase:
    """Deadlines of another boot on this one's line.

    What is left to wait is never more than was left when the frame was ``written``: a wall clock that was
    wrong on either side of the restart cannot put a task off for ever. What is overdue stays so: a backlog
    keeps its order, and says how late it is.
    """

    def rebase(deadline_ns: int) -> int:
        return min(deadline_ns + between_ns, now.elapsed_ns + deadline_ns - written.boottime_ns)

    return rebase


def _ahead_ns(clocks: Clocks) -> int:
    """By how much the wall clock was ahead of elapsed time, at least: it is kept in whole ms."""
    return clocks.wall_ms * NS_PER_MS - clocks.boottime_ns


def _ahead_at_most_ns(clocks: Clocks) -> int:
    """The ms after the reading makes a deadline late, never early."""
    return _ahead_ns(clocks) + NS_PER_MS


async def note_boot(ledger: DurableEngine) -> None:
    """Have a frame of this boot in the journal before anybody is served.

    A clock step is noted in the last frame's slot, which must be of this boot: so a boot that writes
    nothing else writes this. Where the journal is full it goes without: the next frame will do.
    """
    journal = ledger.journal
    if journal.lacks_this_boot and ledger.submit([r.Forgotten([], ledger.now().wall_ms)]):
        journal.flush()
        await journal.wait_durable(journal.next_lsn - 1)


async def end_stopped(ledger: DurableEngine, keys: set[str]) -> None:
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
            _log.warning("%d ends wait: %s", len(keys), ledger.no_room())
            told = True
        await trio.sleep(ROOM_RETRY_S)
