"""Success rules: what meets them, and which rules are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from wheeltimer.core.outcome import ERROR_CHARS_MAX
from wheeltimer.errors import BadValue
from wheeltimer.protocol.limits import REPLY_BYTES_MAX
from wheeltimer.protocol.replyjson import parsed, shown
from wheeltimer.protocol.success import (
    CHECKS_MAX,
    DEFAULT_SUCCESS,
    EXPECTED_DEPTH_MAX,
    OTHER_END,
    POINTER_CHARS_MAX,
    STATUSES_MAX,
    JsonCheck,
    SuccessRule,
    unmet,
    unread,
    without_bom,
)

pytestmark = pytest.mark.quick


def judge(given: SuccessRule, *reply: Any) -> bool:
    return unmet(given, *reply) is None


def rule(**members: Any) -> SuccessRule:
    """A rule the way it comes in: as JSON."""
    return msgspec.json.decode(msgspec.json.encode(members), type=SuccessRule)


@pytest.mark.parametrize(
    ("status", "reply_status", "expected"),
    [
        (None, 200, True),
        (None, 204, True),
        (None, 299, True),
        (None, 199, False),
        (None, 300, False),
        (None, 0, False),
        (["2xx", 304], 304, True),
        (["2xx", 304], 200, True),
        (["2xx", 304], 303, False),
        ([404], 404, True),
        ([404], 200, False),
        (["4xx"], 499, True),
        (["5xx", "3xx"], 302, True),
        (["1xx"], 100, True),
    ],
)
def test_status(status: list[object] | None, reply_status: int, expected: bool) -> None:
    given = DEFAULT_SUCCESS if status is None else rule(status=status)
    assert judge(given, reply_status, b"", False) is expected


@pytest.mark.parametrize(
    ("text", "body", "expected"),
    [
        ("success", b"success", True),
        ("success", b" \r\n\tsuccess\n", True),
        ("success", b"success!", False),
        ("success", b"SUCCESS", False),
        ("success", b'"success"', False),
        ("success", b"", False),
        ("", b"", True),
        ("", b" \n", True),
        ("a  b", b"a  b", True),
        ("a  b", b"a b", False),
        ("\u6210\u529f", "\u6210\u529f\n".encode(), True),
        ("\u6210\u529f", "\u6210\u529f".encode("gb18030"), False),
        ("\ufffd", b"\xff", False),  # strict: nothing is replaced to make it fit
    ],
)
def test_text_is_the_whole_body_without_white_space(text: str, body: bytes, expected: bool) -> None:
    assert judge(rule(text=text), 200, body, False) is expected


VALUES = [
    "1",
    "1.0",
    "true",
    '"1"',
    "null",
    "0",
    "false",
    '""',
    "[]",
    "{}",
    "[1]",
    "[1.0]",
    '{"a":1}',
    '{"a":true}',
]


ONE_NUMBER = {"1": ["1", "1.0"], "1.0": ["1", "1.0"], "[1]": ["[1]", "[1.0]"], "[1.0]": ["[1]", "[1.0]"]}


@pytest.mark.parametrize("expected", VALUES)
def test_json_compares_type_and_value(expected: str) -> None:
    """Python takes 1 and True for the same; JSON does not. 1 and 1.0 are one number in both."""
    given = SuccessRule(json=(JsonCheck("/v", msgspec.json.decode(expected)),))
    met = [value for value in VALUES if judge(given, 200, f'{{"v":{value}}}'.encode(), False)]
    assert met == ONE_NUMBER.get(expected, [expected])


@pytest.mark.parametrize(
    ("expected", "same", "other"),
    [
        (
            "200",
            ["200", "200.0", "2e2", "2E+2", "20000e-2", "200.000"],
            ["201", "200.5", "true", '"200"', "2e3"],
        ),
        ("200.0", ["200", "2e2"], ["200.1", '"200.0"']),
        ("0", ["0", "-0", "0.0", "-0.0", "0e9"], ["false", "null", "1e-300", '""']),
        ("-0.0", ["0", "-0"], ["false"]),
        ("1", ["1", "1.0", "1e0"], ["true", "1.0000001"]),
        ("0.1", ["0.1", "0.10", "1e-1", "0.10000000000000001"], ["0.2", "0.1001"]),
        (
            "9007199254740993",
            ["9007199254740993", "9007199254740993.0"],
            ["9007199254740992", "9007199254740992.0"],
        ),
        (
            "18446744073709551615",
            ["18446744073709551615", "1.8446744073709551615e19"],
            ["18446744073709551616.0"],
        ),
        (
            "-9223372036854775808",
            ["-9223372036854775808", "-9223372036854775808.0"],
            ["-9223372036854775807.0"],
        ),
        ("1e23", ["1e23", "100000000000000000000000"], ["1e22"]),
        ("9007199254740993", [], ["1e400", "-1e400", "1e99999999999999999999", "0.5"]),
        ('{"a":[1,{"b":2.0}]}', ['{"a":[1.0,{"b":2}]}', '{"a":[1e0,{"b":20e-1}]}'], ['{"a":[true,{"b":2}]}']),
        ('{"a":[9007199254740993]}', ['{"a":[9007199254740993.0]}'], ['{"a":[9007199254740992.0]}']),
        ("1.5", ["1.5", "15e-1"], ["1" + "0" * 400, "true"]),
    ],
)
def test_numbers_compare_as_json_numbers(expected: str, same: list[str], other: list[str]) -> None:
    given = rule(json=[{"pointer": "/v", "equals": msgspec.json.decode(expected)}])
    for value in same:
        assert judge(given, 200, f'{{"v":{value}}}'.encode(), False), value
    for value in other:
        assert not judge(given, 200, f'{{"v":{value}}}'.encode(), False), value


WIDE = "9" * 5_000
FAR = ["1e400", "-1e400", "1e99999999999999999999", "-1e99999999999999999999", WIDE, WIDE + ".0", "-" + WIDE]
INTEGERS = {
    "9007199254740991": ["9007199254740991", "9007199254740991.0", "9007199254740991e0"],
    "9007199254740992": ["9007199254740992", "9007199254740992.0", "9.007199254740992E15"],
    "9007199254740993": ["9007199254740993", "9007199254740993.0", "9007199254740993.000"],
    "100": ["100", "1E2", "100.0", "1000e-1"],
    "0": ["0", "-0", "0.0", "-0.0", "0e99999999999999999999", "-0.0E-99999999999999999999"],
    "1": ["1", "1.0"],
    "18446744073709551615": ["18446744073709551615", "18446744073709551615.0"],
}
NEAR = ["1.00000000000000000001", "0.1", "1e-9999", "1e-99999999999999999999", "18446744073709551616"]


@pytest.mark.parametrize("equals", INTEGERS)
def test_an_integer_is_compared_exactly_with_any_spelling(equals: str) -> None:
    given = rule(json=[{"pointer": "/v", "equals": msgspec.json.decode(equals)}])
    values = [*FAR, *NEAR, *(value for same in INTEGERS.values() for value in same)]
    met = [value for value in values if judge(given, 200, f'{{"v":{value}}}'.encode(), False)]
    assert met == INTEGERS[equals]


@pytest.mark.parametrize(
    ("equals", "same"),
    [
        (0.1, ["0.1", "0.1000000000000000055", "1e-1"]),
        (100.0, ["100", "100.0", "1E2", "100.00000000000000000001"]),
        (2.0**53, ["9007199254740992", "9007199254740993", "9007199254740993.0"]),
        (-0.0, ["0", "-0", "-0.0", "1e-9999", "1e-99999999999999999999"]),
    ],
)
def test_a_double_is_compared_with_doubles(equals: float, same: list[str]) -> None:
    given = rule(json=[{"pointer": "/v", "equals": equals}])
    assert type(given.json and given.json[0].equals) is float
    for value in same:
        for beside in ("0", "1e400"):  # parsed by one library, and by the other
            assert judge(given, 200, f'{{"v":{value},"w":{beside}}}'.encode(), False), value
    for value in (*FAR, "9007199254740994", "0.2", "true", '"0.1"'):
        assert not judge(given, 200, f'{{"v":{value}}}'.encode(), False), value


@pytest.mark.parametrize("elsewhere", [*FAR, r'"\ud83d"', r'{"\udc00":[1e400]}', "9" * 60_000])
@pytest.mark.parametrize("equals", [200, 200.0, "ok", [200, 1.5], None])
def test_what_stands_elsewhere_in_the_reply_spoils_nothing(elsewhere: str, equals: object) -> None:
    given = rule(json=[{"pointer": "/status", "equals": equals}])
    for value in (200, "ok", [200, 1.5], None, 201):
        body = f'{{"a":{elsewhere},"status":{msgspec.json.encode(value).decode()}}}'.encode()
        assert judge(given, 200, body, False) == (value == equals), value


@pytest.mark.parametrize("no_json", ["NaN", "-Infinity", "01", "1.", r'"\ud83"', '"\t"', "'a'", "[1,]"])
def test_the_second_reading_takes_no_more_than_json(no_json: str) -> None:
    given = rule(json=[{"pointer": "/status", "equals": 200}])
    for far in ("1e400", "1"):
        body = f'{{"far":{far},"a":{no_json},"status":200}}'.encode()
        assert unmet(given, 200, body, False) == "the body is no JSON"


def test_a_reason_is_short_and_visible() -> None:
    given = rule(json=[{"pointer": "/" + "\x1b" * 1_000, "equals": {"a": [1, None, True, "\n" * 999]}}])
    for value in ("\x7f\u202e\x00" * 4_000, [[{"a": "x" * 4_000}]] * 9, {"\x1b": 1}):
        body = msgspec.json.encode({"\x1b" * 1_000: value})
        why = unmet(given, 200, body, False)
        assert why is not None
        assert why.isprintable()
        assert why.endswith(OTHER_END)
        assert len(why) < ERROR_CHARS_MAX - len("success: ")
    half = rule(json=[{"pointer": "/a", "equals": "\u5931"}])
    assert unmet(half, 200, b'{"a":"\\ud83d"}', False) == '/a is "\\ud83d", "\u5931" expected'


@pytest.mark.parametrize(
    ("text", "chars_max", "want"),
    [
        ('{"a":[1,null,true,false,"x"],"b":{}}', 60, '{"a": [1, null, true, false, "x"], "b": {}}'),
        ("1.50", 9, "1.50"),
        ("1e99999999999999999999", 99, "1e99999999999999999999"),
        ('"1e5"', 9, '"1e5"'),
        ('"abc"', 5, '"abc"'),
        ('"abc"', 4, '"abc...'),
        ("[1,2,3]", 4, "[1, ..."),
        ('{"abc":1}', 3, '{"a...'),
        ('"\\u0007\\"\\\\"', 20, '"\\u0007\\"\\\\"'),
        ("[" * 60 + "]" * 60, 5, "[[[[[..."),
    ],
)  # fmt: skip
def test_a_value_is_shown_as_json_up_to_a_length(text: str, chars_max: int, want: str) -> None:
    assert shown(parsed(text, exactly=True), chars_max) == want


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("before", [MARK, MARK * 2, b"\n" + MARK, MARK + b"\r\n" + MARK + b" "])
@pytest.mark.parametrize("after", [b"", MARK, b"\n" + MARK])
def test_bom_is_no_content(before: bytes, after: bytes) -> None:
    assert judge(rule(text="success"), 200, before + b"success" + after, False)
    assert judge(rule(json=[{"pointer": "/v", "equals": 1}]), 200, before + b'{"v":1}' + after, False)
    assert not judge(rule(text="success"), 200, before + b"no success" + after, False)


def test_bom_of_another_encoding_or_within_the_text_is_no_bom() -> None:
    assert not judge(rule(text="ok"), 200, "ok".encode("utf-16"), False)
    assert not judge(rule(text="ok"), 200, b"o" + MARK + b"k", False)
    assert judge(rule(text="\ufeffok"), 200, b"ok", False)  # a rule that an older version took


def test_a_long_row_of_boms_costs_no_time() -> None:
    assert without_bom(MARK * 20_000 + b"ok") == b"ok"


def test_why_a_body_could_not_be_compared() -> None:
    text = rule(text="ok")
    most = b"x" * REPLY_BYTES_MAX
    assert (
        unread(text, 200, most, True)
        == "the body is over 65536 bytes, so text and json cannot be compared with it"
    )
    assert unread(text, 200, b"ok", True, bytes_max=2) == (
        "the body is over 2 bytes, so text and json cannot be compared with it"
    )
    assert (
        unread(text, 200, b"o", True) == "the body is not whole, so text and json cannot be compared with it"
    )
    assert unread(text, 200, b"..", False, "the content-encoding 'br' is not decoded") == (
        "the content-encoding 'br' is not decoded, so text and json cannot be compared with the body"
    )
    assert unread(text, 500, most, True) is None
    assert unread(DEFAULT_SUCCESS, 200, most, True, "no gzip") is None
    assert unread(text, 200, most, False) is None
    assert judge(DEFAULT_SUCCESS, 200, b"..", False, "not decoded")
    assert not judge(text, 200, b"ok", False, "not decoded")


# RFC 6901 section 5, and beyond
DOCUMENT = rb"""{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8,
"~1":9,"deep":{"list":[{"x":[1,{"y":null}]}]},"01":10,"-":11}"""


@pytest.mark.parametrize(
    ("pointer", "equals"),
    [
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/foo/1", "baz"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/~01", 9),  # first ~1, then ~0 would make "/" of it
        ("/deep/list/0/x/1/y", None),
        ("/01", 10),
        ("/-", 11),
    ],
)
def test_pointer_finds(pointer: str, equals: object) -> None:
    assert judge(rule(json=[{"pointer": pointer, "equals": equals}]), 200, DOCUMENT, False)
    assert not judge(rule(json=[{"pointer": pointer, "equals": "other"}]), 200, DOCUMENT, False)


@pytest.mark.parametrize(
    "pointer",
    ["/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/-1", "/foo/1 ",
     "/foo/\u0661", "/foo/1_0", "/foo/" + "9" * 500,
     "/none", "/foo/0/0", "/a~1b/x", "/deep/list/x", "/deep//list", "/foo/"],
)  # fmt: skip
def test_pointer_to_nothing_is_no_success_not_even_for_null(pointer: str) -> None:
    for equals in (None, "bar", "baz", ["bar", "baz"], [1, {"y": None}]):
        assert not judge(rule(json=[{"pointer": pointer, "equals": equals}]), 200, DOCUMENT, False)


def test_the_empty_pointer_is_the_whole_body() -> None:
    whole = rule(json=[{"pointer": "", "equals": {"ok": [True, 1.5]}}])
    assert judge(whole, 200, b' {"ok":[true,1.5]} ', False)
    assert not judge(whole, 200, b'{"ok":[true,1.5],"more":1}', False)


def test_all_that_is_given_must_hold() -> None:
    given = rule(
        status=[202],
        text='{"code":"SUCCESS","n":1}',
        json=[{"pointer": "/code", "equals": "SUCCESS"}, {"pointer": "/n", "equals": 1}],
    )
    assert judge(given, 202, b'{"code":"SUCCESS","n":1}\n', False)
    assert not judge(given, 200, b'{"code":"SUCCESS","n":1}\n', False)
    assert not judge(given, 202, b'{"code":"SUCCESS", "n":1}\n', False)
    two = rule(json=[{"pointer": "/code", "equals": "SUCCESS"}, {"pointer": "/n", "equals": 1}])
    assert judge(two, 200, b'{"code":"SUCCESS","n":1}', False)
    assert not judge(two, 200, b'{"code":"SUCCESS","n":2}', False)
    assert not judge(two, 304, b'{"code":"SUCCESS","n":1}', False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}{}",
        b'{"v":1}x',
        b'{"v":"\xff"}',
        b'{"v":1e999}',
        b'{"v":NaN}',
        b'{"v":"\\ud800"}',
        b"[" * REPLY_BYTES_MAX,
        b'{"a":' * 10_000,
        b'{"v":' + b"9" * 10_000 + b"}",
        b"1" * 20_000,
        b"<html>",
    ],
)
def test_a_hostile_or_broken_body_is_no_success_and_no_crash(body: bytes) -> None:
    assert judge(rule(json=[{"pointer": "/v", "equals": 1}]), 200, body, False) is False


def test_a_body_over_the_limit_fails_text_and_json_but_not_status() -> None:
    text, json = rule(text="ok"), rule(json=[{"pointer": "", "equals": "ok"}])
    most = b"ok" + b" " * (REPLY_BYTES_MAX - 2)
    assert judge(text, 200, most, False)
    assert not judge(text, 200, most + b" ", False)
    assert not judge(text, 200, b"ok", True)
    assert judge(json, 200, b'"ok"', False)
    assert not judge(json, 200, b'"ok"', True)
    assert not judge(json, 200, b'"ok"' + b" " * REPLY_BYTES_MAX, False)
    assert judge(DEFAULT_SUCCESS, 200, most + b" ", True)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"status": []}, "status"),
        ({"status": [200] * (STATUSES_MAX + 1)}, "status"),
        ({"status": ["2xx", "200"]}, "status[1]"),
        ({"status": ["6xx"]}, "status[0]"),
        ({"status": ["2XX"]}, "status[0]"),
        ({"status": ["2xx\n"]}, "status[0]"),
        ({"status": ["xx"]}, "status[0]"),
        ({"status": [99]}, "status[0]"),
        ({"status": [600]}, "status[0]"),
        ({"status": [-200]}, "status[0]"),
        ({"text": " success"}, "text"),
        ({"text": "success\n"}, "text"),
        ({"json": []}, "json"),
        ({"json": [{"pointer": "", "equals": 1}] * (CHECKS_MAX + 1)}, "json"),
        ({"json": [{"pointer": "status", "equals": 1}]}, "json[0].pointer"),
        ({"json": [{"pointer": "", "equals": 1}, {"pointer": "/a~2", "equals": 1}]}, "json[1].pointer"),
        ({"json": [{"pointer": "/a~", "equals": 1}]}, "json[0].pointer"),
        ({"json": [{"pointer": "/" + "x" * POINTER_CHARS_MAX, "equals": 1}]}, "json[0].pointer"),
        ({"json": [{"pointer": "/a", "equals": nested(EXPECTED_DEPTH_MAX + 1)}]}, "json[0].equals"),
        ({"json": [{"pointer": "/a", "equals": {"x": nested(EXPECTED_DEPTH_MAX)}}]}, "json[0].equals"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_the_member(members: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        rule(**members)
    cause = caught.value.__cause__
    assert isinstance(cause, BadValue)
    assert cause.field == field
    assert str(cause).startswith(f"{field}: ")


def test_an_expected_integer_that_no_journal_could_hold_is_refused() -> None:
    for number in ("18446744073709551616", "-9223372036854775809", '[{"x":1' + "0" * 30 + "}]"):
        with pytest.raises(msgspec.ValidationError, match="64 bits"):
            msgspec.json.decode(f'{{"json":[{{"pointer":"","equals":{number}}}]}}', type=SuccessRule)
    for number in ("18446744073709551615", "-9223372036854775808"):
        given = msgspec.json.decode(f'{{"json":[{{"pointer":"","equals":{number}}}]}}', type=SuccessRule)
        assert judge(given, 200, number.encode(), False)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(given), type=SuccessRule) == given


def test_the_deepest_expected_value_is_taken_and_found() -> None:
    value = nested(EXPECTED_DEPTH_MAX)
    given = rule(json=[{"pointer": "/v", "equals": value}])
    assert judge(given, 200, msgspec.json.encode({"v": value}), False)


@pytest.mark.parametrize(
    "text",
    ['{"status":[true]}', '{"status":[200.0]}',
     '{"status":"2xx"}', '{"text":1}', '{"json":{}}', '{"other":1}',
     '{"json":[{"pointer":"/a"}]}', '{"json":[{"pointer":"/a","equals":1,"not":2}]}'],
)  # fmt: skip
def test_wrong_types_and_unknown_members_are_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=SuccessRule)
