"""``Client``: the protocol as methods, over one blocking connection.

A method for each ``op`` that most callers need, with the protocol's own field names, and ``request`` for
all others. It sends a request once and never again: what a lost connection leaves open is said by the
error. Lines and sockets are in ``connection.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, NoReturn

import msgspec

from wheeltimer.client.connection import LineConnection
from wheeltimer.errors import Refused, ServerUnreachable

Reply = dict[str, Any]

_READS: Final = frozenset(("hello", "ping", "get", "list", "stats"))
_encode: Final = msgspec.json.Encoder().encode
_SHOWN_BYTES: Final = 60  # of an answer that is no reply
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class OutcomeUnknown(ServerUnreachable):
    """The connection was lost after the request had gone out and before its answer came.

    The daemon may have carried it out. A ``schedule`` with an ``id`` can be sent again: it answers
    ``duplicate`` if the first one arrived.
    """


class Client:
    """A connection to the daemon; a context manager. Not safe between threads.

    ``server``: ``HOST:PORT``, ``[::1]:PORT`` or ``unix:PATH``. ``token``: shown with ``hello`` before
    anything else. ``timeout_ms``: for connecting, and for a stretch without a single byte. Every method
    raises ``Refused`` (with the daemon's ``code``), ``ServerUnreachable`` or ``OutcomeUnknown``.
    """

    def __init__(
        self, server: str = "127.0.0.1:8463", *, token: str | None = None, timeout_ms: int = 30_000
    ) -> None:
        self._connection = LineConnection(server, timeout_ms)
        self._greeted = False  # whether it has shown that it is a daemon
        if token is not None:
            try:
                self.hello(token=token)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def request(self, op: str, **fields: Any) -> Reply:
        """Send one request and return its reply; a field that is None is left out."""
        reply, _ = self.exchange(op, **fields)
        if not reply["ok"]:
            raise refused(reply)
        return reply

    def exchange(self, op: str, **fields: Any) -> tuple[Reply, bytes]:
        """The same with the line that the reply came in, its own bytes; a refusal is returned, not raised."""
        self._connection.put(_line({"op": op, **fields}))
        return self._reply(op)

    def request_many(self, requests: Iterable[Reply], depth: int = 500) -> Iterator[Reply]:
        """Send requests (each with its ``op``) up to ``depth`` ahead; yield the replies in order.

        A refusal is yielded as it is (``ok`` false): one bad item does not end the others. Memory is
        bounded by ``depth`` requests and replies; ``requests`` is read as replies come in.
        """
        assert depth > 0
        ahead: deque[str] = deque()
        for request in requests:
            self._connection.put(_line(request))
            ahead.append(str(request["op"]))
            if len(ahead) >= depth:
                yield self._reply(ahead[0])[0]
                ahead.popleft()
        while ahead:
            yield self._reply(ahead[0])[0]
            ahead.popleft()

    def hello(self, *, token: str | None = None) -> Reply:
        """``server version protocol durability now limits``."""
        return self.request("hello", token=token)

    def ping(self) -> Reply:
        """``now``, Unix ms."""
        return self.request("ping")

    def schedule(self, url: str, **fields: Any) -> Reply:
        """``id queue version due state duplicate``; stored when this returns.

        ``fields``: ``id queue delay at on_conflict`` and every task field of the protocol. ``delay`` is
        ms or a text with units, ``at`` Unix ms or RFC 3339.
        """
        return self.request("schedule", url=url, **fields)

    def get(self, id: str, *, queue: str | None = None) -> Reply:
        """The task itself, as ``get`` shows it."""
        task: Reply = self.request("get", id=id, queue=queue)["task"]
        return task

    def cancel(
        self,
        id: str | None = None,
        *,
        group: str | None = None,
        queue: str | None = None,
        if_version: int | None = None,
    ) -> Reply:
        """``cancelled running``: how many ended at once, how many end after the attempt in flight."""
        return self.request("cancel", id=id, group=group, queue=queue, if_version=if_version)

    def reschedule(self, id: str, **fields: Any) -> Reply:
        """``version due``. ``fields``: ``queue delay at if_version`` and every task field."""
        return self.request("reschedule", id=id, **fields)

    def list(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        group: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Reply:
        """``tasks``, soonest first, and ``cursor`` when there are more."""
        return self.request("list", queue=queue, state=state, group=group, limit=limit, cursor=cursor)

    def stats(self) -> Reply:
        """Counts, journal, lateness."""
        return self.request("stats")

    def _reply(self, op: str) -> tuple[Reply, bytes]:
        try:
            line = self._connection.read_line()
            reply = _decode(line)
            if not isinstance(reply.get("ok"), bool):
                raise msgspec.DecodeError("there is no ok in it")
        except OSError as error:
            self._lost(op, error)
        except msgspec.DecodeError as error:
            if self._greeted:
                self._lost(op, ValueError(f"not a reply: {error}"))
            self.close()
            raise ServerUnreachable(
                f"what answers at {self._connection.server} does not speak wheeltimer's protocol;"
                f" it said {line[:_SHOWN_BYTES]!r}"
            ) from error
        self._greeted = True
        return reply, line

    def _lost(self, op: str, error: Exception) -> NoReturn:
        self.close()  # a late answer would be taken for the next request's
        problem = f"{op}: connection to {self._connection.server} lost ({error})"
        if op in _READS:
            raise ServerUnreachable(f"{problem}; it changes nothing, send it again") from error
        raise OutcomeUnknown(
            f"{problem}; the daemon may or may not have carried it out:"
            " look with `get`, or send it again with the same id"
        ) from error


def refused(reply: Reply) -> Refused:
    """A reply with ``ok`` false, as the exception."""
    extra = {key: value for key, value in reply.items() if key not in ("ok", "error", "message", "seq")}
    return Refused(str(reply.get("error", "internal")), str(reply.get("message", "")), **extra)


def _line(request: Reply) -> bytes:
    return _encode({key: value for key, value in request.items() if value is not None})
