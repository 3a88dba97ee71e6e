"""One attempt: the request made from a task, and the answer as a value.

Which attempt may start now: ``dispatcher.py``. How its bytes are sent and received: ``transport.py``. What an
answer means for the task: ``core/outcome.py``.
"""

from __future__ import annotations

import datetime
import email.utils
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import quote

import trio
from msgspec.structs import replace

from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import NS_PER_MS, Now, Task, split_key
from wheeltimer.delivery.coding import decoded
from wheeltimer.delivery.executor import ReplyPoller
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import AttemptError, PartialReply, Reply
from wheeltimer.delivery.shortage import Shortage, reason_of
from wheeltimer.delivery.transport import KeptExchange, header_lines
from wheeltimer.protocol.ids import sign, webhook_id
from wheeltimer.protocol.requests import split_url
from wheeltimer.protocol.units import parse_duration_ms

TIMEOUT_MS: Final = 15_000  # of a whole attempt, unless the task has a timeout
CONNECT_TIMEOUT_MS: Final = 3_000
RETRY_AFTER_MAX_MS: Final = 86_400_000
_CONTENT_TYPES: Final = {
    "": b"content-type: application/json\r\n",
    "text": b"content-type: text/plain; charset=utf-8\r\n",
    "base64": b"content-type: application/octet-stream\r\n",
}
# No value that goes in here can hold a control character: numbers, checked names, percent-encoded text.
_OURS: Final = (
    b"webhook-id: %b\r\nwebhook-timestamp: %d\r\nwheeltimer-id: %b\r\nwheeltimer-queue: %b\r\n"
    b"wheeltimer-attempt: %d\r\nwheeltimer-due: %d\r\nwheeltimer-late-ms: %d\r\nwheeltimer-version: %d\r\n"
)
_NO_CODING: Final = b"accept-encoding: identity\r\n"  # without it a receiver may use any coding
_log = logging.getLogger("wheeltimer.delivery")
_VISIBLE: Final = re.compile("[!-$&-~]*").fullmatch


class Exchange(Protocol):
    """What an attempt uses of ``Transport`` or ``ProxyTransport``."""

    async def request(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes,
        connect_timeout_ms: int, partial: PartialReply | None = None,
    ) -> Reply: ...  # fmt: skip

    def begin(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes
    ) -> KeptExchange | None: ...

    def flush(self) -> None: ...


Again = Callable[[], Awaitable[Answer]]
"""Runs the attempt, or the rest of it, in a nursery task."""

Landing = Answer | Again | None
"""How an attempt without a nursery task ends: with an answer, with a function that continues it in a nursery
task, or cut short by the end of the daemon (None)."""


@lru_cache(maxsize=4096)
def _split(url: str) -> tuple[Destination, bytes]:
    scheme, host, port, target = split_url(url)
    return Destination(scheme, host, port), target.encode("ascii")


def destination_of(task: Task) -> Destination:
    """Scheme, host and port that the task's callback goes to."""
    return _split(task.url)[0]


