"""The blocking client: requests as lines, refusals as exceptions, and what a lost connection leaves open."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted import CLOSE, SILENCE, ScriptedServer
from wheeltimer.client import Client, OutcomeUnknown
from wheeltimer.client.connection import split_host_port
from wheeltimer.errors import BadValue, Refused, ServerUnreachable

OK = {"ok": True}


def test_a_request_is_one_line_and_what_is_none_is_left_out() -> None:
    with ScriptedServer([OK]) as server, Client(server.address) as client:
        assert client.request("schedule", url="http://x/", id=None, delay="30m", body={"a": "l1\nl2"}) == OK
    assert len(server.raw) == 1
    assert server.requests == [
        {"op": "schedule", "url": "http://x/", "delay": "30m", "body": {"a": "l1\nl2"}}
    ]


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        (lambda c: c.hello(token="t"), {"op": "hello", "token": "t"}),
        (lambda c: c.ping(), {"op": "ping"}),
        (lambda c: c.schedule("http://x/", at=5), {"op": "schedule", "url": "http://x/", "at": 5}),
        (lambda c: c.get("a", queue="q"), {"op": "get", "id": "a", "queue": "q"}),
        (lambda c: c.cancel("a", if_version=2), {"op": "cancel", "id": "a", "if_version": 2}),
        (lambda c: c.cancel(group="g"), {"op": "cancel", "group": "g"}),
        (lambda c: c.reschedule("a", delay=1), {"op": "reschedule", "id": "a", "delay": 1}),
        (lambda c: c.list(state="dead", limit=5), {"op": "list", "state": "dead", "limit": 5}),
        (lambda c: c.stats(), {"op": "stats"}),
    ],
    ids=lambda value: value["op"] if isinstance(value, dict) else "",
)
def test_every_method_sends_the_protocols_own_fields(call: Any, request_: dict[str, Any]) -> None:
    with ScriptedServer([{"ok": True, "task": {}}]) as server, Client(server.address) as client:
        call(client)
    assert server.requests == [request_]


def test_get_returns_the_task_itself() -> None:
    with (
        ScriptedServer([{"ok": True, "task": {"id": "a", "version": 3}}]) as server,
        Client(server.address) as client,
    ):
        assert client.get("a") == {"id": "a", "version": 3}


def test_a_refusal_is_an_exception_with_the_daemons_code() -> None:
    refusal = {
        "ok": False,
        "error": "conflict",
        "message": "version is 3",
        "version": 3,
        "field": "if_version",
    }
    with ScriptedServer([refusal, OK]) as server, Client(server.address) as client:
        with pytest.raises(Refused, match="version is 3") as caught:
            client.cancel("a", if_version=2)
        assert caught.value.code == "conflict"
        assert caught.value.extra == {"version": 3, "field": "if_version"}
        assert client.ping() == OK  # the connection goes on


def test_a_token_is_shown_first_and_a_refused_one_closes_the_connection() -> None:
    with ScriptedServer([OK, OK]) as server, Client(server.address, token="s3cret") as client:
        client.ping()
    assert [request["op"] for request in server.requests] == ["hello", "ping"]
    refusal = {"ok": False, "error": "unauthorized", "message": "no such token"}
    with ScriptedServer([refusal]) as server, pytest.raises(Refused, match="no such token"):
        Client(server.address, token="wrong")


def test_unix_socket(tmp_path: Path) -> None:
    with ScriptedServer([OK], tmp_path / "socket") as server, Client(server.address) as client:
        assert client.ping() == OK


@pytest.mark.parametrize(
    "pieces",
    [
        (b'{"ok":tr', b'ue,"n":1}\n{"ok":true,"n":2}\n'),
        (b'{"ok":true,"n":1}', b'\n{"ok":true,"n":2}\n'),
        (b'{"ok":true,"n":1}\n{"ok":true,"n":2}', b"\n"),
    ],
    ids=["inside", "before its end", "the end alone"],
)
def test_a_reply_in_pieces_and_two_in_one_piece(pieces: tuple[bytes, bytes]) -> None:
    rest = iter(pieces)

    def next_piece(_request: dict[str, Any]) -> bytes:
        time.sleep(0.02)  # so that the network keeps the pieces apart
        return next(rest)

    with ScriptedServer(next_piece) as server, Client(server.address, timeout_ms=5000) as client:
        replies = list(client.request_many([{"op": "ping"}, {"op": "ping"}]))
    assert [reply["n"] for reply in replies] == [1, 2]


# --- what goes wrong -------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_nobody_listens(tmp_path: Path) -> None:
    for address in (f"127.0.0.1:{_free_port()}", f"unix:{tmp_path}/none", f"unix:/{'x' * 200}", "a..b:1"):
        with pytest.raises(ServerUnreachable, match="wheeltimer serve") as caught:
            Client(address)
        assert address in str(caught.value)
        assert caught.value.exit_code == 69


NO_REPLIES = (b"not json\n", b"[1]\n", b'{"no":"ok"}\n')


@pytest.mark.parametrize("answer", NO_REPLIES)
def test_what_is_no_daemon_is_said_to_be_none(answer: bytes) -> None:
    with ScriptedServer([answer, CLOSE]) as server, Client(server.address) as client:
        with pytest.raises(ServerUnreachable, match="does not speak wheeltimer's protocol") as caught:
            client.schedule("http://x/", id="a")
        assert not isinstance(caught.value, OutcomeUnknown)
        with pytest.raises(ServerUnreachable, match="make a new client"):
            client.ping()


@pytest.mark.parametrize("answer", [CLOSE, b"half a line", *NO_REPLIES])
def test_a_write_whose_answer_is_lost_has_an_unknown_outcome(answer: object) -> None:
    closing = [OK, CLOSE] if answer is CLOSE else [OK, answer, CLOSE]
    with ScriptedServer(closing) as server, Client(server.address, timeout_ms=200) as client:
        client.ping()
        with pytest.raises(OutcomeUnknown, match="may or may not"):
            client.schedule("http://x/", id="a")
        with pytest.raises(
            ServerUnreachable, match="make a new client"
        ):  # what is late answers no other request
            client.ping()


def test_a_read_whose_answer_is_lost_changed_nothing() -> None:
    with ScriptedServer([CLOSE]) as server, Client(server.address) as client:
        with pytest.raises(ServerUnreachable, match=r"closed the connection.*send it again") as caught:
            client.get("a")
        assert not isinstance(caught.value, OutcomeUnknown)


def test_a_daemon_that_says_nothing_is_given_up_after_the_timeout() -> None:
    with ScriptedServer([SILENCE]) as server, Client(server.address, timeout_ms=100) as client:
        begin = time.monotonic()
        with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.1 s"):
            client.cancel("a")
        assert time.monotonic() - begin < 5


def test_what_the_daemon_said_before_it_hung_up_is_read() -> None:
    """A line that is too long is refused before it has been sent whole."""
    refusal = b'{"ok":false,"error":"line_too_long","message":"at most 131072 bytes"}\n'
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(refusal)

        thread = threading.Thread(target=hang_up)
        thread.start()
        host, port = listener.getsockname()
        with (
            Client(f"{host}:{port}", timeout_ms=5000) as client,
            pytest.raises(Refused, match="131072"),
        ):
            client.schedule("http://x/", body="x" * 30_000_000)
        thread.join()


# --- pipelining ------------------------------------------------------------------------------------


def _echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"ok": request["n"] % 7 != 3, "error": "full", "message": "", "n": request["n"]}


def test_many_requests_are_answered_in_order_and_a_refusal_ends_nothing() -> None:
    with ScriptedServer(_echo) as server, Client(server.address) as client:
        replies = list(client.request_many(({"op": "ping", "n": n} for n in range(1000)), depth=50))
    assert [reply["n"] for reply in replies] == list(range(1000))
    assert not replies[3]["ok"]


def test_never_more_than_depth_ahead() -> None:
    taken = 0

    def requests() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for n in range(300):
            taken += 1
            yield {"op": "ping", "n": n}

    with ScriptedServer(_echo) as server, Client(server.address) as client:
        furthest = max(taken - reply["n"] for reply in client.request_many(requests(), depth=10))
    assert furthest == 10


def test_a_deep_pipeline_does_not_stand_still_when_the_daemon_waits_for_its_reader() -> None:
    """12 MB either way through socket buffers of some hundred KB, against a server that only blocks."""
    padding = "x" * 20_000
    script = (json.dumps({"ok": True, "n": n, "padding": padding}).encode() + b"\n" for n in range(600))
    with ScriptedServer(script) as server, Client(server.address, timeout_ms=10_000) as client:
        many = client.request_many(({"op": "ping", "padding": padding} for _ in range(600)), depth=600)
        assert [reply["n"] for reply in many] == list(range(600))


# --- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("localhost", "localhost", 8463),
        ("[::1]:65535", "::1", 65535),
        ("[::1]", "::1", 8463),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":1", "h:0", "h:65536", "h:x", "h:-1", "::1", "[::1]x:1", "h:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="HOST:PORT"):
        split_host_port(text)
