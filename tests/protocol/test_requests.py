"""Every bad request has a row: what is sent, and the field and the words it is refused with.

The rows go through ``wire.decode`` and the decision, as a client's line does; nothing is stored.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.requests import check_headers

DEEP = "[" * 65 + "]" * 65
S: dict[str, Any] = {"op": "schedule", "id": "t", "url": "http://r/"}
R: dict[str, Any] = {"op": "reschedule", "id": "known"}
HUGE = 10**40

# (request, field, a part of the message)
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "op", "missing"),
    ({"op": "shedule"}, "op", "'shedule'; hello, ping, schedule, "),
    ({"op": "shedule"}, "op", "forecast or stats expected"),
    ({"op": 7}, "op", "expected `str`"),
    ({"op": None}, "op", "expected `str`"),
    ({"op": "ping", "seq": True}, "seq", "got `bool`"),
    ({"op": "ping", "seq": [1]}, "seq", "got `array`"),
    ({"op": "ping", "id": "x"}, "id", "no such field"),
    ({"op": "hello", "token": 1}, "token", "got `int`"),
    # schedule: types, unknown and missing fields
    ({"op": "schedule", "id": "t"}, "url", "missing"),
    (S | {"url": None}, "url", "expected `str`"),
    (S | {"colour": 1}, "colour", "no such field"),
    (S | {"if_version": 1}, "if_version", "no such field"),
    (S | {"id": 7}, "id", "got `int`"),
    (S | {"queue": ["q"]}, "queue", "got `array`"),
    (S | {"method": "HEAD"}, "method", "HEAD"),
    (S | {"method": "post"}, "method", "'post'; POST, GET, PUT, PATCH or DELETE expected"),
    (S | {"headers": ["a"]}, "headers", "got `array`"),
    (S | {"headers": {"a": 1}}, "headers", "got `int`"),
    (S | {"body_text": 1}, "body_text", "got `int`"),
    (S | {"body_base64": {}}, "body_base64", "got `object`"),
    (S | {"on_conflict": "ignore"}, "on_conflict", "'ignore'; error, keep or replace expected"),
    (S | {"group": 3}, "group", "got `int`"),
    # times
    (S | {"delay": 1, "at": 1}, "at", "not both"),
    (S | {"delay": -1}, "delay", "not negative"),
    (S | {"delay": 1.5}, "delay", "a fraction is no duration"),
    (S | {"delay": True}, "delay", "got `bool`"),
    (S | {"delay": "soon"}, "delay", "is not a duration"),
    (S | {"delay": "5"}, "delay", "is not a duration"),
    (S | {"delay": 3650 * 86_400_000 + 1}, "delay", "at most"),
    (S | {"delay": HUGE}, "delay", "at most"),
    (S | {"delay": "4000d"}, "delay", "at most"),
    (S | {"at": "2030-01-01"}, "at", "is not an instant"),
    (S | {"at": "2030-01-01T00:00:00"}, "at", "has no offset"),
    (S | {"at": -1}, "at", "1970 to 2199"),
    (S | {"at": HUGE}, "at", "1970 to 2199"),
    (S | {"timeout": 0}, "timeout", "at least"),
    (S | {"timeout": "11m"}, "timeout", "at most"),
    (S | {"connect_timeout": 0}, "connect_timeout", "at least"),
    (S | {"connect_timeout": "1 s"}, "connect_timeout", "is not a duration"),
    (S | {"expires_in": 0}, "expires_in", "at least"),
    (S | {"expires_in": 1, "expires_at": 1}, "expires_at", "not both"),
    (S | {"expires_in": HUGE}, "expires_in", "at most"),
    (S | {"expires_at": "never"}, "expires_at", "is not an instant"),
    # poll, retry, success
    (S | {"poll": {}}, "poll.every", "missing"),
    (S | {"poll": 5}, "poll", "got `int`"),
    (S | {"poll": {"every": 0}}, "poll.every", "at least"),
    (S | {"poll": {"every": 5, "max": 0}}, "poll.max", "1 to"),
    (S | {"poll": {"every": 5, "max": HUGE}}, "poll.max", "1 to"),
    (S | {"poll": {"every": 5, "times": 2}}, "poll.times", "no such field"),
    (S | {"poll": {"every": 5, "factor": 0.5}}, "poll.factor", "from 1 to 10"),
    (S | {"poll": {"every": 5, "factor": 11}}, "poll.factor", "from 1 to 10"),
    (S | {"poll": {"every": 5, "factor": 1.2345}}, "poll.factor", "three decimals"),
    (S | {"poll": {"every": 5, "factor": True}}, "poll.factor", "got `bool`"),
    (S | {"poll": {"every": 5, "factor": "2"}}, "poll.factor", "got `str`"),
    (S | {"poll": {"every": 5, "cap": "1x"}}, "poll.cap", "not a duration"),
    (S | {"poll": {"every": "2h", "factor": 2}}, "poll.cap", "at least"),
    (S | {"poll": {"every": 5, "factor": 2, "cap": 4}}, "poll.cap", "at least"),
    (S | {"poll": {"every": 5, "factor": 2, "cap": "9999d"}}, "poll.cap", "at most"),
    (S | {"retry": "nope"}, "retry", "'nope'"),
    (S | {"retry": {"kind": "random"}}, "retry.kind", "exponential, fixed, linear or list expected"),
    (S | {"retry": {"kind": "fixed", "every": "1s"}}, "retry.attempts", "missing"),
    (S | {"retry": {"kind": "fixed", "every": "1s", "attempts": 0}}, "retry.attempts", "from 1"),
    (
        S | {"retry": {"kind": "fixed", "every": "1s", "attempts": 2, "step": 1}},
        "retry.step",
        "no such field",
    ),
    (S | {"retry": {"kind": "exponential", "base": 0, "attempts": 2}}, "retry.base", "at least"),
    (S | {"retry": {"kind": "exponential", "base": 1, "attempts": HUGE}}, "retry.attempts", "from 1"),
    (S | {"retry": {"kind": "list", "delays": ["4m", "x"]}}, "retry.delays[1]", "is not a duration"),
    (S | {"success": {"status": [1]}}, "success.status[0]", "100 to 599"),
    (S | {"success": {"status": []}}, "success.status", "1 to 32"),
    (S | {"success": {"text": " x"}}, "success.text", "white space"),
    (S | {"success": {"json": [{"pointer": "x", "equals": 1}]}}, "success.json[0].pointer", "starts with"),
    (S | {"success": {"json": [{"pointer": "", "equals": HUGE}]}}, "success.json[0].equals", "64 bits"),
    (
        R | {"success": {"json": [{"pointer": "/a", "equals": 1}, {"pointer": "~", "equals": 1}]}},
        "success.json[1].pointer",
        "starts with",
    ),
    (S | {"success": {"body": "ok"}}, "success.body", "no such field"),
    # names
    (S | {"id": ""}, "id", "at least one character"),
    (S | {"id": "a\nb"}, "id", "printable"),
    (S | {"id": "a\x00"}, "id", "printable"),
    (S | {"id": "\u200b"}, "id", "printable"),
    (S | {"id": "x" * 257}, "id", "at most 256"),
    (S | {"id": "é" * 128 + "x"}, "id", "at most 256"),
    (S | {"queue": ""}, "queue", "1 to 128"),
    (S | {"queue": "a/b"}, "queue", "1 to 128"),
    (S | {"queue": "a b"}, "queue", "1 to 128"),
    (S | {"queue": "é"}, "queue", "1 to 128"),
    (S | {"queue": "q\n"}, "queue", "1 to 128"),
    (S | {"queue": "q" * 129}, "queue", "1 to 128"),
    (S | {"group": ""}, "group", "1 to 128"),
    (S | {"group": "g" * 129}, "group", "1 to 128"),
    (S | {"group": "g*"}, "group", "1 to 128"),
    # bodies
    (S | {"body": 1, "body_text": "1"}, "body", "only one of"),
    (S | {"body": 1, "body_base64": "MQ=="}, "body", "only one of"),
    (S | {"body_text": "1", "body_base64": "MQ=="}, "body_text", "only one of"),
    (S | {"body_base64": "MQ"}, "body_base64", "padding"),
    (S | {"body_base64": "AAAA="}, "body_base64", "padding"),
    (S | {"body_base64": "M Q=="}, "body_base64", "standard base64"),
    (S | {"body_base64": "_-=="}, "body_base64", "standard base64"),
    (S | {"body_base64": "é"}, "body_base64", "standard base64"),
    (S | {"method": "GET", "body": 1}, "body", "none with GET"),
    (S | {"method": "GET", "body_text": ""}, "body", "none with GET"),
    (S | {"body": json.loads(DEEP)}, "body", "nested deeper than 64"),
    (S | {"meta": {"a": json.loads(DEEP)}}, "meta", "nested deeper than 64"),
    # hooks
    (S | {"on_done": "h/done"}, "on_done", "absolute http"),
    (S | {"on_dead": "mailto:me@example.com"}, "on_dead", "absolute http"),
    # the other requests
    ({"op": "get"}, "id", "missing"),
    ({"op": "get", "id": "nobody", "queue": "a b"}, "queue", "1 to 128"),
    ({"op": "get", "id": ""}, "id", "at least one character"),
    ({"op": "get", "id": "x" * 257}, "id", "at most 256"),
    ({"op": "cancel", "id": "known", "group": "g"}, "group", "not both"),
    ({"op": "finish", "id": "known", "group": "g"}, "group", "not both"),
    ({"op": "redrive", "id": "known", "group": "g"}, "group", "not both"),
    ({"op": "cancel", "id": "x" * 257}, "id", "at most 256"),
    ({"op": "cancel", "id": "known", "if_version": "1"}, "if_version", "got `str`"),
    ({"op": "cancel", "id": "known", "reply": 1}, "reply", "no such field"),
    ({"op": "finish", "id": "known", "if_version": 1}, "if_version", "no such field"),
    ({"op": "finish", "id": "known", "reply": json.loads(DEEP)}, "reply", "nested deeper than 64"),
    ({"op": "finish", "id": "known", "reply": "x" * 65_536}, "reply", "at most 65536"),
    ({"op": "reschedule"}, "id", "missing"),
    (R | {"delay": 1, "at": 1}, "at", "not both"),
    (R | {"on_conflict": "keep"}, "on_conflict", "no such field"),
    (R | {"method": "GET", "body": 1}, "body", "none with GET"),
    (R | {"method": "GET"}, "body", "none with GET"),  # it has a body
    (R | {"retry": "nope"}, "retry", "'nope'"),
    (R | {"url": "ftp://r/"}, "url", "absolute http"),
    (R | {"on_done": "x"}, "on_done", "absolute http"),
    ({"op": "list", "limit": 0}, "limit", "1 to 1000"),
    ({"op": "list", "limit": 1001}, "limit", "1 to 1000"),
    ({"op": "list", "limit": HUGE}, "limit", "1 to 1000"),
    ({"op": "list", "state": "asleep"}, "state", "ready, running, done, dead, expired or cancelled expected"),
    ({"op": "list", "queue": "*"}, "queue", "1 to 128"),
    ({"op": "list", "group": ""}, "group", "1 to 128"),
    ({"op": "list", "cursor": "yesterday"}, "cursor", "earlier reply"),
    ({"op": "list", "cursor": "1/q/"}, "cursor", "earlier reply"),
    ({"op": "list", "cursor": "-1/q/a"}, "cursor", "earlier reply"),
    ({"op": "list", "cursor": "٣/q/a"}, "cursor", "earlier reply"),
    ({"op": "pause"}, "queue", "missing"),
    ({"op": "pause", "queue": "a b"}, "queue", "1 to 128"),
    ({"op": "resume", "queue": ""}, "queue", "1 to 128"),
]


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    assert driver.ask("schedule", id="known", url="http://r/", body=1, delay="1h")["ok"]
    return driver


@pytest.mark.quick
@pytest.mark.parametrize(("request_", "field", "words"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_request_names_its_field(
    driver: Driver, request_: dict[str, Any], field: str, words: str
) -> None:
    rows, written = dict(driver.engine.table.items()), len(driver.written())
    reply = driver.line(json.dumps({"seq": 5} | request_).encode())
    assert (reply["ok"], reply["error"], reply.get("field")) == (False, "bad_request", field)
    assert words in reply["message"]
    assert field.partition("[")[0].partition(".")[0] in reply["message"]
    if "seq" not in request_:
        assert reply["seq"] == 5
    assert dict(driver.engine.table.items()) == rows
    assert len(driver.written()) == written


RESERVED = (
    "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect",
    "webhook-id", "webhook-timestamp", "webhook-signature", "webhook-x", "wheeltimer-id", "wheeltimer-queue",
    "wheeltimer-attempt", "wheeltimer-due", "wheeltimer-late-ms", "wheeltimer-version", "wheeltimer-retry",
    "proxy-authorization", "proxy-connection", "keep-alive",
)  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("name", RESERVED)
def test_a_header_of_the_daemon_cannot_be_set(driver: Driver, name: str) -> None:
    for spelled in (name, name.upper(), name.title()):
        reply = driver.line(json.dumps(S | {"headers": {spelled: "1"}}).encode())
        assert (reply["error"], reply["field"]) == ("bad_request", "headers")
        assert spelled in reply["message"]
        reply = driver.line(json.dumps(R | {"headers": {spelled: "1"}}).encode())
        assert (reply["error"], reply["field"]) == ("bad_request", "headers")


BAD_NAMES = ("", " ", "a b", "a:", "a\r\nx", "é", "a\x00", "a\n", "(a)", 'a"', "x" * 257)
BAD_VALUES = (
    "1\r\nwebhook-id: forged", "1\nx: y", "1\r", "a\x00b", "\x7f", " lead", "trail ", "\ttab", "日", "\u0130",
    "\x0b", "\x1b[31m",
)  # fmt: skip
GOOD_VALUES = ("", "1", "a b\tc", "caf\xe9", "\xff", "!~", "x" * 8000)


@pytest.mark.quick
def test_a_header_cannot_split_the_request() -> None:
    for name in BAD_NAMES:
        with pytest.raises(BadValue, match="headers: a name"):
            check_headers({name: "1"}, Limits())
    for value in BAD_VALUES:
        with pytest.raises(BadValue, match="headers: the value of x-a"):
            check_headers({"x-a": value}, Limits())
    for value in GOOD_VALUES:
        check_headers({"x-a": value}, Limits())


@pytest.mark.quick
def test_headers_up_to_their_bounds() -> None:
    check_headers({f"x-{n}": "1" for n in range(32)}, Limits())
    with pytest.raises(BadValue, match="at most 32 "):
        check_headers({f"x-{n}": "1" for n in range(33)}, Limits())
    check_headers({"x-a": "v" * (8192 - 7)}, Limits())
    with pytest.raises(BadValue, match="at most 8192 bytes"):
        check_headers({"x-a": "v" * (8192 - 6)}, Limits())


# (field, largest that is taken, smallest that is not); sizes are of what is kept, not of the line
BOUNDS: list[tuple[str, Any, Any]] = [
    ("id", "x" * 256, "x" * 257),
    ("id", "é" * 128, "é" * 128 + "x"),
    ("id", "单" * 85 + "x", "单" * 85 + "xx"),
    ("queue", "q" * 128, "q" * 129),
    ("group", "g" * 128, "g" * 129),
    ("meta", "m" * 4094, "m" * 4095),
    ("body", "b" * 65_534, "b" * 65_535),
    ("body_text", "b" * 65_536, "b" * 65_537),
    ("body_text", "é" * 32_768, "é" * 32_768 + "x"),
    (
        "body_base64",
        base64.b64encode(bytes(65_536)).decode(),
        base64.b64encode(bytes(65_537)).decode(),
    ),
    ("delay", 3650 * 86_400_000, 3650 * 86_400_000 + 1),
    ("delay", "3650d", "3650d1ms"),
    ("timeout", 600_000, 600_001),
    ("url", "http://r/" + "x" * (8192 - 9), "http://r/" + "x" * (8192 - 8)),
    ("body", json.loads("[" * 64 + "]" * 64), json.loads(DEEP)),
    ("body", json.loads("[" * 64 + "1,2,3" + "]" * 64), json.loads("[" * 65 + "]" * 65)),
    ("meta", json.loads("[" * 64 + "]" * 64), json.loads(DEEP)),
]


@pytest.mark.quick
@pytest.mark.parametrize(("field", "most", "more"), BOUNDS, ids=[f"{b[0]} {n}" for n, b in enumerate(BOUNDS)])
def test_a_bound_is_exact(driver: Driver, field: str, most: object, more: object) -> None:
    reply = driver.line(json.dumps(S | {field: more}, ensure_ascii=False).encode())
    assert (reply["error"], reply["field"]) == ("bad_request", field)
    assert driver.line(json.dumps(S | {field: most}, ensure_ascii=False).encode())["ok"]


GOOD_URLS: dict[str, tuple[str, str, int, str]] = {
    "http://r": ("http", "r", 80, "/"),
    "https://r": ("https", "r", 443, "/"),
    "HTTP://R.Example/A?b=C": ("http", "r.example", 80, "/A?b=C"),
    "http://r:8080/a": ("http", "r", 8080, "/a"),
    "http://r:65535": ("http", "r", 65535, "/"),
    "http://r?x=1": ("http", "r", 80, "/?x=1"),
    "http://[::1]:8/a": ("http", "::1", 8, "/a"),
    "http://127.1/": ("http", "127.1", 80, "/"),
    "http://xn--fiqs8s/%E4%B8%AD": ("http", "xn--fiqs8s", 80, "/%E4%B8%AD"),
    "http://r/a//b/../c;d@e:f!$&'()*+,=|^": ("http", "r", 80, "/a//b/../c;d@e:f!$&'()*+,=|^"),
}
BAD_URLS = (
    "", "/", "r", "r/a", "//r/a", "http:", "http:/r", "http://", "http:///a", "http://:80/", "ftp://r/",
    "file:///etc/passwd", "javascript:alert(1)", "unix:/x", "http://u@r/", "http://u:p@r/", "http://r#f",
    "http://r/a#f", "http://r/ a", "http://r /", " http://r/", "http://r/\n", "http://r/\r\nx: y", "http://r/\t",
    "http://r/\x00", "http://r/é", "http://é/", "http://r:0/", "http://r:65536/", "http://r:99999/",
    "http://r:/", "http://r:8a/", "http://r:-1/", "http://[::1/", "http://[fe80::1%25eth0]/", "http://::1/", "http://r\\@evil/",
    "http://r:٨/",
)  # fmt: skip


@pytest.mark.quick
def test_url_forms() -> None:
    for url, parts in GOOD_URLS.items():
        assert c.split_url(url) == parts, url
    for url in BAD_URLS:
        with pytest.raises(BadValue) as caught:
            c.split_url(url, "on_done")
        assert caught.value.field == "on_done", url


@pytest.mark.quick
def test_a_refused_url_is_refused_again_beside_an_allowed_one() -> None:
    """Checked origins are remembered; what differs from them only in the part that is bad is not let by."""
    driver = Driver()
    for good, *bad in (
        ("http://r/a", "http://r/a b", "http://r/a#f", "http://r/\r\nx: y", "http://r/é"),
        ("http://s/a", "http://s/" + "x" * 9000, "http://s:/a"),
        ("http://r", "http://r#f", "http://r ", "http://r@evil", "http://r:0", "http://r:"),
        ("http://r:80/", "http://r:80#/", "http://r:80 /", "http://r:80\n/"),
    ):  # fmt: skip
        for _ in range(2):
            assert driver.ask("schedule", url=good)["ok"]
            for url in bad:
                assert driver.ask("schedule", url=url).get("field") == "url", url


@pytest.mark.quick
def test_a_task_without_anything_but_a_url_is_due_now(driver: Driver) -> None:
    reply = driver.ask("schedule", url="http://r/")
    assert (reply["due"], reply["state"], reply["version"]) == (driver.now.wall_ms, "scheduled", 1)
    assert len(reply["id"]) == 26


@pytest.mark.quick
def test_null_is_not_given_but_for_json_values(driver: Driver) -> None:
    """A client that writes all its fields sends null for those it has not set."""
    fields = [
        name for name in c.Schedule.__struct_fields__ if name not in ("url", "on_conflict", "body", "meta")
    ]
    assert driver.ask("schedule", url="http://r/", **dict.fromkeys(fields))["ok"]
    assert driver.ask("schedule", id="n", url="http://r/", body=None, meta=None)["ok"]
    assert driver.task("default/n").body == b"null"
    assert driver.task("default/n").meta == b"null"


def nested(chance: random.Random, depth: int) -> str:
    """JSON of exactly this depth, with brackets in strings and side branches to trip over."""
    inner = chance.choice(('"]]]"', '"\\"[{"', "1", "null", '"\\\\"', "true"))
    for _ in range(depth):
        beside = chance.choice(("", '"[[[",', "[],", "{},", '"\\\\\\"[",'))
        inner = f"[{beside}{inner}]" if chance.random() < 0.5 else f'{{"a]":{inner},"\\"[":"}}"}}'
    return inner


def test_depth_is_counted_outside_strings_only() -> None:
    chance = random.Random(20)
    for _ in range(300):
        for depth in (63, 64):
            text = nested(chance, depth)
            assert depth_of(json.loads(text)) in (depth, depth + 1)
            if depth_of(json.loads(text)) <= 64:
                c.check_depth(text.encode(), "body")
        text = nested(chance, 65)
        with pytest.raises(BadValue, match="body: nested deeper than 64"):
            c.check_depth(text.encode(), "body")


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0
