"""A reply under caps: bytes in, one final reply out; pure, no socket.

llhttp (``httptools``) reads replies in its strict mode. A reply that it refuses is read once more by
``oddhead.py``, which accepts replies that have only one meaning. This file also checks the version, the
transfer coding, every cap, and that nothing follows the reply.
"""

from __future__ import annotations

from typing import Literal

import httptools
import msgspec

from wheeltimer.delivery.oddhead import OddParser, Unsound, status_of
from wheeltimer.errors import WheeltimerError
from wheeltimer.protocol.limits import REPLY_BYTES_MAX

BODY_BYTES_MAX = REPLY_BYTES_MAX  # of a reply; the rest is not read and the connection is closed
HEAD_BYTES_MAX = 65_536  # status line and header fields, interim replies included
WIRE_BYTES_MAX = 8 * BODY_BYTES_MAX  # chunk framing and trailers included: a one-byte chunk costs six
HEADERS_MAX = 256  # a field takes thirty times its bytes in memory; with more, ``oddhead.py`` keeps a few
SEEN_BYTES_MAX = 2 * HEAD_BYTES_MAX  # of an incomplete reply, kept so that ``oddhead.py`` can read it again

Kind = Literal["blocked", "dns", "connect", "tls", "timeout", "reset", "protocol", "internal"]


class AttemptError(WheeltimerError):
    """An exchange without a complete reply; ``kind`` is one of a closed set, ``str()`` is what happened.
    ``reply`` is the part of it that had come, None if no final status line had come.

    ``blocked``: the address is not allowed. ``dns``, ``connect``, ``tls``: no connection. ``timeout``: none
    in time (the caller limits the whole attempt). ``reset``: closed or reset before the reply was complete.
    ``protocol``: not an acceptable HTTP/1.1 reply. ``internal``: a bug in the daemon.
    """

    def __init__(self, kind: Kind, text: str, reply: Reply | None = None) -> None:
        super().__init__(text)
        self.kind: Kind = kind
        self.reply = reply


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A final reply. ``headers`` as sent; ``body`` at most BODY_BYTES_MAX; ``truncated``: there was more, or
    its end is unknown; ``resent``: a kept connection was stale and the request was sent a second time."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    truncated: bool = False
    resent: bool = False


class PartialReply:
    """For a caller that cancels an exchange: the part of the reply that had come."""

    __slots__ = ("reply",)

    def __init__(self) -> None:
        self.reply: Reply | None = None


