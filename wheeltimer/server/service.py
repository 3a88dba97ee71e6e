"""From commands to replies: decide, submit, answer. Long requests go to ``scans.py``.

The bytes of a stream are in ``connection.py``, listeners in ``server.py``, the rules of the contract in
``core``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from wheeltimer import __version__
from wheeltimer.core import access, control, queries, schedule
from wheeltimer.core import records as r
from wheeltimer.core.access import Credentials, Grant
from wheeltimer.core.schedule_batch import BatchSize, decide_batch
from wheeltimer.core.task import Now
from wheeltimer.errors import BadValue, Refused
from wheeltimer.protocol import foreign, wire
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.replies import HelloReply, PingReply
from wheeltimer.server.admission import Admission
from wheeltimer.server.authorization import Authorization, stats
from wheeltimer.server.scans import Scans, is_scan
from wheeltimer.shard.durable import DurableEngine

PROTOCOL: Final = 1
REPLY_BYTES_MAX: Final = 262_144  # of _LONG_REPLIES in one slice, all of which a slow client leaves unread
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_LONG_REPLIES: Final = (c.Get, c.Stats)


class Service:
    """Answers lines. ``about`` gives the part of ``stats`` that does not come from the engine; ``changed`` is
    called after each slice, ``resumed`` with the name of a queue that was resumed."""

    def __init__(
        self, ledger: DurableEngine, admission: Admission, *, durability: str,
        about: Callable[[], dict[str, object]], changed: Callable[[], None],
        resumed: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._engine = ledger.engine
        self.admission = admission
        self._turn = admission.turn
        self._durability = durability
        self._about = about
        self.changed = changed
        self._resumed = resumed
        self._malformed = 0  # lines that could not be decoded
        self.rights = Authorization(ledger)
        self.bulk = Scans(ledger, admission, self.rights, changed, self.stats)

    async def answer(
        self, lines: list[bytes], at: int, subscribe: Callable[[c.Subscribe], None] | None = None,
        visitor: Credentials | None = None, began_ns: int = 0, light: bool = False,
        batch_size: BatchSize | None = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Answer lines from index ``at`` on, for one slice: (index of the first line left over, replies).

        ``visitor``: the credentials of the connection; None: no token is required. A ``subscribe`` goes to
        the callback and ends the slice: the subscription writes its reply and all that follows.
        ``began_ns``: a time slice that the caller has taken; 0: none. ``light``: see ``TimeSlices``.
        ``batch_size``: the client's own, kept by its connection; None: that of a new client.
        """
        began_ns = await self.admission.admit(began_ns, light=light)
        replies: list[object] = []
        malformed = self._malformed
        at, long = self._slice(
            lines, at, replies, began_ns + self._turn.slice_ns, visitor, batch_size or BatchSize()
        )
        self._turn.release(began_ns, light=light)
        self.changed()
        if light and (lsn := self._ledger.journal.next_lsn - 1) > self._ledger.journal.durable_lsn:
            self._turn.pause_bulk_until(lsn)
        if self._malformed > malformed:
            self.admission.debt_ns += time.perf_counter_ns() - began_ns
        if long is not None and not replies:
            reply = await self.bulk.answer(long, subscribe, visitor)
            return at + 1, b"" if reply is None else _encode_lines([reply])
        return at, _encode_lines(replies)

    def _slice(
        self, lines: list[bytes], at: int, replies: list[object], until_ns: int,
        visitor: Credentials | None, batch_size: BatchSize,
    ) -> tuple[int, c.AnyCommand | None]:  # fmt: skip
        """Answer lines until the slice is over: (index of the first one left over, its command if a scan)."""
        now, ledger, draining = self._ledger.now(), self._ledger, self.admission.draining
        count, left_bytes = len(lines), REPLY_BYTES_MAX
        while at < count and left_bytes > 0:
            line = lines[at]
            if batch_size.length > 1 and at + 1 < count and b'"schedule"' in line and not draining:
                some = lines[at : at + batch_size.length]
                batch = decide_batch(self._engine, ledger.policy, some, now, ledger.journal.next_lsn)
                if (
                    batch is None
                    or not (visitor is None or self.rights.allows_batch(visitor.grant, batch, now))
                    or not ledger.submit_run(batch)
                ):
                    batch_size.refused()
                    continue
                batch_size.taken()
                replies += batch.replies
                at += len(some)
                if time.perf_counter_ns() > until_ns:
                    break
                continue
            batch_size.alone()
            if line and line != b"\r":
                try:
                    command = wire.decode(line)
                except BadValue as error:
                    self._malformed += 1
                    if line.strip(foreign.BLANK):  # blank lines are skipped
                        replies.append(wire.refusal(error, wire.seq_of(line)))
                else:
                    if is_scan(command, len(self._engine.queues)):
                        return at, command  # the replies before it go out first
                    reply = self._short(command, now, visitor)
                    if isinstance(command, _LONG_REPLIES):
                        reply = msgspec.Raw(data := wire.encode(reply))
                        left_bytes -= len(data)
                    replies.append(reply)
            at += 1
            if time.perf_counter_ns() > until_ns:
                break
        return at, None

    def _short(self, command: c.AnyCommand, now: Now, visitor: Credentials | None) -> object:
        grant = None if visitor is None else visitor.grant
        try:
            if grant is not None:
                access.check(grant, command)
            if visitor is not None and type(command) is c.Hello:
                visitor.show(command.token, self.rights.access)
            self.admission.refuse_in_drain(command)
            return self._decide(command, now, grant)
        except (Refused, BadValue) as error:
            return wire.refusal(error, command.seq)

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
                return self.stats(command, grant)
            case _:
                self.rights.check_quota(grant, command, now)
                records, reply = self._change(command, now)
        if records:
            ledger.submit_or_refuse(records)
            if isinstance(command, c.Resume):
                self._resumed(command.queue)
        return reply

    def stats(
        self, command: c.Stats, grant: Grant | None, queues: Mapping[str, object] | None = None
    ) -> object:
        """The reply. ``queues``: that part of it, if the queues are too many for one slice."""
        return stats(self._engine, command, grant, self._about(), queues)

    def _change(self, command: c.AnyCommand, now: Now) -> tuple[r.Records, object]:
        engine, policy, lsn = self._engine, self._ledger.policy, self._ledger.journal.next_lsn
        match command:
            case c.Schedule():
                chance = 0 if command.id is not None else self._ledger.chance()
                return schedule.schedule(engine, policy, command, now, lsn, chance)
            case c.Cancel():
                return control.cancel(engine, command, now, lsn)
            case c.Reschedule():
                return schedule.reschedule(engine, policy, command, now, lsn)
            case c.Finish():
                return control.finish(engine, command, now, lsn)
            case c.Redrive():
                return control.redrive(engine, command, now, lsn)
            case c.Pause() | c.Resume():
                return control.pause(engine, command, now, lsn)
            case _:
                raise AssertionError(f"{type(command).__name__} has no answer")

    def _hello(self, command: c.Hello, now: Now) -> HelloReply:
        limits = {name: getattr(self._engine.limits, name) for name in _SHOWN_LIMITS}
        return HelloReply(
            True, "wheeltimer", __version__, PROTOCOL, self._durability, now.wall_ms, limits,
            command.reply_seq,
        )  # fmt: skip


_SHOWN_LIMITS: Final = (
    "line_bytes_max", "body_bytes_max", "meta_bytes_max", "headers_max", "header_bytes_max", "id_bytes_max",
    "delay_max_ms", "tasks_max",
)  # fmt: skip
