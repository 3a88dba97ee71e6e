"""A receiver of callbacks in a process of its own: fast, and it tells what came, as it comes.

The path says how it answers: ``/ok`` 200 at once; ``/status/503`` that status; ``/answers/500,wait,done`` to
the first attempt 500, to the second 200 with ``wait`` as its body, from the third on 200 with ``done``;
``/slow/250`` 200 after so many ms; ``/hold`` nothing until ``release``. Each request is reported when it
arrives, and when it was answered, with clocks read in the receiver, so that the load of tests does not count.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from tests.process.daemon import ROOT, START_S


@dataclass
class Callback:
    """One request. ``wall_ns`` and ``elapsed_ns``: when its head had come, on either clock."""

    number: int
    id: str
    queue: str
    attempt: int
    version: int
    due: int
    late_ms: int
    wall_ns: int
    elapsed_ns: int
    path: str
    body: bytes
    webhook_id: str
    answered_ns: int | None = None  # wall time just after the answer was written; None: not yet

    @property
    def wall_ms(self) -> int:
        """Floor of the wall clock: what is compared with ``due`` to see that nothing was early."""
        return self.wall_ns // 1_000_000


class Receiver:
    """The test's end of the receiver process; ``callbacks`` grows while it runs."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.receiver"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._out, self._in = self.process.stdout, self.process.stdin
        self.port = int(self._out.readline())
        self.callbacks: list[Callback] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._in.close()  # its end of input is its end
        self._reader.join(START_S)
        assert self.process.wait(START_S) == 0
        self._out.close()

    def url(self, path: str = "/ok") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def release(self) -> None:
        """Answer what ``/hold`` holds, and from now on at once."""
        self._in.write(b"release\n")
        self._in.flush()

    def of(self, id: str) -> list[Callback]:
        """The callbacks of one task so far, in order."""
        with self._changed:
            return [callback for callback in self.callbacks if callback.id == id]

    def wait(self, wanted: Callable[[list[Callback]], bool], within_s: float = START_S) -> list[Callback]:
        """All callbacks so far, as soon as ``wanted`` says yes to them."""
        with self._changed:
            came = self._changed.wait_for(lambda: wanted(self.callbacks), within_s)
            assert came, f"not within {within_s} s; {len(self.callbacks)} callbacks: {self.callbacks[-5:]}"
            return list(self.callbacks)

    def wait_for(self, id: str, count: int = 1, within_s: float = START_S) -> list[Callback]:
        """The callbacks of ``id``, as soon as there are ``count``."""
        self.wait(lambda all_: sum(each.id == id for each in all_) >= count, within_s)
        return self.of(id)

    def _read(self) -> None:
        for line in self._out:
            told = json.loads(line)
            with self._changed:
                if "answered" in told:
                    self.callbacks[told["answered"]].answered_ns = told["wall_ns"]
                else:
                    told["body"] = told["body"].encode("latin-1")
                    self.callbacks.append(Callback(**told))
                self._changed.notify_all()


# --- the process -------------------------------------------------------------------------------------


class _Server:
    """What all connections of the process share."""

    def __init__(self) -> None:
        self.count = 0
        self.held: list[Callable[[], None]] = []
        self.released = False
        self._told: list[bytes] = []

    def tell(self, what: dict[str, Any]) -> None:
        """To the test, with whatever else is told in this turn of the loop."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._flush)
        self._told.append(json.dumps(what).encode())

    def _flush(self) -> None:
        sys.stdout.buffer.write(b"\n".join(self._told) + b"\n")
        sys.stdout.buffer.flush()
        self._told.clear()

    def release(self) -> None:
        self.released = True
        for answer in self.held:
            answer()
        self.held.clear()


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        wall_ns, elapsed_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            first, *head_lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in head_lines)
            }
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._data = rest[length:]
            self._request(first.split(" ")[1], headers, rest[:length], wall_ns, elapsed_ns)

    def _request(
        self, path: str, headers: dict[str, str], body: bytes, wall_ns: int, elapsed_ns: int
    ) -> None:
        server = self._server
        number = server.count
        server.count += 1
        what, _, value = path.strip("/").partition("/")
        now = what != "slow" and (what != "hold" or server.released)
        if what == "answers":
            answers, attempt = value.split(","), int(headers.get("wheeltimer-attempt", 1))
            answer = answers[min(attempt, len(answers)) - 1]
            self._write(int(answer) if answer.isdigit() else 200, answer.encode())
        elif now:
            self._write(int(value) if what == "status" else 200)
        server.tell({
            "number": number,
            "id": unquote(headers.get("wheeltimer-id", "")),
            "queue": headers.get("wheeltimer-queue", ""),
            "attempt": int(headers.get("wheeltimer-attempt", -1)),
            "version": int(headers.get("wheeltimer-version", -1)),
            "due": int(headers.get("wheeltimer-due", -1)),
            "late_ms": int(headers.get("wheeltimer-late-ms", -1)),
            "wall_ns": wall_ns, "elapsed_ns": elapsed_ns, "path": path, "body": body.decode("latin-1"),
            "webhook_id": headers.get("webhook-id", ""), "answered_ns": time.time_ns() if now else None,
        })  # fmt: skip
        if what == "slow":
            asyncio.get_running_loop().call_later(int(value) / 1000, self._answer, number)
        elif not now:
            server.held.append(lambda: self._answer(number))

    def _write(self, status: int, body: bytes = b"ok") -> None:
        self._transport.write(b"HTTP/1.1 %d Told\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    def _answer(self, number: int) -> None:
        if not self._transport.is_closing():
            self._write(200)
            self._server.tell({"answered": number, "wall_ns": time.time_ns()})


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = _Server()
    listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        assert line == b"release\n"
        server.release()
    listener.close()


if __name__ == "__main__":
    asyncio.run(_main())
