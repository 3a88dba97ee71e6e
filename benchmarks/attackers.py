"""Clients that mean harm, flat out: a process for ``hostile.py``.

``python -m benchmarks.attackers PORT KIND`` prints ``ready`` when it has begun and goes on until its standard
input ends. It gives way to others on its processor: what is measured is what the daemon makes of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final

RECEIVE_BYTES: Final = 1 << 16
CROWD: Final = 500
_GONE: Final = struct.pack("ii", 1, 0)  # SO_LINGER of a close that is a reset
_Address = tuple[str, int]


def _connect(address: _Address) -> socket.socket:
    return socket.create_connection(address, timeout=60)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _GONE)
    client.close()


def _flood(address: _Address, line: bytes) -> None:
    """Lines as fast as their answers are read."""
    many = line * max(1, RECEIVE_BYTES // len(line))
    with _connect(address) as client:
        client.setblocking(False)
        rest = many
        while True:
            readable, writable, _ = select.select([client], [client], [])
            if readable and not client.recv(RECEIVE_BYTES):
                return
            if writable:
                rest = rest[client.send(rest) :] or many


def _deaf(address: _Address) -> None:
    """Asks for all it can get, and reads none of it; when it is cut, the next one comes."""
    while True:
        with _connect(address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(OSError):
                while True:
                    client.sendall(b'{"op":"list","limit":1000}\n' * 100)


def _drip(address: _Address) -> None:
    """Many connections, a byte at a time on each, never a line's end."""
    crowd = [_connect(address) for _ in range(CROWD)]
    while True:
        for number, client in enumerate(crowd):
            try:
                client.send(b"x")
            except OSError:
                client.close()
                crowd[number] = _connect(address)


def _storm(address: _Address) -> None:
    """Connects and is gone, with half a request."""
    while True:
        client = _connect(address)
        with contextlib.suppress(OSError):
            client.send(b'{"op":"stats"}\n{"op":')
        _reset(client)


def _vanish(address: _Address) -> None:
    """A hundred thousand requests, and gone."""
    while True:
        client = _connect(address)
        client.settimeout(1)
        with contextlib.suppress(OSError):
            client.sendall(b'{"op":"ping"}\n' * 100_000)
        _reset(client)


KINDS: Final[dict[str, Callable[[_Address], None]]] = {
    "rubbish": lambda address: _flood(address, b"\xff\x00 rubbish {\n"),
    "names like paths": lambda address: _flood(
        address, b'{"op":"ping","' + b" - at `$" * 16_000 + b'\\n":1}\n'
    ),
    "deep nesting": lambda address: _flood(
        address,
        b'{"op":"schedule","url":"http://a/","body":' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
    ),
    "pings": lambda address: _flood(address, b'{"op":"ping"}\n'),
    "deaf": _deaf,
    "drip": _drip,
    "storm": _storm,
    "vanish": _vanish,
}


def main(port: int, kind: str) -> int:
    os.nice(19)
    for _ in range(1 if kind == "drip" else 4):
        threading.Thread(target=KINDS[kind], args=(("127.0.0.1", port),), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
