"""Which records a start can apply if others are lost, and of which tasks the state is uncertain.

A start skips records of a task that is not there (compaction leaves such), and asserts that all others fit
the records before them: an end of a task that has ended fails an assertion. So a record that depends on a
lost one is replaced by one that depends on none (a ``Carried`` with the whole task), or left out and its key
reported. Pure; the rules are those of the engine's replay.
"""

from __future__ import annotations

from collections.abc import Iterator

from wheeltimer.core import records as r
from wheeltimer.core.task import Task, unpack
from wheeltimer.protocol.task_view import State


class ReplayFilter:
    """Every task of the records so far: its version, its state, the lsn of its last record."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int, int, int]] = {}  # version, state, lsn
        self.orphans: dict[str, int] = {}  # keys whose records depend on lost ones; lsn of the last record

    def uncertain(self, lost: list[tuple[int, int]]) -> Iterator[str]:
        """Keys whose last record is older than a lost one, or whose records do not fit together."""
        last_lost = max((upto for _, upto in lost), default=0)
        for key, (_, _, lsn) in self.tasks.items():
            if lsn < last_lost or key in self.orphans:
                yield key
        yield from (key for key in self.orphans if key not in self.tasks)

    def fit(self, lsn: int, record: r.Replayed) -> r.Replayed | r.Carried | None:
        """The record, or the one to write in its place; None if it cannot be applied."""
        match record:
            case r.RawScheduled(key, time_ms, raw):
                return self._whole(lsn, record, key, time_ms, unpack(raw), fresh=True)
            case r.Rescheduled(key, time_ms, task):
                return self._whole(lsn, record, key, time_ms, task, fresh=False)
            case r.Carried(key, _, task):
                if task is not None:
                    self.tasks[key] = (task.version, task.state, lsn)
                    self.orphans.pop(key, None)
                return record
            case r.Paused() | r.Counted():
                return record
            case r.Forgotten(keys, time_ms):
                return self._forgotten(keys, time_ms)
            case _:
                return self._change(lsn, record)

    def _whole(
        self, lsn: int, record: r.Replayed, key: str, time_ms: int, task: Task, *, fresh: bool
    ) -> r.Replayed | None:
        known = self.tasks.get(key)
        self.tasks[key] = (task.version, task.state, lsn)
        self.orphans.pop(key, None)
        if known is None:
            return record
        final = not fresh and known[1] in (State.DONE, State.CANCELLED)
        fits = task.version == known[0] + 1 and not final
        return record if fits else r.Carried(key, time_ms, task)

    def _change(self, lsn: int, record: r.Attempted | r.Stopping | r.Ended) -> r.Replayed | None:
        known = self.tasks.get(record.key)
        if known is None:
            self.orphans[record.key] = lsn
            return record
        if State(known[1]).ended:
            self.orphans[record.key] = lsn
            return None
        state = record.state if isinstance(record, r.Ended) else known[1]
        self.tasks[record.key] = (known[0], state, lsn)
        version = record.attempt.version if isinstance(record, r.Attempted) else known[0]
        if version > known[0]:
            self.orphans[record.key] = lsn  # the record that made this version is lost
        return record

    def _forgotten(self, keys: list[str], time_ms: int) -> r.Replayed:
        live = {key for key in keys if key in self.tasks and not State(self.tasks[key][1]).ended}
        for key in keys:
            if key not in live:
                self.tasks.pop(key, None)
                self.orphans.pop(key, None)
        self.orphans |= dict.fromkeys(live, 0)  # their ends are lost
        return r.Forgotten([key for key in keys if key not in live], time_ms)
