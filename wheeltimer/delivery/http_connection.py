"""One HTTP/1.1 connection: TLS, a request out, a reply in; no pool, no lookup, no retry.

The socket is used directly, without a stream around it. A request is one non-blocking ``send`` that nearly
always takes it whole, a reply one wait and one ``recv``. With a stream, ``send_all`` and ``receive_some``
would cost three passes through Trio's scheduler, over TLS more. ``ssl.SSLSocket`` has the same methods and
only other exceptions for "would block", so TLS has no code path of its own. ``reply.py`` parses replies.

Every wait can be cancelled; the caller then closes the connection. The caller also sets time limits.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable

import trio

from wheeltimer.delivery.reply import AttemptError, Reply, ReplyReader
from wheeltimer.delivery.shortage import Shortage, no_descriptors, reason_of

RECV_BYTES = 16_384  # one TLS record
READS_MAX = 2  # in one ``advance``: a reply in chunks of one byte costs 0.2 ms a read, and others wait

# All connections read into this buffer and copy the bytes at once: a buffer of its own for each read leaves
# holes in the heap.
_received = memoryview(bytearray(RECV_BYTES))
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """An open connection to one destination, one exchange at a time. The caller closes it on any error."""

    __slots__ = ("_arrivals", "_reader", "_unsent", "idle_since", "opened_s", "sock", "unread", "watched")

    def __init__(self, sock: socket.socket, opened_s: float) -> None:
        self.sock = sock
        self.opened_s = opened_s  # Trio's clock
        self._reader = ReplyReader()
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)
        self._unsent: bytes | memoryview = b""
        self.unread = False  # ``advance`` left bytes that had arrived
        self.idle_since = 0.0  # Trio's clock; set by `Pool`
        self.watched = False  # registered in `ReplyPoller`

    def close(self) -> None:
        self._reader.close()
        self.sock.close()

    @property
    def reusable(self) -> bool:
        """Whether the last exchange left no bytes behind in either direction."""
        return self._reader.reusable

    @property
    def answered(self) -> bool:
        """Whether at least one byte of reply came in the present or last exchange."""
        return self._reader.wire_bytes > 0

    def so_far(self) -> Reply | None:
        """The part of an incomplete reply that has come; None if its status line has not come."""
        return self._reader.so_far()

    def is_quiet(self) -> bool:
        """Whether nothing arrived since the last reply, neither bytes nor the end of the stream.

        Bytes that came without a request would be taken for the reply to the next one (RFC 9112 section 9.2).
        One system call. ``recv`` alone would do, but its exceptions cost 2 us, over TLS 6 us.
        """
        if not self._arrivals.poll(0):
            return True  # OpenSSL holds no bytes either: a record is always read whole
        try:
            self.sock.recv(1)
        except _WOULD_BLOCK:
            return True  # no data, only a TLS message such as a session ticket
        except OSError:
            return False
        return False

    async def exchange(self, message: bytes) -> Reply:
        """Send one whole request, read one final reply. Raises AttemptError ("reset", "tls", "protocol")."""
        self.begin(message)
        self.push()
        while True:
            if self._unsent:
                await _wait_either(self.sock)
            else:
                await trio.lowlevel.wait_readable(self.sock)
            if (reply := self.advance()) is not None:
                return reply

    def begin(self, message: bytes) -> None:
        """Take one whole request; `push` sends it."""
        self._reader.begin()
        self._unsent = message

    def push(self) -> None:
        """Send the request, as far as the socket takes it. Call ``advance`` once the socket is ready."""
        self._unsent = self._send(self._unsent)

    def advance(self) -> Reply | None:
        """Send and read what is possible without waiting; return the final reply once it is whole.

        After `READS_MAX` reads it stops; ``unread`` is then True, as more may have arrived already.

        The reply is read also while a large request is still being sent: a receiver may answer without
        reading all of it, and then the connection is not reusable. Raises AttemptError ("reset", "tls",
        "protocol").
        """
        reader = self._reader
        if self._unsent:
            self._unsent = self._send(self._unsent)
        for _ in range(READS_MAX):
            self.unread = self._receive()
            if not self.unread:
                return None
            if reader.done or reader.full:
                if self._unsent:
                    reader.reusable = False
                return reader.reply()
        return None

    def _send(self, data: bytes | memoryview) -> bytes | memoryview:
        """Send what the socket takes; return the rest. Empty also if the receiver has closed: it may have
        answered before that, and reading shows which."""
        try:
            sent = self.sock.send(data)
        except _WOULD_BLOCK:
            return data
        except OSError:
            return b""
        return memoryview(data)[sent:] if sent < len(data) else b""

    def _receive(self) -> bool:
        """Read once; False if nothing has arrived."""
        reader = self._reader
        try:
            size = self.sock.recv_into(_received)
        except _WOULD_BLOCK:
            return False
        except ssl.SSLError as error:
            if not _is_cut(error):
                raise AttemptError("tls", _tls_text(error), reader.so_far()) from error
            reader.end(clean=False)
        except OSError as error:
            raise AttemptError("reset", error.strerror or str(error), reader.so_far()) from error
        else:
            if size:
                reader.feed(bytes(_received[:size]))
            else:
                reader.end(clean=True)
        return True


def show_cut_streams(context: ssl.SSLContext) -> None:
    """Make an end of the stream without TLS's own end (close_notify) an error.

    Python 3.11.0 to 3.11.3 set the option in every context, and then a reply that was cut off looks whole.
    """
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def _is_cut(error: ssl.SSLError) -> bool:
    """Whether the stream ended without close_notify. With OpenSSL 3, Python before 3.11.4 has no class for
    that error."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


async def start_tls(
    sock: socket.socket, context: ssl.SSLContext, host: str,
    no_descriptors: Callable[[], bool] = no_descriptors,
) -> ssl.SSLSocket:  # fmt: skip
    """Shake hands on a connected socket; the certificate must be for ``host``.

    Closes the socket on any error. Raises AttemptError("tls"), or Shortage: of memory, or of descriptors if
    the trust store could not be opened.
    """
    tls: ssl.SSLSocket | None = None
    try:
        # A ragged end must be an error: only by it a reply without a length that was cut off is detected.
        # A dot at the end of the name is only for the lookup (RFC 6066 section 3); no certificate has it.
        name = host.removesuffix(".")
        tls = context.wrap_socket(
            sock, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=False
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
        untrusted = isinstance(error, ssl.SSLCertVerificationError)
        reason = "descriptors" if untrusted and no_descriptors() else reason_of(error)
        (tls or sock).close()
        if reason in ("descriptors", "memory", "watches"):
            raise Shortage(reason, f"TLS: {error}") from error
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
    """Return once the socket can be read or written."""
    async with trio.open_nursery() as nursery:

        async def writable() -> None:
            await trio.lowlevel.wait_writable(sock)
            nursery.cancel_scope.cancel()

        nursery.start_soon(writable)
        await trio.lowlevel.wait_readable(sock)
        nursery.cancel_scope.cancel()
