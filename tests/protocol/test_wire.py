"""Lines out of a stream, commands out of lines, refusals into replies."""

from __future__ import annotations

import json
import random

import pytest

from tests.core.driver import Driver
from wheeltimer.core.addresses import AddressRule
from wheeltimer.core.policy import Policy
from wheeltimer.errors import BadValue, Refused, TargetBlocked
from wheeltimer.protocol import requests as c
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import ErrorReply, PingReply

pytestmark = pytest.mark.quick
LIMIT = 16


def cut(*chunks: bytes, limit: int = LIMIT) -> tuple[list[bytes], wire.LineReader]:
    """All lines, up to one that is too long: there the connection ends."""
    reader, found = wire.LineReader(limit), list[bytes]()
    for chunk in chunks:
        found += reader.feed(chunk)
        if reader.overlong:
            break
    return found, reader


# -- the line reader ------------------------------------------------------------------------------


def test_lines_in_one_feed_in_many_and_byte_by_byte_are_the_same() -> None:
    seed = 4
    chance = random.Random(seed)
    for round_ in range(300):
        lines = [
            bytes(chance.choices(b"ab {}", k=chance.randrange(LIMIT))) for _ in range(chance.randrange(6))
        ]
        ends = [chance.choice((b"\n", b"\r\n")) for _ in lines]
        rest = bytes(chance.choices(b"xyz", k=chance.randrange(LIMIT)))
        stream = b"".join(line + end for line, end in zip(lines, ends, strict=True)) + rest
        at = sorted(chance.choices(range(len(stream) + 1), k=4))
        pieces = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
        for chunks in ([stream], pieces, [bytes([byte]) for byte in stream]):
            found, reader = cut(*chunks)
            assert [line.removesuffix(b"\r") for line in found] == lines, (seed, round_)
            assert reader.partial == bool(rest), (seed, round_)
            assert not reader.overlong


def test_a_thousand_lines_in_one_feed() -> None:
    found, reader = cut(b"{}\n" * 1000)
    assert found == [b"{}"] * 1000
    assert not reader.partial


def test_blank_lines_are_there_to_be_ignored() -> None:
    found, reader = cut(b"\n\r\n\n")
    assert [line.strip() for line in found] == [b"", b"", b""]
    assert not reader.partial


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bytewise", [True, False])
def test_a_line_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(end: bytes, bytewise: bool) -> None:
    def chunks(data: bytes) -> list[bytes]:
        return [bytes([byte]) for byte in data] if bytewise else [data]

    found, reader = cut(*chunks(b"x" * LIMIT + end))
    assert [line.strip() for line in found] == [b"x" * LIMIT]
    assert not reader.overlong
    assert not reader.partial
    found, reader = cut(*chunks(b"x" * (LIMIT + 1) + end))
    assert found == []
    assert reader.overlong


def test_an_overlong_line_is_told_before_it_ends_and_is_not_kept() -> None:
    found, reader = cut(b"a\nb\n" + b"x" * 10_000)
    assert found == [b"a", b"b"]
    assert reader.overlong
    assert not reader.partial


def test_what_comes_before_an_overlong_line_is_served_and_what_comes_after_is_not() -> None:
    found, reader = cut(b"a\n" + b"x" * (LIMIT + 1) + b"\nb\nrest")
    assert found == [b"a"]
    assert reader.overlong
    assert not reader.partial


def test_a_carriage_return_inside_a_line_stays() -> None:
    assert cut(b"a\rb\n")[0] == [b"a\rb"]


# -- lines that hold no command -------------------------------------------------------------------

