"""One blocking connection: lines out, lines in, with any number of requests ahead of their replies.

Only sockets and line ends are handled here; ``pipeline.py`` reads the lines.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import ssl
import time
from typing import Final

from wheeltimer.errors import BadValue, ClientMisused, ServerUnreachable

REPLY_BYTES_MAX: Final = 64 << 20
"""The longest reply: a ``list`` of 1,000 tasks, each with 8 KiB of headers and its other fields."""

_AGAIN: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_POLLIN: Final = getattr(select, "POLLIN", 1)
_POLLOUT: Final = getattr(select, "POLLOUT", 4)
_READ_BYTES: Final = 1 << 18
_DEFAULT_PORT: Final = 8463
_WAIT_S_MAX: Final = 86_400.0  # of one system call, whose limit is 24 days; a longer wait takes several


class _Select:
    """The used part of ``select.poll``, for one socket on a system without it (Windows)."""

    def register(self, connection: socket.socket) -> None:
        self._reading = self._writing = [connection]

    def modify(self, connection: socket.socket, interest: int) -> None:
        self._writing = [connection] if interest & _POLLOUT else []

    def poll(self, wait_ms: int | None) -> list[tuple[int, int]]:
        wait_s = None if wait_ms is None else wait_ms / 1000
        readable, writable, _ = select.select(self._reading, self._writing, (), wait_s)
        events = (_POLLIN if readable else 0) | (_POLLOUT if writable else 0)
        return [(self._reading[0].fileno(), events)] if events else []


class LineConnection:
    """A stream of lines to ``HOST:PORT``, ``[::1]:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``.

    ``timeout_s`` bounds the connect, and later every time in which no byte is sent or received.
    Raises ``ServerUnreachable`` with the operating system's reason, ``BadValue`` for a wrong address. Only
    the process that made it can read and send.
    """

    def __init__(self, server: str, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self.server = server
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._out = bytearray()
        self._in = bytearray()
        try:
            self._socket = _connect(server, self._timeout_s, tls)
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
            raise unreachable(server, error) from error
        try:
            self._socket.setblocking(False)
            self._poll = select.poll() if hasattr(select, "poll") else _Select()
            self._poll.register(self._socket)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the descriptor and send nothing, not even TLS's close_notify; unread replies are lost.

        In a child process this leaves the parent's connection as it is.
        """
        self._socket.close()  # also of an SSLSocket this is only close(2)

    def interrupt(self) -> None:
        """End the connection under a thread that waits for it, which then closes it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @property
    def gone(self) -> bool:
        """Whether the daemon has closed the connection. Call it only while no reply is awaited.

        Bytes that have come count too: they are the daemon's reason, and no answer to a later request.
        """
        if self._in:
            return True
        try:
            self._socket.recv(1)
        except (*_AGAIN, BlockingIOError):
            return False
        except OSError:
            pass
        return True

    def put(self, lines: bytes) -> None:
        """Take whole lines to be sent; sends nothing by itself."""
        self._out += lines

    def read_line(self, *, forever: bool = False) -> bytes:
        """The next line, without its end. While it waits (``forever``: without a limit) it also sends.

        Reading and writing at the same time keeps a deep pipeline from a deadlock: the daemon stops reading
        requests while its replies are not read. Raises ``ConnectionError`` or ``TimeoutError``.
        """
        end = self._end_of_line(forever)
        line = bytes(self._in[:end])
        del self._in[: end + 1]
        return line

    def read_lines(self) -> list[bytes]:
        """All whole lines that have come, at least one; else as ``read_line``."""
        self._end_of_line(forever=False)
        end = self._in.rfind(b"\n")
        lines = bytes(self._in[:end]).split(b"\n")
        del self._in[: end + 1]
        return lines

    def _end_of_line(self, forever: bool) -> int:
        """Wait for a whole line; the offset of its end in what was read."""
        scanned = 0
        quiet_since = time.monotonic()
        while (end := self._in.find(b"\n", scanned)) < 0:
            scanned = len(self._in)
            if scanned > REPLY_BYTES_MAX:
                raise ConnectionError(f"a reply of more than {REPLY_BYTES_MAX} bytes")
            left_s = quiet_since + self._timeout_s - time.monotonic()
            if left_s <= 0 and not forever:
                raise TimeoutError(f"no answer within {self._timeout_s:g} s")
            if self._exchange(None if forever else left_s):
                quiet_since = time.monotonic()
        return end

    def _exchange(self, wait_s: float | None) -> bool:
        """Receive, or else send, as the socket allows; False if neither was possible."""
        self._at_home()
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return self._receive()  # decrypted already: the poll does not show it
        interest = _POLLIN | (_POLLOUT if self._out else 0)
        self._poll.modify(self._socket, interest)
        ready = self._poll.poll(None if wait_s is None else math.ceil(min(wait_s, _WAIT_S_MAX) * 1000))
        self._at_home()  # a signal handler may have forked
        if not ready:
            return False
        _, events = ready[0]
        if events & ~_POLLOUT:  # also an error or a hang-up: recv raises it, or returns nothing
            return self._receive()
        if events & _POLLOUT:
            # A daemon may have sent its reason before it closed: recv returns that, or raises the error.
            with contextlib.suppress(BlockingIOError, ConnectionError, *_AGAIN):
                sent = self._socket.send(bytes(self._out[:_READ_BYTES]))
                del self._out[:sent]
        return True

    def _at_home(self) -> None:
        if os.getpid() != self._pid:
            raise ClientMisused("this process was forked inside a request, whose reply is its parent's")

    def _receive(self) -> bool:
        """Read the bytes that have come; False if they are not a whole TLS record."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except _AGAIN:
            return False
        if not data:
            raise ConnectionError("the daemon closed the connection")
        self._in += data
        return True


