"""The clients: what they ask and when follows from a seed; each has keys, a queue and a group of its own.

So the requests that touch one task come over one connection, in an order that the checks know. Nothing is
decided here about what an answer should have been: that is ``checks.py``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

import trio

from .history import Ask, History
from .receivers import KINDS

OPS: Final = {
    "schedule": 40, "again": 4, "replace": 8, "reschedule": 12, "cancel": 9, "finish": 5, "redrive": 5,
    "pause": 2, "resume": 3, "cancel_group": 2, "finish_group": 1, "get": 2, "list": 2, "stats": 1,
    "forecast": 1,
}  # fmt: skip
CHANGES: Final = frozenset({"schedule", "reschedule", "cancel", "finish", "redrive", "pause", "resume"})


class Client:
    """``keys_most``: ids of its own; ``far_ms``: the longest delay; ``fill``: the share of long bodies."""

    def __init__(
        self, number: int, seed: int, history: History, wall_ms: Callable[[], int], hosts: list[str], *,
        keys_most: int = 12, far_ms: int = 2500, pause_s: float = 0.03, ops: dict[str, int] | None = None,
        fill: float = 0.2,
    ) -> None:  # fmt: skip
        self.queue, self.group = f"q{number}", f"g{number}"
        self.chance = random.Random(seed)
        self.history, self.wall_ms, self.hosts = history, wall_ms, hosts
        self.far_ms, self.pause_s = far_ms, pause_s
        self.letters = [self.chance.choice(list(KINDS)) for _ in range(keys_most)]
        self.ids = [f"{letter}{at}" for at, letter in enumerate(self.letters)]
        self.used: list[str] = []
        self.asked: dict[str, dict[str, Any]] = {}  # the last schedule of each id
        self.ops, self.fill = ops or OPS, fill

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.queue}/{id}" for id in self.ids)

    async def run(self, stream: trio.abc.HalfCloseableStream, requests_most: int = 1 << 30) -> None:
        """Ask and listen until the stream ends, the scope does, or it has asked enough."""
        chance, lines = self.chance, Lines(stream)
        try:
            while requests_most > 0:
                await trio.sleep(chance.expovariate(1 / self.pause_s))
                batch = [self._make() for _ in range(chance.choice((1, 1, 1, 1, 2, 4)))]
                requests_most -= len(batch)
                await lines.ask(self.history, batch)
        except (trio.BrokenResourceError, EOFError):
            pass

    def _make(self) -> Ask:
        chance = self.chance
        op = chance.choices(list(self.ops), list(self.ops.values()))[0]
        id = chance.choice(self.ids if op == "schedule" or not self.used else self.used)
        if op in ("schedule", "replace") and id not in self.used:
            self.used.append(id)
        keys: tuple[str, ...] = (f"{self.queue}/{id}",)
        here: dict[str, Any] = {"op": op, "id": id, "queue": self.queue}
        number = len(self.history.asks)
        if op in ("schedule", "replace") or (op == "again" and id not in self.asked):
            here = self._schedule(id, number) | ({"on_conflict": "replace"} if op == "replace" else {})
        elif op == "again":
            here = self.asked[id]
        elif op == "reschedule":
            here |= self._change(number)
        elif op in ("pause", "resume"):
            here, keys = {"op": op, "queue": self.queue}, self.keys
        elif op.endswith("_group"):
            here, keys = {"op": op.removesuffix("_group"), "group": self.group}, self.keys
        elif op in ("list", "forecast"):
            here, keys = {"op": op, "queue": self.queue}, ()
        elif op == "stats":
            here, keys = {"op": op}, ()
        if op == "get":
            keys = ()
        return self.history.new_ask(here | {"seq": number}, keys)

    def _schedule(self, id: str, number: int) -> dict[str, Any]:
        chance = self.chance
        asked = {
            "op": "schedule", "id": id, "queue": self.queue, "url": f"http://{chance.choice(self.hosts)}/",
            "body": {"n": number}, "timeout": 400, **KINDS[id[0]].fields,
        }  # fmt: skip
        if chance.random() < 0.3:
            asked["group"] = self.group
        if chance.random() < self.fill:
            asked["body"] |= {"fill": "x" * chance.randrange(900)}
        self.asked[id] = asked | self._due()
        return self.asked[id]

    def _due(self) -> dict[str, Any]:
        chance = self.chance
        after_ms = int(self.far_ms * chance.random() ** 2)
        if chance.random() < 0.25:
            return {"at": self.wall_ms() + after_ms}
        return {"delay": after_ms} if chance.random() < 0.9 else {}

    def _change(self, number: int) -> dict[str, Any]:
        chance = self.chance
        changed = self._due() if chance.random() < 0.8 else {}
        if chance.random() < 0.3:
            changed["body"] = {"n": number}
        if chance.random() < 0.3:
            changed["url"] = f"http://{chance.choice(self.hosts)}/"
        return changed


class Lines:
    """Requests and replies on one stream; raises EOFError when the daemon closes it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._rest = b""

    async def ask(self, history: History, asks: list[Ask]) -> None:
        """Pipelined: all are sent, then their replies are heard in order."""
        for ask in asks:
            history.sent(ask)
        await self._stream.send_all(b"".join(json.dumps(ask.request).encode() + b"\n" for ask in asks))
        for ask in asks:
            reply = await self.next()
            if not history.dark:
                assert reply.get("seq") == ask.number, f"reply {reply} to {ask.request}"
            history.heard(ask, reply)

    async def next(self) -> dict[str, Any]:
        """The next line that the daemon sends."""
        while b"\n" not in self._rest:
            data = await self._stream.receive_some(65_536)
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
