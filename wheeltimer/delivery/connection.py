"""One HTTP/1.1 connection: TLS, a request out, a reply in, under caps; no pool, no lookup, no retry.

The socket is used directly, without a stream around it. A request is one non-blocking ``send`` that nearly
always takes it whole, a reply one wait and one ``recv``: a kept connection costs one pass through Trio's
scheduler per exchange, where a stream's ``send_all`` and ``receive_some`` cost three, and over TLS more.
``ssl.SSLSocket`` is the same object with other words for "would block", so TLS has no code path of its own.

Replies are read by llhttp (``httptools``). It refuses what request smuggling is made of: two lengths, a
length beside a transfer coding, bare CR or LF, white space before a colon, folded lines. Checked here on
top: the version, the transfer coding, every cap, and that nothing follows the reply.

Every wait can be cancelled; whoever holds the connection closes it then, there is no half-used state to keep.
Time limits are the caller's.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Literal

import httptools
import msgspec
import trio

from wheeltimer.core.limits import REPLY_BYTES_MAX
from wheeltimer.errors import WheeltimerError

BODY_BYTES_MAX = REPLY_BYTES_MAX  # of a reply; the rest is not read and the connection is closed
HEAD_BYTES_MAX = 65_536  # status line and header fields, interim replies included
WIRE_BYTES_MAX = 8 * BODY_BYTES_MAX  # chunk framing and trailers included: a one-byte chunk costs six
HEADERS_MAX = 256  # a field costs Python thirty times what it costs the wire
INTERIM_REPLIES_MAX = 16  # 1xx before the reply itself
RECV_BYTES = 16_384  # one TLS record

# All connections read into it, and copy what came at once: a piece of its own for each read leaves holes in
# the heap.
_received = memoryview(bytearray(RECV_BYTES))
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

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


class Connection:
    """An open connection to one destination and one exchange at a time; the holder closes it on any error."""

    __slots__ = ("_arrivals", "_reader", "_unsent", "idle_since", "sock", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = ReplyReader()
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)
        self._unsent: bytes | memoryview = b""
        self.idle_since = 0.0  # Trio's clock; the pool's
        self.watched = False  # entered in the transport's ``Arrivals``

    def close(self) -> None:
        self._reader.close()
        self.sock.close()

    @property
    def reusable(self) -> bool:
        """The last exchange left nothing behind on either side."""
        return self._reader.reusable

    @property
    def answered(self) -> bool:
        """At least one byte of reply came in the present or last exchange."""
        return self._reader.wire_bytes > 0

    def is_quiet(self) -> bool:
        """Nothing arrived since the last reply, not even its end. One system call; ``recv`` would do alone,
        but its exceptions cost 2 us, over TLS 6.

        Bytes that came unasked would be taken for the reply to the next request (RFC 9112 section 9.2).
        """
        if not self._arrivals.poll(0):
            return True  # nor does OpenSSL hold any: a record is always read whole
        try:
            self.sock.recv(1)
        except _WOULD_BLOCK:
            return True  # TLS's own, a session ticket
        except OSError:
            return False
        return False

    async def exchange(self, message: bytes) -> Reply:
        """Send one whole request, read one final reply. Raises AttemptError ("reset", "tls", "protocol")."""
        self.begin(message)
        while True:
            if self._unsent:
                await _wait_either(self.sock)
            else:
                await trio.lowlevel.wait_readable(self.sock)
            if (reply := self.advance()) is not None:
                return reply

    def begin(self, message: bytes) -> None:
        """Send one whole request, or as much of it as the socket takes; ``advance`` when there is news."""
        self._reader.begin()
        self._unsent = self._send(message)

    def advance(self) -> Reply | None:
        """Send and read what can be without waiting; the final reply once it is whole.

        The reply is read while a large request still goes out: a receiver may answer without reading it,
        and then the connection is not reusable. Raises AttemptError ("reset", "tls", "protocol").
        """
        reader = self._reader
        if self._unsent:
            self._unsent = self._send(self._unsent)
        while self._receive():
            if reader.done or reader.full:
                if self._unsent:
                    reader.reusable = False
                return reader.reply()
        return None

    def _send(self, data: bytes | memoryview) -> bytes | memoryview:
        """Send what the socket takes; returns the rest. Nothing is left once the other side is gone: it
        may have answered before it closed, and reading tells."""
        try:
            sent = self.sock.send(data)
        except _WOULD_BLOCK:
            return data
        except OSError:
            return b""
        return memoryview(data)[sent:] if sent < len(data) else b""

    def _receive(self) -> bool:
        """Read once; False where nothing is there."""
        reader = self._reader
        try:
            size = self.sock.recv_into(_received)
        except _WOULD_BLOCK:
            return False
        except ssl.SSLEOFError:
            reader.end(clean=False)
        except ssl.SSLError as error:
            raise AttemptError("tls", _tls_text(error)) from error
        except OSError as error:
            raise AttemptError("reset", error.strerror or str(error)) from error
        else:
            if size:
                reader.feed(bytes(_received[:size]))
            else:
                reader.end(clean=True)
        return True


async def start_tls(sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Shake hands on a connected socket; the certificate must be for ``host``, whatever address it has.

    Takes the socket over: it is closed on any error. Raises AttemptError("tls").
    """
    tls: ssl.SSLSocket | None = None
    try:
        # A ragged end must show: it is how a cut reply without a length is told from a whole one.
        tls = context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(tls)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(tls)
            else:
                return tls
    except BaseException as error:
        (tls or sock).close()
        if isinstance(error, (OSError, ValueError)):  # ValueError: a host that cannot be a server name
            raise AttemptError("tls", _tls_text(error)) from error
        raise


def _tls_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return f"TLS: {error}"


async def _wait_either(sock: socket.socket) -> None:
    """Return when the socket can be read or written."""
    async with trio.open_nursery() as nursery:

        async def writable() -> None:
            await trio.lowlevel.wait_writable(sock)
            nursery.cancel_scope.cancel()

        nursery.start_soon(writable)
        await trio.lowlevel.wait_readable(sock)
        nursery.cancel_scope.cancel()
