"""What is no JSON object first: answered once and closed before a line ends; nothing behind it is obeyed.

A web page can make a browser send bytes of its choice to this machine, behind the first ones of HTTP, TLS or
STUN. Real sockets on loopback and a real ``Server``; every case brings a command that would be stored.
"""

from __future__ import annotations

import json
import random
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme
from trio.testing import MockClock, trio_test

from tests.daemon.worlds import World, settle, world
from wheeltimer.server.server import Server
from wheeltimer.server.tls import server_context
from wheeltimer.settings import Limits, Tls

WITHIN_S: Final = 30.0  # for all cases of a test, on a machine that is busy
SEED: Final = 31
COMMAND: Final = b'{"op":"schedule","id":"pwned","url":"http://127.0.0.1:9/","delay":"1h"}'
LINE: Final = b"\n" + COMMAND + b"\n"
KINDS: Final = ("tcp", "unix", "tls")

# --- what browsers, proxies and wrong clients begin with ---------------------------------------------

METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"X{", b"!#$%&'*+-.^_`|~")  # fmt: skip  # noqa: E501
TARGETS: Final = (
    b"/", b"/?{", b"/{", b"/?" + COMMAND, b"/" + COMMAND.replace(b"{", b"%7B"), b"*", b"http://127.0.0.1:8463/{",
    b"127.0.0.1:8463", b"//", b"/%0a" + COMMAND,
)  # fmt: skip
VERSIONS: Final = (b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"")
HEADERS: Final = (
    b"Host: 127.0.0.1:8463", b"Host: rebound.example:8463", b"Origin: https://evil.example", b"Origin: null",
    b"Content-Type: text/plain;charset=UTF-8", b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Type: multipart/form-data; boundary=X", b"Content-Type: application/json",
    b"Cookie: " + COMMAND, b"Sec-WebSocket-Protocol: {", b"Sec-Fetch-Mode: no-cors",
    b"Referer: http://evil.example/?{", b"User-Agent: {", b"X-{: {", b"Accept: */*",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: e3t7e3t7",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    b"Expect: 100-continue", b"Transfer-Encoding: chunked", b"Content-Length: 0",
)  # fmt: skip
BODIES: Final = (
    b"", COMMAND + b"\n", LINE, b"\r\n\r\n" + LINE, b" \t" + COMMAND + b"\n",
    COMMAND[:-1] + b',"meta":"=\r\n"}\r\n',  # a form of enctype text/plain, whose field's name begins with {
    b"a=b&c=%0A" + COMMAND + b"&d=\n", b"x=1\r\n" + COMMAND + b"\r\n",
    b'--X\r\nContent-Disposition: form-data; name="a"; filename="{\n"\r\n\r\n' + LINE + b"\r\n--X--\r\n",
    b"4a\r\n" + LINE + b"\r\n0\r\n\r\n",
)  # fmt: skip


def web_request(chance: random.Random) -> bytes:
    """One that ``fetch``, a form, a beacon, a WebSocket or a rebound name can make a browser send."""
    head = chance.choice(METHODS) + b" " + chance.choice(TARGETS) + chance.choice(VERSIONS)
    headers = chance.sample(HEADERS, chance.randrange(len(HEADERS)))
    end = chance.choice((b"\r\n", b"\r\n", b"\n"))
    return end.join([head, *headers, b"", b""]) + chance.choice(BODIES)


def client_hello(extension: bytes) -> bytes:
    """A TLS hello that carries bytes of the page's choice, as ALPN or a server name does."""
    body = b"\x03\x03" + bytes(32) + b"\x20" + b"\n" * 32 + b"\0\2\x13\1\1\0" + struct.pack(">H", len(extension)) + extension  # fmt: skip  # noqa: E501
    return b"\x16\x03\x01" + struct.pack(">H", len(body) + 4) + b"\1\0" + struct.pack(">H", len(body)) + body


def stun(kind: int, username: bytes) -> bytes:
    """A STUN or TURN message (RFC 8489, section 5) with a username of the page's choice."""
    padded = username + bytes(-len(username) % 4)
    attribute = struct.pack(">HH", 6, len(username)) + padded
    return struct.pack(">HHI", kind, len(attribute), 0x2112A442) + bytes(12) + attribute


