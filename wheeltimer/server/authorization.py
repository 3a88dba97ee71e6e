"""What tokens allow while requests are answered: room under ``tasks_max``, and what ``stats`` may show."""

from __future__ import annotations

from collections.abc import Mapping

from wheeltimer.core import queries
from wheeltimer.core.access import ALLOWED, Access, Grant, Quota
from wheeltimer.core.engine import Engine
from wheeltimer.core.schedule import DEFAULT_QUEUE
from wheeltimer.core.schedule_batch import Batch
from wheeltimer.core.task import Now, key_of
from wheeltimer.errors import Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.task_view import State
from wheeltimer.shard.durable import DurableEngine

_TOLD_TO_ALL = ("lateness_ms", "lateness_us", "clock_steps", "uptime_ms")  # about the daemon, not its queues


class Authorization:
    """The tokens of one daemon, and the use that each makes of its ``tasks_max``."""

    def __init__(self, ledger: DurableEngine) -> None:
        self.access = Access()
        self._ledger = ledger
        self._engine = ledger.engine
        self._quotas: dict[bytes, Quota] = {}  # by the token's hash

    def reload(self, access: Access) -> None:
        """Replace the tokens and their rights."""
        self.access = access
        self._quotas = {grant.sha256: Quota(grant) for grant in access.grants}

    def allows_batch(self, grant: Grant | None, run: Batch, now: Now) -> bool:
        """Whether a token allows the whole batch. If not, the caller decides each of its requests alone."""
        if grant is None:
            return True
        if not grant.scopes & ALLOWED[c.Schedule] or not all(map(grant.allows, run.queues)):
            return False
        try:
            self._check(grant, len(run.keys), now)
        except Refused:
            return False
        return True

    def check_quota(self, grant: Grant | None, command: c.AnyCommand, now: Now) -> None:
        """Raise Refused if the request would make more tasks live than the token's ``tasks_max``."""
        if grant is None or grant.tasks_max is None or not isinstance(command, (c.Schedule, c.Redrive)):
            return
        if isinstance(command, c.Schedule) and command.id is not None:
            known = self._engine.get(key_of(command.queue or DEFAULT_QUEUE, command.id))
            # A duplicate creates no task, and replacing a live task does not add one.
            if known is not None and (command.on_conflict != "replace" or known.state < State.DONE):
                return
        self._check(grant, 1, now)

    def within_quota(self, grant: Grant | None, command: c.AnyCommand, now: Now) -> bool:
        """Like `check_quota`, but returns False instead of raising."""
        try:
            self.check_quota(grant, command, now)
        except Refused:
            return False
        return True

    def _check(self, grant: Grant, count: int, now: Now) -> None:
        quota = self._quotas.get(grant.sha256)
        if quota is not None:  # else a reload removed the token during a long request
            quota.check(self._engine, count, self._ledger.journal.next_lsn, now.wall_ms)


def stats(
    engine: Engine, command: c.Stats, grant: Grant | None, about: dict[str, object],
    queues: Mapping[str, object] | None = None,
) -> dict[str, object]:  # fmt: skip
    """The reply; ``about`` is the part that does not come from the engine.

    A token that is limited to some queues gets no number that counts other queues. ``queues``: that part of
    the reply, if the caller has made it already.
    """
    sees = None if grant is None else grant.filter
    if queues is None:
        queues = queries.queues(engine, sees)
    reply: dict[str, object] = {"ok": True}
    if sees is None:
        reply |= {"tasks": queries.counts(engine), "queues": queues}
        reply |= {"attempts": dict(engine.outcomes), **about}
    else:
        reply |= {"tasks": queries.counts_of(engine, sees), "queues": queues}
        reply |= {name: about[name] for name in _TOLD_TO_ALL if name in about}
    return reply if command.seq is None else reply | {"seq": command.seq}
