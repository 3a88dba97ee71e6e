"""A daemon that says what the test dictates: a TCP or Unix server with a script of replies.

One connection after the other, one thread. It reads and writes blocking, line by line, like the
simplest daemon that could be: a client that deadlocks with it deadlocks with a real one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

Request = dict[str, Any]
SEQ = b"$SEQ"
"""In raw bytes: the ``seq`` of the request."""
CLOSE = object()
"""In a script: close the connection instead of answering."""
SILENCE = object()
"""In a script: leave this request without an answer."""


class ScriptedServer:
    """Answers request number n with ``script[n]``: a dict, raw bytes, ``CLOSE`` or ``SILENCE``.

    ``script`` may also be a function from request to answer. ``requests`` is what came in, without the
    client's ``seq``, which a dict brings back as the daemon does; ``raw`` has the lines.
    """

    def __init__(self, script: Iterable[Any] | Callable[[Request], Any], path: Path | None = None) -> None:
        self.requests: list[Request] = []
        self.raw: list[bytes] = []
        self._answer = script if callable(script) else _one_by_one(script)
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.address = f"unix:{path}"
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        # A listener that is shut down ends accept(); closing it alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        assert not self._thread.is_alive(), "the client left its connection open"

    def _run(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                self.raw.append(line)
                request = json.loads(line)
                seq = request.pop("seq", None)
                self.requests.append(request)
                answer = self._answer(self.requests[-1])
                if answer is CLOSE:
                    return
                if answer is SILENCE:
                    continue
                data = answer if isinstance(answer, bytes) else reply_line(answer, seq)
                connection.sendall(data.replace(SEQ, json.dumps(seq).encode()))


def reply_line(reply: Request, seq: object) -> bytes:
    """A reply as the daemon writes it: ``seq`` last, without a space."""
    text = json.dumps(reply)
    if seq is not None:
        text = f'{text[:-1]},"seq":{json.dumps(seq)}}}'
    return text.encode() + b"\n"


def _one_by_one(script: Iterable[Any]) -> Callable[[Request], Any]:
    answers = iter(script)
    return lambda _request: next(answers)
