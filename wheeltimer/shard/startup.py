"""Replays the journal's frames into the engine, with deadlines on this boot's time line.

The journal deals with files and frames, the engine with records; this file connects them at start.
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
    """The result of a replay: number of records applied, and keys of tasks with a stored cancel or finish."""

    records: int
    stopping: set[str]


def recover(
    journal: Journal, engine: Engine, boot_id: bytes, now: Now, progress: Progress | None = None
) -> Recovered:
    """Apply every record of the journal. Blocking: about 2 us a record.

    Raises JournalDamaged if a frame that verifies has a record that this version cannot decode, and the
    errors of reading the files.
    """
    count, stopping, between_ns = 0, set[str](), dict[bytes, int]()
    for frame in journal.replay(progress):
        rebase, ahead_ns = None, _ahead_ns(frame.clocks)
        if frame.clocks.boot_id != boot_id:
            written = frame.clocks
            # Ends of other boots are placed by the wall clock, corrected by its later steps in their boot.
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
    """The ns to add to an elapsed instant of the boot ``of_record`` to get one of ``this`` boot.

    Computed by the wall clock. It may have been set in either boot and in those between, which must not move
    a delay. So the last reading of the one boot is compared with the first of the other, and the steps of the
    wall clock in each boot between are subtracted.
    """
    order = list(boots)
    later = [boots[each] for each in order[order.index(of_record) + 1 :]]
    begun = Clocks(this, now.elapsed_ns, now.wall_ns // NS_PER_MS)
    if later and order[-1] == this:
        begun = later.pop().first
    steps_ns = sum(_ahead_at_most_ns(boot.last) - _ahead_ns(boot.first) for boot in later)
    return _ahead_at_most_ns(boots[of_record].last) + steps_ns - _ahead_ns(begun)


def _rebase(written: Clocks, between_ns: int, now: Now) -> Rebase:
    """Maps deadlines of another boot to this one's time line.

    The time left is never more than it was when the frame was ``written``, so a wall clock that was wrong
    before or after the restart cannot postpone a task for ever. Overdue deadlines stay overdue by the same
    time: a backlog keeps its order and its lateness.
    """

    def rebase(deadline_ns: int) -> int:
        return min(deadline_ns + between_ns, now.elapsed_ns + deadline_ns - written.boottime_ns)

    return rebase


def _ahead_ns(clocks: Clocks) -> int:
    """By how much the wall clock was ahead of elapsed time, at least: ``wall_ms`` is rounded down."""
    return clocks.wall_ms * NS_PER_MS - clocks.boottime_ns


def _ahead_at_most_ns(clocks: Clocks) -> int:
    """The same, at most: one ms more, which makes a deadline late, never early."""
    return _ahead_ns(clocks) + NS_PER_MS


async def note_boot(ledger: DurableEngine) -> None:
    """Write a frame of this boot before any client is served, if the journal has none.

    A clock step is noted in the last frame's slot, which must be of this boot; without this frame, a boot
    that writes nothing else could not note one. If the journal is full no frame is written: the next one will
    do.
    """
    journal = ledger.journal
    if journal.lacks_this_boot and ledger.submit([r.Forgotten([], ledger.now().wall_ms)]):
        journal.flush()
        await journal.wait_durable(journal.next_lsn - 1)


async def end_stopped(ledger: DurableEngine, keys: set[str]) -> None:
    """End the tasks with a stored cancel or finish, before an attempt of theirs can start.

    In slices; if the journal is full, it waits until there is space.
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
