"""What clients may send, and what else they send: every refusal is stated, and the rest goes on.

Each row of bad input is tried on a real daemon over a real socket: the code, the field, whether the
connection stays, and that nothing of it was stored.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, lines, until
from tests.process.receiver import Receiver

LINE_BYTES_MAX = 131_072
BODY_BYTES_MAX = 65_536
URL = "http://127.0.0.1:9/never"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that need no settings of their own."""
    with Home(tmp_path_factory.mktemp("lines")) as home:
        daemon = home.start()
        yield daemon
        ended = daemon.stop()
        assert "Traceback" not in ended.log, ended.log


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Connection]:
    with daemon.connect() as client:
        yield client


def schedule(**fields: object) -> bytes:
    return json.dumps({"op": "schedule", "url": URL, "delay": "1h", **fields}).encode()


# --- lines that say nothing sensible -----------------------------------------------------------------

BAD_LINES: dict[str, tuple[bytes, str | None]] = {
    "not JSON": (b"hello?", None),
    "half an object": (b'{"op":"ping"', None),
    "two objects": (b'{"op":"ping"}{"op":"ping"}', None),
    "an array": (b'[{"op":"ping"}]', None),
    "a number": (b"12", None),
    "null": (b"null", None),
    "a NUL": (b'{"op":"ping\0"}', None),
    "single quotes": (b"{'op':'ping'}", None),
    "no op": (b'{"seq":1}', "op"),
    "an unknown op": (b'{"op":"launch"}', "op"),
    "an op in capitals": (b'{"op":"PING"}', "op"),
    "an op that is a number": (b'{"op":7}', "op"),
    "an op that is null": (b'{"op":null}', "op"),
    "an unknown field": (b'{"op":"ping","colour":"red"}', "colour"),
    "a field of another op": (b'{"op":"get","id":"a","url":"http://a/"}', "url"),
    "a field of an inline rule": (
        schedule(retry={"kind": "fixed", "every": "1s", "tries": 3}),
        "retry.tries",
    ),
    "a missing field": (b'{"op":"get"}', "id"),
    "no url": (b'{"op":"schedule","delay":1}', "url"),
    "a wrong type": (b'{"op":"get","id":5}', "id"),
    "a wrong type inside": (schedule(headers={"x": 1}), "headers"),
    "a seq that is an object": (b'{"op":"ping","seq":{}}', "seq"),
    "bad UTF-8 in an id": (b'{"op":"get","id":"\xff\xfe"}', None),
    "bad UTF-8 in a body": (b'{"op":"schedule","url":"%s","body":"\xc3("}' % URL.encode(), None),
    "UTF-8 cut short": (b'{"op":"get","id":"\xe2\x82"}', None),
    "an encoded surrogate": (b'{"op":"get","id":"\xed\xa0\x80"}', None),
    "UTF-16": ('{"op":"ping"}'.encode("utf-16"), None),
    "deep nesting": (b"[" * 100_000, None),
    "deep nesting in a body": (schedule(body=0)[:-2] + b"[" * 65 + b"]" * 65 + b"}", "body"),
    "deeper nesting in a body": (schedule(body=0)[:-2] + b"[" * 30_000 + b"]" * 30_000 + b"}", None),
    "deep nesting in meta": (schedule(meta=0)[:-2] + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}", "meta"),
    "a number too large for a float": (schedule()[:-1] + b',"timeout":1e999}', "timeout"),
    "a number of 5000 digits": (schedule()[:-1] + b',"timeout":' + b"9" * 5000 + b"}", "timeout"),
    "a delay beyond the limit": (schedule(delay=1 << 62), "delay"),
    "a delay beyond 64 bits": (schedule(delay=1 << 70), "delay"),
    "a negative delay": (schedule(delay=-1), "delay"),
    "a fractional delay": (schedule(delay=1.5), "delay"),
    "a delay without unit": (schedule(delay="15"), "delay"),
    "a boolean delay": (schedule(delay=True), "delay"),
    "delay and at": (schedule(at=1), "at"),
    "an instant without offset": (schedule(delay=None, at="2030-01-01T00:00:00"), "at"),
    "an instant far away": (schedule(delay=None, at=1 << 60), "at"),
    "an empty id": (schedule(id=""), "id"),
    "an id of 257 bytes": (schedule(id="x" * 257), "id"),
    "an id of 86 characters in 258 bytes": (schedule(id="€" * 86), "id"),
    "an id with a line end": (schedule(id="a\nb"), "id"),
    "a queue with a space": (schedule(queue="a b"), "queue"),
    "a queue of 129": (schedule(queue="q" * 129), "queue"),
    "an empty queue": (schedule(queue=""), "queue"),
    "a URL without scheme": (schedule(url="example.org/x"), "url"),
    "a URL of another scheme": (schedule(url="file:///etc/passwd"), "url"),
    "a URL with a user": (schedule(url="http://me:secret@example.org/"), "url"),
    "a URL with a line end": (schedule(url="http://example.org/\r\nx: y"), "url"),
    "a header that splits": (schedule(headers={"x": "a\r\nhost: b"}), "headers"),
    "a header of ours": (schedule(headers={"Webhook-Id": "x"}), "headers"),
    "33 headers": (schedule(headers={f"x-{n}": "" for n in range(33)}), "headers"),
    "a body with GET": (schedule(method="GET", body={}), "body"),
    "two bodies": (schedule(body={}, body_text=""), "body"),
    "base64 that is none": (schedule(body_base64="*"), "body_base64"),
    "a body over the limit": (schedule(body_text="x" * (BODY_BYTES_MAX + 1)), "body_text"),
    "meta over the limit": (schedule(meta="x" * 4095), "meta"),
    "an unknown retry rule": (schedule(retry="perhaps"), "retry"),
    "an unknown on_conflict": (schedule(on_conflict="shrug"), "on_conflict"),
    "a page of nothing": (b'{"op":"list","limit":0}', "limit"),
    "a page of everything": (b'{"op":"list","limit":1001}', "limit"),
    "a cursor that was made up": (b'{"op":"list","cursor":"12"}', "cursor"),
    "a state that is none": (b'{"op":"list","state":"asleep"}', "state"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_refused_by_field_and_the_connection_stays(name: str, client: Connection) -> None:
    line, field = BAD_LINES[name]
    before = client.done("stats")["tasks"]
    client.send_bytes(line + b"\n" + lines([{"op": "ping", "seq": 1}]))
    refusal, pong = client.replies(2)
    assert refusal["error"] == "bad_request", refusal
    assert refusal["message"]
    assert refusal.get("field") == field, refusal
    assert pong["ok"]
    assert pong["seq"] == 1
    assert client.done("stats")["tasks"] == before


def test_a_refusal_carries_the_seq_where_one_can_be_read(client: Connection) -> None:
    assert client.refused("launch", seq="a1")["seq"] == "a1"
    assert client.refused("get", seq=7)["seq"] == 7
    assert client.refused("get", seq=7, id="unknown")["seq"] == 7
    client.send_bytes(b'{"seq":3,"op"\n')
    assert "seq" not in client.reply()


def test_a_bulk_request_without_a_filter_never_means_all(client: Connection) -> None:
    """No filter, no work: an empty request is refused by field."""
    client.done("schedule", id="survivor", url=URL, delay="1h")
    for op in ("cancel", "finish", "redrive"):
        refusal = client.refused(op)
        assert (refusal["error"], refusal["field"]) == ("bad_request", "id"), refusal
    for op in ("cancel", "finish"):
        refusal = client.refused(op, queue="default")  # a queue alone is no filter for these
        assert (refusal["error"], refusal["field"]) == ("bad_request", "id"), refusal
    assert client.refused("cancel", group="")["field"] == "group"
    assert client.done("cancel", group="nobody")["cancelled"] == 0
    assert client.done("get", id="survivor")["task"]["state"] == "scheduled"
    assert client.done("cancel", id="survivor")["cancelled"] == 1


# --- lines in odd pieces -----------------------------------------------------------------------------


def test_blank_lines_and_carriage_returns_are_nothing(client: Connection) -> None:
    client.send_bytes(b'\n\r\n\n{"op":"ping","seq":1}\r\n\r\n{"op":"ping","seq":2}\n')
    assert [reply["seq"] for reply in client.replies(2)] == [1, 2]


def test_a_line_may_come_one_byte_at_a_time(client: Connection) -> None:
    for byte in lines([{"op": "ping", "seq": 1}, {"op": "launch", "seq": 2}, {"op": "ping", "seq": 3}]):
        client.send_bytes(bytes([byte]))
    assert [reply["seq"] for reply in client.replies(3)] == [1, 2, 3]


def test_replies_come_in_the_order_of_the_requests(client: Connection) -> None:
    """What takes long (a list, a group), what waits for the disk and what is refused, mixed."""
    kinds = (
        {"op": "ping"}, {"op": "schedule", "url": URL, "delay": "1h", "group": "order"}, {"op": "get"},
        {"op": "list", "limit": 3}, {"op": "stats"}, {"op": "cancel", "group": "order"},
    )  # fmt: skip
    client.send(*({**kinds[number % len(kinds)], "seq": number} for number in range(1200)))
    assert [reply["seq"] for reply in client.replies(1200)] == list(range(1200))


def test_a_client_that_half_closes_gets_all_its_replies(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.send(*({"op": "schedule", "url": URL, "delay": "1h", "group": "half"} for _ in range(2000)))
        client.half_close()
        replies = client.rest()
        assert len(replies) == 2000
        assert all(reply["ok"] for reply in replies)
    with daemon.connect() as client:
        assert client.done("cancel", group="half")["cancelled"] == 2000


def test_a_last_line_without_its_end_is_not_obeyed(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.send_bytes(lines([{"op": "ping"}]) + schedule(id="unended"))
        client.half_close()
        pong, refusal = client.rest()
        assert pong["ok"]
        assert refusal["error"] == "bad_request"
        assert "no end" in refusal["message"]
    with daemon.connect() as client:
        assert client.refused("get", id="unended")["error"] == "not_found"


# --- sizes -------------------------------------------------------------------------------------------


def test_the_longest_line_is_taken_and_one_byte_more_is_not(daemon: Daemon) -> None:
    with daemon.connect() as client:
        line = lines([{"op": "ping", "seq": "x"}])[:-1]
        longest = line[:-2] + b"x" * (LINE_BYTES_MAX - len(line)) + line[-2:]
        client.send_bytes(longest + b"\n" + longest + b"\r\n")
        assert [len(reply["seq"]) > 130_000 for reply in client.replies(2)] == [True, True]
        client.send_bytes(longest + b" \n" + lines([{"op": "ping"}]))
        (refusal,) = client.rest()
        assert refusal["error"] == "line_too_long"
        assert str(LINE_BYTES_MAX) in refusal["message"]


def test_a_line_that_never_ends_is_cut_and_what_came_before_is_kept(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.send_bytes(schedule(id="before-the-flood") + b"\n")
        resident_kib = memory_kib(daemon.pid, "VmRSS")
        sent_bytes = 0
        try:
            while sent_bytes < 8 << 30:
                client.send_bytes(b"x" * (1 << 20))
                sent_bytes += 1 << 20
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent_bytes < 8 << 30, "the daemon reads on for ever"
        assert memory_kib(daemon.pid, "VmRSS") < resident_kib + 20_000
        answers = []
        try:
            for line in iter(client.line, None):
                answers.append(json.loads(line))
        except ConnectionResetError:
            pass  # it closed while more came; what it had said before is read
        assert [answer.get("error") for answer in answers] == [None, "line_too_long"]
    with daemon.connect() as client:
        assert client.done("cancel", id="before-the-flood")["cancelled"] == 1


def test_the_largest_body_is_delivered_whole(daemon: Daemon, receiver: Receiver) -> None:
    text = "\u00e9\n" * (BODY_BYTES_MAX // 3)
    text += "x" * (BODY_BYTES_MAX - len(text.encode()))
    with daemon.connect() as client:
        # With line ends escaped and as UTF-8 it fits a line; ASCII escapes of every letter would not.
        line = json.dumps(
            {"op": "schedule", "id": "big", "url": receiver.url(), "body_text": text}, ensure_ascii=False
        )
        client.send_bytes(line.encode() + b"\n")
        assert client.reply()["ok"]
    (callback,) = receiver.wait_for("big")
    assert callback.body.decode() == text


def test_a_body_is_sent_as_its_own_bytes(client: Connection, receiver: Receiver) -> None:
    body = b'{ "b" : 1.10,  "a":[1e2 ,"\\u00e9\xc3\xa9"], "big": 123456789012345678901234567890 }'
    client.send_bytes(
        b'{"op":"schedule","id":"verbatim","url":"%s","body":%s}\n' % (receiver.url().encode(), body)
    )
    assert client.reply()["ok"]
    assert receiver.wait_for("verbatim")[0].body == body


# --- clients that stop in the middle -----------------------------------------------------------------


def test_a_partial_line_is_not_waited_for_for_ever(home: Home) -> None:
    daemon = home.start(config=SMALL + '[limits]\npartial_line = "300ms"\n')
    with daemon.connect() as stuck, daemon.connect() as idle, daemon.connect() as busy:
        stuck.send_bytes(lines([{"op": "ping"}]) + b'{"op":')
        assert stuck.reply()["ok"]
        (refusal,) = stuck.rest()
        assert refusal["error"] == "bad_request"
        assert "300 ms" in refusal["message"]
        idle.done("ping")  # a silent client without a line begun is nobody's enemy
        busy.done("ping")
    log = daemon.stop().log
    assert "Traceback" not in log, log


def test_a_line_that_drips_has_to_end_in_time_all_the_same(home: Home) -> None:
    daemon = home.start(config=SMALL + '[limits]\npartial_line = "300ms"\n')
    with daemon.connect() as client:
        client.socket.settimeout(0.02)
        closed = False
        for byte in b'{"op":"' + b"x" * 2000:
            client.send_bytes(bytes([byte]))
            try:
                closed = b"bad_request" in client.socket.recv(4096)
                break
            except TimeoutError:
                pass
        assert closed
    daemon.stop()


def test_a_client_that_reads_nothing_is_cut_and_costs_bounded_memory(home: Home) -> None:
    daemon = home.start(config=SMALL + '[limits]\nunread = "500ms"\n')
    with daemon.connect() as deaf, daemon.connect() as other:
        other.done("schedule", id="big", url=URL, delay="1h", body_text="x" * BODY_BYTES_MAX)
        deaf.socket.settimeout(0.2)
        resident_kib = memory_kib(daemon.pid, "VmRSS")
        request = b'{"op":"get","id":"big"}\n' * 50_000  # what one receive brings asks for hundreds of MB
        asked = 0
        try:
            while asked < 1_000_000:
                deaf.send_bytes(request)
                asked += 50_000
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert asked < 1_000_000, "the daemon reads on while nobody reads its replies"
        for _ in until():  # it is cut, and only it
            if other.done("stats")["connections"] == 1:
                break
        assert memory_kib(daemon.pid, "VmHWM") < resident_kib + 40_000
    log = daemon.stop().log
    assert "reads nothing" in log
    assert "Traceback" not in log, log


def memory_kib(pid: int, name: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (at most so far) of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)


def test_a_client_that_reads_slowly_is_left_alone(home: Home) -> None:
    """What waits for it takes several times the limit to read, but it never reads nothing."""
    daemon = home.start(config=SMALL + '[limits]\nunread = "200ms"\n')
    with daemon.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.done("schedule", id="big", url=URL, delay="1h", body_text="x" * BODY_BYTES_MAX)
        client.send(*({"op": "get", "id": "big"} for _ in range(80)))
        pause = threading.Event()
        for _ in range(80):
            assert client.reply()["ok"]
            pause.wait(0.03)
    assert "reads nothing" not in daemon.stop().log


# --- many clients ------------------------------------------------------------------------------------


def test_clients_that_vanish_leave_no_trace(daemon: Daemon, receiver: Receiver) -> None:
    for number in range(50):
        client = daemon.connect()
        client.send(*({"op": "stats"} for _ in range(number % 7)), {"op": "list", "limit": 1})
        if number % 2:
            client.send_bytes(b'{"op"')
        client.reset()
    with daemon.connect() as client:
        client.done("schedule", id="after-all-that", url=receiver.url())
        receiver.wait_for("after-all-that")
        for _ in until():
            if client.done("stats")["connections"] == 1:
                break


def test_more_clients_than_allowed_are_told_so(home: Home) -> None:
    daemon = home.start(config=SMALL + "[limits]\nconnections_max = 3\n")
    clients = [daemon.connect() for _ in range(3)]
    for client in clients:
        client.done("ping")
    with daemon.connect() as fourth:
        (refusal,) = fourth.rest()
        assert refusal["error"] == "full"
        assert refusal["retry_after_ms"] == 1000
        assert "connections_max" in refusal["message"]
    clients.pop().close()
    for _ in until():
        if clients[0].done("stats")["connections"] == 2:
            break
    with daemon.connect() as again:
        again.done("ping")
    for client in clients:
        client.close()
    daemon.stop()


def test_five_hundred_idle_connections_beside_normal_work(daemon: Daemon, receiver: Receiver) -> None:
    crowd = [daemon.connect() for _ in range(500)]
    try:
        for client in crowd:
            client.send({"op": "ping"})
        for client in crowd:
            assert client.reply()["ok"]
        with daemon.connect() as client:
            assert client.done("stats")["connections"] == 501
            client.send(
                *(
                    {"op": "schedule", "id": f"crowd-{n}", "url": receiver.url(), "delay": 50}
                    for n in range(300)
                )
            )
            assert all(reply["ok"] for reply in client.replies(300))
            came = receiver.wait(lambda all_: len(all_) == 300)
            assert {callback.id for callback in came} == {f"crowd-{n}" for n in range(300)}
    finally:
        for client in crowd:
            client.close()


def test_a_body_nested_too_deep_for_any_parser_is_refused_by_name(daemon: Daemon) -> None:
    deep = b"[" * 2000 + b"]" * 2000
    lines = [
        b'{"op":"schedule","id":"before","delay":60000,"url":"http://127.0.0.1:9/"}',
        b'{"op":"schedule","id":"deep","delay":60000,"url":"http://127.0.0.1:9/","body":%b}' % deep,
        b'{"op":"schedule","id":"after","delay":60000,"url":"http://127.0.0.1:9/"}',
    ]
    with daemon.connect() as client:
        client.send_bytes(b"\n".join(lines) + b"\n")
        client.half_close()
        before, refusal, after = client.rest()
    assert before["ok"]
    assert after["ok"]
    assert refusal["error"] == "bad_request"
    assert "nested deeper" in refusal["message"]
