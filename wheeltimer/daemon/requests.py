"""Commands to replies: decide, submit, answer; what is long is done in slices.

No bytes of the stream and no listener are here (``server.py``), and no rule of the contract: those are
in ``core``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import trio

from wheeltimer import __version__
from wheeltimer.core import access, deciding, queries, stopping, wire
from wheeltimer.core import commands as c
from wheeltimer.core import records as r
from wheeltimer.core.access import STRANGER, Grant, Visitor
from wheeltimer.core.forecast import Forecast
from wheeltimer.core.intake import Runs, take_run
from wheeltimer.core.replies import CancelReply, FinishReply, HelloReply, PingReply, RedriveReply
from wheeltimer.core.task import Now, State, Task, key_of
from wheeltimer.daemon.ledger import Ledger
from wheeltimer.daemon.rights import Rights, stats
from wheeltimer.daemon.turn import SLICE_LINES_MAX, SLICE_NS, Turn
from wheeltimer.errors import BadValue, Refused, TargetBlocked

PROTOCOL: Final = 1
REST_FACTOR: Final = 4  # those who send lines that are no requests take a fifth of the loop, all together
REPLY_BYTES_MAX: Final = 262_144  # of what may be long, in one slice: a client that reads nothing has it all
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_LONG_REPLIES: Final = (c.Get, c.Stats)
_REFUSED_IN_DRAIN: Final = (c.Schedule, c.Reschedule, c.Redrive)


class Requests:
    """Answers lines. ``about`` adds the shells' part of ``stats``; ``changed`` is told after each slice."""

    def __init__(
        self, ledger: Ledger, turn: Turn, *, durability: str,
        about: Callable[[], dict[str, object]], changed: Callable[[], None],
        resumed: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._engine = ledger.engine
        self._turn = turn
        self._durability = durability
        self._about = about
        self._changed = changed
        self._resumed = resumed
        self._runs = Runs()
        self._gate = trio.Lock()
        self._malformed = 0  # lines that were no requests
        self._resting = trio.Lock()
        self.rights = Rights(ledger)
        self.draining = False
        self.held_bytes = 0  # replies that wait for a commit; counted by whoever holds them

    async def answer(
        self, lines: list[bytes], at: int, subscribe: Callable[[c.Subscribe], None] | None = None,
        visitor: Visitor | None = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Answer lines from number ``at`` on, for one slice: (number of the first left over, replies).

        ``visitor``: whose token counts; None: nobody is asked for one. A ``subscribe`` is handed over and
        ends the slice: its reply, and all that follows, is not ours.
        """
        began_ns = await self._let_in()
        replies: list[object] = []
        malformed = self._malformed
        at, long = self._slice(lines, at, replies, began_ns + SLICE_NS, visitor)
        self._turn.spent(began_ns)
        self._changed()
        if self._malformed > malformed:
            await self._rest(time.perf_counter_ns() - began_ns)
        if long is not None and not replies:
            reply = await self._long(long, subscribe, None if visitor is None else visitor.grant)
            return at + 1, b"" if reply is None else _encode_lines([reply])
        return at, _encode_lines(replies)

    async def _let_in(self) -> int:
        """Wait for a turn, and as long as too much waits for the disk; as ``Turn.take``.

        Timers, attempts and their outcomes do not pass here: a disk that hangs is between clients and
        their replies only. Raises StorageFailed when the disk does not come back.
        """
        began_ns = await self._turn.take()
        while self._crowded():
            async with self._gate:  # one waits for the disk, the others for that one: each is let in alone
                journal = self._ledger.journal
                while self._crowded():
                    await journal.wait_durable(journal.durable_lsn + 1)
            began_ns = await self._turn.take()
        return began_ns

    def _crowded(self) -> bool:
        journal = self._ledger.journal
        return journal.unsynced_bytes + self.held_bytes >= journal.unsynced_bytes_max

    async def _rest(self, worked_ns: int) -> None:
        """One after the other: however many connections flood it with rubbish, the loop is others' too."""
        async with self._resting:
            await trio.sleep(REST_FACTOR * worked_ns / 1e9)

    def _slice(
        self, lines: list[bytes], at: int, replies: list[object], until_ns: int, visitor: Visitor | None
    ) -> tuple[int, c.AnyCommand | None]:
        """Answer lines until the slice is over: (the first left over, the long request that it is)."""
        now, ledger, runs = self._ledger.now(), self._ledger, self._runs
        if visitor is not None and visitor.grant is STRANGER:
            runs = Runs()  # what it is refused does not shorten the runs of others
        count, left_bytes = len(lines), REPLY_BYTES_MAX
        while at < count and left_bytes > 0:
            line = lines[at]
            if runs.length > 1 and at + 1 < count and b'"schedule"' in line and not self.draining:
                some = lines[at : at + runs.length]
                run = take_run(self._engine, ledger.policy, some, now, ledger.journal.next_lsn)
                if (
                    run is None
                    or not (visitor is None or self.rights.may(visitor.grant, run, now))
                    or not ledger.submit_run(run)
                ):
                    runs.refused()
                    continue
                runs.taken()
                replies += run.replies
                at += len(some)
                if time.perf_counter_ns() > until_ns:
                    break
                continue
            runs.alone()
            if line and line != b"\r":
                try:
                    command = wire.decode(line)
                except BadValue as error:
                    self._malformed += 1
                    replies.append(wire.refusal(error, wire.seq_of(line)))
                else:
                    if _is_long(command):
                        return at, command  # what was asked before is not held up by what takes long
                    reply = self._short(command, now, visitor)
                    if isinstance(command, _LONG_REPLIES):
                        reply = msgspec.Raw(data := wire.encode(reply))
                        left_bytes -= len(data)
                    replies.append(reply)
            at += 1
            if time.perf_counter_ns() > until_ns:
                break
        return at, None

    def _short(self, command: c.AnyCommand, now: Now, visitor: Visitor | None) -> object:
        grant = None if visitor is None else visitor.grant
        try:
            if grant is not None:
                access.check(grant, command)
            if visitor is not None and type(command) is c.Hello:
                visitor.show(command.token, self.rights.access)
            self._refuse_in_drain(command)
            return self._decide(command, now, grant)
        except (Refused, BadValue, TargetBlocked) as error:
            return wire.refusal(error, command.seq)

    def _refuse_in_drain(self, command: c.AnyCommand) -> None:
        if self.draining and isinstance(command, _REFUSED_IN_DRAIN):
            raise Refused("draining", "the daemon is stopping; ask its successor")

    def _decide(self, command: c.AnyCommand, now: Now, grant: Grant | None) -> object:
        engine, ledger = self._engine, self._ledger
        match command:
            case c.Ping():
                return PingReply(True, now.wall_ms, command.reply_seq)
            case c.Hello():
                return self._hello(command, now)
            case c.Get():
                return queries.get(engine, command)
            case c.Stats():
                return stats(engine, command, grant, self._about())
            case _:
                self.rights.check_room(grant, command, now)
                records, reply = self._change(command, now)
        if records:
            ledger.submit_or_refuse(records)
            if isinstance(command, c.Resume):
                self._resumed(command.queue)
        return reply

    def _change(self, command: c.AnyCommand, now: Now) -> tuple[r.Records, object]:
        engine, policy, lsn = self._engine, self._ledger.policy, self._ledger.journal.next_lsn
        match command:
            case c.Schedule():
                chance = 0 if command.id is not None else self._ledger.chance()
                return deciding.schedule(engine, policy, command, now, lsn, chance)
            case c.Cancel():
                return stopping.cancel(engine, command, now, lsn)
            case c.Reschedule():
                return deciding.reschedule(engine, policy, command, now, lsn)
            case c.Finish():
                return stopping.finish(engine, command, now, lsn)
            case c.Redrive():
                return stopping.redrive(engine, command, now, lsn)
            case c.Pause() | c.Resume():
                return stopping.pause(engine, command, now, lsn)
            case _:
                raise AssertionError(f"{type(command).__name__} has no answer")

    def _hello(self, command: c.Hello, now: Now) -> HelloReply:
        limits = {name: getattr(self._engine.limits, name) for name in _SHOWN_LIMITS}
        return HelloReply(
            True, "wheeltimer", __version__, PROTOCOL, self._durability, now.wall_ms, limits,
            command.reply_seq,
        )  # fmt: skip

    # -- what touches many tasks ----------------------------------------------------------------

    async def _long(
        self, command: c.AnyCommand, subscribe: Callable[[c.Subscribe], None] | None, grant: Grant | None
    ) -> object:
        try:
            if grant is not None:
                access.check(grant, command)
            sees = None if grant is None else grant.filter
            if isinstance(command, c.Subscribe):
                assert subscribe is not None, "nobody takes subscribers here"
                return subscribe(command)
            if isinstance(command, c.List):
                return await self._fed(queries.Listing(command, sees))
            if isinstance(command, c.Forecast):
                limits = self._engine.limits
                return await self._fed(Forecast(command, self._ledger.now(), limits.delay_max_ms, sees))
            assert isinstance(command, (c.Cancel, c.Finish, c.Redrive))
            self._refuse_in_drain(command)
            return await self._many(command, grant)
        except (Refused, BadValue, TargetBlocked) as error:
            return wire.refusal(error, command.seq)

    async def _fed(self, scan: queries.Listing | Forecast) -> object:
        """The reply of what looks at all rows, a slice at a time."""
        for rows in scan.rows(self._engine, SLICE_LINES_MAX):
            began_ns = await self._turn.take()
            scan.feed(rows)
            self._turn.spent(began_ns)
        return scan.reply()

    async def _many(self, command: c.Cancel | c.Finish | c.Redrive, grant: Grant | None) -> object:
        """A group or queue at once: every member is decided by itself, at its own time."""
        keys = self._members(command)
        if grant is not None and grant.filter is not None:
            keys = (key for key in keys if grant.sees(key[: key.index("/")]))
        reply = stopping.finish_reply(self._engine, command) if isinstance(command, c.Finish) else None
        changed = running = 0
        while True:
            began_ns = await self._let_in()
            now = self._ledger.now()
            until_ns = began_ns + SLICE_NS
            for key in keys:
                task = self._engine.get(key)
                # A member may have left the group since the keys were taken.
                if task is not None and (command.group is None or task.group == command.group):
                    records = self._one(command, key, task, now, reply)
                    if records and not self.rights.has_room(grant, command, now):
                        records = []
                    if records and not self._ledger.submit(records):
                        if changed or running:
                            return self._counted(command, changed, running)  # the rest: ask again
                        raise self._ledger.no_room()
                    running += task.state == State.RUNNING and not isinstance(command, c.Redrive)
                    changed += bool(records) and task.state != State.RUNNING
                if time.perf_counter_ns() > until_ns:
                    break
            else:
                self._turn.spent(began_ns)
                break
            self._turn.spent(began_ns)
            self._changed()
        self._changed()
        return self._counted(command, changed, running)

    def _counted(self, command: c.Cancel | c.Finish | c.Redrive, changed: int, running: int) -> object:
        if isinstance(command, c.Cancel):
            return CancelReply(True, changed, running, command.reply_seq)
        if isinstance(command, c.Finish):
            return FinishReply(True, changed, running, command.reply_seq)
        return RedriveReply(True, changed, command.reply_seq)

    def _members(self, command: c.Cancel | c.Finish | c.Redrive) -> Iterator[str]:
        """The keys that a request without ``id`` names. A filter is required: none never means all."""
        queue = None if command.queue is None else c.check_name(command.queue, "queue")
        if command.group is not None:
            c.check_name(command.group, "group")
            members = list(self._engine.groups.get(command.group, ()))
        elif isinstance(command, c.Redrive) and queue is not None:
            members = list(self._engine.kept_dead)
        else:
            wanted = "an id, a group or a queue" if isinstance(command, c.Redrive) else "an id or a group"
            raise BadValue(f"id: {wanted} expected; nothing is done to all tasks at once", "id")
        if isinstance(command, c.Cancel) and command.if_version is not None:
            raise BadValue("if_version: goes with id only", "if_version")
        prefix = "" if queue is None else key_of(queue, "")
        return (key for key in members if key.startswith(prefix))

    def _one(
        self, command: c.Cancel | c.Finish | c.Redrive, key: str, task: Task, now: Now, reply: bytes | None
    ) -> r.Records:
        engine, lsn = self._engine, self._ledger.journal.next_lsn
        if isinstance(command, c.Redrive):
            if task.state not in (State.DEAD, State.EXPIRED):
                return []
            # What tasks_max leaves no room for stays as it is; the count in the reply tells.
            room = engine.live < engine.limits.tasks_max
            return stopping.redrive_one(engine, key, task, now, lsn) if room else []
        if task.state >= State.DONE:
            return []
        if isinstance(command, c.Finish):
            return stopping.finish_one(engine, key, task, now, lsn, reply)
        return stopping.cancel_one(engine, key, task, now, lsn)


def _is_long(command: c.AnyCommand) -> bool:
    """Whether a command may touch any number of tasks."""
    if isinstance(command, (c.List, c.Forecast, c.Subscribe)):
        return True
    return isinstance(command, (c.Cancel, c.Finish, c.Redrive)) and command.id is None


_SHOWN_LIMITS: Final = (
    "line_bytes_max", "body_bytes_max", "meta_bytes_max", "headers_max", "header_bytes_max", "id_bytes_max",
    "delay_max_ms", "tasks_max",
)  # fmt: skip
