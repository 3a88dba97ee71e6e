"""The blocking client: requests as lines, refusals as exceptions, and what a lost connection leaves open."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted import CLOSE, SILENCE, ScriptedServer, reply_line
from wheeltimer.client import AsyncClient, Client, OutcomeUnknown
from wheeltimer.client.sync_stream import split_host_port
from wheeltimer.errors import BadValue, Refused, ServerUnreachable
from wheeltimer.protocol import requests as commands

OK = {"ok": True}
SCHEDULED = {
    "ok": True,
    "id": "a",
    "queue": "q",
    "version": 1,
    "due": 5,
    "state": "scheduled",
    "duplicate": False,
}


def test_a_request_is_one_line_and_what_is_none_is_left_out() -> None:
    with ScriptedServer([OK]) as server, Client(server.address) as client:
        assert client.request("schedule", url="http://x/", id=None, delay="30m", body={"a": "l1\nl2"}) == OK
    assert len(server.raw) == 1
    assert server.requests == [
        {"op": "schedule", "url": "http://x/", "delay": "30m", "body": {"a": "l1\nl2"}}
    ]


# A call of each method, the request it sends, and a reply with what comes back of it.
TASK = {"id": "a", "queue": "q", "url": "http://x/", "version": 3, "state": "done", "created": 1, "due": 2}
METHODS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "hello", {"token": "t"}, {"token": "t"},
        {
            "server": "wheeltimer", "version": "1", "protocol": 1, "durability": "group", "now": 5,
            "limits": {"a": 1},
        },
        {"protocol": 1, "limits": {"a": 1}},
    ),
    ("ping", {}, {}, {"now": 7}, {"now": 7}),
    (
        "schedule", {"url": "http://x/", "id": "a", "at": 5}, {"url": "http://x/", "id": "a", "at": 5},
        {"id": "a", "queue": "q", "version": 1, "due": 5, "state": "scheduled", "duplicate": False},
        {"id": "a", "due": 5, "duplicate": False},
    ),
    ("get", {"id": "a", "queue": "q"}, {"id": "a", "queue": "q"}, {"task": TASK}, TASK | {"next": None}),
    ("cancel", {"group": "g"}, {"group": "g"}, {"cancelled": 3, "running": 1}, {"cancelled": 3}),
    ("reschedule", {"id": "a", "delay_ms": 1}, {"id": "a", "delay": 1}, {"version": 2, "due": 9}, {"due": 9}),
    (
        "finish", {"id": "a", "reply": {"paid": 1}}, {"id": "a", "reply": {"paid": 1}},
        {"finished": 1, "running": 0}, {"finished": 1, "running": 0},
    ),
    ("redrive", {"queue": "q"}, {"queue": "q"}, {"redriven": 4}, {"redriven": 4}),
    ("pause", {"queue": "q"}, {"queue": "q"}, {"queue": "q", "paused": True}, {"paused": True}),
    ("resume", {"queue": "q"}, {"queue": "q"}, {"queue": "q", "paused": False}, {"paused": False}),
    ("list", {"state": "dead"}, {"state": "dead"}, {"tasks": [TASK]}, {"cursor": None}),
    (
        "forecast", {"horizon": timedelta(hours=2)}, {"horizon": 7_200_000},
        {"from": 1, "slice_ms": 2, "counts": [3], "overdue": 4, "later": 5}, {"from_": 1, "counts": [3]},
    ),
    (
        "stats", {}, {},
        {
            "tasks": {"done": 1}, "queues": {"q": {"paused": False}}, "attempts": {}, "connections": 1,
            "journal": {"bytes": 1}, "lateness_ms": {"p99": 1}, "uptime_ms": 4, "of a later version": 1,
        },
        {"tasks": {"done": 1}, "uptime_ms": 4},
    ),
]  # fmt: skip


def test_there_is_a_method_for_each_op() -> None:
    ops = {struct.__struct_config__.tag for struct in commands.AnyCommand.__args__}
    assert {op for op, *_ in METHODS} == ops - {"subscribe"}
    for client in (Client, AsyncClient):
        assert all(callable(getattr(client, op)) for op in ops)


@pytest.mark.parametrize(
    ("op", "fields", "sent", "reply", "wanted"), METHODS, ids=lambda value: str(value)[:12]
)
def test_every_method_sends_the_protocols_own_fields_and_gives_a_typed_result(
    op: str, fields: dict[str, Any], sent: dict[str, Any], reply: dict[str, Any], wanted: dict[str, Any]
) -> None:
    with ScriptedServer([{"ok": True} | reply]) as server, Client(server.address) as client:
        result = getattr(client, op)(**fields)
    assert server.requests == [{"op": op} | sent]
    assert {name: getattr(result, name) for name in wanted} == wanted


def test_times_as_python_has_them() -> None:
    with ScriptedServer(lambda _: SCHEDULED) as server, Client(server.address) as client:
        client.schedule("http://x/", delay=timedelta(microseconds=1), timeout=timedelta(seconds=2))
        client.schedule("http://x/", at=datetime(2030, 1, 31, 8, tzinfo=timezone(timedelta(hours=1))))
        client.schedule(
            "http://x/",
            poll={"every": timedelta(seconds=5)},
            retry={"kind": "list", "delays": [timedelta(1)]},
        )
        with pytest.raises(BadValue, match="at: a datetime with a time zone"):
            client.schedule("http://x/", at=datetime(2030, 1, 31))
        with pytest.raises(BadValue, match="schedule"):
            client.schedule("http://x/", body=object())
        with pytest.raises(BadValue, match=r"^body: .* half of a surrogate pair"):
            client.schedule("http://x/", body="\ud800")
    first, second, third = server.requests
    assert (first["delay"], first["timeout"]) == (1, 2000), "rounded up: never early"
    assert second["at"] == 1_896_073_200_000
    assert (third["poll"], third["retry"]) == ({"every": 5000}, {"kind": "list", "delays": [86_400_000]})


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
        assert client.request("ping") == OK  # the connection goes on


def test_a_token_is_shown_first_and_a_refused_one_closes_the_connection() -> None:
    with ScriptedServer([OK, OK]) as server, Client(server.address, token="s3cret") as client:
        client.request("ping")
    assert [request["op"] for request in server.requests] == ["hello", "ping"]
    refusal = {"ok": False, "error": "unauthorized", "message": "no such token"}
    with ScriptedServer([refusal]) as server, pytest.raises(Refused, match="no such token"):
        Client(server.address, token="wrong").ping()


def test_unix_socket(tmp_path: Path) -> None:
    with ScriptedServer([OK], tmp_path / "socket") as server, Client(server.address) as client:
        assert client.request("ping") == OK


@pytest.mark.parametrize(
    "cut", [len(b'{"ok":tr'), len(b'{"ok":true,"n":1,"seq":'), -1], ids=["inside", "its seq", "the end alone"]
)
def test_a_reply_in_pieces_and_two_in_one_piece(cut: int) -> None:
    def piece(request: dict[str, Any]) -> bytes:
        time.sleep(0.02)  # so that the network keeps the pieces apart
        seqs = [json.loads(line)["seq"] for line in server.raw]
        both = reply_line({"ok": True, "n": 1}, seqs[0]) + reply_line({"ok": True, "n": 2}, seqs[0] + 1)
        return both[:cut] if len(seqs) == 1 else both[cut:]

    with ScriptedServer(piece) as server, Client(server.address, timeout=5) as client:
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
            Client(address, reconnect=0).ping()
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
    with ScriptedServer(closing) as server, Client(server.address, timeout=0.2, reconnect=0) as client:
        client.request("ping")
        with pytest.raises(OutcomeUnknown, match="may or may not"):
            client.schedule("http://x/", id="a")
        with pytest.raises(
            ServerUnreachable, match="make a new client"
        ):  # what is late answers no other request
            client.ping()


def test_a_read_whose_answer_is_lost_changed_nothing() -> None:
    with ScriptedServer([CLOSE]) as server, Client(server.address, reconnect=0) as client:
        with pytest.raises(ServerUnreachable, match=r"closed the connection.*send it again") as caught:
            client.get("a")
        assert not isinstance(caught.value, OutcomeUnknown)


def test_a_daemon_that_says_nothing_is_given_up_after_the_timeout() -> None:
    with (
        ScriptedServer([SILENCE]) as server,
        Client(server.address, timeout=0.1, reconnect=0) as client,
    ):
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
            Client(f"{host}:{port}", timeout=5) as client,
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
    script = ({"ok": True, "n": n, "padding": padding} for n in range(600))
    with ScriptedServer(script) as server, Client(server.address, timeout=10) as client:
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
