"""Tokens, their scopes, and the queues that they open.

The daemon stores the SHA-256 of each token and never the token. A slow hash protects passwords that people
choose; a token is 256 random bits, which cannot be found by trying, however fast a try is. The queue is
checked before any task is looked up, so the answer about a foreign queue is the same whether the task exists
or not.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from wheeltimer.core.engine import Engine
from wheeltimer.core.schedule import DEFAULT_QUEUE, RETRY_FULL_MS
from wheeltimer.errors import Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.task_view import State

SCOPES: Final = ("produce", "read", "admin")
_ANY: Final = frozenset(SCOPES)
_ADMIN: Final = frozenset({"admin"})
_PRODUCE: Final = frozenset({"produce", "admin"})
_READ: Final = frozenset({"read", "admin"})
# No token allows a command that has no line here; a test checks that.
ALLOWED: Final[dict[type, frozenset[str]]] = {
    c.Hello: _ANY, c.Ping: _ANY,
    c.Schedule: _PRODUCE, c.Cancel: _PRODUCE, c.Reschedule: _PRODUCE, c.Finish: _PRODUCE,
    c.Get: _PRODUCE | _READ,
    c.List: _READ, c.Subscribe: _READ, c.Forecast: _READ, c.Stats: _READ,
    c.Redrive: _ADMIN, c.Pause: _ADMIN, c.Resume: _ADMIN,
}  # fmt: skip
_ENDED: Final = int(State.DONE)  # states from here on are ends
EXACT_QUEUES: Final = 256  # up to this number all queues are counted for each request near ``tasks_max``
RECOUNT_MS: Final = 1_000  # if there are more queues, they are counted at most once in this time

Sees = Callable[[str], bool]


class Grant(Struct, frozen=True, kw_only=True, gc=False):
    """What one token allows. ``queues``: names, or the start of one and ``*``. Without a scope: nothing."""

    name: str = ""
    sha256: bytes = b""
    scopes: frozenset[str] = frozenset()
    queues: tuple[str, ...] = ()
    tasks_max: int | None = None

    def allows(self, queue: str) -> bool:
        """Whether ``queues`` has the name of this queue, or a pattern that matches it."""
        return any(
            queue.startswith(pattern[:-1]) if pattern[-1] == "*" else queue == pattern
            for pattern in self.queues
        )

    @property
    def filter(self) -> Sees | None:
        """The test of a queue's name that listings and events use; None if the token sees all queues."""
        return None if "*" in self.queues else self.allows

    def same_rights(self, other: Grant | None) -> bool:
        """Whether this grant allows exactly what ``other`` does (``tasks_max`` aside)."""
        return other is not None and (self.scopes, self.queues) == (other.scopes, other.queues)


UNAUTHENTICATED: Final = Grant()  # for a connection that has shown no token although one is needed
WRONG_TOKEN: Final = Grant(name="?")  # for a token that is not in the configuration, or no longer


def digest_of(token: str) -> bytes:
    """SHA-256 of a token, as the configuration has it."""
    return hashlib.sha256(token.encode()).digest()


