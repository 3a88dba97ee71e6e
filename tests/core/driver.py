"""The engine as the daemon drives it, without a daemon: a ledger in memory, clocks that stand still.

Requests come as what a client writes on a line, answers as what it would read. Written records become
frames with the clocks of their moment, volatile ones are only applied; a crash replays the frames
through the daemon's own ``recover``. Nothing here judges: see ``model.py`` and the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from wheeltimer.core import control, outcome, queries, schedule
from wheeltimer.core import records as r
from wheeltimer.core.copies import copies_beside_tasks, copy_of, newest_full_lsn
from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy
from wheeltimer.core.schedule_batch import decide_batch
from wheeltimer.core.task import NS_PER_MS, Now, Task
from wheeltimer.errors import BadValue, Refused, TargetBlocked
from wheeltimer.journal import Boot, Clocks
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.task_view import State
from wheeltimer.shard.startup import Recovered, recover

START_ELAPSED_NS = 7_000_000_000_000
START_WALL_NS = 1_800_000_000_000_000_000
TICK_NS = 10 * NS_PER_MS
WHEEL_SIZE = 16  # small: rounds matter soon
VOLATILE = (r.Due, r.Started, r.Lapsed)
FAR_NS = 1 << 62


class MemoryFrame(NamedTuple):
    first_lsn: int
    clocks: Clocks
    payload: bytes


class MemoryJournal:
    """What ``recover`` asks of a journal: frames in order, and what each boot's clocks were."""

    def __init__(self) -> None:
        self.frames: list[MemoryFrame] = []
        self.next_lsn = 1

    def replay(self, progress: object = None) -> Iterator[MemoryFrame]:
        return iter(self.frames)

    @property
    def boots(self) -> dict[bytes, Boot]:
        found: dict[bytes, Boot] = {}
        for frame in self.frames:
            boot_id = frame.clocks.boot_id
            found[boot_id] = Boot(found[boot_id].first if boot_id in found else frame.clocks, frame.clocks)
        return found

    def append(self, clocks: Clocks, records: Sequence[r.AnyRecord | msgspec.Raw]) -> None:
        self.frames.append(MemoryFrame(self.next_lsn, clocks, r.encode(records)))
        self.next_lsn += len(records)


