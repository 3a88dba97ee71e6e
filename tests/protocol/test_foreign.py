"""Bytes of other protocols, byte order marks and half characters are named as what they are."""

from __future__ import annotations

import json
import random

import pytest

from tests.core.driver import Driver
from wheeltimer.errors import BadValue
from wheeltimer.protocol import foreign, wire

pytestmark = pytest.mark.quick

NAMED: list[tuple[bytes, str]] = [
    (b"GET / HTTP/1.1\r\n", "HTTP"),
    (b"GET", "HTTP"),
    (b"POST /?{ HTTP/1.1", "HTTP"),
    (b"OPTIONS *", "HTTP"),
    (b"CONNECT 127.0.0.1:8463 HTTP/1.1", "HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
    (b"M-SEARCH /a HTTP/1.1", "HTTP"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls:HOST:PORT"),
    (b'\xef\xbb\xbf{"op":"ping"}', "BOM"),
    ('\ufeff{"op":"ping"}'.encode("utf-16-le"), "UTF-16"),
    ('\ufeff{"op":"ping"}'.encode("utf-16-be"), "UTF-16"),
    (b"PROXY TCP4 10.0.0.1 10.0.0.2 5555 8463", "PROXY"),
    (b"\0\r\nQUIT\n\x21\x11\0\x0c", "PROXY"),
    (b"\0\r", "PROXY"),
]
UNNAMED = (b"", b"{", b"[", b"hello?", b"GETTING", b"\0\1\0\x60\x21\x12\xa4\x42", b"*1\r\n$4\r\nPING", b"\xff\xff", b"\x16\x02", b"12")  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(("data", "word"), NAMED, ids=[str(data[:20]) for data, _ in NAMED])
def test_what_can_be_recognised_is_named_first_on_a_connection_and_as_a_line(data: bytes, word: str) -> None:
    assert word in foreign.opening(data)
    assert "one JSON object on a line is expected" in foreign.opening(data)
    reply = Driver().line(data.split(b"\n")[0])
    assert reply["error"] == "bad_request"
    assert word in reply["message"]


def test_what_cannot_be_recognised_has_no_name_and_one_sentence_all_the_same() -> None:
    for data in UNNAMED:
        assert foreign.named(data) is None, data
        assert foreign.opening(data).startswith("one JSON object on a line is expected, which begins with {")


HIGH, LOW = "\\ud83d", "\\ude00"
# (what stands in a text, which half is found)
HALVES: list[tuple[str, str | None]] = [
    (HIGH, HIGH),
    (LOW, LOW),
    ("\\uD83D", "\\uD83D"),
    (HIGH + " and more of it", HIGH),
    (HIGH + "\\u0041", HIGH),
    (HIGH + HIGH + LOW, HIGH),
    (HIGH + LOW + LOW, LOW),
    (LOW + HIGH, LOW),
    (HIGH + "\\\\" + LOW[1:], HIGH),
    ("\\\\" + HIGH, HIGH),
    ("\\\\" + HIGH[1:] + LOW, LOW),
    (HIGH + LOW, None),
    ("\\\\" + HIGH[1:], None),
    ("\\\\\\\\" + HIGH[1:] + "\\\\" + LOW[1:], None),
    ("\\u00e9", None),
]


@pytest.mark.parametrize(("text", "half"), HALVES, ids=[text for text, _ in HALVES])
def test_half_a_character_is_named_with_the_field_it_is_in(text: str, half: str | None) -> None:
    lines = [
        ('{"op":"ping","seq":"%s"}', "seq"),
        ('{"op":"schedule","url":"http://r/","body":{"t":["%s"]},"id":"x"}', "body"),
        ('{"op":"schedule","url":"http://r/","meta":{"%s":1}}', "meta"),
        ('{"op":"schedule","url":"http://r/","body":"\\\\","headers":{"a":"%s"}}', "headers"),
    ]
    for line, field in lines:
        try:
            wire.decode((line % text).encode())
        except BadValue as error:
            refused = str(error), error.field
        else:
            refused = "", ""
        want = (f"{field}: {half} is half of a surrogate pair: send whole characters", field)
        assert refused == (want if half else ("", "")), line


def test_half_a_character_in_a_name_has_no_field() -> None:
    reply = Driver().line(b'{"op":"ping","%b":1}' % HIGH.encode())
    assert reply["message"].startswith(f"{HIGH} is half of a surrogate pair")
    assert "field" not in reply


def test_a_line_that_is_cut_off_is_not_taken_for_one_with_half_a_character() -> None:
    whole = json.dumps({"op": "schedule", "url": "http://r/", "body": "\U0001f600", "id": "a"})
    for end in range(1, len(whole)):
        reply = Driver().line(whole[:end].encode())
        assert "surrogate" not in reply["message"], whole[:end]


def test_halves_are_found_where_another_parser_finds_them() -> None:
    seed = 5
    chance = random.Random(seed)
    parts = [HIGH, LOW, "\\\\", '\\"', "a", "\\u0041", "\\uD9ab", "\\uDCFF", "\\ud7ff", "u"]
    halves = 0
    for round_ in range(3000):
        text = "".join(chance.choices(parts, k=chance.randrange(1, 7)))
        line = f'{{"op":"schedule","url":"http://r/","body":["{text}"]}}'
        broken = any("\ud800" <= char <= "\udfff" for char in json.loads(line)["body"][0])
        assert (foreign.half_pair(line.encode()) is not None) == broken, (seed, round_, line)
        halves += broken
    assert 1000 < halves < 2900


def test_of_very_many_halves_one_is_named_without_its_field() -> None:
    line = b'{"op":"ping","seq":"%b"}' % (HIGH.encode() * 20_000)
    assert foreign.half_pair(line) == (HIGH, "")