def unreachable(server: str, error: BaseException) -> ServerUnreachable:
    """The error for a failed connect: why there is no connection, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerUnreachable(
            f"the certificate at {server} is not trusted ({error.verify_message});"
            " name the PEM of whom to trust with --ca-file or WHEELTIMER_CA_FILE (in Python also"
            " tls=ssl.create_default_context(cafile=...)), and the host as the certificate has it",
            lasting=True,
        )
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return ServerUnreachable(f"what answers at {server} speaks no TLS; leave out tls:", lasting=True)
    reason = getattr(error, "strerror", None) or str(error) or "no answer"
    return ServerUnreachable(
        f"no daemon answers at {server} ({reason}); start one with `wheeltimer serve`,"
        " or name another with --server"
    )


def tls_context(ca_file: str | None = None, cert_file: str | None = None) -> ssl.SSLContext:
    """The context for ``tls:`` addresses, with the system's authorities or those in ``ca_file``.

    ``cert_file``: the client's own certificate and its key, in one PEM file. Raises BadValue.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        raise BadValue(
            f"--ca-file: {ca_file}: no PEM certificates: {error.strerror or error}", "ca-file"
        ) from error
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise BadValue(
                f"--cert-file: {cert_file}: not a PEM certificate with its key: {error}", "cert-file"
            ) from error
    return context


def _connect(server: str, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
    if server.startswith("unix:"):
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.settimeout(min(timeout_s, _WAIT_S_MAX))
            unix.connect(server.removeprefix("unix:"))
        except BaseException:
            unix.close()
            raise
        return unix
    host, port = split_host_port(server.removeprefix("tls:"))
    tcp = socket.create_connection((host, port), min(timeout_s, _WAIT_S_MAX))
    try:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(tcp)
        if not server.startswith("tls:"):
            return tcp
        return (tls or tls_context()).wrap_socket(tcp, server_hostname=host)
    except BaseException:
        tcp.close()
        raise


def keep_alive(tcp: socket.socket) -> None:
    """Let the system detect a peer that has vanished: a subscriber may receive nothing for days."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux; other systems keep their own times
            tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def split_host_port(server: str) -> tuple[str, int]:
    """``HOST:PORT``, ``HOST`` (the daemon's default port), ``[::1]:PORT``."""
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = server.partition(":")
    port = port or str(_DEFAULT_PORT)
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadValue(
            f"{server!r} is no server address; write HOST:PORT, [IPV6]:PORT, tls:HOST:PORT or unix:PATH",
            "server",
        )
    return host, int(port)
