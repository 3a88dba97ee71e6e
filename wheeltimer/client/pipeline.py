"""The protocol for both clients, without a socket: the lines, the call each reply belongs to, and which
requests are sent again.

The daemon answers in the order of the requests, and each request has a ``seq`` that its reply must repeat: a
reply with another one ends the connection. After a connection was lost, requests that can safely be sent
twice are sent again on the next one; the other calls end with :class:`OutcomeUnknown`. The client's own
``seq`` is removed from the reply, and that of the caller put back. Sockets are in ``sync_stream.py`` and
``async_stream.py``.

The blocking client may be interrupted between any two steps, and then calls ``lost``. So each method here
changes the two queues in an order that leaves a call in at least one of them until it is done.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from wheeltimer.client.json_values import half_pair
from wheeltimer.errors import REFUSALS, BadValue, Refused, ServerUnreachable

Reply = dict[str, Any]
T = TypeVar("T")

READS: Final = frozenset(("hello", "ping", "get", "list", "forecast", "stats"))
PASSING: Final = ("full", "storage", "unavailable")  # refusals of a connection that are tried again
BACKOFF_FIRST_S: Final = 0.05  # before the second try to connect; doubled each time
BACKOFF_MAX_S: Final = 1.0
DEPTH: Final = 500  # requests ahead of their replies: one round trip for 500 requests
_SEQ_BITS: Final = 31  # of the random first seq: if two processes shared a socket, theirs would differ
NOT_READ: Final = (msgspec.MsgspecError, RecursionError)
"""The errors of msgspec for bytes that are no reply; RecursionError: JSON that is nested too deep."""

_OK: Final = b'{"ok":true,'
_SHOWN_BYTES: Final = 60  # of an answer that is no reply
_NAMED_CHARS: Final = 256  # of an id in an error: the default of id_bytes_max
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decoders: Final[dict[type, Callable[[bytes], Any]]] = {}  # of replies, by their struct
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Head(msgspec.Struct, gc=False):
    """The members that are read of every reply."""

    ok: bool
    error: str | None = None
    seq: int | float | str | None = None


_head: Final = msgspec.json.Decoder(_Head).decode


class OutcomeUnknown(ServerUnreachable):
    """The connection was lost after the request was sent and before its answer came.

    The daemon may have carried it out. A ``schedule`` with an ``id`` can be sent again: the reply has
    ``duplicate`` if the first one arrived.
    """


class NoReply(Exception):
    """A line is no reply of a daemon, or not the reply to the oldest request."""


class Caller:
    """The origin of calls: one request (``single``), or a stream of them.

    ``left``: the caller was interrupted, or its generator closed; its calls are not sent again.
    """

    __slots__ = ("left", "single")

    def __init__(self, single: bool = True) -> None:
        self.single = single
        self.left = False


class Call:
    """One request under way. Once ``done``, ``line`` is its reply, or ``error`` is why there is none."""

    __slots__ = (
        "again", "answered", "caller", "done", "error", "given", "line", "ok", "op", "request", "sent", "seq",
        "told",
    )  # fmt: skip

    def __init__(self, op: str, request: bytes, seq: int, again: bool, caller: Caller) -> None:
        self.op = op
        self.request = request
        self.seq = seq
        self.given: bytes | None = None  # the caller's own seq, as JSON
        self.again = again  # whether it can safely be sent twice
        self.caller = caller
        self.sent = False  # whether it may have reached a daemon
        self.done = False
        self.ok = False
        self.line = b""
        self.error: Exception | None = None
        self.told: Callable[[], None] | None = None  # called once the call is done
        self.answered: Any = None  # the event that ``AsyncChannel.finish`` waits for

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.done = True
        if self.told is not None:
            self.told()

    def raw(self) -> tuple[Reply, bytes]:
        """The reply and its line; raises the call's error if there is one."""
        if self.error is not None:
            raise self.error
        try:
            return _decode(self.line), self.line
        except NOT_READ as error:
            raise ServerUnreachable(f"{self.op}: what came is no reply: {error}") from error

    def check(self) -> Reply:
        """The reply; a refusal is raised."""
        reply, _ = self.raw()
        if not self.ok:
            raise refused(reply, self.about())
        return reply

    def about(self) -> str:
        """The request, for the text of an error: op, queue, id and group."""
        request = _decode(self.request)
        shown = [self.op]
        if "queue" in request or "id" in request:
            shown.append(f"queue={_plainly(request.get('queue', 'default'))}")
        shown += [f"{name}={_plainly(request[name])}" for name in ("id", "group") if name in request]
        return " ".join(shown)

    def result(self, kind: type[T]) -> T:
        """The reply as a struct; a refusal is raised."""
        if not self.ok:
            self.check()
        decode = _decoders.get(kind)
        if decode is None:
            decode = _decoders.setdefault(kind, msgspec.json.Decoder(kind).decode)
        try:
            found: T = decode(self.line)
        except NOT_READ as error:
            raise ServerUnreachable(f"{self.op}: what came is no reply: {error}") from error
        return found


