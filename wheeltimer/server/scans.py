"""Requests that may touch any number of tasks: ``list``, ``forecast``, changes of a group or queue.

They run a slice at a time, always in the bulk lane of ``runtime/time_slices.py``, also for an interactive
connection. Requests that touch one task: ``service.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import msgspec
import trio

from wheeltimer.core import access, control, queries
from wheeltimer.core import records as r
from wheeltimer.core.access import Credentials, Grant
from wheeltimer.core.queries import Forecast
from wheeltimer.core.task import Now, Task, key_of
from wheeltimer.errors import BadValue, Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import CancelReply, FinishReply, RedriveReply
from wheeltimer.protocol.task_view import State
from wheeltimer.server.admission import Admission
from wheeltimer.server.authorization import Authorization
from wheeltimer.shard.durable import DurableEngine

SHORT_STATS_QUEUES: Final = 256  # ``stats`` of more queues is made in slices


class Scans:
    """Answers requests that may touch any number of tasks, one time slice after the other.

    ``changed`` is called after each slice that may have made records; ``stats`` makes the reply of that op.
    """

    def __init__(
        self, ledger: DurableEngine, admission: Admission, rights: Authorization, changed: Callable[[], None],
        stats: Callable[[c.Stats, Grant | None, Mapping[str, object] | None], object],
    ) -> None:  # fmt: skip
        self._admission = admission
        self._rights = rights
        self._changed = changed
        self._stats_reply = stats
        self._ledger = ledger
        self._engine = ledger.engine
        self._turn = admission.turn
        self._quiet = trio.Event()
        self.changing = 0  # requests under way that change tasks
        self.cut = False  # the daemon stops: requests that change tasks reply now, with what they have done

    async def quiet(self) -> None:
        """Return once no request that changes tasks is under way."""
        if self.changing:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def answer(
        self,
        command: c.AnyCommand,
        subscribe: Callable[[c.Subscribe], None] | None,
        visitor: Credentials | None,
    ) -> object:
        """The reply. Each slice runs with the rights that the token has then, not with those at the start."""
        try:
            if isinstance(command, c.Subscribe):
                _granted(command, visitor)
                assert subscribe is not None, "nobody takes subscribers here"
                return subscribe(command)
            if isinstance(command, (c.List, c.Forecast, c.Stats)):
                while True:
                    grant = _granted(command, visitor)
                    reply = await self._read(command, grant, partial(_keeps, visitor, grant))
                    if reply is not None:
                        return reply
            assert isinstance(command, (c.Cancel, c.Finish, c.Redrive))
            _granted(command, visitor)
            self._admission.refuse_in_drain(command)
            self.changing += 1
            try:
                return await self._group_change(command, visitor)
            finally:
                self.changing -= 1
                if not self.changing:
                    self._quiet.set()
        except (Refused, BadValue) as error:
            return wire.refusal(error, command.seq)

    async def _read(
        self, command: c.List | c.Forecast | c.Stats, grant: Grant | None, kept: Callable[[], bool]
    ) -> object:
        """The reply to a read; None once ``kept`` is False: the rights it began with have changed."""
        sees = None if grant is None else grant.filter
        if isinstance(command, c.Stats):
            return await self._stats(command, grant, kept)
        if isinstance(command, c.List):
            return await self._scan(queries.Listing(command, sees, _encoded), kept)
        limits = self._engine.limits
        return await self._scan(Forecast(command, self._ledger.now(), limits.delay_max_ms, sees), kept)

    async def _scan(self, scan: queries.Listing | Forecast, kept: Callable[[], bool]) -> object:
        """The reply of a read of all rows, a slice at a time; None as in `_read`."""
        for rows in scan.rows(self._engine, self._turn.lines_max):
            began_ns = await self._turn.take()
            if not kept():
                return None
            scan.feed(rows)
            self._turn.release(began_ns)
        while isinstance(scan, queries.Listing):
            began_ns = await self._turn.take()
            if not kept():
                return None
            more = scan.show(self._turn.lines_max)
            self._turn.release(began_ns)
            if not more:
                break
        return scan.reply()

    async def _stats(self, command: c.Stats, grant: Grant | None, kept: Callable[[], bool]) -> object:
        """Statistics of many queues, each as it is when its slice runs; None as in `_read`."""
        names, shown = list(self._engine.queues), dict[str, msgspec.Raw]()
        sees = None if grant is None else grant.filter
        while names:
            began_ns = await self._turn.take()
            if not kept():
                return None
            some = names[-self._turn.lines_max :]
            del names[-len(some) :]
            found = queries.queues(self._engine, sees, some)
            shown |= {name: _encoded(queue) for name, queue in found.items()}
            self._turn.release(began_ns)
        return self._stats_reply(command, grant, shown)

    async def _group_change(
        self, command: c.Cancel | c.Finish | c.Redrive, visitor: Credentials | None
    ) -> object:
        """Change all tasks of a group or queue: each member is decided by itself, at the time of its slice.

        Raises Refused between two slices if the token no longer allows it; what was done stays.
        """
        keys = self._members(command)
        reply = control.finish_reply(self._engine, command) if isinstance(command, c.Finish) else None
        changed = running = 0
        while True:
            began_ns = await self._admission.admit()
            grant = _granted(command, visitor)
            sees = None if grant is None else grant.filter
            now = self._ledger.now()
            until_ns = began_ns + self._turn.slice_ns
            for key in keys:
                task = self._engine.get(key) if sees is None or sees(key[: key.index("/")]) else None
                # A task may have left the group since the keys were collected.
                if task is not None and (command.group is None or task.group == command.group):
                    records = self._one(command, key, task, now, reply)
                    if records and not self._rights.within_quota(grant, command, now):
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
                self._turn.release(began_ns)
                break
            self._turn.release(began_ns)
            if self.cut:
                break  # the rest: ask the daemon's successor
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
            # Tasks beyond tasks_max stay as they are; the reply counts only those that were changed.
            room = engine.live < engine.limits.tasks_max
            return control.redrive_one(engine, key, task, now, lsn) if room else []
        if task.state >= State.DONE:
            return []
        if isinstance(command, c.Finish):
            return control.finish_one(engine, key, task, now, lsn, reply)
        return control.cancel_one(engine, key, task, now, lsn)


def _granted(command: c.AnyCommand, visitor: Credentials | None) -> Grant | None:
    """What the token allows now; None: no token is required. Raises Refused."""
    grant = None if visitor is None else visitor.grant
    if grant is not None:
        access.check(grant, command)
    return grant


def _keeps(visitor: Credentials | None, grant: Grant | None) -> bool:
    return visitor is None or visitor.keeps(grant)


def _encoded(shown: dict[str, object]) -> msgspec.Raw:
    return msgspec.Raw(wire.encode(shown))


def is_scan(command: c.AnyCommand, queues: int) -> bool:
    """Whether a command may touch any number of tasks, or is ``stats`` of more queues than fit a slice."""
    if type(command) is c.Schedule:  # most commands
        return False
    if isinstance(command, c.Stats):
        return queues > SHORT_STATS_QUEUES
    if isinstance(command, (c.List, c.Forecast, c.Subscribe)):
        return True
    return isinstance(command, (c.Cancel, c.Finish, c.Redrive)) and command.id is None
