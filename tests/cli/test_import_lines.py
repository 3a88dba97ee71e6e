"""A line of `import` is refused for what the daemon would refuse if it was sent as it stands in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_main import one_line, run
from tests.client.scripted import ScriptedServer

URL = b'"url":"http://x/"'
OK = {"ok": True, "id": "a", "queue": "q", "version": 1, "due": 5, "state": "scheduled", "duplicate": False}
OBJECT = "one JSON object on a line expected"
# (line, what is said of it)
REFUSED: list[tuple[bytes, str]] = [
    (b'{"id":"a","id":"b",%b}' % URL, "id: stands twice; give it once"),
    (b'{"id":"a",%b,"delay":"1h","delay":"2h"}' % URL, "delay: stands twice; give it once"),
    (b'{"id":"a",%b,"delay":1,"d\\u0065lay":1}' % URL, "delay: stands twice; give it once"),
    (b'{"op":"get","op":"schedule","id":"a",%b}' % URL, "op: stands twice; give it once"),
    (b'{"op":"get","id":"a",%b}' % URL, "op: only schedule can be imported"),
    (b'{"op":"cancel","id":"a"}', "op: only schedule can be imported"),
    (b'{"op":["schedule"],%b}' % URL, "op: only schedule can be imported"),
    (b'{"op":null,%b}' % URL, "op: only schedule can be imported"),
    (b'{"id":"\\ud83d",%b}' % URL, "id: \\ud83d is half of a surrogate pair: send whole characters"),
    (b'{"id":5,%b}' % URL, "id: Expected `str`, got `int`"),
    (b"PROXY TCP4 10.0.0.1 10.0.0.2 5555 8463", "not JSON: this is a PROXY protocol header"),
    (b"\0\r", "not JSON: this is a PROXY protocol header"),
    (b"POST / HTTP/1.1", "not JSON: this is HTTP"),
    (b"\x16\x03\x01\x02", "not JSON: this is TLS"),
    (b"\xff\xfe{\0}\0", "this is UTF-16: send UTF-8"),
    (b'{"id":"a",%b,"body":"\xfc"}' % URL, "not UTF-8: "),
    (b'{"id":"a",%b,"body":%b}' % (URL, b"[" * 60_000), "nested deeper than 64"),
    (b'[{"id":"a",%b}]' % URL, f"{OBJECT}, no array"),
    (b"[", f"{OBJECT}, no array"),
    (b"{", f"{OBJECT}; this one goes on behind the line"),
    (b'"a"', f"{OBJECT}: Expected `object`, got `str`"),
    (b"junk", "not JSON: "),
]


@pytest.mark.parametrize(("line", "said"), REFUSED, ids=[str(line[:40]) for line, _ in REFUSED])
def test_a_line_is_refused_by_name_and_the_next_is_taken(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_bytes(line + b'\n{"op":"\\u0073chedule","id":"next",%b,"body":{"a":1,"a":2}}\n' % URL)
    with ScriptedServer(lambda _: OK) as server:
        result = run("import", str(path), server=server)
    assert result.exit_code == 1
    assert result.stdout == "scheduled: 1, refused: 1\n"
    assert result.stderr.startswith(f"line 1: {said}")
    assert result.stderr.count("\n") == 1
    assert [request["id"] for request in server.requests] == ["next"]


@pytest.mark.parametrize("option", ["--body", "--meta", "--success"])
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'"\\ud83d"', "\\ud83d is half of a surrogate pair: send whole characters"),
        (b'{"a":["\\ude00"]}', "\\ude00 is half of a surrogate pair: send whole characters"),
        (b"\xff\xfe1\0", "this is UTF-16: send UTF-8"),
        (b"GET / HTTP/1.1", "not JSON: this is HTTP"),
        (b'"\xfc"', "not UTF-8: "),
        (b"hello", "not JSON: invalid character"),
        (b"[" * 60_000, "nested deeper than 64"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_json_of_an_option_is_refused_for_what_it_is(
    tmp_path: Path, option: str, raw: bytes, said: str
) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(raw)
    with ScriptedServer([]) as server:
        result = run("schedule", "http://x/", option, f"@{file}", server=server)
    assert result.exit_code == 2
    line = one_line(result)
    assert line.startswith(f"wheeltimer: {option}: {said}")
    assert ("a text stands in quotes" in line) == (raw == b"hello")