# name: (bytes, a word that the answer has when they come at once)
FIRST: Final[dict[str, tuple[bytes, str]]] = {
    "HTTP": (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + COMMAND + b"\n", "HTTP"),
    "a brace in the query": (b"POST /?{ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + COMMAND + b"\n", "HTTP"),
    "a method and no more": (b"GET", "HTTP"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + LINE, "HTTP"),
    "a WebSocket": (b"GET /{ HTTP/1.1\r\nSec-WebSocket-Protocol: {\r\n\r\n" + LINE, "HTTP"),
    "a TLS hello": (client_hello(LINE), "TLS"),
    "a STUN binding": (stun(0x0001, LINE), "one JSON object"),
    "a framed STUN binding": (struct.pack(">H", 108) + stun(0x0001, LINE), "one JSON object"),
    "a TURN allocation": (stun(0x0003, LINE), "one JSON object"),
    "TURN channel data": (b"\x40\0\0\x50" + LINE, "one JSON object"),
    "an array": (b"[" + COMMAND + b"]" + LINE, "one JSON object"),
    "a string": (b'"a"' + LINE, "one JSON object"),
    "a word": (b"null" + LINE, "one JSON object"),
    "a BOM": (b"\xef\xbb\xbf" + COMMAND + LINE, "BOM"),
    "UTF-16": (LINE.decode().encode("utf-16") + LINE, "UTF-16"),
    "a PROXY line": (b"PROXY TCP4 10.0.0.1 10.0.0.2 5555 8463\r\n" + COMMAND + b"\n", "PROXY"),
    "a PROXY header": (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + LINE, "PROXY"),
    "redis": (b"*1\r\n$4\r\nPING\r\n" + LINE, "one JSON object"),
    "smtp": (b"EHLO evil.example\r\n" + LINE, "one JSON object"),
    "a NUL": (b"\0" + LINE, "one JSON object"),
    "blanks, then HTTP": (b" \t\r\n\r\nGET / HTTP/1.1\r\n" + LINE, "HTTP"),
    "a no-break space": (b"\xc2\xa0" + COMMAND + LINE, "one JSON object"),
    "a form feed": (b"\x0c" + COMMAND + LINE, "one JSON object"),
    "a brace that closes": (b"}" + LINE, "one JSON object"),
}  # fmt: skip

# --- the daemon and its clients ----------------------------------------------------------------------


class Site:
    """A daemon that listens in all three ways."""

    def __init__(self, daemon: World, connect: dict[str, Callable[[], Any]]) -> None:
        self.daemon = daemon
        self.connect = connect

    async def exchange(self, pieces: list[bytes], kind: str = "tcp") -> list[dict[str, Any]]:
        """Send these, the daemon having read one before the next is sent, and read to the end."""
        stream = await self.connect[kind]()
        async with stream:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                    await settle()
            except trio.BrokenResourceError:
                pass  # it was closed before all was sent
            return await read_all(stream)


async def read_all(stream: Any) -> list[dict[str, Any]]:
    """All replies; the end of the stream must come by itself."""
    data = b""
    while part := await stream.receive_some(65_536):
        data += part
    assert not data or data.endswith(b"\n"), data
    return [json.loads(line) for line in data.splitlines()]


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(str(folder / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    tls = server_context(Tls(cert=folder / "cert.pem", key=folder / "key.pem"))
    path = str(folder / "socket")
    (folder / "data").mkdir()
    async with world(folder / "data") as daemon, trio.open_nursery() as nursery:
        server = Server(daemon.requests, daemon.subscriptions, daemon.memory, Limits(), tls=tls)
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        (secret,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        local = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await local.bind(path)
        local.listen(16)
        for listener, kind in ((plain, "tcp"), (secret, "tls"), (trio.SocketListener(local), "unix")):
            await nursery.start(trio.serve_listeners, server.host(kind), [listener])

        async def connect_tls() -> trio.SSLStream[trio.SocketStream]:
            stream = await trio.open_tcp_stream("127.0.0.1", secret.socket.getsockname()[1])
            secure = trio.SSLStream(stream, trusting, server_hostname="127.0.0.1")
            await secure.do_handshake()
            return secure

        yield Site(
            daemon,
            {
                "tcp": partial(trio.open_tcp_stream, "127.0.0.1", plain.socket.getsockname()[1]),
                "unix": partial(trio.open_unix_socket, path),
                "tls": connect_tls,
            },
        )
        nursery.cancel_scope.cancel()


def in_pieces(data: bytes, chance: random.Random) -> Iterator[list[bytes]]:
    """Whole, in two pieces, and byte by byte; of long ones the first bytes."""
    yield [data]
    cut = chance.randrange(1, min(len(data), 40)) if len(data) > 1 else 1
    yield [data[:cut], data[cut:]]
    yield [*(data[at : at + 1] for at in range(min(len(data), 24))), data[24:]]


def check_closed(replies: list[dict[str, Any]], case: object) -> str:
    """One answer, that nothing was read; its message."""
    assert len(replies) == 1, case
    (reply,) = replies
    assert (reply["ok"], reply["error"], set(reply)) == (False, "bad_request", {"ok", "error", "message"}), (
        case
    )
    assert reply["message"].endswith("; nothing of this was read and the connection is closed"), case
    return str(reply["message"])


@pytest.mark.parametrize("kind", KINDS)
@trio_test
async def test_what_begins_with_no_brace_is_answered_once_and_closed_on_every_listener(
    tmp_path: Path, kind: str
) -> None:
    chance = random.Random(SEED)
    with trio.fail_after(WITHIN_S):
        async with site(tmp_path) as here:
            for name, (data, word) in FIRST.items():
                for number, pieces in enumerate(in_pieces(data, chance)):
                    message = check_closed(await here.exchange(pieces, kind), (name, number))
                    assert word in message or number, (name, message)
            assert here.daemon.journal.next_lsn == 1, "something was stored"
            assert here.daemon.engine.live == 0


@trio_test
async def test_nothing_that_a_web_page_makes_a_browser_send_is_obeyed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with trio.fail_after(WITHIN_S):
        async with site(tmp_path) as here:
            requests = [web_request(chance) for _ in range(250)]
            requests += [
                b"POST " + target + b" HTTP/1.1\r\n" + header + b"\r\n\r\n" + COMMAND + b"\n"
                for target in TARGETS
                for header in HEADERS
            ]
            for number, data in enumerate(requests):
                pieces = list(in_pieces(data, chance))[number % 2]
                check_closed(await here.exchange(pieces), (SEED, number, data))
            assert here.daemon.journal.next_lsn == 1, "something was stored"


@pytest.mark.parametrize("kind", KINDS)
@trio_test
async def test_the_answer_arrives_though_the_client_is_still_sending(tmp_path: Path, kind: str) -> None:
    """A socket that is closed with unread input resets the connection, and the answer with it."""
    with trio.fail_after(WITHIN_S):
        async with site(tmp_path) as here:
            stream = await here.connect[kind]()
            async with stream:
                for _ in range(40):
                    await stream.send_all(b"POST / HTTP/1.1\r\n\r\n" + b"x" * 100_000)
                    await settle()
                assert "HTTP" in check_closed(await read_all(stream), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blank", [b"", b" \t", b"\r\n\r\n", b"\n \n\t\r\n  "], ids=repr)
@trio_test
async def test_white_space_before_the_first_brace_is_no_matter(
    tmp_path: Path, kind: str, blank: bytes
) -> None:
    with trio.fail_after(WITHIN_S):
        async with site(tmp_path) as here:
            stream = await here.connect[kind]()
            async with stream:
                for byte in blank + COMMAND[:3]:
                    await stream.send_all(bytes([byte]))
                    await settle()
                await stream.send_all(COMMAND[3:] + b"\n")
                assert json.loads(await stream.receive_some())["id"] == "pwned"


@trio_test
async def test_lines_that_are_no_requests_leave_a_connection_open_that_began_with_one(tmp_path: Path) -> None:
    """Each is named as what it is; lines of white space are none, so they have no reply."""
    lines = [
        (b'\xef\xbb\xbf{"op":"ping"}', "BOM"), (b"PROXY TCP4 10.0.0.1 10.0.0.2 5555 8463", "PROXY"),
        (b"GET / HTTP/1.1", "HTTP"), (b"hello?", "not JSON"), (b"[]", "object expected"),
        (b'{"op":"ping","seq":"\\ud83d"}', "half of a surrogate pair"),
    ]  # fmt: skip
    blank = [b"   ", b"\t \t", b" \r", b"", b" "]
    sent = [b'{"op":"ping"}', *(line for line, _ in lines), *blank, b'{"op":"ping"}']
    with trio.fail_after(WITHIN_S):
        async with site(tmp_path) as here:
            stream = await here.connect["tcp"]()
            async with stream:
                await stream.send_all(b"\n".join(sent) + b"\n \t")
                await stream.send_eof()
                replies = await read_all(stream)
    assert [reply["ok"] for reply in replies] == [True, *(False for _ in lines), True]
    for reply, (line, word) in zip(replies[1:], lines, strict=False):
        assert word in reply["message"], line


@pytest.fixture
def autojump() -> MockClock:
    return MockClock(autojump_threshold=0)


@trio_test
async def test_a_connection_that_sends_white_space_only_is_not_waited_for_for_ever(
    tmp_path: Path, autojump: MockClock
) -> None:
    """A line of it has to end in time as any other."""
    async with site(tmp_path) as here:
        began_s = trio.current_time()
        (reply,) = await here.exchange([b" ", b"\r\n\t ", b"  "])
        assert "a line begun and not ended within 30000 ms" in reply["message"]
        assert trio.current_time() - began_s == pytest.approx(31, abs=1)
