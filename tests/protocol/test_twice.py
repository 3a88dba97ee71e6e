"""A field that stands twice is refused by its name, alone and in a run; the client's own JSON is not."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests, wire

pytestmark = pytest.mark.quick

HEAD = '{"op":"schedule","url":"http://r/"'
CHECK = '"pointer":"/a","equals":1'
# (line, field)
TWICE: list[tuple[str, str]] = [
    (HEAD + ',"delay":"1h","delay":"2h"}', "delay"),
    (HEAD + ',"delay":1,"delay":1}', "delay"),
    (HEAD + ',"delay":1,"d\\u0065lay":2}', "delay"),
    (HEAD + ',"\\u0064elay":1,"delay":2}', "delay"),
    (HEAD + ',"id":"\\u0022\\u0022","delay":1,"delay":2}', "delay"),
    (HEAD + ',"id":"a\\"b","id":"c"}', "id"),
    (HEAD + ',"url":"http://r/"}', "url"),
    (HEAD + ',"op":"schedule"}', "op"),
    (HEAD + ',"body":1,"body":2}', "body"),
    (HEAD + ',"body":{"a":"{\\"x\\":1}"},"meta":{},"meta":{}}', "meta"),
    (HEAD + ',"seq":1,"seq":2}', "seq"),
    (HEAD + ',"queue":"a","queue":"a"}', "queue"),
    (HEAD + ',"group":null,"group":null}', "group"),
    (HEAD + ' , "group" : "a" , "group" : "b" }', "group"),
    (HEAD + ',"retry":"none","retry":"default"}', "retry"),
    (HEAD + ',"retry":{"kind":"fixed","every":"1s","attempts":3,"attempts":4}}', "retry.attempts"),
    (HEAD + ',"retry":{"kind":"fixed","every":"1s","kind":"fixed","attempts":3}}', "retry.kind"),
    (HEAD + ',"retry":{"kind":"list","delays":[1,2],"d\\u0065lays":[3]}}', "retry.delays"),
    (HEAD + ',"poll":{"every":"5s","every":"6s"}}', "poll.every"),
    (HEAD + ',"success":{"text":"a","status":[200],"text":"b"}}', "success.text"),
    (HEAD + ',"success":{"json":[{' + CHECK + "},{" + CHECK + ',"equals":2}]}}', "success.json[1].equals"),
    (HEAD + ',"success":{"json":[{' + CHECK + '}],"json":[{' + CHECK + "}]}}", "success.json"),
    (HEAD + ',"headers":{"x-a":"1","x-b":"2","x-a":"3"}}', "headers.x-a"),
    (HEAD + ',"headers":{"\\u0078-a":"1","x-a":"3"}}', "headers.x-a"),
    ('{"op":"hello","token":"a","token":"b"}', "token"),
    ('{"op":"ping","op":"ping"}', "op"),
    ('{"op":"cancel","op":"ping"}', "op"),
    ('{"op":"cancel","\\u006fp":"ping"}', "op"),
    ('{"op":"ping","op":"schedule","url":"http://r/"}', "op"),
    ('{"op":"ping","op":5}', "op"),
    ('{"op":"nope","op":"ping"}', "op"),
    (HEAD + ',"retry":{"kind":"list","kind":"fixed","delays":[1]}}', "retry.kind"),
    (HEAD + ',"id":"a","id":"b","op":"get"}', "id"),
    ('{"op":"ping","seq":"a","seq":"a"}', "seq"),
    ('{"op":"get","id":"a","id":"b"}', "id"),
    ('{"op":"cancel","group":"a","group":"b"}', "group"),
    ('{"op":"finish","id":"a","reply":{"a":1,"a":2},"reply":1}', "reply"),
    ('{"op":"reschedule","id":"a","delay":1,"delay":2}', "delay"),
    ('{"op":"list","limit":1,"limit":2}', "limit"),
    ('{"op":"redrive","queue":"a","queue":"b"}', "queue"),
    ('{"op":"pause","queue":"a","queue":"b"}', "queue"),
    ('{"op":"subscribe","types":["task.*"],"types":["task.*"]}', "types"),
    ('{"op":"subscribe","from":"a","from":"b"}', "from"),
    ('{"op":"forecast","slices":1,"slices":2}', "slices"),
    ('{"op":"stats","seq":1,"seq":1}', "seq"),
]  # fmt: skip
ONCE: list[str] = [
    HEAD + ',"body":{"a":1,"a":2}}',
    HEAD + ',"body":[{"delay":1,"delay":2}],"delay":1}',
    HEAD + ',"meta":{"a":1,"a":2},"group":"g"}',
    HEAD + ',"body":"\\"delay\\":1,\\"delay\\":2","delay":1}',
    HEAD + ',"id":"a\\"b","delay":1}',
    HEAD + ',"id":"\\u0022","delay":1}',
    HEAD.replace("/", "\\/") + ',"id":"a","delay":1,"body":"\\/"}',
    HEAD + ',"success":{"json":[{"pointer":"","equals":{"a":1,"a":2}},{"pointer":"","equals":1}]}}',
    HEAD + ',"queue":"default","seq":"s","delay":"1h","on_conflict":"error","group":null}',
    HEAD + ',"body":' + "9" * 5000 + "}",
    HEAD + ',"body":' + "[" * 60 + "]" * 60 + ',"meta":null}',
    '{"op":"finish","id":"a","reply":{"a":1,"a":2}}',
    '{"op":"subscribe","types":["task.*","task.*"]}',
]


@pytest.mark.parametrize(("line", "field"), TWICE, ids=[line[:110] for line, _ in TWICE])
def test_a_field_that_stands_twice_is_refused_by_its_name(line: str, field: str) -> None:
    driver = Driver()
    reply = driver.line(line.encode())
    assert (reply["error"], reply["field"]) == ("bad_request", field)
    assert reply["message"] == f"{field}: stands twice; give it once"
    assert not driver.written()


@pytest.mark.parametrize("line", ONCE, ids=[line[:110] for line in ONCE])
def test_names_of_the_clients_own_json_may_stand_twice(line: str) -> None:
    assert wire.decode(line.encode()) == requests.decode(line.encode())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"op":"nope"}', "op: invalid value 'nope'"),
        (b'{"op":"nope","op', "op: invalid value 'nope'"),
        (b'{"op":"nope","body":' + b"[" * 60_000, "op: invalid value 'nope'"),
        (HEAD.encode() + b',"retry":{"kind":"often"}}', "retry.kind: invalid value 'often'"),
        (HEAD.encode() + b',"retry":{"kind":"often"', "retry.kind: invalid value 'often'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_op_that_stands_once_is_refused_for_what_it_is(line: bytes, words: str) -> None:
    with pytest.raises(BadValue, match=words):
        wire.decode(line)


def test_a_run_in_which_one_field_stands_twice_is_none_and_that_line_alone_is_refused() -> None:
    plain = '{{"op":"schedule","id":"t{0}","url":"http://r/","delay":5{1}}}'
    again = (
        ',"delay":6', ',"body":1,"body":2', ',"seq":1,"seq":2', ',"queue":"default","queue":"default"',
        ',"d\\u0065lay":6', ',"id":"t\\u00220","id":"t1"', ',"op":"schedule"', ',"url":"http://r/"',
    )  # fmt: skip
    for twice in again:
        driver = Driver()
        driver.ask("schedule", id="first", url="http://r/")
        lines = [plain.format(n, twice if n == 3 else "").encode() for n in range(8)]
        assert driver.run(lines) == [], twice
        assert [driver.line(line)["ok"] for line in lines] == [n != 3 for n in range(8)], twice
    driver = Driver()
    driver.ask("schedule", id="first", url="http://r/")
    more = [
        "", ',"body":{"a":"b","a":"c"}', ',"seq":"s"', ',"seq":7', ',"queue":"default"', ',"body":"\\""',
        ',"body":null', ',"queue":"default","seq":"","body":"\\u0022"',
    ]  # fmt: skip
    lines = [plain.format(n, some).encode() for n, some in enumerate(more)]
    lines.append(plain.format(len(more), "").replace("/", "\\/").encode())  # as PHP escapes
    assert len(driver.run(lines)) == len(lines), "all of these are plain"


def test_commas_inside_of_text_make_no_difference_to_a_run() -> None:
    plain = '{{"op":"schedule","id":"{0},","url":"http://r/?a,b","delay":5,"body":[1,"c,d"]{1}}}'
    for twice in (',"delay":6', ',"url":"http://r/?a,b"', ',"seq":1,"seq":2'):
        driver = Driver()
        driver.ask("schedule", id="first", url="http://r/")
        lines = [plain.format(n, "").encode() for n in range(8)]
        assert len(driver.run(lines)) == len(lines)
        for end in ("", "\\u002c"):  # an escaped comma is one of the text, and none of the line
            lines = [plain.format(f"{end}{n}-", twice if n == 3 else "").encode() for n in range(8)]
            assert driver.run(lines) == [], (twice, end)
            assert [driver.line(line)["ok"] for line in lines] == [n != 3 for n in range(8)], (twice, end)


def _text(chance: random.Random, text: str) -> str:
    """As a JSON string, some of its characters escaped."""
    parts = [f"\\u{ord(char):04x}" if chance.random() < 0.1 else char for char in text]
    return '"' + "".join("\\" + part if part in '"\\' else part for part in parts) + '"'


def _object(chance: random.Random, members: list[tuple[str, str]]) -> str:
    """An object of these members, given as JSON, in any order; one of them twice, now and then."""
    members = chance.sample(members, len(members))
    if members and chance.random() < 0.3:
        members.insert(chance.randrange(len(members) + 1), chance.choice(members))
    comma, colon = chance.choice([(",", ":"), (", ", ": "), (" ,\t", " :\r ")])
    return "{" + comma.join(_text(chance, name) + colon + value for name, value in members) + "}"


def _line(chance: random.Random) -> str:
    own = [
        '{"a":1,"a":2}', '"\\"x\\""', "[]", "null", '[1,"a,b"]', '","', '{"delay":{"id":"","id":""}}',
        '"\\u0022"', "1.50",
    ]  # fmt: skip
    some: dict[str, str] = {
        "id": _text(chance, chance.choice(['a"b', "plain", "q\\", "a,b"])),
        "delay": chance.choice(["5", '"5s"']),
        "queue": '"default"', "seq": chance.choice(["7", '"s\\""']), "body": chance.choice(own),
        "meta": chance.choice(own), "group": '"g"',
        "retry": chance.choice([
            '"none"', _object(chance, [("kind", '"fixed"'), ("every", '"1s"'), ("attempts", "3")]),
        ]),
        "poll": _object(chance, [("every", "5"), ("max", "7")]),
        "headers": _object(chance, [("x-a", '"1"'), ('x"b', '"\\""'), ("X-A", '""')]),
        "success": _object(chance, [
            ("text", '"a"'),
            ("json", "[" + _object(chance, [("pointer", '""'), ("equals", chance.choice(own))]) + "]"),
        ]),
    }  # fmt: skip
    given = chance.sample(sorted(some), chance.choice([0, 2, 3, 4, len(some)]))
    members = [("op", '"schedule"'), ("url", '"http://r/"'), *((name, some[name]) for name in given)]
    return _object(chance, members)


def _refused_field(line: str) -> str | None:
    try:
        wire.decode(line.encode())
    except BadValue as error:
        return error.field
    return None


def _stands_twice(line: str) -> set[str]:
    """What an independent parser finds, in the objects that the protocol defines."""

    def own(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return pairs

    found = set[str]()

    def look(path: str, pairs: Any) -> None:
        if not isinstance(pairs, list):
            return
        names = [name for name, _ in pairs]
        found.update(f"{path}{name}" for name in names if names.count(name) > 1)
        last = dict(pairs)
        for name in ("retry", "poll", "headers", "success") if not path else ():
            look(f"{name}.", last.get(name))
        for entry in last.get("json", ()) if path == "success." else ():
            look("success.json[0].", entry)

    look("", json.loads(line, object_pairs_hook=own))
    return found


def test_what_stands_twice_is_what_another_parser_finds() -> None:
    seed = 29
    chance = random.Random(seed)
    refused = 0
    for round_ in range(4000):
        line = _line(chance)
        twice = _stands_twice(line)
        field = _refused_field(line)
        refused += field is not None
        assert (field in twice) if twice else (field is None), (seed, round_, line, field)
    assert 1000 < refused < 3000


@pytest.mark.parametrize("twice", ["", ',"id":"a","id":"b"'], ids=["once", "twice"])
def test_a_hostile_line_is_not_read_value_by_value(twice: str) -> None:
    """Short values, each read into Python, would hold the loop for 50 ms; what is read takes memory."""
    own = (
        "[" + "1e1," * 30_000 + "1]", "[" + "[]," * 40_000 + "1]", '["' + '\\"' * 60_000 + '"]',
        "{" + '"":1,' * 25_000 + '"":1}', "[" * 900 + "]" * 900,
    )  # fmt: skip
    lines = [f'{HEAD},"group":"g","body":{body}{twice}}}' for body in own]
    lines += [HEAD + ',"id":"a"' * 13_000 + "}", HEAD + ',"headers":{"x":""' + ',"x":""' * 15_000 + "}}"]
    for line in lines:
        tracemalloc.start()
        try:
            field = _refused_field(line)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 5 * len(line), line[:60]
        assert field in ("id", "headers.x") or not twice
