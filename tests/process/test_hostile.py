"""Clients that mean harm, against a real daemon that may take only so much memory.

After each of them: a client that was there all the time is answered, every task that was acknowledged is
there, nothing that was refused is, and the log has no traceback. At the end the daemon is killed, and the
next one finds every acknowledged task. What others feel of it meanwhile is measured in
``python -m benchmarks hostile``.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.daemon import START_S, Connection, Home, Reply, lines, until
from tests.process.test_lines import memory_kib

URL = "http://127.0.0.1:9/never"
LINE_BYTES_MAX = 131_072
BODY_BYTES_MAX = 65_536
CEILING_BYTES = 416 << 20  # of address space; a daemon that has just started takes 200 to 260 MiB of it
CONFIG = """
[limits]
unread = "2s"
partial_line = "20s"
subscriber_bytes_max = 65536
[journal]
segment_bytes = 16777216
"""


class Target:
    """The daemon under attack, and the client that was there before."""

    def __init__(self, home: Home) -> None:
        self.home = home
        ceiling = ("prlimit", f"--as={CEILING_BYTES}")
        self.daemon = home.start(config=CONFIG, wrap=ceiling)
        self.witness = self.daemon.connect()
        self.acknowledged: list[str] = []

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.daemon.listen[0].rpartition(":")
        return host, int(port)

    def connect(self) -> Connection:
        return self.daemon.connect()

    def check(self) -> None:
        """All that was acknowledged is there, and one task more is taken."""
        id = f"witness-{len(self.acknowledged)}"
        self.witness.done("schedule", id=id, queue="witness", url=URL, delay="1h")
        self.acknowledged.append(id)
        queues = self.witness.done("stats")["queues"]
        assert queues["witness"]["scheduled"] == len(self.acknowledged)
        assert set(queues) <= {"witness", "hostile", "default"}, "a refused request made a queue"
        assert "Traceback" not in self.daemon.log, self.daemon.log[-4000:]
        assert self.daemon.process.poll() is None

    def alone(self) -> None:
        """Until the witness is the only one who is connected."""
        for _ in until():
            if self.witness.done("stats")["connections"] == 1:
                return

    def hostile(self, number: int, **fields: Any) -> Reply:
        """A request for a task that is the attacker's; its id is new in each test."""
        return {
            "op": "schedule", "id": f"h-{len(self.acknowledged)}-{number}", "queue": "hostile",
            "group": "hostile", "url": URL, "delay": "1h",
        } | fields  # fmt: skip

    def hostile_tasks(self) -> int:
        """How many live tasks the attackers' requests left; they are cancelled."""
        live = self.witness.done("stats")["queues"].get("hostile", {}).get("scheduled", 0)
        self.witness.done("cancel", group="hostile")
        return int(live)


@pytest.fixture(scope="module")
def the_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Home(tmp_path_factory.mktemp("hostile")) as home:
        target = Target(home)
        yield target
        target.witness.close()
        target.daemon.kill()
        daemon = home.start(config=CONFIG)
        with daemon.connect() as client:
            client.send(*({"op": "get", "id": id, "queue": "witness"} for id in target.acknowledged))
            for reply in client.replies(len(target.acknowledged)):
                assert reply["task"]["state"] == "scheduled"
        daemon.stop()


@pytest.fixture
def target(the_target: Target) -> Iterator[Target]:
    the_target.check()
    yield the_target
    the_target.check()


def refused(target: Target, line: bytes, field: str | None, code: str = "bad_request") -> Reply:
    """One line gets one refusal, of this code and field, and the next request its answer."""
    with target.connect() as client:
        client.done(
            "ping"
        )  # what begins with another byte than { is closed: tests/server/test_first_bytes.py
        client.send_bytes(line + b"\n" + b'{"op":"ping","seq":"after"}\n')
        refusal, pong = client.replies(2)
    assert (refusal["ok"], refusal["error"], refusal.get("field")) == (False, code, field), refusal
    assert 0 < len(refusal["message"]) < 1000
    assert (pong["ok"], pong["seq"]) == (True, "after")
    return refusal


# --- lines -------------------------------------------------------------------------------------------

