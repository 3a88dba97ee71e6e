"""Where callbacks arrive: one process, one epoll loop, the instant of every request's first byte.

``python -m benchmarks.receiver [ADDRESSES]`` listens on one free port of 127.0.0.1 (or of as
many other loopback addresses as asked for) and prints ``ready PORT``. A request for ``/slow/MS`` is answered
so many ms after it came, all others at once. Commands on standard input, one a line: ``count`` answers how
many requests came; ``arrivals`` answers ``[[id, due_ms, at_ns, attempt]...]`` and forgets them. It ends with
its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import sys
import time
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from benchmarks.harness import Process

REPLY: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
RECEIVE_BYTES: Final = 65_536
BACKLOG: Final = 4096
_LENGTH: Final = b"\r\ncontent-length: "
_SLOW: Final = b" /slow/"


def addresses(count: int) -> list[str]:
    """Loopback addresses to be so many destinations; all of one length."""
    if count == 1:
        return ["127.0.0.1"]
    return [f"127.100.{100 + number // 100}.{100 + number % 100}" for number in range(count)]


class Arrival(NamedTuple):
    """One request: from which task and attempt, due when (Unix ms), first byte here when (Unix ns)."""

    id: str
    due_ms: int
    at_ns: int
    attempt: int

    @property
    def late_ns(self) -> int:
        return self.at_ns - self.due_ms * 1_000_000


def arrivals(process: Process) -> list[Arrival]:
    """What a receiver process has seen since the last call."""
    return [Arrival(*entry) for entry in process.ask("arrivals")]


class _Receiver:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._open: dict[int, socket.socket] = {}
        self._partial: dict[int, tuple[int, bytes]] = {}  # (instant of the first byte, bytes so far)
        self._seen: list[tuple[int, bytes]] = []
        self._owed: list[tuple[int, int]] = []  # (instant of the reply in ns, descriptor)
        self._count = 0

    def listen(self, hosts: list[str]) -> int:
        """One port, the same on all hosts."""
        port = 0
        for host in hosts:
            listener = socket.create_server((host, port), backlog=BACKLOG)
            port = listener.getsockname()[1]
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            self._poll.register(listener, select.EPOLLIN)
        return port

    def run(self) -> None:
        """Until standard input ends."""
        stdin = sys.stdin.fileno()
        self._poll.register(stdin, select.EPOLLIN)
        gc.disable()
        while True:
            for fd, _ in self._poll.poll(self._wait_s()):
                if fd in self._open:
                    self._read(fd)
                elif fd == stdin:
                    if not self._command(sys.stdin.readline().strip()):
                        return
                else:
                    self._accept(self._listeners[fd])
            while self._owed and self._owed[0][0] <= time.time_ns():
                self._reply(heappop(self._owed)[1])

    def _wait_s(self) -> float | None:
        """Until the next reply that is owed; epoll itself counts in whole ms, rounded up."""
        return max(0, self._owed[0][0] - time.time_ns()) / 1e9 if self._owed else None

    def _reply(self, fd: int) -> None:
        if fd in self._open:
            with contextlib.suppress(ConnectionError):
                self._open[fd].send(REPLY)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[connection.fileno()] = connection
            self._poll.register(connection, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        at_ns = time.time_ns()
        connection = self._open[fd]
        try:
            data = connection.recv(RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self._partial.pop(fd, None)
            del self._open[fd]
            connection.close()
            return
        if fd in self._partial:
            at_ns, before = self._partial.pop(fd)
            data = before + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            head = data[: end + 2]
            at = head.lower().find(_LENGTH)
            body = int(head[at + len(_LENGTH) : head.index(b"\r\n", at + 2)]) if at >= 0 else 0
            if len(data) >= end + 4 + body:
                line = head[: head.index(b"\r\n")]
                if _SLOW in line:
                    ms = int(line.partition(_SLOW)[2].split()[0])
                    heappush(self._owed, (at_ns + ms * 1_000_000, fd))
                else:
                    connection.send(REPLY)
                self._count += 1
                self._seen.append((at_ns, head))
                return
        self._partial[fd] = at_ns, data

    def _command(self, word: str) -> bool:
        if not word:
            return False
        answer: Any = self._count
        if word == "arrivals":
            answer = [_arrival(at_ns, head) for at_ns, head in self._seen]
            self._seen.clear()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        return True


def _arrival(at_ns: int, head: bytes) -> tuple[str, int, int, int]:
    fields = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    return (fields["wheeltimer-id"], int(fields["wheeltimer-due"]), at_ns, int(fields["wheeltimer-attempt"]))


if __name__ == "__main__":
    _receiver = _Receiver()
    print("ready", _receiver.listen(addresses(int(sys.argv[1]) if sys.argv[1:] else 1)), flush=True)
    _receiver.run()
