"""A reply under caps: bytes in, one final reply out; pure, no socket.

Replies are read by llhttp (``httptools``) in its strict form. What it refuses is read once more by
``oddhead.py``, which takes what has one meaning. Checked here on top: the version, the transfer coding, every
cap, and that nothing follows the reply.
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
HEADERS_MAX = 256  # a field costs Python thirty times what it costs the wire; with more, few are kept
SEEN_BYTES_MAX = 2 * HEAD_BYTES_MAX  # of a reply that is not whole, kept so that it can be read once more

Kind = Literal["blocked", "dns", "connect", "tls", "timeout", "reset", "protocol", "internal"]


class AttemptError(WheeltimerError):
    """An exchange that brought no whole reply; ``kind`` is one of a closed set, ``str()`` is what happened.
    ``reply`` is what had come of one, None if no final status line had come.

    ``blocked``: the address is not allowed. ``dns``, ``connect``, ``tls``: no connection. ``timeout``: none
    in time (a limit on the whole attempt is the caller's). ``reset``: closed or reset before the reply
    was whole. ``protocol``: what came is no acceptable HTTP/1.1 reply.
    """

    def __init__(self, kind: Kind, text: str, reply: Reply | None = None) -> None:
        super().__init__(text)
        self.kind: Kind = kind
        self.reply = reply


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A final reply. ``headers`` as sent; ``body`` at most BODY_BYTES_MAX; ``truncated``: there was more, or
    the end cannot be told; ``resent``: a kept connection was stale and the request went out a second time."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    truncated: bool = False
    resent: bool = False


class PartialReply:
    """Holds what had come of a reply when its exchange was cancelled, for the caller that cancelled it."""

    __slots__ = ("reply",)

    def __init__(self) -> None:
        self.reply: Reply | None = None


class ReplyReader:
    """Bytes -> one final reply; pure. httptools calls the ``on_*`` methods from within ``feed``.

    ``feed`` what arrives until ``done`` or ``full``; ``end`` when the stream ended. One reader serves all the
    exchanges of a connection: ``begin`` before each.
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
        self.full = False  # a cap was reached after the status line: what is there is the reply
        self.reusable = False  # whole, kept alive, and nothing came after it
        self._status = 0
        self._final = False  # the head of the final reply is complete
        self._headers: list[tuple[bytes, bytes]] = []
        self._codings: tuple[bytes, ...] = ()
        self._has_length = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._fault = ""
        self._seen: bytearray | None = None  # what came; kept while more is to come that llhttp may refuse

    def close(self) -> None:
        """Break the cycle of reader and parser, so that neither waits for the collector."""
        self._parser = None

    @property
    def head_is_whole(self) -> bool:
        """The head of the final reply is complete."""
        return self._final

    def feed(self, data: bytes) -> None:
        """Raises AttemptError("protocol") for what is no acceptable reply."""
        assert self._parser is not None
        assert not self.done
        self.wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise AttemptError("protocol", "switched protocols without being asked") from error
        except (httptools.HttpParserError, Unsound) as error:
            self.reusable = False
            if not self.done:  # a reply that is whole stands, whatever follows it
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
        """Remember what came, as far as it may have to be read once more."""
        if self._seen is None:
            self._seen = bytearray()
        if len(self._seen) <= SEEN_BYTES_MAX:
            self._seen += data

    def _read_again(self, text: str, data: bytes) -> None:
        """Read all that came of this reply once more, with ``OddParser``; ``data`` came last.

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
        """The head is too long to be read: its status is the reply, if it has one. Raises AttemptError."""
        reply = self.so_far()
        if reply is None:
            raise AttemptError("protocol", f"reply head over {HEAD_BYTES_MAX} bytes")
        self._status = reply.status
        self.full = True

    def end(self, clean: bool) -> None:
        """The stream ended, over TLS ``clean`` if it said so. Raises AttemptError when that is too early."""
        if not self._final:
            text = "closed in the reply head" if self.wire_bytes else "closed before the reply"
            raise self._error("reset", text)
        if self._has_length or self._codings:
            raise self._error("reset", f"closed in the reply body, after {self._body_bytes} bytes")
        self.done = clean
        self.full = not clean

    def so_far(self) -> Reply | None:
        """What has come of a reply that is not whole; None if its status line has not come."""
        status = self._status if self._final else status_of(self._seen or b"")
        if status is None:
            return None
        return Reply(status, tuple(self._headers), b"".join(self._body)[:BODY_BYTES_MAX], True)

    def _error(self, kind: Kind, text: str, data: bytes = b"") -> AttemptError:
        """The error with what had come of a reply. ``data``: what came last, if it is not kept yet."""
        if data and not self._final:
            self._keep(data)
        return AttemptError(kind, text, self.so_far())

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
        """A limit of ours keeps the rest of the body from being read; ``OddParser`` calls it."""
        self.full = True

    def on_message_complete(self) -> None:
        if self._final and not self.done:
            assert self._parser is not None
            self.done = True
            self.reusable = self._parser.should_keep_alive()
