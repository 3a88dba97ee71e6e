"""The receivers behind the dispatcher: they answer, fail, hang and lie, each host in its own manner.

The seam is ``delivery.callback.Exchange``, behind which production has its HTTP transport: requests come
here with the header lines that ``Sender`` made, and leave as a ``Reply`` or an ``AttemptError``. The
verdict written down is the receiver's own reading of the contract, not the daemon's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import trio

from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import AttemptError, PartialReply, Reply
from wheeltimer.delivery.shortage import REASONS, Shortage

from .history import MS, Call, History

GOOD: Final = "good"
MANNERS: Final = ("good", "flaky", "down", "hangs", "lies", "busy", "refuses")


@dataclass(frozen=True)
class Kind:
    """What tasks of one kind ask for beside URL and due, and what that means. Ids begin with its letter."""

    fields: dict[str, Any]
    attempts: int
    waits_ms: tuple[int, ...]
    text: bool = False
    polls: int = 0
    every_ms: int = 0
    timeout_ms: int = 400


KINDS: Final = {
    "d": Kind({"retry": {"kind": "fixed", "every": 200, "attempts": 4, "jitter": 0}}, 4, (200,) * 3),
    "t": Kind(
        {"retry": {"kind": "list", "delays": [100, 300], "jitter": 0}, "success": {"text": "success"}},
        3, (100, 300), text=True,
    ),
    "p": Kind(
        {
            "retry": {"kind": "fixed", "every": 100, "attempts": 3, "jitter": 0},
            "success": {"text": "success"}, "poll": {"every": 150, "max": 4},
        },
        3, (100, 100), text=True, polls=4, every_ms=150,
    ),
    "n": Kind({"retry": "none"}, 1, ()),
    "h": Kind(
        {
            "retry": {"kind": "list", "delays": [100], "jitter": 0},
            "on_done": "http://hooks/done", "on_dead": "http://hooks/dead", "meta": {"of": "h"},
        },
        2, (100,),
    ),
    "x": Kind(
        {"retry": {"kind": "fixed", "every": 250, "attempts": 20, "jitter": 0}, "expires_in": 1500},
        20, (250,) * 19,
    ),
}  # fmt: skip
HOOK: Final = Kind({}, 16, (), timeout_ms=15_000)


def kind_of(key: str) -> Kind:
    """By the id's first letter; a hook's id has a slash."""
    id = key.partition("/")[2]
    return HOOK if "/" in id else KINDS[id[0]]


class Receivers:
    """``manners``: of each host; ``calm``: all are good, and quick. ``short``: the part of attempts for which
    the daemon's machine has not what they need, some a while after they began; no receiver sees them."""

    def __init__(self, history: History, seed: int, manners: dict[str, str]) -> None:
        self.history = history
        self.chance = random.Random(seed)
        self.manners = manners
        self.calm = False
        self.short = 0.0
        self.lapses = 0
        self._shortages = random.Random(seed)
        self.in_flight = self.most_in_flight = 0

    async def request(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes,
        connect_timeout_ms: int, partial: PartialReply | None = None,
    ) -> Reply:  # fmt: skip
        if not self.calm and self._shortages.random() < self.short:
            await trio.sleep(self._shortages.choice((0.0, 0.0, 0.05, 0.2)))
            self.lapses += 1
            raise Shortage(self._shortages.choice(REASONS), "as planned")
        call = _call_of(destination.host, fields, body, self.history.life)
        self.history.began(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(call)
        except AttemptError:
            self.history.ended(call, "failed")
            raise
        except trio.Cancelled:  # its own time was over, or the daemon's: then it may be made again
            late_ns = self.history.ns() - call.began_ns
            self.history.ended(call, "failed" if late_ns >= kind_of(call.key).timeout_ms * MS else "cut")
            raise
        finally:
            self.in_flight -= 1

    async def _answer(self, call: Call) -> Reply:
        manner = GOOD if self.calm else self.manners.get(call.host, GOOD)
        chance = self.chance
        await trio.sleep(0.001 if self.calm else chance.choice((0.0, 0.002, 0.02, 0.1)) * chance.random())
        if manner in ("flaky", "lies") and chance.random() < 0.5:
            manner = GOOD
        if manner == "down":
            call.reachable = False
            raise AttemptError("connect", "nobody listens")
        if manner == "hangs" and chance.random() < 0.7:
            call.reachable = False
            await trio.sleep_forever()
        if manner == "refuses" and chance.random() < 0.3:
            raise AttemptError("reset", "closed before the reply was whole")
        reply = self._reply(manner)
        self.history.ended(call, _verdict(kind_of(call.key), reply))
        return reply

    def _reply(self, manner: str) -> Reply:
        chance = self.chance
        if manner == "flaky":
            return Reply(chance.choice((500, 404, 302)), (), b"no")
        if manner == "busy":
            return Reply(503, ((b"Retry-After", b"1"),), b"later") if chance.random() < 0.6 else _GOOD
        if manner == "refuses":
            return chance.choice(
                (Reply(410, (), b""), Reply(500, ((b"Wheeltimer-Retry", b"stop"),), b""), _GOOD)
            )
        if manner == "lies":
            return chance.choice(
                (Reply(200, (), b"fail"), Reply(204, (), b""), Reply(200, (), b"succ", True))
            )
        return _GOOD

    def begin(self, *request: object) -> None:
        """As ``Transport`` has it; no connection is ever kept here."""

    def flush(self) -> None:
        """As ``Transport`` has it: nothing was begun."""

    def keeps(self, destination: Destination) -> bool:
        """As ``Transport`` has it; at random, for what it says may be outdated."""
        return self._shortages.random() < self.short

    def give_up_idle(self, count: int) -> int:
        """As ``Transport`` has it: nothing is kept."""
        return 0

    def close_idle(self) -> None:
        """As ``Transport`` has it."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


_GOOD: Final = Reply(200, (), b"success")


def _call_of(host: str, fields: bytes, body: bytes, life: int) -> Call:
    said = dict(line.split(b": ", 1) for line in fields.split(b"\r\n") if line)
    queue, id = said[b"wheeltimer-queue"].decode(), unquote_to_bytes(said[b"wheeltimer-id"]).decode()
    return Call(
        f"{queue}/{id}", int(said[b"wheeltimer-version"]), int(said[b"wheeltimer-attempt"]), body,
        said[b"webhook-id"], host, life,
    )  # fmt: skip


def _verdict(kind: Kind, reply: Reply) -> str:
    """Success beats a final answer, that beats "not yet" and retry."""
    fine = 200 <= reply.status < 300
    if fine and (not kind.text or (reply.body == b"success" and not reply.truncated)):
        return "ok"
    if reply.status == 410 or any(name.lower() == b"wheeltimer-retry" for name, _ in reply.headers):
        return "final"
    return "not_yet" if kind.polls and fine else "failed"
