"""A receiver of callbacks that is a bare socket: it keeps every byte as it came, and answers by the path.

``/500,200/x``: the first request to this path gets 500, the second and all after it 200. Words instead of a
status: ``wait`` is a 200 that says ``wait``, ``hold`` is no answer until the end, ``bytes`` a 200 that is
not UTF-8; any word that ``answers`` has is answered with those bytes. Each answer closes its connection.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Self

from tests.process.daemon import START_S


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole reply."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Request:
    """One request as it came: ``head`` up to and with the empty line, ``body`` all behind it."""

    head: bytes
    body: bytes
    wall_ns: int  # when the whole of it had come

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> str:
        return self.line.split(b" ")[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        """By lower name; a name that comes twice is an error."""
        fields: dict[str, str] = {}
        for line in self.head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b": ")
            assert name.lower().decode() not in fields, f"{name!r} twice"
            fields[name.lower().decode()] = value.decode("latin-1")
        return fields


class RawReceiver:
    """Listens on a port of loopback from ``with`` to its end; one thread for each connection."""

    def __init__(self) -> None:
        self.answers = {"wait": reply(200, b"wait"), "bytes": reply(200, b"\xff\xfe"), "hold": b""}
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(START_S)
        self._listener.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, target: str) -> list[Request]:
        with self._changed:
            return [request for request in self.requests if request.target == target]

    def wait(self, target: str, count: int = 1) -> list[Request]:
        """The requests to ``target``, as soon as there are ``count``."""

        def there() -> bool:
            return sum(request.target == target for request in self.requests) >= count

        with self._changed:
            assert self._changed.wait_for(there, START_S), f"{target}: {self.requests}"
        return self.of(target)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down: the end
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(START_S)
            data = b""
            while b"\r\n\r\n" not in data:
                part = connection.recv(65_536)
                if not part:
                    return
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            request = Request(head + b"\r\n\r\n", body, 0)
            length = int(request.headers.get("content-length", "0"))
            while len(request.body) < length:
                part = connection.recv(65_536)
                if not part:
                    return
                request.body += part
            request.wall_ns = time.time_ns()
            with self._changed:
                self.requests.append(request)
                number = sum(each.target == request.target for each in self.requests)
                self._changed.notify_all()
            words = request.target.split("/")[1].split(",")
            word = words[min(number, len(words)) - 1]
            answer = reply(int(word)) if word.isdigit() else self.answers[word]
            if answer:
                connection.sendall(answer)
            else:
                self._over.wait()