DEEP = b"[" * 60_000 + b"]" * 60_000
# (line, field, a part of the message)
BAD: list[tuple[bytes, str, str]] = [
    (b"x", "", "not JSON"),
    (b"{", "", "not JSON"),
    (b'{"op":"ping"', "", "not JSON"),
    (b'{"op":"ping"} {"op":"ping"}', "", "not JSON"),
    (b'{"op":"ping",}', "", "not JSON"),
    (b"{'op':'ping'}", "", "not JSON"),
    (b'{"op":"ping"}\x00', "", "not JSON"),
    (b'\xef\xbb\xbf{"op":"ping"}', "", "byte order mark (BOM)"),
    (b"[]", "", "object expected"),
    (b'"ping"', "", "object expected"),
    (b"null", "", "object expected"),
    (b"7", "", "object expected"),
    (b"{}", "op", "missing"),
    (b'{"op":"ping","seq":1e999}', "seq", "out of range"),
    (b'{"op":"ping","seq":NaN}', "", "not JSON"),
    (b'{"op":"ping","seq":' + b"9" * 5000 + b"}", "seq", "out of range"),
    (b'{"op":"schedule","url":"http://r/","delay":' + b"9" * 5000 + b"}", "delay", "out of range"),
    (b'{"op":"schedule","url":"http://r/","body":' + DEEP + b"}", "", "nested deeper"),
    (
        b'{"op":"schedule","url":"http://r/","success":{"json":[{"pointer":"","equals":' + DEEP + b"}]}}",
        "",
        "nested deeper",
    ),
    (b'{"op":"schedule","url":"http://r/","id":"\xff"}', "", "not UTF-8"),
    (b'{"op":"schedule","url":"http://r/","body":"\xff"}', "", "not UTF-8"),
    (b'{"op":"schedule","url":"http://r/","meta":"\xc3"}', "", "not UTF-8"),
    (b'{"op":"schedule","url":"http://r/","body":"\xed\xa0\x80"}', "", "not UTF-8"),  # a surrogate's bytes
    (b'{"op":"schedule","url":"http://r/","id":"\\ud800"}', "id", "half of a surrogate pair"),
    (b'{"op":"schedule","url":"http://r/","body":"\\udfff x"}', "body", "half of a surrogate pair"),
    (b'{"op":"schedule","url":"http://r/","body":"\x01"}', "", "not JSON"),
    (b'{"op":"schedule","url":"http://r/","body":01}', "", "not JSON"),
    (b'{"op":"schedule","url":"http://r/","body":[1,]}', "", "not JSON"),
    (b'{"op":"schedule","url":"http://r/","body":"\\x41"}', "", "not JSON"),
    (b'{"op":"schedule","url":"http://r/","meta":{"a":}}', "", "not JSON"),
    (b'{"op":"schedule","url":"http://r/","a`b":1}', "a`b", "no such field"),
    (b'{"op":"schedule","url":"http://r/","poll":{"every":5,"\xc3\xa9":1}}', "poll.\u00e9", "no such field"),
    (b'{"op":"ping","a\\nb":1}', "a\nb", "no such field"),
    (b'{"op":"ping","a - at `$.op`":1}', "a - at `$.op`", "no such field"),
    (b'{"op":"ping","":1}', "", "no such field"),
]


@pytest.mark.parametrize(("line", "field", "words"), BAD, ids=[str(line[:60]) for line, *_ in BAD])
def test_a_bad_line_is_told_what_is_wrong_and_the_next_is_served(line: bytes, field: str, words: str) -> None:
    driver = Driver()
    reply = driver.line(line)
    assert (reply["error"], reply.get("field", "")) == ("bad_request", field)
    assert words in reply["message"]
    assert not driver.written()
    assert driver.ask("pause", queue="q")["ok"]


