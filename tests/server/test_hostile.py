"""Whatever comes down the wire: one reply for each line, an exact one, and nothing else changed.

5,500 generated cases over real sockets (ten times as many with ``--thorough``). Each is held against what an
independent JSON parser makes of the same bytes, and against the number of records in the journal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.server.hostile import LINE_BYTES_MAX, Reply, Threaded, as_object, recovered
from wheeltimer.protocol import requests as commands

URL = "http://example.org/hook"
OPS = {struct.__struct_config__.tag: struct for struct in commands.AnyCommand.__args__}
READS = {"hello", "ping", "get", "list", "forecast", "stats", "subscribe"}
CODES = {"bad_request", "not_found", "exists", "conflict", "too_late", "full", "target_blocked", "lagged"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Threaded]:
    """A daemon; at the end nothing was logged that should not be, and a restart finds all there was."""
    with Threaded(tmp_path) as site:
        yield site
        tasks = site.tasks()
    assert not site.complaints.seen, "\n".join(site.complaints.seen)
    assert recovered(tmp_path) == tasks


def campaign(
    test: Callable[..., None], examples: int, thorough: bool, **arguments: st.SearchStrategy[Any]
) -> None:
    """Run ``test`` for so many cases, the same ones each time unless ``--thorough``."""
    settings(
        max_examples=examples * (10 if thorough else 1),
        deadline=None,
        database=None,
        derandomize=not thorough,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )(given(**arguments)(test))()


def check_reply(line: bytes, reply: Reply) -> None:
    """All that must be true of any reply, whatever the line was."""
    request = as_object(line)
    assert isinstance(reply["ok"], bool)
    if not reply["ok"]:
        assert reply["error"] in CODES, reply
        assert reply["message"].strip()
        assert len(reply["message"]) < 1000, "it repeats what the client sent"
        if reply["error"] == "bad_request" and reply.get("field") and "." not in reply["field"]:
            assert reply["message"].startswith(reply["field"][:200]), reply
    if request is None:
        assert (reply["ok"], reply["error"]) == (False, "bad_request"), reply
        return
    op = request.get("op")
    known = OPS.get(op) if isinstance(op, str) else None
    if known is None or set(request) - {"op"} - set(known.__struct_encode_fields__):
        assert (reply["ok"], reply["error"]) == (False, "bad_request"), reply
    seq = request.get("seq")
    if type(seq) in (int, str) or (type(seq) is float and math.isfinite(seq)):
        assert reply.get("seq") == seq, reply
    else:
        assert "seq" not in reply, reply


# --- bytes -------------------------------------------------------------------------------------------

TEMPLATES = [
    json.dumps(request, separators=(",", ":")).encode()
    for request in (
        {"op": "ping", "seq": 1},
        {"op": "hello"},
        {"op": "stats"},
        {"op": "get", "id": "a", "seq": "s"},
        {
            "op": "schedule",
            "id": "a",
            "url": URL,
            "delay": 3_600_000,
            "body": {"n": [1, 2.5, None, "\u00e9"]},
        },
        {"op": "schedule", "id": "b", "url": URL, "delay": "1h", "meta": {}, "headers": {"x-a": "b"}},
        {"op": "schedule", "id": "c", "url": URL, "delay": 3_600_000, "queue": "q", "seq": 7},
        {"op": "cancel", "id": "a"},
        {"op": "list", "limit": 2},
        {"op": "reschedule", "id": "b", "delay": "2h"},
        {"op": "finish", "id": "c", "queue": "q", "reply": {"a": 1}},
        {"op": "redrive", "queue": "q"},
        {"op": "pause", "queue": "q"},
        {"op": "resume", "queue": "q"},
        {"op": "forecast", "slices": 2},
    )
]
JUNK = [
    b"",
    b"\r",
    b" ",
    b"\0",
    b"\0" * 100,
    b"\xff\xfe",
    b"\xef\xbb\xbf" + TEMPLATES[0],
    b"[]",
    b"[[]]",
    b"null",
    b'"ping"',
    b"7",
    b"-0",
    b"1e400",
    b"NaN",
    b"{}",
    b"{" * 50,
    b'{"op":' * 400,
    b"[" * 2000 + b"]" * 2000,
    b'{"op":"ping","seq":1e400}',
    b'{"op":"ping","seq":-0}',
    b'{"op":"ping","seq":18446744073709551616}',
    b'{"op":"ping","op":"stats"}',
    b'{"op":"ping","seq":1,"seq":2}',
    b'{"op":"ping","\\ud800":1}',
    b'{"op":"ping","seq":"\\ud800"}',
    b'{"op":"ping","seq":"\xed\xa0\x80"}',
    b'{"op":"get","id":"\\u0000"}',
    b'{"op":"ping"}\0',
    b'{"op":"ping"}{"op":"ping"}',
    b'{"op":"schedule","url":"http://e/","body":\xc0\x80}',
    b'{"op":"schedule","id":"deep","url":"http://e/","body":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"op":"ping","' + b" - at `$" * 300 + b'\\n":1}',
    b"x" * LINE_BYTES_MAX,
    b"x" * (LINE_BYTES_MAX + 1),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1",
    b"*1\r\n$4\r\nPING",
]
BLANK = b" \t\r\n"
EDITS = st.lists(
    st.tuples(st.sampled_from(("set", "put", "cut", "copy")), st.integers(0, 400), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def edited(line: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    """A line with some of its bytes changed, added, taken out or doubled."""
    for kind, where, byte in edits:
        at = where % (len(line) + 1)
        if kind == "set":
            line = line[:at] + bytes([byte]) + line[at + 1 :]
        elif kind == "put":
            line = line[:at] + bytes([byte]) + line[at:]
        elif kind == "cut":
            line = line[:at] + line[at + 1 + byte % 8 :]
        else:
            line = line[: at + byte % 16] + line[at:]
    return line


LINES = st.one_of(
    st.builds(edited, st.sampled_from(TEMPLATES), EDITS),
    st.sampled_from(TEMPLATES),
    st.sampled_from(JUNK),
    st.binary(max_size=80),
)


def wanted(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """What must be said to this stream: ("reply", line) for each line, and how it ends."""
    *lines, tail = stream.split(b"\n")
    first = stream.lstrip(BLANK)
    if first and not first.startswith(b"{"):
        yield "bad_request", first
        return
    for line in lines:
        if len(line.removesuffix(b"\r")) > LINE_BYTES_MAX:
            yield "line_too_long", line
            return
        if line.strip(BLANK):
            yield "reply", line
    if len(tail.removesuffix(b"\r")) > LINE_BYTES_MAX:
        yield "line_too_long", tail
    elif tail.strip(BLANK):
        yield "bad_request", tail


def test_any_bytes_get_one_reply_a_line_and_change_nothing_that_was_not_asked(
    site: Threaded, thorough: bool
) -> None:
    """In whatever pieces they come, with any line ends, broken off anywhere."""

    def case(lines: list[bytes], ends: list[bytes], tail: bytes, cuts: list[int], opened: bool) -> None:
        if opened:  # else a line that is no request ends most connections before the next
            lines = [TEMPLATES[0], *lines]
        stream = b"".join(line + ends[at % len(ends)] for at, line in enumerate(lines)) + tail
        at = sorted(cut % (len(stream) + 1) for cut in cuts)
        pieces = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
        note(repr(pieces))
        before = site.written()
        replies = site.exchange(pieces)
        asked = list(wanted(stream))
        assert len(replies) == len(asked)
        changes = False
        for (kind, line), reply in zip(asked, replies, strict=True):
            if kind == "reply":
                check_reply(line, reply)
                changes |= reply["ok"] and (as_object(line) or {})["op"] not in READS
            else:
                assert (reply["error"], "field" in reply) == (kind, False)
        assert changes or site.written() == before

    campaign(
        case,
        2000,
        thorough,
        lines=st.lists(LINES, max_size=6),
        ends=st.lists(st.sampled_from((b"\n", b"\r\n")), min_size=1, max_size=3),
        tail=st.one_of(st.just(b""), st.just(b""), LINES),
        cuts=st.lists(st.integers(0, 9999), max_size=3),
        opened=st.booleans(),
    )


# --- one wrong field in a good request ---------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
NO_TEXT = st.one_of(st.booleans(), st.integers(), FLOATS, st.just([]), st.just({}), st.just(["x"]))
NO_NUMBER = st.one_of(st.booleans(), FLOATS, st.just([]), st.just({}), st.text(max_size=9))
CONTROL = st.sampled_from(
    "\0\x01\t\n\r\x1b\x7f\x80\x85\xa0\u200b\u200e\u2028\u2029\u202e\ufeff\ufffe\U000e0001"
)


def no_match(pattern: str) -> st.SearchStrategy[str]:
    whole = re.compile(pattern, re.ASCII)
    return st.text(max_size=200).filter(lambda text: not whole.fullmatch(text))


NAMES = st.one_of(
    NO_TEXT,
    no_match(r"[A-Za-z0-9._:-]{1,128}"),
    st.just(""),
    st.just("q" * 129),
    st.just("*"),
    st.sampled_from(["a b", "a/b", "\u00e9", "a\n", "a\0", "q" * 4000, "..\\", "q*", " q", "\uff41"]),
)
IDS = st.one_of(
    NO_TEXT,
    st.just(""),
    st.just("x" * 257),
    st.just("\u20ac" * 86),
    st.builds(lambda a, c, b: a + c + b, st.text(max_size=5), CONTROL, st.text(max_size=5)),
)
DURATIONS = st.one_of(
    FLOATS,
    st.booleans(),
    st.integers(max_value=-1),
    st.integers(min_value=1 << 60),
    st.just([]),
    st.just({}),
    no_match(r"([0-9]{1,15}d)?([0-9]{1,15}h)?([0-9]{1,15}m)?([0-9]{1,15}s)?([0-9]{1,15}ms)?"),
    st.sampled_from(
        ["", "5", "-1s", "1h 30m", "1s1h", "999999999999999d", "1e3s", "\u0661s", "1S", "1" * 4000 + "s"]
    ),
)
INSTANTS = st.one_of(
    FLOATS,
    st.booleans(),
    st.integers(max_value=-1),
    st.integers(min_value=0, max_value=10**11 - 1),
    st.integers(min_value=1 << 43),
    st.just([]),
    no_match(r"[0-9]{4}-.*"),
    st.sampled_from(
        [
            "2030-01-31T08:00:00",
            "2030-02-30T00:00:00Z",
            "2030-01-31T25:00:00Z",
            "9999-12-31T23:59:59Z",
            "2030-01-31T08:00:60Z",
            "2030-01-31T08:00:00+24:00",
            "2030-01-31T08:00:00." + "9" * 90 + "Z",
            "0000-00-00",
        ]
    ),
)
URLS = st.one_of(
    NO_TEXT,
    st.text(max_size=50).filter(lambda text: not text.lower().startswith("http")),
    st.sampled_from(
        [
            "",
            "example.org",
            "//example.org/",
            "http:/example.org",
            "http:///x",
            "http://",
            "ftp://example.org/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://me@example.org/",
            "http://me:pw@example.org/",
            "http://example.org/\r\nhost: x",
            "http://example.org/\n",
            "http://example.org/ x",
            "http://example.org/#f",
            "http://example.org\\@127.0.0.1/",
            "http://example.org:0/",
            "http://example.org:65536/",
            "http://[::1",
            "http://example.org:80:80/",
            "http://ex\u00e4mple.org/",
            "http://example.org/\u00e9",
            "http://1.2.3.4.5/",
            "http://127.0.0.1./",
            "http://a..b/",
            "http://*.example.org/",
            "http://example%2eorg/",
            f"http://{'a' * 64}/",
            "http://\u2460\u2461\u2466.0.0.1/",
            "http://[12345::]/",
            "http://256.0.0.1/",
            "http://0x100000000/",
            "http://08.0.0.1/",
            "http://example.org/\x7f",
            "http://" + "h" * 254 + "/",
            " http://example.org/",
            "http://example.org/" + "x" * 3900 + "\0",
        ]
    ),
)
HEADERS = st.one_of(
    st.booleans(),
    st.integers(),
    st.just([]),
    st.just("x: y"),
    st.just({f"x-{n}": "" for n in range(33)}),
    st.dictionaries(
        st.sampled_from(
            [
                "",
                "a b",
                "a:",
                "a\r\n",
                "a\0",
                "\u00e9",
                "host",
                "Host",
                "CONTENT-LENGTH",
                "te",
                "trailer",
                "transfer-encoding",
                "webhook-id",
                "Wheeltimer-Attempt",
                "proxy-authorization",
                "(x)",
            ]
        ),
        st.just("v"),
        min_size=1,
        max_size=2,
    ),
    st.dictionaries(
        st.just("x-a"),
        st.one_of(
            NO_TEXT,
            st.sampled_from(["\r\n", "a\r\nb: c", "a\nb", "\0", " a", "a ", "\t", "\u20ac", "\x7f", "\x1f"]),
        ),
        min_size=1,
    ),
)
RETRIES = st.one_of(
    st.booleans(),
    st.integers(),
    st.just([]),
    st.text(min_size=1, max_size=9).filter(
        lambda t: t not in ("default", "none", "standard", "alipay", "wechat")
    ),
    st.just({}),
    st.just({"kind": "fixed"}),
    st.just({"kind": "nope"}),
    st.builds(
        lambda n: {"kind": "fixed", "every": "1s", "attempts": n},
        st.integers().filter(lambda n: not 1 <= n <= 1000),
    ),
    st.builds(lambda d: {"kind": "fixed", "every": d, "attempts": 3}, DURATIONS),
    st.builds(
        lambda f: {"kind": "exponential", "base": "1s", "attempts": 3, "factor": f},
        st.one_of(FLOATS, st.integers()).filter(lambda f: not 1 <= f <= 10),
    ),
    st.builds(
        lambda j: {"kind": "linear", "step": "1s", "attempts": 3, "jitter": j},
        st.one_of(FLOATS, st.integers()).filter(lambda j: not 0 <= j <= 1),
    ),
    st.just({"kind": "list", "delays": []}),
    st.just({"kind": "list", "delays": ["1s"] * 101}),
)
SUCCESSES = st.one_of(
    st.booleans(),
    st.integers(),
    st.just([]),
    st.text(max_size=5),
    st.just({"status": []}),
    st.just({"x": 1}),
    st.builds(lambda n: {"status": [n]}, st.integers().filter(lambda n: not 100 <= n <= 599)),
    st.builds(lambda t: {"status": [t]}, no_match("[1-5]xx")),
    st.just({"text": " x"}),
    st.just({"json": []}),
    st.just({"json": [{"pointer": "x", "equals": 1}]}),
    st.just({"json": [{"pointer": ""}]}),
    st.just({"json": [{"pointer": "/~2", "equals": 1}]}),
    st.builds(
        lambda deep: {"json": [{"pointer": "", "equals": deep}]},
        st.recursive(st.just([]), lambda inner: inner.map(lambda x: [x]), max_leaves=1).map(
            lambda x: json.loads("[" * 40 + "]" * 40)
        ),
    ),
)
POLLS = st.one_of(
    st.booleans(),
    st.just([]),
    st.just({}),
    st.just({"every": "5s", "max": 1, "x": 1}),
    st.builds(lambda d: {"every": d, "max": 1}, DURATIONS),
    st.builds(lambda n: {"every": "5s", "max": n}, st.integers().filter(lambda n: not 1 <= n <= 1_000_000)),
)
TASK: dict[str, st.SearchStrategy[Any]] = {
    "delay": DURATIONS,
    "at": INSTANTS,
    "timeout": DURATIONS,
    "connect_timeout": DURATIONS,
    "expires_in": DURATIONS,
    "expires_at": INSTANTS,
    "headers": HEADERS,
    "retry": RETRIES,
    "success": SUCCESSES,
    "poll": POLLS,
    "group": NAMES,
    "on_done": URLS,
    "on_dead": URLS,
    "url": URLS,
    "body_text": NO_TEXT,
    "body_base64": st.one_of(
        NO_TEXT, st.sampled_from(["*", "A", "AA=", "AAAA=", "A A=", "\u00e9", "AA==\n"])
    ),
    "method": st.one_of(NO_TEXT, no_match("POST|GET|PUT|PATCH|DELETE")),
    "meta": st.sampled_from([json.loads("[" * 70 + "]" * 70), "x" * 4090]),
    "seq": st.one_of(st.booleans(), st.just([]), st.just({"a": 1})),
}
CURSORS = st.one_of(
    NO_TEXT,
    st.text(max_size=30).filter(lambda text: "/" not in text),
    st.sampled_from(
        [
            "",
            "/",
            "//",
            "1//",
            "/q/a",
            "-1/q/a",
            "1e3/q/a",
            "\u0661/q/a",
            "9" * 20 + "/q/a",
            "1/q/",
            "1//a",
            " 1/q/a",
            "0x1/q/a",
            "1/q",
        ]
    ),
)
FROMS = st.one_of(
    NO_TEXT,
    st.text(max_size=60),
    st.sampled_from(
        ["", "-", "0-0", "0" * 32 + "-1", "f" * 32 + "--1", "f" * 32 + "-1e3", "f" * 32 + "-" + "9" * 40]
    ),
)
BASES: list[tuple[dict[str, Any], dict[str, st.SearchStrategy[Any]]]] = [
    (
        {"op": "schedule", "url": URL},
        TASK | {"id": IDS, "queue": NAMES, "on_conflict": no_match("error|keep|replace")},
    ),
    ({"op": "reschedule", "id": "kept"}, TASK | {"id": IDS, "queue": NAMES, "if_version": NO_NUMBER}),
    ({"op": "get", "id": "kept"}, {"id": NO_TEXT, "queue": NAMES}),
    ({"op": "cancel", "id": "kept"}, {"id": NO_TEXT, "queue": NAMES, "if_version": NO_NUMBER}),
    ({"op": "cancel", "group": "g"}, {"group": NAMES, "queue": NAMES, "if_version": st.integers()}),
    ({"op": "finish", "group": "g"}, {"group": NAMES, "queue": NAMES}),
    ({"op": "redrive", "queue": "q"}, {"queue": NAMES, "group": NAMES, "id": NO_TEXT}),
    ({"op": "pause"}, {"queue": NAMES}),
    ({"op": "resume"}, {"queue": NAMES}),
    (
        {"op": "list"},
        {
            "queue": NAMES,
            "group": NAMES,
            "cursor": CURSORS,
            "state": st.one_of(NO_TEXT, no_match(r"[a-z]{4,9}")),
            "limit": st.one_of(NO_NUMBER, st.integers().filter(lambda n: not 1 <= n <= 1000)),
        },
    ),
    (
        {"op": "forecast"},
        {
            "queue": NAMES,
            "horizon": DURATIONS,
            "slices": st.one_of(NO_NUMBER, st.integers().filter(lambda n: not 1 <= n <= 1000)),
        },
    ),
    (
        {"op": "subscribe"},
        {
            "from": FROMS,
            "queue": NAMES,
            "group": NAMES,
            "types": st.one_of(
                st.booleans(),
                st.just("task.*"),
                st.just([7]),
                st.lists(no_match(r"(task|attempt)\..*"), min_size=1),
            ),
        },
    ),
    ({"op": "hello"}, {"token": NO_TEXT, "seq": TASK["seq"]}),
]


def test_one_wrong_field_is_named_and_the_rest_stays_as_it_was(site: Threaded, thorough: bool) -> None:
    (kept,) = site.exchange(
        [b'{"op":"schedule","id":"kept","url":"%s","delay":"1h","group":"g"}\n' % URL.encode()]
    )
    assert kept["ok"]
    wrong = [(base, field, values) for base, fields in BASES for field, values in fields.items()]
    choices = st.one_of(*(st.tuples(st.just(base), st.just(field), values) for base, field, values in wrong))

    def case(choice: tuple[dict[str, Any], str, Any], ascii: bool) -> None:
        base, field, value = choice
        line = json.dumps(base | {field: value}, ensure_ascii=ascii).encode()
        note(repr(line))
        if len(line) > LINE_BYTES_MAX:
            return
        before = site.written()
        (reply,) = site.exchange([line + b"\n"])
        check_reply(line, reply)
        assert (reply["ok"], reply["error"]) == (False, "bad_request"), reply
        assert re.fullmatch(re.escape(field) + r"([.\[].*)?", reply.get("field", "")), reply
        assert site.written() == before

    campaign(case, 2000, thorough, choice=choices, ascii=st.booleans())
    (task,) = site.exchange([b'{"op":"get","id":"kept"}\n'])
    assert (task["task"]["version"], task["task"]["state"]) == (1, "scheduled")


# --- any values, many of them right ------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=20),
        st.sampled_from([1 << 63, 1 << 64, -(1 << 63) - 1, 1 << 500, 5e-324, "\x7f", "\u2028"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
SOME: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["a", "b", "c", "\u8ba2\u5355 7", "x" * 256, "a/b", "%2f", "..", "\u20ac" * 85]),
    "queue": st.sampled_from(["default", "q", "q" * 128, "a:b.c-d_e"]),
    "group": st.sampled_from(["g", "g" * 128]),
    "delay": st.sampled_from([0, 1, 3_600_000, "1h30m", 315_360_000_000]),
    "at": st.sampled_from([10**11, 1 << 42, "2030-01-31T08:00:00Z"]),
    "url": st.sampled_from(
        [URL, "HTTP://E", "https://e:8443/?#"[:-1], "http://127.0.0.1/", "http://[::1]/", "http://0x7f.1/"]
    ),
    "method": st.sampled_from(["POST", "GET", "DELETE"]),
    "headers": st.sampled_from([{}, {"x": "\u00e9 y"}, {"A": ""}]),
    "body_text": st.text(max_size=30),
    "body_base64": st.sampled_from(["", "AAH/"]),
    "retry": st.sampled_from(["none", "alipay", {"kind": "list", "delays": [1, "2s"]}]),
    "timeout": st.sampled_from([1, "10m"]),
    "connect_timeout": st.sampled_from([1, "3s"]),
    "expires_in": st.sampled_from([1, "7d"]),
    "expires_at": st.sampled_from(["1970-01-01T00:00:00Z", 1 << 42]),
    "success": st.builds(
        lambda value: {"status": ["2xx", 304], "json": [{"pointer": "/a", "equals": value}]}, JSON
    ),
    "poll": st.sampled_from([{"every": 1, "max": 1}]),
    "on_done": st.just(URL),
    "on_dead": st.just(URL),
    "on_conflict": st.sampled_from(["error", "keep", "replace"]),
    "if_version": st.integers(-2, 9),
    "seq": st.one_of(st.integers(), st.text(max_size=9), st.floats(allow_nan=False)),
    "limit": st.integers(1, 9),
    "state": st.sampled_from(["scheduled", "done", "cancelled"]),
    "cursor": st.sampled_from(["0/q/a", "9" * 19 + "/q/a"]),
    "horizon": st.sampled_from([1, "1h", "3650d"]),
    "slices": st.integers(1, 60),
    "types": st.sampled_from([["task.*"], []]),
    "from": st.text(max_size=9),
    "token": st.text(max_size=9),
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request with the right fields; of their values one in eight may be anything."""
    op = draw(st.sampled_from([*OPS, "schedule", "schedule", "schedule", "reschedule"]))
    struct = OPS[op]
    fields = [name for name in struct.__struct_encode_fields__ if draw(st.integers(0, 3)) == 0]
    fields += [
        field for field in ("id", "url") if field in struct.__struct_encode_fields__ and field not in fields
    ]
    request: dict[str, Any] = {"op": op}
    for name in fields:
        anything = name in ("body", "meta", "reply") or draw(st.integers(0, 7)) == 0
        request[name] = draw(JSON if anything else SOME[name])
    return request


