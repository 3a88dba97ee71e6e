"""Load: request lines of one length, sent over many connections with many requests under way on each.

One process and one epoll loop for all connections; lines are built before the clock starts, replies are
counted and not parsed. So the load costs a small part of what the daemon spends on it.
"""

from __future__ import annotations

import contextlib
import gc
import random
import select
import socket
import time
from typing import Final, NamedTuple

RECEIVE_BYTES: Final = 262_144
STALL_TIMEOUT_S: Final = 60
HOUR_MS: Final = 3_600_000

_SCHEDULE: Final = (
    b'{"op":"schedule","id":"%020d","delay":%11d,'
    b'"url":"http://127.0.0.1:9/cb/%018d","body":{"order":%20d,"note":"0123456789"}}\n'
)
"""20 bytes of id, 40 of URL (all different), 50 of body; JSON numbers are padded with blanks."""


def schedule_lines(first: int, count: int, *, seed: int, spread_ms: int = HOUR_MS) -> list[bytes]:
    """``schedule`` requests number ``first`` and up, due over ``spread_ms``, none within the next hour."""
    chance = random.Random(seed * 1_000_003 + first)
    return [
        _SCHEDULE % (number, HOUR_MS + int(chance.random() * spread_ms), number, number)
        for number in range(first, first + count)
    ]


def cancel_lines(first: int, count: int) -> list[bytes]:
    """``cancel`` requests for what ``schedule_lines`` made."""
    return [b'{"op":"cancel","id":"%020d"}\n' % number for number in range(first, first + count)]


class Driven(NamedTuple):
    """What ``drive`` saw: requests answered, those with ``"ok":true``, from first send to last reply."""

    replies: int
    ok: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.ok / self.seconds


class _Connection:
    """One socket with its share of the lines."""

    def __init__(self, address: tuple[str, int], lines: memoryview) -> None:
        self.socket = socket.create_connection(address, timeout=STALL_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.lines = lines
        self.sent = 0  # bytes
        self.allowed = 0  # bytes that may be sent: what was sent, and what may be under way
        self.rest = b""  # a reply of which only a part has come
        self.full = False  # the socket took less than it was given


def drive(
    address: tuple[str, int], lines: list[bytes], connections: int, depth: int, seconds: float
) -> Driven:
    """Send ``lines`` until all are answered, or for ``seconds`` and then wait for what is under way.

    Each connection keeps ``depth`` requests under way: as many go out as replies came in. The lines must
    have one length. RuntimeError when the daemon goes away or answers nothing for a minute.
    """
    size = len(lines[0])
    joined = memoryview(b"".join(lines))
    assert len(joined) == size * len(lines), "lines of one length expected"
    share = len(lines) // connections * size
    open_ = {}
    poll = select.epoll()
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for number in range(connections):
            connection = _Connection(address, joined[number * share : (number + 1) * share])
            connection.allowed = min(depth * size, share)
            open_[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
        return _exchange(open_, poll, size, seconds)
    finally:
        if gc_was_on:
            gc.enable()
        poll.close()
        for connection in open_.values():
            connection.socket.close()


def _exchange(open_: dict[int, _Connection], poll: select.epoll, size: int, seconds: float) -> Driven:
    began = time.perf_counter()
    until = began + seconds
    replies = ok = waiting = 0
    for connection in open_.values():
        waiting += connection.allowed // size
        _send(connection, poll)
    while waiting:
        events = poll.poll(STALL_TIMEOUT_S)
        if not events:
            raise RuntimeError(f"no reply for {STALL_TIMEOUT_S} s, {waiting} outstanding")
        more = time.perf_counter() < until
        for fd, event in events:
            connection = open_[fd]
            if event & ~select.EPOLLOUT:
                data = connection.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise RuntimeError(f"the daemon closed a connection, {waiting} outstanding")
                data = connection.rest + data
                end = data.rfind(b"\n") + 1
                connection.rest = data[end:]
                answered = data.count(b"\n")
                ok += data.count(b'"ok":true', 0, end)
                replies += answered
                waiting -= answered
                if more:
                    before = connection.allowed
                    connection.allowed = min(before + answered * size, len(connection.lines))
                    waiting += (connection.allowed - before) // size
            if connection.sent < connection.allowed:
                _send(connection, poll)
    return Driven(replies, ok, time.perf_counter() - began)


def _send(connection: _Connection, poll: select.epoll) -> None:
    """Send what is allowed; where the socket takes less, ask to be told when it takes more."""
    with contextlib.suppress(BlockingIOError):
        connection.sent += connection.socket.send(connection.lines[connection.sent : connection.allowed])
    full = connection.sent < connection.allowed
    if full != connection.full:
        connection.full = full
        poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT if full else select.EPOLLIN)