class Sender:
    """Makes attempts. ``keys_of`` gives a queue's signing keys; ``now`` reads the clocks."""

    def __init__(
        self, transport: Exchange, journal_id: bytes, now: Callable[[], Now],
        keys_of: Callable[[str], Sequence[bytes]] = lambda queue: (), version: str = "0",
    ) -> None:  # fmt: skip
        self.transport = transport
        self.arrivals = ReplyPoller()
        self._journal_id = journal_id
        self.now = now
        self.keys_of = keys_of
        self._agent = b"user-agent: wheeltimer/%b\r\n" % version.encode()
        self._agent_and_coding = self._agent + _NO_CODING

    async def attempt(self, key: str, task: Task) -> Answer:
        """One attempt, bounded by the task's timeouts. An error of the receiver is returned, not raised.
        Raises Shortage if the attempt could not begin because this machine lacks something."""
        return await AttemptUnderWay(self, key, task, self.now()).request()

    def begin(self, key: str, task: Task, now: Now, landed: Callable[[Landing], None]) -> Again | None:
        """Begin an attempt. If there is a kept connection, return None, and ``landed`` is called at the end;
        otherwise return the function to run in a nursery task. Call `flush` after a few. Raises Shortage."""
        try:
            sending = AttemptUnderWay(self, key, task, now)
            return None if sending.fly(landed) else sending.request
        except MemoryError as error:  # no `with`, which costs 0.5 us
            raise Shortage("memory", "no memory to begin an attempt") from error

    def flush(self) -> None:
        """Send the requests that were begun."""
        self.transport.flush()

    def fields(self, key: str, task: Task, now: Now, late_ms: int) -> bytes:
        """The header lines: those of the task, and those that only the daemon may set."""
        queue, id = split_key(key)
        webhook = webhook_id(self._journal_id, key, task.born, task.revision).encode()
        timestamp_s = now.wall_ns // 1_000_000_000
        given: frozenset[str] = frozenset()
        if task.headers is None:
            parts = [self._agent_and_coding]
        else:
            given = frozenset(name.lower() for name in task.headers)
            parts = [] if "user-agent" in given else [self._agent]
            if "accept-encoding" not in given:
                parts.append(_NO_CODING)
        if task.body is not None and "content-type" not in given:
            parts.append(_CONTENT_TYPES[task.body_as])
        if task.headers is not None:
            own = [(name.encode("ascii"), value.encode("latin-1")) for name, value in task.headers.items()]
            parts.append(header_lines(own))
        ours = (
            webhook, timestamp_s, _visible(id), queue.encode(), task.attempts + 1, task.due_ms, late_ms,
            task.version,
        )  # fmt: skip
        parts.append(_OURS % ours)
        if keys := self.keys_of(queue):
            signature = sign(keys, webhook, timestamp_s, task.body or b"")
            parts.append(b"webhook-signature: %b\r\n" % signature)
        return b"".join(parts)


