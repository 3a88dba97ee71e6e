"""The protocol as both clients speak it, without a socket: lines, whose answer a line is, what is sent again.

A connection answers in the order of the requests, so a queue of calls is all the state there is. When it is
lost, calls whose request does no harm twice stay in the queue, to go out again on the next connection; the
others end with :class:`OutcomeUnknown`. Sockets are in ``connection.py`` and ``stream.py``.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

import msgspec

from wheeltimer.core.identity import make_id
from wheeltimer.errors import BadValue, Refused, ServerUnreachable

Reply = dict[str, Any]
T = TypeVar("T")

READS: Final = frozenset(("hello", "ping", "get", "list", "forecast", "stats"))
BACKOFF_FIRST_S: Final = 0.05  # before the second try to connect; doubled each time
BACKOFF_MAX_S: Final = 1.0
DEPTH: Final = 500  # requests ahead of their replies: a round trip is paid once for so many
_SHOWN_BYTES: Final = 60  # of an answer that is no reply
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 -- one name in every version
_MS: Final = timedelta(milliseconds=1)
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class OutcomeUnknown(ServerUnreachable):
    """The connection was lost after the request had gone out and before its answer came.

    The daemon may have carried it out. A ``schedule`` with an ``id`` can be sent again: it answers
    ``duplicate`` if the first one arrived.
    """


class NoReply(Exception):
    """What came is no reply of a daemon."""


class Call:
    """One request on its way. ``line`` is its reply once ``done``, or ``error`` says why there is none."""

    __slots__ = ("again", "answered", "done", "error", "line", "op", "reply", "request", "sent", "told")

    def __init__(self, op: str, request: bytes, again: bool, told: Callable[[], None] | None) -> None:
        self.op = op
        self.request = request
        self.again = again  # whether sending it twice does no harm
        self.sent = False  # on the connection that there is, or was
        self.done = False
        self.line = b""
        self.reply: Reply = {}
        self.error: Exception | None = None
        self.told = told  # called once it is done
        self.answered: Any = None  # what its waiter waits for

    def end(self, error: Exception | None = None) -> None:
        self.done, self.error = True, error
        if self.told is not None:
            self.told()

    def raw(self) -> tuple[Reply, bytes]:
        """The reply and its line; raises the error that stands for it."""
        if self.error is not None:
            raise self.error
        return self.reply, self.line

    def check(self) -> Reply:
        """The reply; a refusal is raised."""
        reply, _ = self.raw()
        if not reply["ok"]:
            raise refused(reply)
        return reply

    def result(self, kind: type[T]) -> T:
        """The reply as a struct; a refusal is raised."""
        self.check()
        return msgspec.json.decode(self.line, type=kind)


class Pipeline:
    """Calls without an answer, in the order in which they went out."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.calls: deque[Call] = deque()
        self._greeted = False  # whether it has shown that it is a daemon

    def add(self, op: str, fields: Reply, told: Callable[[], None] | None = None) -> Call:
        """A new call, last in the queue. Raises BadValue for a value that the protocol has no form for."""
        request = {name: plain(name, value) for name, value in fields.items() if value is not None}
        again = op in READS or op == "cancel"
        if op == "schedule":
            again = "id" in request and request.get("on_conflict") != "replace"
        try:
            line = _encode({"op": op, **request}) + b"\n"
        except (TypeError, UnicodeEncodeError) as error:  # the second: half of a surrogate pair
            raise BadValue(f"{op}: {error}") from error
        call = Call(op, line, again, told)
        self.calls.append(call)
        return call

    def take(self, line: bytes) -> Call | None:
        """The call that a line answers; None where the daemon said that its storage failed, so it is open.

        Raises NoReply.
        """
        try:
            reply = _decode(line)
            if not isinstance(reply.get("ok"), bool):
                raise NoReply("there is no ok in it")
        except msgspec.DecodeError as error:
            raise NoReply(str(error)) from error
        self._greeted = True
        if not self.calls:
            raise NoReply("nothing was asked")
        if reply.get("error") == "storage" and self.calls[0].again:
            return None
        call = self.calls.popleft()
        call.reply, call.line = reply, line
        call.end()
        return call

    def no_daemon(self, line: bytes) -> ServerUnreachable | None:
        """What to raise for an answer that is no reply where it was the first one, else None."""
        if self._greeted:
            return None
        said = (
            f"it said {line[:_SHOWN_BYTES]!r}" if line else "it hung up (a listener for TLS is tls:HOST:PORT)"
        )
        return ServerUnreachable(
            f"what answers at {self.server} does not speak wheeltimer's protocol; {said}"
        )

    def lost(self, why: object) -> None:
        """The connection is lost: calls that went out and must not go out twice end."""
        for call in [call for call in self.calls if call.sent and not call.again]:
            self.calls.remove(call)
            call.end(self._unknown(call, why))

    def outgoing(self) -> bytes:
        """The lines of all calls, for a new connection."""
        for call in self.calls:
            call.sent = True
        return b"".join(call.request for call in self.calls)

    def give_up(self, why: object, error: Exception | None = None) -> None:
        """No connection is to be had: end all calls."""
        while self.calls:
            call = self.calls.popleft()
            call.end(error or self._unknown(call, why))

    def _unknown(self, call: Call, why: object) -> ServerUnreachable:
        problem = f"{call.op}: connection to {self.server} lost ({why})"
        if not self._greeted and not self.server.startswith(("tls:", "unix:")):
            problem += "; where it listens for TLS write tls:HOST:PORT"
        if call.op in READS:
            return ServerUnreachable(f"{problem}; it changes nothing, send it again")
        return OutcomeUnknown(
            f"{problem}; the daemon may or may not have carried it out:"
            " look with `get`, or send it again with the same id"
        )


def with_id(task: Mapping[str, Any]) -> Reply:
    """A copy of the fields of a ``schedule``, with an id made here where none is given."""
    return {**task, "id": new_id() if task.get("id") is None else task["id"]}


def new_id() -> str:
    """For a task whose caller gives none: only with an id can the request be sent again."""
    return make_id(time.time_ns() // 1_000_000, random.getrandbits(48), random.getrandbits(32))


def refused(reply: Reply) -> Refused:
    """A reply with ``ok`` false, as the exception."""
    extra = {key: value for key, value in reply.items() if key not in ("ok", "error", "message", "seq")}
    return Refused(str(reply.get("error", "internal")), str(reply.get("message", "")), **extra)


def plain(name: str, value: Any) -> Any:
    """``datetime`` and ``timedelta`` as integers of milliseconds, rounded up; also inside a rule."""
    if isinstance(value, timedelta):
        return -(-value // _MS)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise BadValue(f"{name}: a datetime with a time zone expected", name)
        return -((_EPOCH - value) // _MS)
    if name in ("retry", "poll") and isinstance(value, dict):
        return {key: plain(name, item) for key, item in value.items()}
    if name == "retry" and isinstance(value, list | tuple):
        return [plain(name, item) for item in value]
    return value
