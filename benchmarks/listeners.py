"""Many connections that only listen: a process that holds them, reads what comes and counts the lines.

``python -m benchmarks.listeners PORT COUNT [subscribe]`` connects to the daemon on 127.0.0.1, subscribes
each connection to all events where asked to, and prints ``ready``. ``count`` on standard input answers
``{"lines": N, "bytes": N, "closed": N}``, all since the start. It ends with its standard input.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
from typing import Final

RECEIVE_BYTES: Final = 1 << 20


def main(port: int, count: int, subscribe: bool) -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    poll = select.epoll()
    open_: dict[int, socket.socket] = {}
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if subscribe:
            connection.sendall(b'{"op":"subscribe"}\n')
            assert connection.recv(RECEIVE_BYTES).startswith(b'{"ok":true')
        connection.setblocking(False)
        open_[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    print("ready", flush=True)
    lines = size = closed = 0
    buffer = bytearray(RECEIVE_BYTES)
    while True:
        for fd, _ in poll.poll():
            if fd == sys.stdin.fileno():
                if not sys.stdin.readline():
                    return 0
                print(json.dumps({"lines": lines, "bytes": size, "closed": closed}), flush=True)
                continue
            got = open_[fd].recv_into(buffer)
            if not got:
                poll.unregister(fd)
                open_.pop(fd).close()
                closed += 1
            lines += buffer.count(b"\n", 0, got)
            size += got


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["subscribe"]))
