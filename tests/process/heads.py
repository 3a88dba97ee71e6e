"""Reply heads as receivers send them, by the book and not, from a seed; and a receiver that sends them."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Final

BODY: Final = b"success"
_REASONS: Final = (b" OK", b" ", b"", b" Very  Well", b" \xfcber", b" O\tK", b" O\x01K")
_STATUSES: Final = (200, 200, 200, 200, 201, 202, 206, 299, 204, 301, 404, 500)
_PLAIN: Final = (
    b"Server: nginx", b"Content-Type: text/html; charset=utf-8", b"Connection: close", b"X-Tight:v",
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT", b"Set-Cookie: a=b; Path=/", b"Retry-After: 1", b"X-Empty:",
    b"connection: keep-alive", b"Keep-Alive: timeout=5", b"ETag: \"x\"", b"Vary: *", b"X-High: caf\xe9",
)  # fmt: skip
_ODD: Final = (
    b"X-Fold: a{eol} b", b"X-Fold: a{eol}\tb{eol}  c", b"X-Fold:{eol} content-length: 3", b"X-Space : a",
    b"X-Tab\t: a", b"no colon here", b": no name", b"X-Control: a\x01b", b"X-Bell: \x07", b"X-Del: a\x7f",
    b"X@At: a", b"X-Cr: a\rb", b"{cookies}", b"\xff\xfe: a", b"X Y: z", b"(comment): x",
)  # fmt: skip


def head(chance: random.Random) -> tuple[bytes, bool]:
    """(one reply: a head, and mostly the body that it announces; whether its end was cut off)."""
    crlf, lf = b"\r\n", b"\n"
    eols = chance.choice(((crlf,), (crlf,), (crlf,), (lf,), (crlf, lf)))
    eol = lambda: chance.choice(eols)  # noqa: E731
    version = chance.choice((b"1.1", b"1.1", b"1.1", b"1.0"))
    status = b"%d" % chance.choice(_STATUSES)
    fields = chance.sample(_PLAIN, chance.randrange(5))
    if chance.random() < 0.5:
        fields += chance.sample(_ODD, chance.choice((1, 1, 1, 2, 3)))
    framing, body = _framed(chance, eol)
    fields += framing
    chance.shuffle(fields)
    parts = [b"HTTP/", version, b" ", status, chance.choice(_REASONS), eol()]
    for field in fields:
        if field == b"{cookies}":
            parts += [b"Set-Cookie: c=%d%b" % (n, eol()) for n in range(chance.choice((200, 300, 1500)))]
        else:
            parts += [field.replace(b"{eol}", eol()), eol()]
    reply = b"".join((*parts, eol(), body))
    if chance.random() < 0.05:
        reply = b"HTTP/1.1 %d Wait%b%b" % (chance.choice((100, 102, 103)), eol(), eol()) + reply
    if chance.random() < 0.08:
        return reply[: chance.randrange(len(reply))], True
    if chance.random() < 0.15:
        at = chance.randrange(min(len(reply), 120))
        other = chance.choice((bytes([chance.randrange(256)]), b"", b"\n", b" "))
        reply = reply[:at] + other + reply[at + 1 :]
    return reply, False


def _framed(chance: random.Random, eol: object) -> tuple[list[bytes], bytes]:
    """(fields that say where the body ends, the body as it is sent)."""
    assert callable(eol)
    size = len(BODY)
    length = b"Content-Length: %d" % size
    kind = chance.randrange(16)
    if kind < 5:
        return [length], BODY
    if kind < 7:
        return [], BODY
    if kind < 11:
        cuts = (BODY[:3], BODY[3:]) if chance.random() < 0.5 else (BODY,)
        mark = chance.choice((b"", b"", b"", b";a=b", b" ", b';x="y"'))
        chunks = b"".join(b"%x%b%b%b%b" % (len(cut), mark, eol(), cut, eol()) for cut in cuts)
        trailer = chance.choice(
            (b"", b"", b"X-Sum: 1" + eol(), b"Content-Length: 3" + eol(), b"a : b" + eol())
        )
        return [chance.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"))], b"".join(
            (chunks, b"0", eol(), trailer, eol())
        )
    return chance.choice(
        (
            ([length, length.lower()], BODY),
            ([b"Content-Length: %d, %d" % (size, size)], BODY),
            ([length, b"Content-Length: 3"], BODY),
            ([length, b"Transfer-Encoding: identity"], BODY),
            ([length, b"Transfer-Encoding: chunked"], b"7\r\nsuccess\r\n0\r\n\r\n"),
            ([b"Transfer-Encoding: gzip, chunked"], b"7\r\nsuccess\r\n0\r\n\r\n"),
            ([b"Content-Length: +7"], BODY),
            ([b"Content-Length: 07"], BODY),
            ([b"Content-Length: 7 "], BODY),
            ([b"Content-Length : 7"], BODY),
            ([b"Content-Length:{eol} 7"], BODY),
            ([b"Content-Length: 9"], BODY),
            ([b"Content-Length: 3"], BODY),
        )
    )


@contextlib.contextmanager
def serving(replies: Sequence[bytes]) -> Iterator[int]:
    """The port of a receiver that answers ``/N`` with reply N as it is, and then ends the stream."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_serve, args=(listener, theirs, replies))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ours.close()
        thread.join()


def _serve(listener: socket.socket, end: socket.socket, replies: Sequence[bytes]) -> None:
    heads: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector, listener, end:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is end:
                    for left in heads:
                        left.close()
                    return
                if sock is listener:
                    with contextlib.suppress(BlockingIOError):
                        accepted = listener.accept()[0]
                        heads[accepted] = b""
                        selector.register(accepted, selectors.EVENT_READ)
                elif not _answer(sock, heads, replies):
                    selector.unregister(sock)
                    del heads[sock]
                    sock.close()


def _answer(sock: socket.socket, heads: dict[socket.socket, bytes], replies: Sequence[bytes]) -> bool:
    """Read on, and answer once the head is whole; False at the end of the stream."""
    try:
        came = sock.recv(65_536)
        heads[sock] += came
        if came and heads[sock].endswith(b"\r\n\r\n"):
            sock.sendall(replies[int(heads[sock].split(b" ", 2)[1][1:])])
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        return False
    return bool(came)
