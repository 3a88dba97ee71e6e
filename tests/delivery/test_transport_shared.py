"""The same cases through httpx's own transport and ours: whoever knows the one knows the other.

Against a server of the tests' own, where every byte is ours, and against nginx, where none is. Ours may be
stricter and has caps; those cases stand in ``test_transport_hostile.py``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from tests.delivery.servers import OK, Handler, allow_all, answering, arena, once
from wheeltimer.delivery.proxy import ProxyTransport
from wheeltimer.delivery.transport import Transport, header_lines

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"transfer-encoding: chunked\r\n\r\n"

LONGER = b"0123456789abcdefghijk"

both = pytest.mark.parametrize("kind", ["httpx", "ours"])


def make(kind: str, verify: trustme.CA | None = None) -> httpx.AsyncBaseTransport:
    context = httpx.create_ssl_context(trust_env=False)
    if verify is not None:
        verify.configure_trust(context)
    if kind == "httpx":
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    return Transport(allow_all, ssl_context=context)


@asynccontextmanager
async def client(kind: str, verify: trustme.CA | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=make(kind, verify), trust_env=False, timeout=5) as instance:
        yield instance


REPLIES: dict[str, tuple[bytes, int, bytes]] = {
    "length": (OK, 200, b"ok"),
    "empty": (H + b"content-length: 0\r\n\r\n", 200, b""),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
    "chunk_sizes_in_hex": (CHUNKED + b"00A\r\n0123456789\r\nb\r\nabcdefghijk\r\n0\r\n\r\n", 200, LONGER),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nx-check: 1\r\n\r\n", 200, b"abc"),
    "to_the_close": (H + b"\r\nabc", 200, b"abc"),
    "empty_to_the_close": (H + b"\r\n", 200, b""),
    "http_1_0": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", 200, b"abc"),
    "http_1_0_to_the_close": (b"HTTP/1.0 200 OK\r\n\r\nabc", 200, b"abc"),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "not_modified_with_a_length": (b"HTTP/1.1 304 X\r\ncontent-length: 5\r\n\r\n", 304, b""),
    "continue_first": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
    "early_hints_first": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3 + OK, 200, b"ok"),
    "early_hints_with_a_length": (
        b"HTTP/1.1 103 X\r\ncontent-length: 5\r\n\r\n" + H + b"\r\nabc",
        200,
        b"abc",
    ),
    "redirect": (b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302, b""),
    "server_error": (b"HTTP/1.1 503 X\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy", 503, b"busy"),
    "unknown_status": (b"HTTP/1.1 599 X\r\ncontent-length: 0\r\n\r\n", 599, b""),
    "no_reason": (b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
    "space_around_values": (H + b"content-length:  2 \r\nx: \t y \t\r\n\r\nok", 200, b"ok"),
    "repeated_headers": (H + b"set-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n", 200, b""),
    "latin_1_value": (H + b"x: \xe4\r\ncontent-length: 0\r\n\r\n", 200, b""),
    "odd_case": (H + b"CoNtEnT-LeNgTh: 2\r\n\r\nok", 200, b"ok"),
    "chunked_in_capitals": (H + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
}


@both
@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_reply_is_read_alike(kind: str, name: str, method: str) -> None:
    raw, status, body = REPLIES[name]

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(once(raw))
            async with client(kind) as http:
                response = await http.request(
                    method, server.url + "p?q=%20r", content=b"" if method == "GET" else b"{}"
                )
                assert (response.status_code, response.content) == (status, body)
                expected = {
                    "repeated_headers": [("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "0")],
                    "early_hints_first": [("content-length", "2")],
                    "early_hints_with_a_length": [],
                    "space_around_values": [("content-length", "2"), ("x", "y")],
                }
                if name in expected:
                    assert response.headers.multi_items() == expected[name]
            assert server.requests[0].startswith(f"{method} /p?q=%20r HTTP/1.1\r\n".encode())

    trio.run(main)


@both
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_method_and_body_arrive(kind: str, method: str) -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK))
            async with client(kind) as http:
                assert (await http.request(method, server.url, content=b"{}")).status_code == 200
            assert server.requests[0].startswith(method.encode() + b" / HTTP/1.1\r\n")
            assert server.requests[0].endswith(b"\r\n\r\n{}")

    trio.run(main)


@both
@pytest.mark.parametrize("name", ["length", "chunked", "trailers", "no_content", "continue_first"])
def test_connection_is_kept(kind: str, name: str) -> None:
    raw, status, body = REPLIES[name]

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(raw))
            async with client(kind) as http:
                for _ in range(4):
                    response = await http.post(server.url, content=b"x")
                    assert (response.status_code, response.content) == (status, body)
            assert server.connections == 1

    trio.run(main)


@both
@pytest.mark.parametrize(
    "raw",
    [
        H + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        H + b"connection: foo, Close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
def test_connection_that_will_close_is_not_kept(kind: str, raw: bytes) -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(raw))
            async with client(kind) as http:
                for _ in range(3):
                    assert (await http.post(server.url, content=b"x")).content == b"ok"
            assert server.connections == 3

    trio.run(main)


FAILURES: dict[str, tuple[bytes, type[httpx.TransportError]]] = {
    "no_reply": (b"", httpx.TransportError),
    "half_a_head": (H + b"content-le", httpx.TransportError),
    "no_http": (b"hello\r\n\r\n", httpx.RemoteProtocolError),
    "two_lengths": (H + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", httpx.RemoteProtocolError),
    "body_cut": (H + b"content-length: 5\r\n\r\nabc", httpx.TransportError),
    "chunk_cut": (CHUNKED + b"5\r\nabc", httpx.TransportError),
    "bad_chunk_size": (CHUNKED + b"zz\r\n", httpx.RemoteProtocolError),
}


@both
@pytest.mark.parametrize("name", FAILURES)
def test_no_reply_is_the_same_error(kind: str, name: str) -> None:
    raw, error = FAILURES[name]

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(once(raw))
            async with client(kind) as http:
                with pytest.raises(error):
                    await http.post(server.url, content=b"{}")

    trio.run(main)


@both
def test_refused_connection_is_a_connect_error(kind: str) -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            async with client(kind) as http:
                with pytest.raises(httpx.ConnectError):
                    await http.post(f"http://127.0.0.1:{unused.getsockname()[1]}/")

    trio.run(main)


@both
def test_environment_is_not_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK))
            async with client(kind) as http:
                assert (await http.post(server.url)).status_code == 200

    trio.run(main)


@both
def test_streamed_request_body_arrives(kind: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(once(OK))
            async with client(kind) as http:
                headers = {"content-length": "6"}
                assert (await http.post(server.url, content=parts(), headers=headers)).status_code == 200
            assert server.requests[0].endswith(b"abcdef")

    trio.run(main)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Nginx:
    """A real server in a process of its own, in a folder of its own, until the module's tests are over."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        cert = self.ca.issue_cert("127.0.0.1")
        cert.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        cert.private_key_pem.write_to_path(str(folder / "key.pem"))
        self.port, self.tls_port = free_port(), free_port()
        (folder / "big").write_bytes(b"x" * 300_000)
        paths = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
            events {{ worker_connections 256; }}
            http {{ access_log off; {paths} root {folder}; gzip on; gzip_min_length 1; gzip_types *;
              ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
              client_max_body_size 1k;
              server {{
                listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.tls_port} ssl;
                location /ok {{ return 200 ok; }}
                location /none {{ return 204; }}
                location /away {{ return 302 http://169.254.169.254/; }}
                location /busy {{ add_header retry-after 7 always; return 503; }}
                location /last {{ keepalive_timeout 0; return 200 ok; }}
                location /few {{ keepalive_requests 2; return 200 ok; }}
                location /gone {{ return 444; }}
              }} }}"""
        )
        self._process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 10
        while not _accepts(self.port):
            assert time.monotonic() < deadline, "nginx did not start"
            assert self._process.poll() is None, self._process.communicate()[1]
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def url(self, scheme: str, path: str) -> str:
        return f"{scheme}://127.0.0.1:{self.tls_port if scheme == 'https' else self.port}{path}"


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    instance = Nginx(tmp_path_factory.mktemp("nginx"))
    yield instance
    instance.stop()


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/ok", 200, b"ok"),
        ("/none", 204, b""),
        ("/away", 302, None),
        ("/busy", 503, None),
        ("/missing", 404, None),
        ("/last", 200, b"ok"),
        ("/few", 200, b"ok"),
    ],
)
def test_nginx_answers_alike(
    nginx: Nginx, kind: str, scheme: str, path: str, status: int, body: bytes | None
) -> None:
    async def main() -> None:
        async with client(kind, nginx.ca) as http:
            for content in (b"", b"{}", b"x" * 1000):
                response = await http.post(nginx.url(scheme, path), content=content)
                assert response.status_code == status
                assert body is None or response.content == body

    trio.run(main)


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nginx_that_hangs_up_is_a_transport_error(nginx: Nginx, kind: str, scheme: str) -> None:
    async def main() -> None:
        async with client(kind, nginx.ca) as http:
            with pytest.raises(httpx.TransportError):
                await http.post(nginx.url(scheme, "/gone"), content=b"{}")

    trio.run(main)


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nginx_refuses_a_large_body_before_it_is_read(nginx: Nginx, kind: str, scheme: str) -> None:
    async def main() -> None:
        async with client(kind, nginx.ca) as http:
            response = await http.post(nginx.url(scheme, "/ok"), content=b"x" * 8_000_000)
            assert response.status_code == 413

    trio.run(main)


@both
def test_nginx_compresses_only_for_who_asks(nginx: Nginx, kind: str) -> None:
    async def main() -> None:
        async with client(kind) as http:
            response = await http.get(nginx.url("http", "/big"), headers={"accept-encoding": "gzip"})
            assert response.headers["content-encoding"] == "gzip"
            assert response.headers["transfer-encoding"] == "chunked"
            assert len(response.content) == 300_000

    trio.run(main)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nginx_reply_over_the_limit_is_cut(nginx: Nginx, scheme: str) -> None:
    async def main() -> None:
        async with client("ours", nginx.ca) as http:
            response = await http.get(nginx.url(scheme, "/big"), headers={"accept-encoding": "identity"})
            assert response.extensions["truncated"]
            assert response.content == b"x" * 65_536

    trio.run(main)


def proxying() -> Handler:
    """A forward proxy that answers itself and says what it was asked for."""

    return answering(b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\nx-proxy: 1\r\n\r\n" + b"p" * 70_000)


def test_egress_proxy_has_the_dispatchers_door() -> None:
    async def main() -> None:
        async with arena() as here:
            proxy = await here.serve(proxying())
            transport = ProxyTransport(proxy.url)
            destination = proxy.destination._replace(host="partner.example", port=80)
            fields = header_lines([(b"webhook-id", b"wt_1")])
            reply = await transport.request(destination, b"POST", b"/a?b", fields, b"{}", 1_000)
            assert (reply.status, reply.truncated, len(reply.body)) == (200, True, 65_536)
            assert (b"x-proxy", b"1") in reply.headers
            request = proxy.requests[0]
            assert request.startswith(b"POST http://partner.example/a?b HTTP/1.1\r\n")
            assert b"webhook-id: wt_1\r\n" in request
            assert request.endswith(b"\r\n\r\n{}")
            await transport.aclose()

    trio.run(main)
