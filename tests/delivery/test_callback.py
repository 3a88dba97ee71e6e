"""One attempt: every byte of the request that is ours to choose, and whatever comes back as a value."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import trio
from trio.testing import MockClock, trio_test

from tests.core.driver import Driver
from tests.delivery.servers import OK, answering, arena
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now, key_of
from wheeltimer.delivery.callback import RETRY_AFTER_MAX_MS, Sender, retry_after_ms
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.reply import AttemptError, PartialReply, Reply
from wheeltimer.protocol.ids import sign

JOURNAL_ID = b"journal-of-tests"
Told = Reply | AttemptError | float | None
WORST_ID = "\U0001f4e6" * 64  # 256 bytes of UTF-8


class FakeExchange:
    """Keeps what it is asked to send; replies, raises or waits as told."""

    def __init__(self, told: Told = None) -> None:
        self.told = told if told is not None else Reply(200, (), b"ok")
        self.destination: Destination | None = None
        self.method = self.target = self.fields = self.body = b""
        self.connect_timeout_ms = 0

    async def request(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes,
        connect_timeout_ms: int, partial: PartialReply | None = None,
    ) -> Reply:  # fmt: skip
        self.destination, self.method, self.target = destination, method, target
        self.fields, self.body, self.connect_timeout_ms = fields, body, connect_timeout_ms
        await trio.lowlevel.checkpoint()
        if isinstance(self.told, AttemptError):
            raise self.told
        if isinstance(self.told, Reply):
            return self.told
        await trio.sleep(self.told)
        return Reply(200, (), b"")

    def begin(self, *given: object) -> None:
        """No connection is kept."""

    def flush(self) -> None:
        """Nothing was begun."""

    def headers(self) -> dict[str, str]:
        """All header lines; none comes twice."""
        lines = self.fields.decode("latin-1").split("\r\n")
        assert lines.pop() == ""
        pairs = [line.split(": ", 1) for line in lines]
        names = [name.lower() for name, _ in pairs]
        assert len(set(names)) == len(names), names
        return {name.lower(): value for name, value in pairs}


class Desk:
    """A task as a client would make it, and one attempt of it."""

    def __init__(
        self, told: Reply | AttemptError | float | None = None, keys: tuple[bytes, ...] = ()
    ) -> None:
        self.driver = Driver()
        self.exchange = FakeExchange(told)
        self.sender = Sender(
            self.exchange, JOURNAL_ID, lambda: self.driver.now, lambda queue: keys, version="1.2"
        )

    async def attempt(self, id: str = "a", late_ns: int = 0, **fields: Any) -> Answer:
        fields.setdefault("url", "http://h/")
        queue = fields.get("queue", "default")
        reply = self.driver.ask("schedule", id=id, **fields)
        assert reply["ok"], reply
        self.driver.pass_ns(late_ns)
        self.driver.tick()
        return await self.again(key_of(queue, id))

    async def again(self, key: str) -> Answer:
        return await self.sender.attempt(key, self.driver.task(key))


@trio_test
async def test_every_header_of_a_plain_task() -> None:
    desk = Desk()
    await desk.attempt("订单 42", delay=500, late_ns=512_999_999, body={"n": 1}, queue="orders:eu")
    now = desk.driver.now
    headers = desk.exchange.headers()
    webhook = headers.pop("webhook-id")
    assert re.fullmatch(r"wt_[0-9a-f]{26}", webhook)
    assert headers == {
        "content-type": "application/json",
        "user-agent": "wheeltimer/1.2",
        "accept-encoding": "identity",
        "webhook-timestamp": str(now.wall_ns // 10**9),
        "wheeltimer-id": "%E8%AE%A2%E5%8D%95%2042",
        "wheeltimer-queue": "orders:eu",
        "wheeltimer-attempt": "1",
        "wheeltimer-due": str(desk.driver.task("orders:eu/订单 42").due_ms),
        "wheeltimer-late-ms": "12",
        "wheeltimer-version": "1",
    }
    assert (desk.exchange.method, desk.exchange.target, desk.exchange.body) == (b"POST", b"/", b'{"n": 1}')
    assert desk.exchange.destination == Destination("http", "h", 80)
    assert desk.exchange.connect_timeout_ms == 3000


@pytest.mark.parametrize(
    ("id", "sent"),
    [("plain-1.2_3~x", "plain-1.2_3~x"), ("100%", "100%25"), ("%41", "%2541"), ("a b", "a%20b"),
     ("é", "%C3%A9"),
     ("\"<>\\^`{|}!#$&'()*+,/:;=?@[]", "\"<>\\^`{|}!#$&'()*+,/:;=?@[]"), (WORST_ID, "%F0%9F%93%A6" * 64)],
)  # fmt: skip
def test_ids_arrive_as_they_were_given(id: str, sent: str) -> None:
    async def check() -> None:
        desk = Desk()
        await desk.attempt(id)
        assert desk.exchange.headers()["wheeltimer-id"] == sent
        assert unquote_to_bytes(sent).decode() == id

    trio.run(check)


@pytest.mark.parametrize(
    ("fields", "sent", "content_type"),
    [
        ({"body": [1, "é"]}, json.dumps([1, "é"]).encode(), "application/json"),
        ({"body": None}, b"null", "application/json"),
        ({"body_text": "é\r\n"}, "é\r\n".encode(), "text/plain; charset=utf-8"),
        ({"body_base64": base64.b64encode(b"\0\xff").decode()}, b"\0\xff", "application/octet-stream"),
        ({}, b"", None),
        ({"method": "GET"}, b"", None),
        ({"body_text": ""}, b"", "text/plain; charset=utf-8"),
        ({"body": 1, "headers": {"Content-Type": "application/x-one"}}, b"1", "application/x-one"),
    ],
)
def test_body_and_its_type(fields: dict[str, Any], sent: bytes, content_type: str | None) -> None:
    async def check() -> None:
        desk = Desk()
        await desk.attempt(**fields)
        headers = desk.exchange.headers()
        assert headers.get("content-type") == content_type or (
            content_type == "application/json" and not sent
        )
        assert desk.exchange.body == sent
        assert desk.exchange.method == fields.get("method", "POST").encode()

    trio.run(check)


@trio_test
async def test_the_callers_own_headers_go_first_and_as_given() -> None:
    desk = Desk()
    own = {"X-Trace": 'a b;c="d"', "authorization": "Bearer ~", "User-Agent": "mine/1", "x-latin": "caf\xe9"}
    await desk.attempt(headers=own, url="https://h:8443/p%20q?a=b&c")
    coding, *lines = desk.exchange.fields.split(b"\r\n")
    assert coding == b"accept-encoding: identity"
    assert lines[:4] == [f"{name}: {value}".encode("latin-1") for name, value in own.items()]
    assert desk.exchange.headers()["user-agent"] == "mine/1"
    assert desk.exchange.target == b"/p%20q?a=b&c"
    assert desk.exchange.destination == Destination("https", "h", 8443)


RESERVED = (
    "webhook-id", "webhook-timestamp", "webhook-signature", "wheeltimer-id", "wheeltimer-queue",
    "wheeltimer-attempt", "wheeltimer-due", "wheeltimer-late-ms", "wheeltimer-version", "host",
    "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect",
    "proxy-authorization", "proxy-connection",
)  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_headers_are_refused(name: str) -> None:
    driver = Driver()
    for spelling in (name, name.upper(), name.title()):
        reply = driver.ask("schedule", url="http://h/", headers={spelling: "1"})
        assert (reply["ok"], reply.get("error")) == (False, "bad_request")
        assert reply["field"].startswith("headers")


@trio_test
async def test_webhook_id_stays_for_every_attempt_and_changes_with_what_is_sent() -> None:
    desk = Desk(Reply(500, (), b""))
    seen = []

    async def one() -> str:
        desk.driver.pass_ms(3_600_000)
        desk.driver.tick()
        task = desk.driver.task("default/a")
        answer = await desk.again("default/a")
        desk.driver.start("default/a")
        desk.driver.outcome("default/a", answer)
        seen.append((task.version, task.attempts + 1))
        headers = desk.exchange.headers()
        assert headers["wheeltimer-attempt"] == str(task.attempts + 1)
        assert headers["wheeltimer-version"] == str(task.version)
        return headers["webhook-id"]

    desk.driver.ask("schedule", id="a", url="http://h/", body=1)
    first = await one()
    assert await one() == first
    desk.driver.ask("reschedule", id="a", delay=5)
    assert await one() == first
    desk.driver.ask("reschedule", id="a", body=2)
    second = await one()
    desk.driver.ask("schedule", id="a", url="http://h/", body=2, on_conflict="replace")
    third = await one()
    assert len({first, second, third}) == 3
    assert seen == [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)]


@trio_test
async def test_late_is_counted_from_the_planned_instant_of_this_attempt() -> None:
    desk = Desk(Reply(500, (), b""))
    answer = await desk.attempt(
        delay=1000, late_ns=1_250_000_000, retry={"kind": "fixed", "every": "10s", "attempts": 3, "jitter": 0}
    )
    assert (answer.late_ms, desk.exchange.headers()["wheeltimer-late-ms"]) == (250, "250")
    due = desk.exchange.headers()["wheeltimer-due"]
    desk.driver.start("default/a")
    desk.driver.outcome("default/a", answer)
    desk.driver.pass_ms(10_007)
    desk.driver.tick()
    answer = await desk.again("default/a")
    headers = desk.exchange.headers()
    assert (answer.late_ms, headers["wheeltimer-late-ms"], headers["wheeltimer-due"]) == (7, "7", due)


@trio_test
async def test_signed_over_what_is_sent() -> None:
    keys = (b"k1", b"k2")
    desk = Desk(keys=keys)
    await desk.attempt(body={"a": 1})
    headers = desk.exchange.headers()
    expected = sign(keys, headers["webhook-id"].encode(), int(headers["webhook-timestamp"]), b'{"a": 1}')
    assert headers["webhook-signature"].encode() == expected
    plain = Desk()
    await plain.attempt(body={"a": 1})
    assert "webhook-signature" not in plain.exchange.headers()


@trio_test
async def test_what_is_sent_is_one_request_on_the_wire() -> None:
    async with arena() as here:
        server = await here.serve(answering(OK))
        transport = here.transport()
        driver = Driver()
        sender = Sender(transport, JOURNAL_ID, lambda: driver.now)
        driver.ask("schedule", id=WORST_ID, url=f"{server.url}x?y", body={"n": 1})
        driver.tick()
        key = key_of("default", WORST_ID)
        answer = await sender.attempt(key, driver.task(key))
        assert (answer.status, answer.body) == (200, b"ok")
        [request] = server.requests
        head, _, body = request.partition(b"\r\n\r\n")
        assert body == b'{"n": 1}'
        names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert len(set(names)) == len(names)
        assert {b"host", b"content-length"} <= set(names)
        await transport.aclose()


# --- what comes back -----------------------------------------------------------------------------


def test_attempt_that_takes_too_long_is_a_value() -> None:
    async def check() -> None:
        for fields, limit_ms in (({}, 15_000), ({"timeout": "250ms"}, 250), ({"timeout": 1}, 1)):
            desk = Desk(told=1000.0)
            began_s = trio.current_time()
            answer = await desk.attempt(**fields)
            assert trio.current_time() - began_s == pytest.approx(limit_ms / 1000)
            assert answer.status is None
            assert answer.error == f"timeout: no whole reply within {limit_ms} ms"

    trio.run(check, clock=MockClock(autojump_threshold=0))


@trio_test
async def test_connect_timeout_is_the_tasks_own() -> None:
    desk = Desk()
    await desk.attempt(connect_timeout="1500ms")
    assert desk.exchange.connect_timeout_ms == 1500


@pytest.mark.parametrize("kind", ["blocked", "dns", "connect", "tls", "timeout", "reset", "protocol"])
def test_whatever_goes_wrong_is_a_value(kind: Any) -> None:
    async def check() -> None:
        answer = await Desk(AttemptError(kind, "why")).attempt()
        assert (answer.status, answer.error) == (None, f"{kind}: why")

    trio.run(check)


def test_a_dns_error_is_not_taken_for_final_and_the_next_attempt_lies_ahead() -> None:
    """A name that does not resolve today may resolve tomorrow."""

    async def check() -> None:
        desk = Desk(AttemptError("dns", "lookup of h: NXDOMAIN"))
        answer = await desk.attempt()
        desk.driver.start("default/a")
        desk.driver.outcome("default/a", answer)
        task = desk.driver.task("default/a")
        assert (desk.driver.state("default/a"), task.attempts, task.failures) == ("scheduled", 1, 1)
        assert task.next_ms > desk.driver.now.wall_ms, "and not in the past"

    trio.run(check)


def test_cancelled_attempt_is_no_timeout() -> None:
    async def check() -> None:
        desk = Desk(told=10.0)
        with trio.move_on_after(1) as scope:
            await desk.attempt()
            raise AssertionError("an answer although it was cancelled")
        assert scope.cancelled_caught

    trio.run(check, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("status", "headers", "wait_ms", "stop"),
    [
        (503, {"Retry-After": "7"}, 7000, False),
        (429, {"retry-after": " 7 "}, 7000, False),
        (500, {"retry-after": "7"}, None, False),
        (200, {"retry-after": "7"}, None, False),
        (503, {"retry-after": "soon"}, None, False),
        (503, {}, None, False),
        (500, {"Wheeltimer-Retry": "STOP "}, None, True),
        (500, {"wheeltimer-retry": "go on"}, None, False),
        (429, {"retry-after": "7", "wheeltimer-retry": "stop"}, 7000, True),
    ],
)
def test_wishes_of_the_receiver(
    status: int, headers: dict[str, str], wait_ms: int | None, stop: bool
) -> None:
    async def check() -> None:
        raw = tuple((name.encode(), value.encode()) for name, value in headers.items())
        answer = await Desk(Reply(status, raw, b"b", truncated=True)).attempt()
        assert (answer.status, answer.retry_after_ms, answer.stop) == (status, wait_ms, stop)
        assert (answer.body, answer.truncated) == (b"b", True)

    trio.run(check)


NOW = Now(0, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp().__int__() * 10**9)


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        ("0", 0), ("120", 120_000), ("0000000000120", 120_000), ("86400", 86_400_000), ("86401", 86_400_000),
        ("9" * 5000, 86_400_000), ("-1", None), ("1.5", None), ("+1", None), ("", None),
        ("１２", None), ("1e3", None),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10_000), ("Friday, 02-Jan-26 03:04:15 GMT", 10_000),
        ("Fri Jan  2 03:04:15 2026", 10_000), ("Fri, 02 Jan 2026 03:04:00 GMT", 0),
        ("Fri, 02 Jan 2099 03:04:00 GMT", 86_400_000), ("Fri, 02 Jan 2026 04:04:15 +0100", 10_000),
        ("Fri, 02 Jan 99999999999999999999 03:04:15 GMT", None), ("Fri, 02 Jan 2026 25:04:15 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2400", None), ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_in_both_forms(value: str, wait_ms: int | None) -> None:
    assert retry_after_ms(value, NOW) == wait_ms


def test_retry_after_of_any_bytes_is_a_value() -> None:
    seed = 11
    chance = random.Random(seed)
    for _ in range(20_000):
        text = list(formatdate(chance.randrange(1 << 33), usegmt=True))
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(text))
            text[at : at + chance.randint(0, 2)] = chance.choice("09 :,-+GMTé") * chance.choice((1, 1, 20))
        got = retry_after_ms("".join(text), NOW)
        assert got is None or 0 <= got <= RETRY_AFTER_MAX_MS, f"seed {seed}"


@pytest.mark.parametrize("name", ["Accept-Encoding", "accept-encoding"])
def test_no_coding_is_asked_for_unless_the_task_asks_for_one(name: str) -> None:
    async def check() -> None:
        desk = Desk()
        await desk.attempt(headers={"x": "y"})
        assert desk.exchange.headers()["accept-encoding"] == "identity"
        await desk.attempt("b", headers={name: "gzip"})
        assert desk.exchange.headers()["accept-encoding"] == "gzip"  # and no other: it asserts that

    trio.run(check)


@trio_test
async def test_reply_in_a_coding_is_decoded_and_one_that_cannot_be_says_so() -> None:
    coded = Reply(200, ((b"Content-Encoding", b"gzip"),), gzip.compress(b"success"))
    answer = await Desk(coded).attempt()
    assert (answer.status, answer.body, answer.truncated, answer.undecoded) == (200, b"success", False, None)
    other = await Desk(Reply(200, ((b"content-encoding", b"br"),), b"...")).attempt()
    assert (other.body, other.undecoded) == (b"...", "the content-encoding 'br' is not decoded")


@trio_test
async def test_what_had_come_of_a_reply_stands_beside_the_error() -> None:
    so_far = Reply(503, ((b"retry-after", b"7"), (b"wheeltimer-retry", b"stop")), b"bu", True)
    answer = await Desk(AttemptError("reset", "closed in the reply body, after 2 bytes", so_far)).attempt()
    assert answer.error == "reset: closed in the reply body, after 2 bytes"
    assert (answer.status, answer.body, answer.truncated) == (503, b"bu", True)
    assert (answer.retry_after_ms, answer.stop) == (7000, True)