class ReplyReader:
    """Bytes -> one final reply; pure. httptools calls the ``on_*`` methods from within ``feed``.

    Call ``begin`` before each exchange of the connection, ``feed`` with what arrives until ``done`` or
    ``full``, ``end`` at the end of the stream.
    """

    __slots__ = (
        "_body", "_body_bytes", "_codings", "_fault", "_final", "_has_length", "_headers",
        "_parser", "_seen", "_status", "done", "full", "reusable", "wire_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | OddParser | None = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        self.wire_bytes = 0
        self.done = False  # the reply is whole
        self.full = False  # a cap was reached after the status line: the part that is there is the reply
        self.reusable = False  # whole, kept alive, and nothing came after it
        self._status = 0
        self._final = False  # the head of the final reply is complete
        self._headers: list[tuple[bytes, bytes]] = []
        self._codings: tuple[bytes, ...] = ()
        self._has_length = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._fault = ""
        self._seen: bytearray | None = None  # bytes that came; kept while llhttp may still refuse the rest

    def close(self) -> None:
        """Break the reference cycle of reader and parser, so that both are freed at once."""
        self._parser = None

    @property
    def head_is_whole(self) -> bool:
        """Whether the head of the final reply is complete."""
        return self._final

    def feed(self, data: bytes) -> None:
        """Read more bytes. Raises AttemptError("protocol") if they are not an acceptable reply."""
        assert self._parser is not None
        assert not self.done
        self.wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise AttemptError("protocol", "switched protocols without being asked") from error
        except (httptools.HttpParserError, Unsound) as error:
            self.reusable = False
            if not self.done:  # a complete reply stays valid, also with bad bytes behind it
                self._read_again(f"bad reply: {error}", data)
                return
        if self._fault:
            self._read_again(self._fault, data)
            return
        if self.done:
            self.full = self._body_bytes > BODY_BYTES_MAX
        elif not self._final:
            self._keep(data)
            if self.wire_bytes > HEAD_BYTES_MAX:
                self._cut_head()
        elif self._body_bytes > BODY_BYTES_MAX or self.wire_bytes > WIRE_BYTES_MAX:
            self.full = True
        elif self._codings:  # only a chunked body can still be refused
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        """Keep bytes that ``oddhead.py`` may have to read again."""
        if self._seen is None:
            self._seen = bytearray()
        if len(self._seen) <= SEEN_BYTES_MAX:
            self._seen += data

    def _read_again(self, text: str, data: bytes) -> None:
        """Read the whole reply again, with ``OddParser``; ``data`` came last.

        Raises AttemptError("protocol"), with ``text`` unless the second reading has a better reason.
        """
        seen = self._seen or bytearray()
        if isinstance(self._parser, OddParser) or len(seen) > SEEN_BYTES_MAX:
            raise self._error("protocol", text, data)
        seen += data
        self.begin()
        self._parser = OddParser(self)
        try:
            self.feed(bytes(seen))
        finally:
            self._seen = seen

    def _cut_head(self) -> None:
        """The head is too long to be read: the reply is its status alone. Raises AttemptError without one."""
        reply = self.so_far()
        if reply is None:
            raise AttemptError("protocol", f"reply head over {HEAD_BYTES_MAX} bytes")
        self._status = reply.status
        self.full = True

    def end(self, clean: bool) -> None:
        """The stream ended; ``clean``: not without TLS's close_notify. Raises AttemptError if too early."""
        if not self._final:
            text = "closed in the reply head" if self.wire_bytes else "closed before the reply"
            raise self._error("reset", text)
        if self._has_length or self._codings:
            raise self._error("reset", f"closed in the reply body, after {self._body_bytes} bytes")
        self.done = clean
        self.full = not clean

    def so_far(self) -> Reply | None:
        """The part of an incomplete reply that has come; None if its status line has not come."""
        status = self._status if self._final else status_of(self._seen or b"")
        if status is None:
            return None
        return Reply(status, tuple(self._headers), b"".join(self._body)[:BODY_BYTES_MAX], True)

    def _error(self, kind: Kind, text: str, data: bytes = b"") -> AttemptError:
        """The error, with the part of the reply that had come. ``data``: the last bytes, if not kept yet."""
        if data and not self._final:
            self._keep(data)
        return AttemptError(kind, text, self.so_far())

    def reply(self) -> Reply:
        """Return the reply, once, and keep no reference to it while the connection is idle."""
        assert self.done or self.full
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        reply = Reply(self._status, tuple(self._headers), body[:BODY_BYTES_MAX], self.full)
        self._headers, self._body = [], []
        return reply

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False  # a second reply to one request: the stream is out of step

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._final:
            return  # a trailer, or bytes behind the reply
        if len(self._headers) >= HEADERS_MAX:
            self._fault = f"over {HEADERS_MAX} reply headers"
            return
        self._headers.append((name, value.rstrip(b" \t")))  # llhttp strips in front only
        length = len(name)
        if length == 14:
            self._has_length |= name.lower() == b"content-length"
        elif length == 17 and name.lower() == b"transfer-encoding":
            self._codings += (value.strip().lower(),)

    def on_headers_complete(self) -> None:
        if self._final:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            self._fault = "not an HTTP/1 reply"
        elif self._codings and self._codings != (b"chunked",):
            self._fault = "a transfer coding other than chunked"
        elif status >= 200:
            self._status = status
            self._final = True
        elif status < 100:
            self._fault = f"status {status}"
        else:
            self._headers.clear()
            self._codings = ()
            self._has_length = False

    def on_body(self, data: bytes) -> None:
        if not self.done and self._body_bytes <= BODY_BYTES_MAX:
            self._body.append(data)
            self._body_bytes += len(data)

    def on_cut(self) -> None:
        """``OddParser`` calls this if one of its limits ends the reading of the body."""
        self.full = True

    def on_message_complete(self) -> None:
        if self._final and not self.done:
            assert self._parser is not None
            self.done = True
            self.reusable = self._parser.should_keep_alive()
