"""A reply under caps: bytes in, one final reply out; pure, no socket.

Replies are read by llhttp (``httptools``). It refuses what request smuggling is made of: two lengths, a
length beside a transfer coding, bare CR or LF, white space before a colon, folded lines. Checked here on
top: the version, the transfer coding, every cap, and that nothing follows the reply.
"""

from __future__ import annotations

from typing import Literal

import httptools
import msgspec

from wheeltimer.core.limits import REPLY_BYTES_MAX
from wheeltimer.errors import WheeltimerError

BODY_BYTES_MAX = REPLY_BYTES_MAX  # of a reply; the rest is not read and the connection is closed
HEAD_BYTES_MAX = 65_536  # status line and header fields, interim replies included
WIRE_BYTES_MAX = 8 * BODY_BYTES_MAX  # chunk framing and trailers included: a one-byte chunk costs six
HEADERS_MAX = 256  # a field costs Python thirty times what it costs the wire
INTERIM_REPLIES_MAX = 16  # 1xx before the reply itself

Kind = Literal["blocked", "dns", "connect", "tls", "timeout", "reset", "protocol", "internal"]


class AttemptError(WheeltimerError):
    """An exchange that brought no reply; ``kind`` is one of a closed set, ``str()`` says what happened.

    ``blocked``: the address is not allowed. ``dns``, ``connect``, ``tls``: no connection. ``timeout``: none
    in time (a limit on the whole attempt is the caller's). ``reset``: closed or reset before the reply
    was whole. ``protocol``: what came is no acceptable HTTP/1.1 reply.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind: Kind = kind


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A final reply. ``headers`` as sent; ``body`` at most BODY_BYTES_MAX; ``truncated``: there was more, or
    the end cannot be told; ``resent``: a kept connection was stale and the request went out a second time."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    truncated: bool = False
    resent: bool = False


class ReplyReader:
    """Bytes -> one final reply; pure. httptools calls the ``on_*`` methods from within ``feed``.

    ``feed`` what arrives until ``done`` or ``full``; ``end`` when the stream ended. One reader serves all the
    exchanges of a connection: ``begin`` before each.
    """

    __slots__ = (
        "_body", "_body_bytes", "_codings", "_fault", "_final", "_has_length", "_headers", "_interim",
        "_parser", "_status", "done", "full", "reusable", "wire_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        self.wire_bytes = 0
        self.done = False  # the reply is whole
        self.full = False  # a cap was reached after the final head: what is there is the reply
        self.reusable = False  # whole, kept alive, and nothing came after it
        self._status = 0
        self._final = False  # the head of the final reply is complete
        self._headers: list[tuple[bytes, bytes]] = []
        self._codings: list[bytes] = []
        self._has_length = False
        self._interim = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._fault = ""

    def close(self) -> None:
        """Break the cycle of reader and parser, so that neither waits for the collector."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Raises AttemptError("protocol") for what is no acceptable reply."""
        assert self._parser is not None
        assert not self.done
        self.wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise AttemptError("protocol", "switched protocols without being asked") from error
        except httptools.HttpParserError as error:
            self.reusable = False
            if not self.done:  # a reply that is whole stands, whatever follows it
                raise AttemptError("protocol", f"bad reply: {error}") from error
        if self._fault:
            raise AttemptError("protocol", self._fault)
        if not self._final:
            if self.wire_bytes > HEAD_BYTES_MAX:
                raise AttemptError("protocol", f"reply head over {HEAD_BYTES_MAX} bytes")
        elif self._body_bytes > BODY_BYTES_MAX or (self.wire_bytes > WIRE_BYTES_MAX and not self.done):
            self.full = True

    def end(self, clean: bool) -> None:
        """The stream ended, over TLS ``clean`` if it said so. Raises AttemptError when that is too early."""
        if not self._final:
            raise AttemptError(
                "reset", "closed in the reply head" if self.wire_bytes else "closed before the reply"
            )
        if self._has_length or self._codings:
            raise AttemptError("reset", f"closed in the reply body, after {self._body_bytes} bytes")
        self.done = clean
        self.full = not clean

    def reply(self) -> Reply:
        """Hand the reply over, once: an idle connection keeps none of it."""
        assert self.done or self.full
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        reply = Reply(self._status, tuple(self._headers), body[:BODY_BYTES_MAX], self.full)
        self._headers, self._body = [], []
        return reply

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False  # a second reply to one request: the stream can no longer be trusted

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._final:
            return  # a trailer, or what follows the reply
        if len(self._headers) >= HEADERS_MAX:
            self._fault = f"over {HEADERS_MAX} reply headers"
            return
        self._headers.append((name, value.rstrip(b" \t")))  # llhttp strips in front only
        length = len(name)
        if length == 14:
            self._has_length |= name.lower() == b"content-length"
        elif length == 17 and name.lower() == b"transfer-encoding":
            self._codings.append(value.strip().lower())

    def on_headers_complete(self) -> None:
        if self._final:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            self._fault = "not an HTTP/1 reply"
        elif self._codings and self._codings != [b"chunked"]:
            self._fault = "a transfer coding other than chunked"
        elif status >= 200:
            self._status = status
            self._final = True
        elif status < 100:
            self._fault = f"status {status}"
        else:
            self._interim += 1
            self._headers.clear()
            self._codings.clear()
            self._has_length = False
            if self._interim > INTERIM_REPLIES_MAX:
                self._fault = f"over {INTERIM_REPLIES_MAX} interim replies"

    def on_body(self, data: bytes) -> None:
        if not self.done and self._body_bytes <= BODY_BYTES_MAX:
            self._body.append(data)
            self._body_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._final and not self.done:
            assert self._parser is not None
            self.done = True
            self.reusable = self._parser.should_keep_alive()
