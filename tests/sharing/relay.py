"""A TCP relay between a client and the daemon that keeps what was sent on each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from tests.process.daemon import START_S


class Relay:
    """``sent[n]``: what the client sent on its n-th connection. ``ended``: which it closed or shut down."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("tls:").rpartition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.sent: list[bytearray] = []
        self.ended: set[int] = set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(START_S)  # before the others: it makes them
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(START_S)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # shut down: the end
            while True:
                client, _ = self._listener.accept()
                daemon = socket.create_connection(self._to, START_S)
                daemon.settimeout(None)
                number = len(self.sent)
                self.sent.append(bytearray())
                self._sockets += client, daemon
                for ends in ((client, daemon, number), (daemon, client, None)):
                    thread = threading.Thread(target=self._pump, args=ends)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, number: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number is not None:
                    self.sent[number] += data
                target.sendall(data)
        if number is not None:
            self.ended.add(number)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