class Pipeline:
    """Calls without an answer: ``calls`` were sent on the connection, in order; ``fresh`` are to be sent."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.calls: deque[Call] = deque()
        self.fresh: deque[Call] = deque()
        self._numbers = itertools.count(random.getrandbits(_SEQ_BITS))
        self.greeted = False  # whether a reply has shown that the server is a daemon

    def make(self, op: str, request: Reply, caller: Caller) -> Call:
        """A call, in neither queue yet. ``request`` has the protocol's fields; the caller must not use it
        again.

        Raises BadValue for a value that the protocol has no form for.
        """
        seq = next(self._numbers)
        if op == "schedule":
            again = "id" in request and request.get("on_conflict") != "replace"
        else:
            again = op in READS or op == "cancel"
        given = request.pop("seq", None)
        try:
            call = Call(op, _encode({"op": op, "seq": seq, **request}) + b"\n", seq, again, caller)
            if given is not None:
                call.given = _encode(given)
        except UnicodeEncodeError as error:
            raise half_pair({"op": op, **request, "seq": given}, _encode) from error
        except TypeError as error:
            raise BadValue(f"{op}: {error}") from error
        if call.given is not None and call.given[:1] not in b'"-0123456789':
            raise BadValue("seq: a number or a string expected", "seq")
        return call

    def outgoing(self) -> bytes:
        """The lines of the calls in ``fresh``, which are moved to ``calls``."""
        if not self.fresh:
            return b""
        lines = []
        while self.fresh:
            call = self.fresh[0]
            if not call.caller.left:
                call.sent = True
                self.calls.append(call)
                lines.append(call.request)
            self.fresh.popleft()
        return b"".join(lines)

    def take(self, line: bytes) -> Call | None:
        """The call that a line answers; None if the daemon's storage failed: then the call stays open.

        A refusal without ``seq`` (of a request that could not be read, or of the connection) answers the
        oldest call. Raises NoReply.
        """
        call = self.calls[0] if self.calls else None
        if call is not None and line.startswith(_OK) and line.endswith(mark := b',"seq":%d}' % call.seq):
            # The fast path for lines as the daemon writes them. If the rest is no JSON, `Call.raw` and
            # `Call.result` raise an error.
            self.greeted = True
            call.line, call.ok = _with_seq(line[: -len(mark)], call.given), True
        else:
            head = self._look(line)
            if call is None:
                raise NoReply("nothing was asked")
            if head.seq == call.seq:
                line = _without_seq(line, call)
            elif head.seq is not None or head.ok:
                raise NoReply(f"a reply with seq {_cut(repr(head.seq), _SHOWN_BYTES)}, not {call.seq}")
            if head.error == "storage" and call.again:
                return None
            call.line, call.ok = line, head.ok
        call.end()
        self.calls.popleft()
        return call

    def _look(self, line: bytes) -> _Head:
        try:
            head = _head(line)
        except NOT_READ as error:
            raise NoReply(str(error)) from error
        self.greeted = True
        return head

    def no_daemon(self, line: bytes) -> ServerUnreachable | None:
        """The error for a first answer that is no reply; None if a reply came before."""
        if self.greeted:
            return None
        said = (
            f"it said {line[:_SHOWN_BYTES]!r}" if line else "it hung up (a listener for TLS is tls:HOST:PORT)"
        )
        return ServerUnreachable(
            f"what answers at {self.server} does not speak wheeltimer's protocol; {said}", lasting=True
        )

    def lost(self, why: object) -> None:
        """The connection is lost: end the calls that must not be sent twice, queue the others to be sent
        again.

        If this is interrupted it may be called again.
        """
        waiting = set(self.fresh)
        again = []
        for call in self.calls:
            if call.done or call.caller.left:
                continue
            if not call.again:
                call.end(self._unknown(call, why))
            elif call not in waiting:
                again.append(call)
        self.fresh.extendleft(reversed(again))
        self.calls.clear()

    def leave(self) -> None:
        """The caller of a single request was interrupted: do not send it (again)."""
        for call in (*self.calls, *self.fresh):
            if call.caller.single:
                call.caller.left = True

    def give_up(self, why: object, final: Exception | None = None, unsent: Exception | None = None) -> None:
        """There is no connection and none can be made: end all calls, with ``final`` if it is given.

        ``unsent``: the error of the calls that were never sent.
        """
        for queue in (self.calls, self.fresh):
            while queue:
                call = queue[0]
                if not call.done:
                    call.end(final or (None if call.sent else unsent) or self._unknown(call, why))
                queue.popleft()

    def _unknown(self, call: Call, why: object) -> ServerUnreachable:
        problem = f"{call.about()}: connection to {self.server} lost ({why})"
        if not self.greeted and not self.server.startswith(("tls:", "unix:")):
            problem += "; where it listens for TLS write tls:HOST:PORT"
        if call.op in READS:
            return ServerUnreachable(f"{problem}; it changes nothing, send it again")
        return OutcomeUnknown(
            f"{problem}; the daemon may or may not have carried it out:"
            " look with `get`, or send it again with the same id"
        )


def _without_seq(line: bytes, call: Call) -> bytes:
    """The reply's own bytes without the client's ``seq``, and with that of the caller if there is one.

    The daemon writes ``seq`` last, so the end of the line is compared. That end cannot be part of a string:
    in a string there would be a backslash between the comma and the quote.
    """
    mark = b',"seq":%d}' % call.seq
    if line.endswith(mark):
        return _with_seq(line[: -len(mark)], call.given)
    members = _members(line)
    del members["seq"]
    return _with_seq(_encode(members)[:-1], call.given)


def _with_seq(line: bytes, given: bytes | None) -> bytes:
    """Complete a line without its closing brace, with the ``seq`` of the caller if there is one."""
    return line + b"}" if given is None else line + b',"seq":' + given + b"}"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}..."


def refused(reply: Reply, about: str) -> Refused:
    """A reply with ``ok`` false, as an exception. ``about``: the request, as `Call.about`."""
    extra = {key: value for key, value in reply.items() if key not in ("ok", "error", "message", "seq")}
    code, message = str(reply.get("error", "internal")), str(reply.get("message", ""))
    text, kind = f"{about}: {code}: {message}", REFUSALS.get(code)
    error = Refused(code, text, **extra) if kind is None else kind(text, **extra)
    error.said = message
    return error


def _plainly(value: object) -> str:
    """A name or id for an error's text: cut, and without control characters."""
    text = str(value)
    return _cut(text if text.isprintable() else repr(text), _NAMED_CHARS)