class Access:
    """All tokens. If none is configured, none is needed: ``grant_of`` returns None for every connection."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self.grants = tuple(grants)

    def grant_of(self, digest: bytes | None) -> Grant | None:
        """What a token of this digest allows.

        ``UNAUTHENTICATED`` for no token, ``WRONG_TOKEN`` for one that is not configured.

        Compares with every stored hash in constant time, so that the time taken reveals nothing of a hash.
        """
        if not self.grants:
            return None
        if digest is None:
            return UNAUTHENTICATED
        found = WRONG_TOKEN
        for grant in self.grants:
            if hmac.compare_digest(grant.sha256, digest):
                found = grant
        return found


class Credentials:
    """One connection's token. ``grant``: None if no token is needed."""

    __slots__ = ("_digest", "grant")

    def __init__(self, access: Access) -> None:
        self._digest: bytes | None = None
        self.grant = access.grant_of(None)

    def show(self, token: str | None, access: Access) -> None:
        """Take the token of a ``hello``; it replaces an earlier one. Raises Refused."""
        if token is not None:
            self._digest = digest_of(token)
        self.again(access)
        if self.unknown:
            raise self.unauthorized()

    @property
    def unknown(self) -> bool:
        """Whether a token is needed and the connection has shown no valid one."""
        return self.grant is UNAUTHENTICATED or self.grant is WRONG_TOKEN

    def unauthorized(self) -> Refused:
        """The refusal of everything but ``hello``."""
        return unauthorized(self.grant or UNAUTHENTICATED)

    def keeps(self, grant: Grant | None) -> bool:
        """Whether the connection still has exactly the rights of ``grant``, which it had before a reload."""
        return self.grant is grant or (self.grant is not None and self.grant.same_rights(grant))

    def again(self, access: Access) -> None:
        """Call after the tokens were reloaded: look up again what this one allows."""
        self.grant = access.grant_of(self._digest)


def unauthorized(grant: Grant) -> Refused:
    """The refusal for ``UNAUTHENTICATED`` or ``WRONG_TOKEN``; the token itself is not in it."""
    if grant is WRONG_TOKEN:
        text = "the token that was shown is not known here, or no longer: send hello with one that is"
    else:
        text = "this daemon asks for a token: send hello with one that it knows first"
    return Refused("unauthorized", text)


def check(grant: Grant, command: c.AnyCommand) -> None:
    """Refuse what the token does not allow. Looks at no task. Raises Refused."""
    if type(command) is c.Hello:
        return
    if not grant.scopes:
        raise unauthorized(grant)
    if not grant.scopes & ALLOWED.get(type(command), frozenset()):
        op = type(command).__struct_config__.tag
        raise Refused("forbidden", f"the token {grant.name} has no scope that allows {op}")
    queue = _queue_of(command)
    if queue is not None and not grant.allows(queue):
        raise Refused("forbidden", f"queue: the token {grant.name} is not for this queue", field="queue")


def _queue_of(command: c.AnyCommand) -> str | None:
    """The queue that a command names or defaults to; None if it applies to all queues the token sees."""
    queue: str | None = getattr(command, "queue", None)
    if queue is None and (type(command) is c.Schedule or getattr(command, "id", None) is not None):
        return DEFAULT_QUEUE
    return queue


class Quota:
    """How many live tasks the queues of one token hold, without counting them for each request.

    A record makes at most one task live, so the last count plus the number of records since is an upper
    bound. Only if that exceeds ``tasks_max`` are the tasks counted again, with one look-up for each queue.
    """

    __slots__ = ("_at_ms", "_grant", "_live", "_lsn")

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._live = self._lsn = 0
        self._at_ms: int | None = None

    def check(self, engine: Engine, count: int, lsn: int, wall_ms: int) -> None:
        """Refuse ``count`` more tasks if they would exceed ``tasks_max``; ``lsn`` is the next record's."""
        most = self._grant.tasks_max
        if most is None:
            return
        if self._at_ms is not None and self._live + lsn - self._lsn + count <= most:
            return
        few = len(engine.queues) <= EXACT_QUEUES
        if self._at_ms is None or few or not 0 <= wall_ms - self._at_ms < RECOUNT_MS:
            sees = self._grant.allows
            self._live = sum(
                sum(queue.counts[:_ENDED]) for name, queue in engine.queues.items() if sees(name)
            )
            self._lsn, self._at_ms = lsn, wall_ms
            if self._live + count <= most:
                return
        raise Refused(
            "full",
            f"tasks_max ({most}) of the token {self._grant.name} is reached by the live tasks in its queues;"
            " ask again later or raise it",
            retry_after_ms=RETRY_FULL_MS,
        )
