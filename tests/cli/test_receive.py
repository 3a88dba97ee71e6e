"""``wheeltimer receive``: what it prints and answers, and how it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook

from tests.cli.test_main import one_line, run
from tests.process.conftest import home
from tests.process.daemon import START_S, Home
from wheeltimer.cli.receive import CONNECTIONS_MAX

__all__ = ["home"]  # a fixture of the process tests

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()


class Receiving:
    def __init__(self, *options: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "wheeltimer", "receive", "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        banner = self.child.stderr if "--json" in options else self.child.stdout
        assert banner is not None
        self.url = banner.readline().split()[2].rstrip(";")

    def line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def stop(self) -> tuple[int, str]:
        self.child.send_signal(signal.SIGINT)
        _, errors = self.child.communicate(timeout=START_S)
        return self.child.returncode, errors


@contextmanager
def receiving(*options: str) -> Iterator[Receiving]:
    receiver = Receiving(*options)
    try:
        yield receiver
    finally:
        code, errors = receiver.stop()
    assert (code, errors) == (0, "")


def signed(body: str, secret: str = SECRET, at_s: float | None = None) -> dict[str, str]:
    """Headers as the scheme's own library makes them."""
    at_s = time.time() if at_s is None else at_s
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(int(at_s), UTC), body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at_s)), "webhook-signature": signature}


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "PATCH", "DELETE"])
def test_it_prints_one_line_for_a_request_of_every_method(method: str) -> None:
    with receiving() as receiver:
        headers = {"wheeltimer-id": "order-1", "wheeltimer-attempt": "3"}
        content = None if method == "GET" else b'{"a":1}'
        reply = httpx.request(method, f"{receiver.url}/hook?x=1", headers=headers, content=content)
        line = receiver.line()
    assert (reply.status_code, reply.content) == (204, b"")
    body = "" if method == "GET" else '  {"a":1}'
    assert line[12:] == f"  {method}  /hook?x=1  id=order-1  attempt=3{body}\n"


def test_a_callback_of_the_daemon_is_shown_with_its_signature(home: Home) -> None:
    config = f'[queues.default]\nsecrets = ["{SECRET}"]\n'
    daemon = home.start(config=config)
    with receiving("--json", "--secret", OTHER, "--secret", SECRET) as receiver, daemon.connect() as client:
        client.done("schedule", id="order-1", url=f"{receiver.url}/hook", body={"order": 1})
        shown = json.loads(receiver.line())
    assert shown["signature"] == "good"
    assert (shown["method"], shown["path"], shown["status"]) == ("POST", "/hook", 204)
    assert shown["headers"]["wheeltimer-id"] == "order-1"
    assert shown["body"] == '{"order": 1}'


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed("{}", OTHER),
        signed("{ }"),
        signed("{}", at_s=time.time() - 400),
        signed("{}") | {"webhook-timestamp": "9" * 40},
        signed("{}") | {"webhook-signature": "v1,\xe9"},
    ],
    ids=["none", "other-secret", "other-body", "old", "no-instant", "not-ascii"],
)
def test_a_wrong_signature_is_answered_401_and_shown(headers: dict[str, str]) -> None:
    with receiving("--secret", SECRET) as receiver:
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        reply = httpx.post(receiver.url, headers=encoded, content=b"{}")
        line = receiver.line()
    assert reply.status_code == 401
    assert "signature=wrong  answered=401" in line


def test_it_answers_with_the_status_that_is_asked_for() -> None:
    with receiving("--status", "503", "--delay", "1ms") as receiver:
        assert httpx.post(receiver.url, content=b"").status_code == 503
        assert "answered=503" in receiver.line()


def test_control_characters_of_a_request_do_not_reach_the_terminal() -> None:
    with receiving() as receiver:
        httpx.post(receiver.url, content=b"\x1b[2J\r\nsecond line \xff")
        assert receiver.line().endswith("\\x1b[2J\\r\\nsecond line \\xff\n")


def test_a_body_that_is_too_long_is_refused_unread() -> None:
    with receiving() as receiver:
        host, _, port = receiver.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 413 ")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 413 ")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 411 ")


def test_a_request_that_ends_within_its_body_is_neither_shown_nor_answered() -> None:
    with receiving() as receiver:
        host, _, port = receiver.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b""
        assert httpx.post(f"{receiver.url}/whole", content=b"x").status_code == 204
        assert "/whole" in receiver.line()


def test_connections_beyond_its_threads_are_closed_and_the_rest_goes_on() -> None:
    with receiving() as receiver:
        host, _, port = receiver.url.removeprefix("http://").rpartition(":")
        crowd = [socket.create_connection((host, int(port)), timeout=10) for _ in range(CONNECTIONS_MAX + 1)]
        try:
            assert crowd[-1].recv(1) == b"", "this one has no thread"
            crowd[0].sendall(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
            assert "/first" in receiver.line()
        finally:
            for client in crowd:
                client.close()


def test_a_port_in_use_is_one_line_that_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("receive", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 71
    assert "give another --port or --host" in one_line(result)


@pytest.mark.parametrize("options", [("--secret", "abc"), ("--delay", "5"), ("--status", "100")])
def test_a_bad_option_is_one_line(options: tuple[str, str]) -> None:
    result = run("receive", *options)
    assert result.exit_code == 2
    assert options[0] in one_line(result)