GIVEN = {
    "url",
    "method",
    "headers",
    "body",
    "body_text",
    "body_base64",
    "meta",
    "retry",
    "timeout",
    "connect_timeout",
    "expires_in",
    "expires_at",
    "success",
    "poll",
    "group",
    "on_done",
    "on_dead",
    "delay",
    "at",
}


def test_what_is_taken_is_shown_as_it_was_given_and_what_is_refused_changes_nothing(
    site: Threaded, thorough: bool
) -> None:
    def case(request: dict[str, Any], ascii: bool) -> None:
        line = json.dumps(request, ensure_ascii=ascii).encode().replace(b"Infinity", b"1e400")
        if len(line) > LINE_BYTES_MAX:
            return
        before = site.written()
        reply, *more = site.exchange([line + b"\n"])
        assert not more, "one request, one reply"
        check_reply(line, reply)
        if not reply["ok"] or request["op"] in READS:
            assert site.written() == before
        elif request["op"] == "schedule" and not reply["duplicate"]:
            asked = {"op": "get", "id": reply["id"], "queue": reply["queue"]}
            (got,) = site.exchange([json.dumps(asked).encode() + b"\n"])
            task = got["task"]
            said = json.loads(line)
            for name in GIVEN & set(said):
                if said[name] is not None or name == "body":
                    shown = task[name]
                    if isinstance(said[name], dict) and isinstance(
                        shown, dict
                    ):  # defaults may stand beside it
                        shown = {key: shown[key] for key in said[name]}
                    assert shown == said[name], name
            assert (task["version"], task["due"]) == (reply["version"], reply["due"])

    campaign(case, 1500, thorough, request=requests(), ascii=st.booleans())


def test_a_finish_that_waits_for_an_attempt_brings_its_hook_after_a_restart(site: Threaded) -> None:
    """Attempts do not end here, so the restart ends the task; what it then finds is compared as ever."""
    lines = (
        {"op": "schedule", "id": "a", "url": URL, "on_done": URL},
        {"op": "schedule", "id": "b", "url": URL, "on_done": URL, "on_dead": URL},
    )
    for line in lines:
        (reply,) = site.exchange([json.dumps(line).encode() + b"\n"])
        assert reply["ok"]
    assert site.written() > 2
    for op, id in (("finish", "a"), ("cancel", "b")):
        (reply,) = site.exchange([json.dumps({"op": op, "id": id}).encode() + b"\n"])
        assert (reply["ok"], reply["running"]) == (True, 1)
    assert site.tasks() == {
        "default/a": (1, "done"), "default/a/done/1": (1, "live"), "default/b": (1, "cancelled"),
    }  # fmt: skip
