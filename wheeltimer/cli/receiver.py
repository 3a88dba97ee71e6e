"""Shared by ``demo`` and ``bench``: a receiver of callbacks, and signals that still run every ``finally``.

The receiver is a thread of this process; it answers at once and records when each callback arrived.
``demo.py`` and ``bench.py`` evaluate the arrivals.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import NamedTuple


class Arrival(NamedTuple):
    """A callback: its task's id, and when its first line had arrived (Unix ns)."""

    id: str
    at_ns: int


class Receiver(ThreadingHTTPServer):
    """Answers 204 to every POST and puts it into ``arrivals``. Raises OSError if it cannot listen."""

    daemon_threads = True
    request_queue_size = 128  # as many connections as a destination's window has

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Handler)
        self.arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

    @property
    def url(self) -> str:
        """The URL for callbacks to this receiver."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/callback"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore lost connections: a daemon that is stopped cuts them. Print other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver
    _at_ns = 0

    def parse_request(self) -> bool:
        self._at_ns = time.time_ns()  # before the headers: reading them must not count as lateness
        return super().parse_request()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(204)
        self.end_headers()
        self.server.arrivals.put(Arrival(self.headers.get("wheeltimer-id", ""), self._at_ns))

    def log_message(self, format: str, *args: object) -> None:
        """The commands print their own lines."""


@contextlib.contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver that runs until the block ends. Raises OSError if ``host`` is no address of this machine."""
    receiver = Receiver(host)
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join()


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Make SIGTERM, and SIGHUP of a closed terminal, end the command like Ctrl-C: every ``finally`` runs."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # a second signal must not interrupt a ``finally``
        raise SystemExit(128 + number)

    before = {one: signal.signal(one, unwind) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
