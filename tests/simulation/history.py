"""What the outside saw, in one order: requests sent, replies heard, callbacks begun and ended.

Every event has a *moment*, a number that orders all of them, and ``ns``, true time: it goes on through
suspends and restarts, and no clock of the daemon's world can be set to it. After ``dark`` (the power is
gone, the process is killed) nothing is seen any more, whatever the dying daemon still does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

NEVER: Final = 1 << 62
MS: Final = 1_000_000


@dataclass(slots=True, eq=False)
class Ask:
    """One request; ``keys``: the tasks that it may touch."""

    number: int
    request: dict[str, Any]
    keys: tuple[str, ...]
    life: int
    sent: int = NEVER
    sent_ns: int = 0
    heard: int = NEVER
    reply: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Call:
    """One callback as its receiver saw it. ``verdict``: ok, failed, final, not_yet, cut; "" in flight."""

    key: str
    version: int
    attempt: int
    body: bytes
    webhook: bytes
    host: str
    life: int
    began: int = NEVER
    began_ns: int = 0
    ended: int = NEVER
    ended_ns: int = 0
    verdict: str = ""
    reachable: bool = True


@dataclass(slots=True, eq=False)
class Seen:
    """What ``list`` showed of one task at the start of a life: the truth from there on. None: unknown."""

    key: str
    at: int
    task: dict[str, Any] | None


@dataclass(slots=True, eq=False)
class Born:
    """A life begins: attempts that were in flight are not any more."""

    at: int
    life: int
    ns: int


@dataclass(slots=True, eq=False)
class Stored:
    """A commit was synced: versions of keys, and outcomes of attempts (key, version, attempt)."""

    versions: list[tuple[str, int]]
    outcomes: list[tuple[str, int, int]]


class History:
    """``ns`` reads true time."""

    def __init__(self, ns: Callable[[], int]) -> None:
        self.ns = ns
        self.moment = 0
        self.life = 0
        self.dark = False
        self.asks: list[Ask] = []
        self.calls: list[Call] = []
        self.events: list[tuple[int, str, Any]] = []  # (moment, what, Ask | Call | Seen | Born | Stored)

    def _log(self, what: str, thing: Any) -> int:
        self.moment += 1
        self.events.append((self.moment, what, thing))
        return self.moment

    def born(self) -> None:
        """Another process runs."""
        self.life += 1
        self.dark = False
        born = Born(self.moment + 1, self.life, self.ns())
        self._log("born", born)

    def new_ask(self, request: dict[str, Any], keys: tuple[str, ...]) -> Ask:
        ask = Ask(len(self.asks), request, keys, self.life)
        self.asks.append(ask)
        return ask

    def sent(self, ask: Ask) -> None:
        ask.sent_ns = self.ns()
        ask.sent = self._log("sent", ask)

    def heard(self, ask: Ask, reply: dict[str, Any]) -> None:
        if not self.dark:
            ask.reply = reply
            ask.heard = self._log("heard", ask)

    def began(self, call: Call) -> None:
        if not self.dark:
            self.calls.append(call)
            call.began_ns = self.ns()
            call.began = self._log("began", call)

    def ended(self, call: Call, verdict: str) -> None:
        if not self.dark and call.began != NEVER:
            call.verdict, call.ended_ns = verdict, self.ns()
            call.ended = self._log("ended", call)

    def stored(self, versions: list[tuple[str, int]], outcomes: list[tuple[str, int, int]]) -> None:
        if not self.dark:
            self._log("stored", Stored(versions, outcomes))

    def fork(self, ns: Callable[[], int]) -> History:
        """Another future: the same requests so far, and nothing of what came of them."""
        other = History(ns)
        other.moment, other.life, other.asks = self.moment, self.life, list(self.asks)
        return other

    def seen(self, key: str, task: dict[str, Any] | None) -> None:
        self._log("seen", Seen(key, self.moment + 1, task))