SCHEDULE = b'{"op":"schedule","queue":"hostile","url":"http://127.0.0.1:9/","delay":3600000,%b}'
LINES: dict[str, tuple[bytes, str | None]] = {
    "a TLS hello that holds a line end": (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", None),
    "an HTTP header": (b"Host: 127.0.0.1:8463\r", None),
    "a Redis command": (b"*1\r", None),
    "100 KiB of NUL": (b"\0" * 100_000, None),
    "all bytes but line ends": (bytes(set(range(256)) - {10}) * 400, None),
    "a byte order mark": (b'\xef\xbb\xbf{"op":"ping"}', None),
    "two commands on a line": (b'{"op":"ping"} {"op":"ping"}', None),
    "an array of commands": (b'[{"op":"ping"},{"op":"ping"}]', None),
    "60,000 open brackets": (b"[" * 60_000, None),
    "60,000 open objects": (b'{"a":' * 20_000, None),
    "arrays in arrays for an op": (b'{"op":' + b"[" * 60_000 + b"]" * 60_000 + b"}", None),
    "arrays in arrays for a seq": (b'{"op":"ping","seq":' + b"[" * 60 + b"]" * 60 + b"}", "seq"),
    "arrays in arrays for a body": (SCHEDULE % (b'"body":' + b"[" * 65 + b"]" * 65), "body"),
    "op twice": (b'{"op":"ping","op":"stats"}', "op"),
    "op twice, and again": (b'{"op":"get","id":"a","op":"cancel","op":"get"}', "op"),
    "1e400": (SCHEDULE % b'"timeout":1e400', "timeout"),
    "-1e400": (SCHEDULE % b'"timeout":-1e400', "timeout"),
    "-0 where one is the least": (SCHEDULE % b'"timeout":-0', "timeout"),
    "-0.0": (SCHEDULE % b'"timeout":-0.0', "timeout"),
    "2 to the 64th": (SCHEDULE % b'"timeout":18446744073709551616', "timeout"),
    "2 to the 63rd as an instant": (SCHEDULE % b'"expires_at":9223372036854775808', "expires_at"),
    "a number of 100,000 digits": (SCHEDULE % (b'"timeout":' + b"9" * 100_000), "timeout"),
    "an exponent of 100,000 digits": (SCHEDULE % (b'"timeout":1e' + b"9" * 100_000), "timeout"),
    "a fraction of 100,000 digits": (SCHEDULE % (b'"timeout":0.' + b"1" * 100_000), "timeout"),
    "NaN": (SCHEDULE % b'"timeout":NaN', None),
    "a factor of infinity": (
        SCHEDULE % b'"retry":{"kind":"exponential","base":1,"attempts":9,"factor":1e308}', "retry.factor",
    ),
    "a rule of 2^63 attempts": (
        SCHEDULE % b'"retry":{"kind":"fixed","every":1,"attempts":9223372036854775808}', "retry.attempts",
    ),
    "20,000 delays": (
        SCHEDULE % (b'"retry":{"kind":"list","delays":[1' + b",1" * 20_000 + b"]}"), "retry.delays",
    ),
    "bad UTF-8 in a body": (SCHEDULE % b'"body":"\xc3("', None),
    "an overlong NUL": (SCHEDULE % b'"body":"\xc0\x80"', None),
    "beyond Unicode": (SCHEDULE % b'"body":"\xf4\x90\x80\x80"', None),
    "a surrogate's own bytes": (SCHEDULE % b'"meta":"\xed\xa0\x80"', None),
    "bad UTF-8 in seq": (b'{"op":"ping","seq":"\xed\xa0\x80"}', None),
    "bad UTF-8 in a name": (b'{"op":"ping","\xff":1}', None),
    "a lone surrogate in a body": (SCHEDULE % b'"body":"\\ud800"', "body"),
    "a lone surrogate in an id": (SCHEDULE % b'"id":"\\udc00"', "id"),
    "surrogates the wrong way round": (SCHEDULE % b'"body":"\\udc00\\ud800"', "body"),
    "a NUL in an id": (SCHEDULE % b'"id":"a\\u0000"', "id"),
    "an escape in an id": (SCHEDULE % b'"id":"\\u001b[2J"', "id"),
    "a line separator in an id": (SCHEDULE % b'"id":"a\\u2028b"', "id"),
    "right to left in an id": (SCHEDULE % b'"id":"\\u202efdp.exe"', "id"),
    "a group of 129": (SCHEDULE % (b'"group":"' + b"g" * 129 + b'"'), "group"),
    "a group of 100,000": (SCHEDULE % (b'"group":"' + b"g" * 100_000 + b'"'), "group"),
    "a header with CR LF": (SCHEDULE % b'"headers":{"x":"a\\r\\nhost: evil"}', "headers"),
    "a header name with CR LF": (SCHEDULE % b'"headers":{"x\\r\\nhost":"evil"}', "headers"),
    "a header of ours in another case": (SCHEDULE % b'"headers":{"WEBHOOK-signature":"v1,x"}', "headers"),
    "a header of hops": (SCHEDULE % b'"headers":{"Transfer-Encoding":"chunked"}', "headers"),
    "5,000 headers": (
        SCHEDULE % (b'"headers":{' + b",".join(b'"x%d":""' % n for n in range(5000)) + b"}"), "headers",
    ),
    "a URL with a user": (SCHEDULE.replace(b"127.0.0.1", b"127.0.0.1@evil") % b'"id":"a"', "url"),
    "a URL with a back slash": (SCHEDULE.replace(b"127.0.0.1", b"evil\\\\@127.0.0.1") % b'"id":"a"', "url"),
    "a URL with a line end": (SCHEDULE.replace(b":9/", b":9/\\r\\nx: y") % b'"id":"a"', "url"),
    "a URL of 100,000": (SCHEDULE.replace(b":9/", b":9/" + b"x" * 100_000) % b'"id":"a"', "url"),
    "a host of 8,000": (SCHEDULE.replace(b"127.0.0.1", b"h" * 8000) % b'"id":"a"', "url"),
    "a host of 5,000 digits": (SCHEDULE.replace(b"127.0.0.1", b"9" * 5000) % b'"id":"a"', "url"),
    "a forged page": (b'{"op":"list","cursor":"99999999999999999999/q/a"}', "cursor"),
    "a page of Arabic digits": (b'{"op":"list","cursor":"\\u0661/q/a"}', "cursor"),
    "a page of 2^64": (b'{"op":"list","limit":18446744073709551616}', "limit"),
    "a forged event cursor": (b'{"op":"subscribe","from":"-1"}', "from"),
    "20,000 types": (b'{"op":"subscribe","types":["task.x"' + b',"task.x"' * 12_000 + b"]}", "types"),
    "a forecast of 2^64 slices": (b'{"op":"forecast","slices":18446744073709551616}', "slices"),
    "a name of 100,000": (b'{"op":"ping","' + b"x" * 100_000 + b'":1}', "x" * 100_000),
    "a value of 100,000": (b'{"op":"' + b"x" * 100_000 + b'"}', "op"),
    "base64 with a line end": (SCHEDULE % b'"body_base64":"AAAA\\r\\nAAAA"', "body_base64"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_one_clear_error_for_a_hostile_line(name: str, target: Target) -> None:
    refused(target, *LINES[name])


def test_lines_made_to_look_like_paths_cost_what_other_lines_cost(target: Target) -> None:
    """Fifty of them held the loop for a quarter of an hour, when the path was looked for from the left."""
    name = b" - at `$" * 16_000 + b"\\n"
    with target.connect() as client:
        for _ in range(50):
            client.send_bytes(b'{"op":"ping","' + name + b'":1}\n')
            assert client.reply()["error"] == "bad_request"


def test_names_and_ids_at_their_limits_are_taken_and_shown_as_they_are(target: Target) -> None:
    with target.connect() as client:
        ids = ("x" * 256, "\u20ac" * 85, "a/b", "../..", "%00", "'\"<>&;", "\u8ba2\u5355 7")
        for number, id in enumerate(ids):
            request = target.hostile(number, id=id, group="hostile", body=json.loads("[" * 64 + "]" * 64))
            assert client.done(**request)["id"] == id
            assert client.done("get", id=id, queue="hostile")["task"]["id"] == id
        listed = client.done("list", queue="hostile", group="hostile")["tasks"]
        assert len(listed) == 7
        client.done("schedule", id="g", queue="hostile", url=URL, delay="1h", group="g" * 128)
        assert client.done("cancel", group="g" * 128)["cancelled"] == 1
    assert target.hostile_tasks() == 7


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_one_byte_over_the_limit_ends_the_connection_and_what_came_before_counts(
    end: bytes, target: Target
) -> None:
    with target.connect() as client:
        line = lines([target.hostile(0)])[:-1]
        client.send_bytes(line + end + b" " * (LINE_BYTES_MAX + 1) + end + line + end)
        taken, refusal = client.rest()
    assert taken["ok"]
    assert (refusal["error"], "field" in refusal) == ("line_too_long", False)
    assert str(LINE_BYTES_MAX) in refusal["message"]
    assert target.hostile_tasks() == 1


def test_a_million_blank_lines_are_nothing(target: Target) -> None:
    with target.connect() as client:
        client.send_bytes(b"\n" * 500_000 + b"\r\n" * 500_000 + b'{"op":"ping","seq":1}\n')
        assert client.reply()["seq"] == 1


# --- how bytes come ----------------------------------------------------------------------------------


def test_a_real_tls_client_is_turned_away_and_nobody_else(target: Target) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(target.address, START_S) as plain:
        plain.settimeout(0.3)  # a hello without a line end in it is a line that has begun
        with pytest.raises((ssl.SSLError, TimeoutError, ConnectionResetError)):
            context.wrap_socket(plain)
    target.alone()


@pytest.mark.parametrize("method", ["POST /", "GET /x?y=z", "OPTIONS *", "PRI *"])
@pytest.mark.parametrize("gap", [b"", b"\r\n\r\n"], ids=["at once", "after blank lines"])
def test_a_browser_that_is_made_to_post_is_not_obeyed(method: str, gap: bytes, target: Target) -> None:
    """A form of a web page can reach a port of this machine, and its text may hold good requests."""
    version = "2.0" if method == "PRI *" else "1.1"
    with target.connect() as client:
        client.send_bytes(
            gap + f"{method} HTTP/{version}\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n".encode()
            + lines([target.hostile(0), {"op": "pause", "queue": "witness"}])
        )  # fmt: skip
        (refusal,) = client.rest()
    assert (refusal["error"], "HTTP" in refusal["message"]) == ("bad_request", True)
    assert target.hostile_tasks() == 0
    assert not target.witness.done("stats")["queues"]["witness"]["paused"]


def test_five_hundred_clients_of_one_byte_at_a_time_are_all_served(target: Target) -> None:
    crowd = [target.connect() for _ in range(500)]
    try:
        requests = [lines([target.hostile(number)]) for number in range(500)]
        for at in range(max(map(len, requests))):
            for client, request in zip(crowd, requests, strict=True):
                client.send_bytes(request[at : at + 1])
        for client in crowd:
            assert client.reply()["ok"]
    finally:
        for client in crowd:
            client.close()
    assert target.hostile_tasks() == 500


def test_five_hundred_half_lines_of_100_kib_stay_under_the_ceiling(target: Target) -> None:
    crowd = [target.connect() for _ in range(500)]
    try:
        for client in crowd:
            client.send_bytes(b'{"op":"' + b"x" * 100_000)
        target.check()
    finally:
        for client in crowd:
            client.reset()
    target.alone()


def test_a_half_close_at_any_byte_of_a_request_says_what_was_not_read(target: Target) -> None:
    request = lines([target.hostile(0)])
    for at in range(len(request)):
        with target.connect() as client:
            client.send_bytes(b'{"op":"ping"}\n' + request[:at])
            client.half_close()
            pong, *more = client.rest()
        assert pong["ok"]
        assert [reply["error"] for reply in more] == ["bad_request"] * (at > 0)
    assert target.hostile_tasks() == 0


def test_a_reset_at_any_byte_of_a_request_leaves_nothing(target: Target) -> None:
    request = lines([target.hostile(0)])
    for at in range(len(request)):
        client = target.connect()
        client.send_bytes(request[:at])
        client.reset()
    target.alone()
    assert target.hostile_tasks() == 0


def test_an_endless_line_is_cut(target: Target) -> None:
    with target.connect() as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send_bytes(b"{")
        for _ in range(16_384):
            client.send_bytes(b"x" * (1 << 20))
        raise AssertionError("it reads on for ever")
    target.alone()


# --- clients that do not read ------------------------------------------------------------------------


def asking(target: Target, request: bytes, count: int) -> socket.socket:
    """A client with a small buffer that asks as long as it is heard, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(START_S)
    client.connect(target.address)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        for _ in range(count):
            client.send(request)
    return client


def test_fifty_clients_that_never_read_are_cut_and_stay_under_the_ceiling(target: Target) -> None:
    id = target.witness.done(**target.hostile(0, body_text="x" * BODY_BYTES_MAX))["id"]
    big = lines([{"op": "get", "id": id, "queue": "hostile"}])
    deaf = [asking(target, big * 1000, 100) for _ in range(50)]
    target.alone()
    for client in deaf:
        client.close()
    assert target.hostile_tasks() == 1
    assert "reads nothing" in target.daemon.log


def test_pages_of_fat_tasks_that_nobody_reads_stay_under_the_ceiling(target: Target) -> None:
    """One short line asks for megabytes."""
    fat = {"url": URL + "x" * 8000, "headers": {"x": "y" * 8000}, "meta": "m" * 4000}
    target.witness.send(*(target.hostile(number, **fat) for number in range(1000)))
    assert all(reply["ok"] for reply in target.witness.replies(1000))
    deaf = [asking(target, b'{"op":"list","limit":1000}\n' * 100, 100) for _ in range(20)]
    target.check()
    target.alone()
    for client in deaf:
        client.close()
    assert target.hostile_tasks() == 1000


@pytest.mark.parametrize(
    "request_", [b'{"op":"ping"}\n', b"rubbish\n", b'{"op":"stats"}\n'], ids=["good", "bad", "long"]
)
def test_a_hundred_thousand_requests_and_gone(request_: bytes, target: Target) -> None:
    with contextlib.closing(socket.create_connection(target.address, START_S)) as client:
        client.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall(request_ * 100_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    target.alone()


def test_a_hundred_thousand_schedules_and_gone_leaves_whole_tasks_or_none(target: Target) -> None:
    """Those that were read are stored, though nobody heard of it; none is half there."""
    with contextlib.closing(socket.create_connection(target.address, START_S)) as client:
        client.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall(lines(target.hostile(number) for number in range(100_000)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    target.alone()
    live = target.witness.done("stats")["queues"]["hostile"]["scheduled"]
    page = target.witness.done("list", queue="hostile", limit=1000)
    assert 0 < live <= 100_000
    assert len(page["tasks"]) == min(live, 1000)
    ids = {int(task["id"].rpartition("-")[2]) for task in page["tasks"]}
    assert ids <= set(range(live)), "those that came first"
    assert target.witness.done("cancel", group="hostile")["cancelled"] == live


def test_subscribers_that_never_read_are_told_lagged_and_cost_bounded_memory(target: Target) -> None:
    deaf = [asking(target, b'{"op":"subscribe"}\n', 1) for _ in range(30)]
    for _ in until():
        target.witness.send(*(target.hostile(number, meta="m" * 3000) for number in range(100)))
        target.witness.send({"op": "cancel", "group": "hostile"})
        target.witness.replies(101)
        if target.witness.done("stats")["connections"] == 1:
            break
    for client in deaf:
        client.close()
    target.alone()


def test_what_follows_a_subscribe_is_an_error_and_the_end(target: Target) -> None:
    with target.connect() as client:
        client.send_bytes(b'{"op":"subscribe"}\n' + lines([target.hostile(0)]) * 1000)
        first, *more = client.rest()
    assert first["ok"]
    assert all("error" in reply for reply in more)
    assert target.hostile_tasks() == 0


# --- many connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "send and reset"])
def test_a_storm_of_connections(how: str, target: Target) -> None:
    for _ in range(3000):
        client = socket.create_connection(target.address, START_S)
        if how == "send and reset":
            client.send(b'{"op":"stats"}\n{"op":')
        if how != "close":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    target.alone()


def test_two_clients_cancel_the_same_group_of_ten_thousand_at_once(target: Target) -> None:
    target.witness.send(*(target.hostile(number) for number in range(10_000)))
    assert all(reply["ok"] for reply in target.witness.replies(10_000))
    with target.connect() as one, target.connect() as two:
        for client in (one, two):
            client.send({"op": "cancel", "group": "hostile"})
        assert one.reply()["cancelled"] + two.reply()["cancelled"] == 10_000
    assert target.hostile_tasks() == 0


def test_more_clients_than_descriptors_neither_fill_the_log_nor_stop_the_callbacks(
    home: Home, receiver: Any
) -> None:
    """What is left of the descriptors belongs to the callbacks; who comes too many is told ``full``."""
    daemon = home.start("--concurrency", "20", wrap=("prlimit", "--nofile=300:300"))
    crowd: list[socket.socket] = []
    host, _, port = daemon.listen[0].rpartition(":")
    try:
        with daemon.connect() as first:
            for _ in range(400):
                crowd.append(socket.create_connection((host, int(port)), START_S))
            full = 0
            for client in crowd:
                client.settimeout(0.1)
                with contextlib.suppress(TimeoutError, ConnectionResetError):
                    full += b'"full"' in client.recv(4096)
            assert 0 < full <= 400
            first.send(
                *({"op": "schedule", "id": f"t{n}", "url": receiver.url(), "delay": 20} for n in range(50))
            )
            assert all(reply["ok"] for reply in first.replies(50))
            receiver.wait(lambda all_: len(all_) >= 50)
            for _ in until():
                if first.done("stats")["tasks"]["done"] == 50:
                    break
            assert first.done("stats")["attempts"].get("failed", 0) == 0
    finally:
        for client in crowd:
            client.close()
    log = daemon.stop().log
    assert "Traceback" not in log, log[-3000:]
    assert "LimitNOFILE" in log
    assert len(log) < 20_000


def test_five_hundred_that_read_nothing_stay_under_the_ceiling_all_together(home: Home) -> None:
    """Each is within its own bounds, and has half a minute to read: what counts is the sum."""
    config = "[limits]\nclients_bytes_max = 16777216\n[journal]\nsegment_bytes = 16777216\n"
    daemon = home.start(config=config, wrap=("prlimit", f"--as={CEILING_BYTES}"))
    with daemon.connect() as witness:
        witness.done("schedule", id="big", url=URL, delay="1h", body_text="x" * BODY_BYTES_MAX)
        host, _, port = daemon.listen[0].rpartition(":")
        crowd = []
        for number in range(500):
            client = socket.socket()
            crowd.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client.send(b'{"op":"get","id":"big"}\n' * 2000 if number % 2 else b"x" * 120_000)
        for number in range(200):
            witness.done("schedule", id=f"w{number}", url=URL, delay="1h")
        for client in crowd:
            client.close()
        for _ in until():
            if witness.done("stats")["connections"] == 1:
                break
        assert witness.done("stats")["tasks"]["scheduled"] == 201
    log = daemon.stop().log
    assert log.count("clients held too much") == 1, log
    assert "Traceback" not in log, log


def test_an_idle_client_costs_nothing_for_what_it_said_before(target: Target) -> None:
    """Its last 128 KiB, and the requests in them, were kept for as long as it stayed."""
    pings = b'{"op":"ping"}\n' * 9000
    crowd = [target.connect() for _ in range(80)]
    try:
        before_kib = memory_kib(target.daemon.pid, "VmRSS")
        for client in crowd:
            client.send_bytes(pings)
            for _ in range(9000):
                assert client.line()
        assert memory_kib(target.daemon.pid, "VmRSS") < before_kib + 6_000
    finally:
        for client in crowd:
            client.close()


def test_a_reload_amid_pipelined_requests_loses_none(target: Target) -> None:
    with target.connect() as client:
        for first in range(0, 5000, 500):
            client.send(*(target.hostile(number) for number in range(first, first + 500)))
            target.daemon.signal(signal.SIGHUP)
        assert all(reply["ok"] for reply in client.replies(5000))
    for _ in until():
        if "settings reloaded" in target.daemon.log:
            break
    assert target.hostile_tasks() == 5000


def test_a_half_close_amid_a_group_operation_still_gets_its_count(target: Target) -> None:
    target.witness.send(*(target.hostile(number) for number in range(5000)))
    assert all(reply["ok"] for reply in target.witness.replies(5000))
    with target.connect() as client:
        client.send({"op": "cancel", "group": "hostile"})
        client.half_close()
        assert [reply["cancelled"] for reply in client.rest()] == [5000]


def test_a_reset_amid_a_group_operation_leaves_whole_tasks(target: Target) -> None:
    target.witness.send(*(target.hostile(number) for number in range(5000)))
    assert all(reply["ok"] for reply in target.witness.replies(5000))
    client = target.connect()
    client.send({"op": "cancel", "group": "hostile"})
    client.reset()
    target.alone()
    counts = target.witness.done("stats")["queues"]["hostile"]
    left = counts.get("scheduled", 0)
    assert left in (0, 5000), "it was begun or it was not"
    assert target.hostile_tasks() == left


def test_five_hundred_subscribers_that_vanish_at_once(target: Target) -> None:
    crowd = [target.connect() for _ in range(500)]
    for client in crowd:
        client.send({"op": "subscribe"})
    for client in crowd:
        assert client.reply()["ok"]
    for client in crowd:
        client.reset()
    target.alone()