class AttemptUnderWay:
    """One attempt under way: in a nursery task (``request``), or without one, by `ReplyPoller` (``fly``)."""

    __slots__ = (
        "_connect_ms", "_kept", "_key", "_landed", "_late_ms", "_request", "_sender", "_started",
        "_timeout_ms", "deadline_s",
    )  # fmt: skip

    def __init__(self, sender: Sender, key: str, task: Task, now: Now) -> None:
        self._sender = sender
        self._key = key
        self._started = now
        self._late_ms = task.late_ms(now)
        destination, target = _split(task.url)
        fields = sender.fields(key, task, now, self._late_ms)
        self._request = (destination, task.method.encode(), target, fields, task.body or b"")
        self._timeout_ms = TIMEOUT_MS if task.timeout is None else parse_duration_ms(task.timeout, "timeout")
        self._connect_ms = CONNECT_TIMEOUT_MS
        if task.connect_timeout is not None:
            self._connect_ms = parse_duration_ms(task.connect_timeout, "connect_timeout")
        self.deadline_s = trio.current_time() + self._timeout_ms / 1000
        self._kept: KeptExchange

    async def request(self) -> Answer:
        """Run the attempt on a kept or new connection."""
        return await self._bounded(self._sender.transport.request, *self._request, self._connect_ms)

    async def _resend(self) -> Answer:
        return await self._bounded(self._kept.resend, self._connect_ms)

    async def _bounded(self, exchange: Callable[..., Awaitable[Reply]], *given: object) -> Answer:
        partial = PartialReply()
        with trio.CancelScope(deadline=self.deadline_s):
            try:
                return self._replied(await exchange(*given, partial))
            except AttemptError as problem:
                return self._failed(problem)
        return self._failed(self._too_late(partial.reply), self._timeout_ms)

    def fly(self, landed: Callable[[Landing], None]) -> bool:
        """Begin on a kept connection; False if there is none. ``landed`` is called at the end."""
        kept = self._sender.transport.begin(*self._request)
        if kept is None:
            return False
        self._kept = kept
        self._landed = landed
        try:
            self._sender.arrivals.add(self, kept.connection)
        except (OSError, MemoryError) as error:  # no more room in epoll; nothing was sent yet
            kept.cut()
            raise Shortage(reason_of(error) or "watches", str(error)) from error
        return True

    @property
    def unread(self) -> bool:
        return self._kept.connection.unread

    def arrived(self) -> bool:
        """``ReplyPoller`` calls this. A bug in one attempt fails that attempt alone."""
        landing: Landing
        try:
            reply = self._kept.advance()
            if reply is None:
                return False
            landing = self._replied(reply)
        except AttemptError as problem:
            landing = self._resend if problem.kind == "reset" and self._kept.stale else self._failed(problem)
        except Exception:  # noqa: BLE001 -- one of the places that isolate; see the docstring
            _log.exception("attempt failed inside key=%s", self._key)
            landing = self._failed(AttemptError("internal", "see the daemon's log"))
        self._landed(landing)
        return True

    def overdue(self) -> None:
        so_far = self._kept.connection.so_far()
        self._kept.cut()
        self._landed(self._failed(self._too_late(so_far), self._timeout_ms))

    def cut(self) -> None:
        self._kept.cut()
        self._landed(None)

    def _too_late(self, so_far: Reply | None) -> AttemptError:
        return AttemptError("timeout", f"no whole reply within {self._timeout_ms} ms", so_far)

    def _failed(self, problem: AttemptError, given_ms: int | None = None) -> Answer:
        """``given_ms``: the timeout that ran out, unless it was that of the connect."""
        if problem.reply is not None:  # its status may be final nevertheless
            text = f"{problem.kind}: {problem}"
            return replace(self._replied(problem.reply), error=text, given_ms=given_ms)
        started = self._started
        ms = (self._sender.now().elapsed_ns - started.elapsed_ns) // NS_PER_MS
        if problem.kind == "timeout" and given_ms is None:
            given_ms = self._connect_ms
        return Answer(
            started.wall_ms, ms, self._late_ms, error=f"{problem.kind}: {problem}", given_ms=given_ms
        )

    def _replied(self, reply: Reply) -> Answer:
        started, ended = self._started, self._sender.now()
        ms = (ended.elapsed_ns - started.elapsed_ns) // NS_PER_MS
        retry_after_ms, stop, coding = reply_directives(reply, ended)
        body, truncated, undecoded = reply.body, reply.truncated, None
        if coding:
            body, whole, undecoded = decoded(body, coding, not truncated)
            truncated = not whole
        return Answer(
            started.wall_ms, ms, self._late_ms, reply.status, None, body, truncated, retry_after_ms, stop,
            undecoded,
        )  # fmt: skip


def _visible(text: str) -> bytes:
    """``text`` with all characters except visible ASCII, and the percent sign, percent-encoded as UTF-8."""
    if _VISIBLE(text):
        return text.encode("ascii")
    return quote(text, safe="!\"#$&'()*+,/:;<=>?@[\\]^`{|}~").encode("ascii")


def reply_directives(reply: Reply, now: Now) -> tuple[int | None, bool, str]:
    """From a reply's head: (ms to wait or None, whether it forbids another attempt, the content coding)."""
    wait_ms, stop, coding = None, False, ""
    for name, value in reply.headers:
        name = name.lower()
        if name == b"retry-after" and reply.status in (429, 503):
            wait_ms = retry_after_ms(value.decode("latin-1").strip(), now)
        elif name == b"wheeltimer-retry" and value.strip().lower() == b"stop":
            stop = True
        elif name == b"content-encoding":
            text = value.decode("latin-1")
            coding = f"{coding}, {text}" if coding else text
    return wait_ms, stop, coding


def retry_after_ms(value: str, now: Now) -> int | None:
    """``Retry-After`` in either form (RFC 9110 section 10.2.3), at most a day; None if it is neither."""
    if value.isascii() and value.isdigit():
        return min(int(value.lstrip("0")[:9] or "0") * 1000, RETRY_AFTER_MAX_MS)
    try:
        instant = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # OverflowError: a year or an hour of twenty digits
        return None
    if instant.tzinfo is None:  # the asctime form has no zone and means GMT (RFC 9110 section 5.6.7)
        instant = instant.replace(tzinfo=datetime.UTC)
    return min(max(0, int(instant.timestamp() * 1000) - now.wall_ms), RETRY_AFTER_MAX_MS)