@pytest.mark.parametrize("place", [b'"%b":1', b'"op":"%b"', b'"seq":{"%b":1}'], ids=str)
def test_a_name_made_to_look_like_a_path_costs_no_more_than_its_length(place: bytes) -> None:
    """Tried at each of its " - at `$", the search for the path held the loop for 15 seconds."""
    hostile = b" - at `$" * (131_000 // 8) + b"\\n"
    line = b'{"op":"ping",' + place % hostile + b"}"
    with pytest.raises(BadValue) as refused:
        wire.decode(line)
    assert len(str(refused.value)) < 300
    assert refused.value.field in ("op", "seq", hostile.decode().replace("\\n", "\n"))


def test_what_is_kept_as_raw_json_is_json() -> None:
    """Bodies, meta and finish's reply are stored as they come, and go out inside of our own JSON."""
    seed = 11
    chance = random.Random(seed)
    alphabet = [
        '"',
        "\\",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "1",
        "-",
        ".",
        "e",
        "t",
        "true",
        "null",
        "\\u00e9",
        "é",
        " ",
    ]
    taken = 0
    for _ in range(20_000):
        text = "".join(chance.choices(alphabet, k=chance.randrange(1, 7)))
        try:
            command = wire.decode(b'{"op":"schedule","url":"http://r/","body":' + text.encode() + b"}")
        except BadValue:
            continue
        assert isinstance(command, c.Schedule)
        taken += 1
        try:
            json.loads(bytes(command.body))
        except ValueError as error:
            raise AssertionError(f"seed {seed}: {text!r} was taken") from error
    assert taken > 500


def test_whitespace_and_carriage_return_around_a_command_are_no_matter() -> None:
    assert wire.decode(b' { "op" : "ping" } \r') == c.Ping()


def test_a_body_field_of_each_kind_is_refused() -> None:
    reply = Driver().line(b'{"op":"schedule","url":"http://a/","body":1,"body_text":"1"}')
    assert (reply["error"], reply["field"]) == ("bad_request", "body")


# -- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [0, 7, -1, 2**70, 1.5, "", "s", "\u8ba2\u5355", None])
def test_seq_comes_back_as_it_was(seq: object) -> None:
    driver = Driver()
    for op, fields in (
        ("schedule", {"url": "http://r/"}), ("schedule", {"url": "nope"}), ("get", {"id": "x"}),
        ("cancel", {"id": "x"}), ("list", {}), ("pause", {"queue": "q"}), ("ping", {"colour": 1}),
    ):  # fmt: skip
        reply = driver.line(json.dumps({"op": op, "seq": seq} | fields).encode())
        assert reply.get("seq") == seq
        assert ("seq" in reply) == (seq is not None)


@pytest.mark.parametrize(
    ("line", "seq"),
    [
        (b'{"seq":4,"op":"nope"}', 4),
        (b'{"seq":"a","op":"ping","x":1}', "a"),
        (b'{"seq":4,"op":"ping"', None),
        (b'{"seq":[4],"op":"ping"}', None),
        (b"[4]", None),
        (b'{"seq":4,"body":' + DEEP + b"}", None),
        (b"\xff", None),
        (b'{"op":"ping","seq":"\xed\xa0\x80"}', None),
        (b'{"op":"ping","\xff":1,"seq":3}', 3),
    ],
    ids=lambda value: str(value)[:30],
)
def test_seq_of_a_line_that_was_refused(line: bytes, seq: object) -> None:
    assert wire.seq_of(line) == seq


def test_a_refusal_says_what_applies_and_nothing_else() -> None:
    def shown(error: Refused | BadValue | TargetBlocked, seq: int | None = None) -> dict[str, object]:
        decoded: dict[str, object] = json.loads(wire.encode(wire.refusal(error, seq)))
        return decoded

    assert shown(BadValue("op: missing", "op")) == {
        "ok": False, "error": "bad_request", "message": "op: missing", "field": "op",
    }  # fmt: skip
    assert "field" not in shown(BadValue("not JSON"))
    assert shown(Refused("exists", "there", version=2, state="done", due=5), 9) == {
        "ok": False, "error": "exists", "message": "there", "version": 2, "state": "done", "due": 5, "seq": 9,
    }  # fmt: skip
    assert shown(Refused("full", "no room", retry_after_ms=10))["retry_after_ms"] == 10
    assert shown(TargetBlocked("url: not allowed; see allow_nets"))["error"] == "target_blocked"


def test_replies_are_one_line_each() -> None:
    assert wire.encode(PingReply(True, 5)) == b'{"ok":true,"now":5}'
    assert b"\n" not in wire.encode(ErrorReply(False, "bad_request", "a\nb"))


def test_a_blocked_target_names_the_field() -> None:
    def check_host(host: str) -> str | None:
        return None if host == "ok" else f"{host} is not in allow_nets"

    driver = Driver(policy=Policy(check_host=check_host))
    for fields, field in (
        ({"url": "http://bad/"}, "url"),
        ({"url": "http://ok/", "on_done": "http://bad/"}, "on_done"),
        ({"url": "http://ok/", "on_dead": "http://bad/"}, "on_dead"),
    ):
        reply = driver.ask("schedule", id="t", **fields)
        assert reply["error"] == "target_blocked"
        assert reply["message"].startswith(f"{field}: bad is not in allow_nets")
    assert driver.ask("schedule", id="t", url="http://ok/")["ok"]
    no_address = Driver(policy=Policy(check_host=AddressRule(False).check_host))
    for field in ("url", "on_done", "on_dead"):
        reply = no_address.ask("schedule", **({"url": "http://ok/"} | {field: "http://1.2.3.4.5/"}))
        assert (reply["error"], reply["field"]) == ("bad_request", field)
        assert reply["message"].startswith(f"{field}: '1.2.3.4.5' ends in a number")
    assert driver.ask("reschedule", id="t", url="http://bad/")["error"] == "target_blocked"
    assert driver.ask("reschedule", id="t", on_dead="http://bad/")["error"] == "target_blocked"
    assert driver.task("default/t").version == 1