class Driver:
    """One daemon's life after another over the same journal."""

    def __init__(self, limits: Limits | None = None, policy: Policy | None = None, *, boot: int = 1) -> None:
        self.limits = limits or Limits()
        self.policy = policy or Policy()
        self.journal = MemoryJournal()
        self.boot = boot.to_bytes(16, "big")
        self.now = Now(START_ELAPSED_NS, START_WALL_NS)
        self.recovered_at = self.now
        self.engine = self._fresh(self.now)
        self.carried_ends: list[int] = []  # lsns of such copies

    def _fresh(self, now: Now) -> Engine:
        return Engine(self.limits, now, TICK_NS, WHEEL_SIZE)

    # -- clocks ---------------------------------------------------------------------------------

    def pass_ns(self, ns: int) -> None:
        """Time passes on both clocks; nobody looks at the wheels yet."""
        self.now = Now(self.now.elapsed_ns + ns, self.now.wall_ns + ns)

    def pass_ms(self, ms: int) -> None:
        self.pass_ns(ms * NS_PER_MS)

    def step_wall_ms(self, ms: int) -> None:
        """The wall clock is set; the ticker notices and has the new reading written down."""
        self.now = Now(self.now.elapsed_ns, self.now.wall_ns + ms * NS_PER_MS)
        self.journal.append(self._clocks(), [])

    def _clocks(self) -> Clocks:
        return Clocks(self.boot, self.now.elapsed_ns, self.now.wall_ns // NS_PER_MS)

    # -- making things true ---------------------------------------------------------------------

    def submit(self, records: Sequence[r.AnyRecord]) -> None:
        """One decision: written, then applied."""
        written = [record for record in records if not isinstance(record, VOLATILE)]
        if written:
            self.journal.append(self._clocks(), written)
        for record in records:
            self.engine.apply(record)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request, from its line to the reply as a client reads it."""
        return self.line(json.dumps({"op": op} | fields).encode())

    def run(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """The replies to these lines as a run of plain schedules; none: they are no run."""
        run = decide_batch(self.engine, self.policy, lines, self.now, self.journal.next_lsn)
        if run is None:
            return []
        self.engine.insert_fresh(run.homes, run.keys, run.rows, run.deadlines_ns, run.queues)
        self.journal.append(self._clocks(), [msgspec.Raw(record) for record in run.records])
        return [json.loads(wire.encode(reply)) for reply in run.replies]

    def line(self, line: bytes) -> dict[str, Any]:
        command: c.AnyCommand | None = None
        try:
            command = wire.decode(line)
            reply = self._decide(command)
        except (Refused, BadValue, TargetBlocked) as error:
            reply = wire.refusal(error, wire.seq_of(line) if command is None else command.seq)
        shown: dict[str, Any] = json.loads(wire.encode(reply))
        return shown

    def _decide(self, command: c.AnyCommand) -> object:
        engine, policy, now, lsn = self.engine, self.policy, self.now, self.journal.next_lsn
        records: r.Records
        reply: object
        match command:
            case c.Schedule():
                records, reply = schedule.schedule(engine, policy, command, now, lsn, 3)
            case c.Reschedule():
                records, reply = schedule.reschedule(engine, policy, command, now, lsn)
            case c.Cancel():
                records, reply = control.cancel(engine, command, now, lsn)
            case c.Finish():
                records, reply = control.finish(engine, command, now, lsn)
            case c.Redrive():
                records, reply = control.redrive(engine, command, now, lsn)
            case c.Pause() | c.Resume():
                records, reply = control.pause(engine, command, now, lsn)
            case c.Get():
                return queries.get(engine, command)
            case c.List():
                listing = queries.Listing(command)
                for rows in listing.rows(engine, 3):
                    listing.feed(rows)
                return listing.reply()
            case _:
                raise AssertionError(command)
        if records:
            self.submit(records)
        return reply

    def members(self, group: str | None) -> list[str]:
        """The keys of a group, or of all that is dead or expired."""
        return list(self.engine.groups.get(group, ()) if group is not None else self.engine.kept_dead)

    def many(self, op: str, group: str | None, queue: str | None, reply: bytes | None) -> dict[str, int]:
        """A group or queue at once, member by member, as the daemon does it in slices."""
        engine = self.engine
        changed = running = 0
        for key in self.members(group):
            task = engine.get(key)
            assert task is not None
            if queue is not None and not key.startswith(f"{queue}/"):
                continue
            now, lsn = self.now, self.journal.next_lsn
            if op == "redrive":
                if task.state not in (State.DEAD, State.EXPIRED):
                    continue
                records = control.redrive_one(engine, key, task, now, lsn)
            elif task.state >= State.DONE:
                continue
            elif op == "cancel":
                records = control.cancel_one(engine, key, task, now, lsn)
            else:
                records = control.finish_one(engine, key, task, now, lsn, reply)
            if records:
                self.submit(records)
            running += task.state == State.RUNNING
            changed += bool(records) and task.state != State.RUNNING
        if op == "redrive":
            return {"redriven": changed}
        return {"cancelled" if op == "cancel" else "finished": changed, "running": running}

    # -- what time and receivers bring ----------------------------------------------------------

    def tick(self, limit: int = 64) -> list[str]:
        """Hand over all that is due, as the ticker does; the keys that something happened to, in order."""
        moved = []
        for _ in range(10_000):
            keys = self.engine.take_due(self.now, limit)
            for key in keys:
                task = self.engine.get(key)
                assert task is not None
                what = outcome.due(self.engine, key, task, self.now, self.journal.next_lsn)
                if what is not None:
                    self.submit([what] if isinstance(what, r.Due) else what)
                    moved.append(key)
            wake_ns = min(
                self.engine.elapsed.next_wake_ns(self.now.elapsed_ns, NS_PER_MS) - self.now.elapsed_ns,
                self.engine.wall.next_wake_ns(self.now.wall_ns, NS_PER_MS) - self.now.wall_ns,
                self.engine.kept_wheel.next_wake_ns(self.now.elapsed_ns, NS_PER_MS) - self.now.elapsed_ns,
            )
            if not keys and wake_ns > 0:
                return moved
        raise AssertionError("a task is handed over again and again")

    def start(self, key: str) -> None:
        """Begin an attempt of a ready task."""
        task = self.task(key)
        self.submit([outcome.start(key, task, self.now)])

    def outcome(self, key: str, answer: Answer, chance: int = 0) -> None:
        """End the attempt in flight; what it writes fits into the room that is reserved for it."""
        engine = self.engine
        task = self.task(key)
        queue = self.policy.queue(key.partition("/")[0])
        records = outcome.attempt_ended(engine, queue, key, answer, self.now, self.journal.next_lsn, chance)
        size = sum(len(r.encode(record)) for record in records)
        assert size <= outcome.outcome_bytes_max(engine, task, task.stop_reply)
        self.submit(records)

    def attempt(self, key: str, status: int | None = 200, chance: int = 0, **answer: Any) -> None:
        """A whole attempt of a ready task, at one moment."""
        self.start(key)
        self.outcome(key, Answer(self.now.wall_ms, 0, 0, status, **answer), chance)

    def lapse(self, key: str) -> None:
        """The attempt in flight was not made after all; an end that this brings fits into its room."""
        task = self.task(key)
        what = outcome.lapsed(self.engine, key, self.now, self.journal.next_lsn)
        if isinstance(what, r.Lapsed):
            self.submit([what])
            return
        size = sum(len(r.encode(record)) for record in what)
        assert size <= outcome.outcome_bytes_max(self.engine, task, task.stop_reply)
        self.submit(what)

    def give_up(self, key: str) -> None:
        reason = "destination_down"
        self.submit(outcome.give_up(self.engine, key, self.now, self.journal.next_lsn, reason))

    def forget(self) -> int:
        """Retention by count, oldest end first; by age it is ``tick``'s."""
        engine, limits = self.engine, self.limits
        keys: list[str] = []
        for kept, most in (
            (engine.kept_done, limits.keep_done_max),
            (engine.kept_dead, limits.keep_dead_max),
        ):
            keys += list(kept)[: max(0, len(kept) - most)]
        if keys:
            self.submit([r.Forgotten(keys, self.now.wall_ms)])
        return len(keys)

    # -- compaction -----------------------------------------------------------------------------

    def carry(self, upto_lsn: int, at_most: int) -> list[str]:
        """Copies of ``at_most`` tasks that stand at ``upto_lsn`` or before; their keys."""
        rows = self.engine.table.items()
        keys = [key for key, row in rows if newest_full_lsn(row) <= upto_lsn][:at_most]
        if keys:
            lsn, now_ms = self.journal.next_lsn, self.now.wall_ms
            copies = [
                copy_of(self.engine, key, self.task(key), now_ms, lsn + i) for i, key in enumerate(keys)
            ]
            self.carried_ends += [lsn + i for i, copy in enumerate(copies) if copy.task.ended_ms is not None]
            self.submit(copies)
        return keys

    def trim(self, upto_lsn: int) -> None:
        """What ends the compaction of all frames up to ``upto_lsn``, once no task stands there."""
        assert all(newest_full_lsn(row) > upto_lsn for _, row in self.engine.table.items())
        while True:
            records = copies_beside_tasks(self.engine, upto_lsn, self.now.wall_ms, self.journal.next_lsn, 1)
            self.submit(records)
            if isinstance(records[-1], r.Counted):
                break
        self.journal.frames = [frame for frame in self.journal.frames if frame.first_lsn > upto_lsn]

    @property
    def ends_carried(self) -> bool:
        """Whether a copy of an ended task is among what a restart would read."""
        return any(lsn >= self.journal.frames[0].first_lsn for lsn in self.carried_ends)

    # -- crashes --------------------------------------------------------------------------------

    def replayed(self, now: Now | None = None) -> tuple[Engine, Recovered]:
        """A fresh engine from what is written, recovered when this life began or at ``now``."""
        now = self.recovered_at if now is None else now
        engine = self._fresh(now)
        return engine, recover(self.journal, engine, self.boot, now)  # type: ignore[arg-type]

    def crash(self, *, boot: bool = False, down_ms: int = 0, wall_ms: int = 0) -> None:
        """kill -9 and another start, ``down_ms`` later; with ``boot`` of the whole machine.

        ``wall_ms`` is how far the wall clock was set meanwhile.
        """
        down_ns = down_ms * NS_PER_MS
        elapsed_ns = self.now.elapsed_ns + down_ns
        if boot:
            self.boot = (int.from_bytes(self.boot, "big") + 1).to_bytes(16, "big")
            elapsed_ns = 20_000_000_007
        self.now = Now(elapsed_ns, self.now.wall_ns + down_ns + wall_ms * NS_PER_MS)
        self.recovered_at = self.now
        self.engine, found = self.replayed()
        if boot:
            self.submit([r.Forgotten([], self.now.wall_ms)])  # as ``note_boot`` does
        for key in sorted(found.stopping):
            task = self.engine.get(key)
            if task is not None and task.stop and task.state < State.DONE:
                self.submit(outcome.stopped(self.engine, key, task, self.now, self.journal.next_lsn))

    # -- looking --------------------------------------------------------------------------------

    def task(self, key: str) -> Task:
        task = self.engine.get(key)
        assert task is not None, f"{key} is not known"
        return task

    def state(self, key: str) -> str:
        return State(self.task(key).state).word

    def view(self, key: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(msgspec.json.encode(queries.view(key, self.task(key))))
        return shown

    def written(self) -> list[r.Replayed]:
        """Every record that is in the journal."""
        return [record for frame in self.journal.frames for record in r.decode_all(frame.payload)]

    def watch(self, action: Callable[[], object]) -> list[r.Replayed]:
        """The records that ``action`` writes."""
        before = len(self.written())
        action()
        return self.written()[before:]
