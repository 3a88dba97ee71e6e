"""The blocking client where the system has ``select.select`` alone, as Windows."""

from __future__ import annotations

import select

import pytest

from tests.client.scripted import CLOSE, SILENCE, ScriptedServer
from tests.client.test_lost import _answer
from wheeltimer.client import Client
from wheeltimer.errors import ServerUnreachable


@pytest.fixture(autouse=True)
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")


def test_requests_and_replies_that_fill_every_buffer_go_both_ways() -> None:
    long = "x" * 100_000
    with (
        ScriptedServer(lambda _request: {"ok": True, "long": long}) as server,
        Client(server.address, timeout=30) as client,
    ):
        requests = ({"op": "ping", "number": number, "long": long} for number in range(200))
        replies = list(client.request_many(requests, depth=200))
    assert [request["number"] for request in server.requests] == list(range(200))
    assert replies == [{"ok": True, "long": long}] * 200


def test_silence_ends_with_the_time_out_and_a_lost_connection_is_made_anew() -> None:
    with (
        ScriptedServer([SILENCE]) as server,
        Client(server.address, timeout=0.05, reconnect=0) as client,
        pytest.raises(ServerUnreachable, match=r"no answer within 0\.05 s"),
    ):
        client.ping()
    with ScriptedServer([CLOSE, _answer({})]) as server, Client(server.address, timeout=5) as client:
        assert client.ping().now == 1
    assert len(server.requests) == 2
