"""A daemon that answers each request with its own id, on any number of connections, plain or over TLS."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

Request = dict[str, Any]


def echo(request: Request) -> Request:
    """What a daemon would say, as far as the clients look; ``id`` is that of the request."""
    return {
        "ok": True, "id": request.get("id"), "queue": "default", "version": 1, "due": 1, "state": "scheduled",
        "duplicate": False, "cancelled": 1, "running": 0, "finished": 1, "redriven": 1, "now": 1, "tasks": [],
        "paused": True, "cursor": "c-0", "n": request.get("n"),
    }  # fmt: skip


class EchoServer:
    """``connections`` holds what each connection brought, in order, without ``seq``."""

    def __init__(
        self,
        answer: Callable[[Request], Request] = echo,
        tls: ssl.SSLContext | None = None,
        seq: Callable[[Any], Any] = lambda seq: seq,
    ) -> None:
        self.connections: list[list[Request]] = []
        self._answer, self._tls, self._seq = answer, tls, seq
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        port = self._listener.getsockname()[1]
        self.address = f"{'tls:localhost' if tls else '127.0.0.1'}:{port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> EchoServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            requests: list[Request] = []
            self.connections.append(requests)
            thread = threading.Thread(target=self._serve, args=(connection, requests), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, requests: list[Request]) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    request = json.loads(line)
                    seq = request.pop("seq", None)
                    requests.append(request)
                    connection.sendall(_line(self._answer(request), self._seq(seq)))


def _line(reply: Request, seq: object) -> bytes:
    """As the daemon writes it: no spaces, ``ok`` first, ``seq`` last."""
    given = {} if seq is None else {"seq": seq}
    return json.dumps(reply | given, separators=(",", ":")).encode() + b"\n"
