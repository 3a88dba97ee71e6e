"""Whether a reply means success: the rule that a task has, and its check.

Not here: the outcome of a reply that is no success (failed, not yet, final), and reading the reply.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from wheeltimer.errors import BadValue
from wheeltimer.protocol.limits import REPLY_BYTES_MAX
from wheeltimer.protocol.replyjson import NUMBERS, NoJson, escaped, parsed, shown

STATUSES_MAX: Final = 32
"""Most entries of ``status``; five patterns cover all statuses."""

CHECKS_MAX: Final = 16
"""Most entries of ``json``; the body is parsed once for all of them."""

POINTER_CHARS_MAX: Final = 1024
"""Longest JSON pointer."""

EXPECTED_DEPTH_MAX: Final = 32
"""Deepest nesting of ``equals``; bounds the recursion of a comparison, whatever the reply."""

SHOWN_CHARS_MAX: Final = 60
"""Most characters of a value, and of a pointer, that a reason shows."""

OTHER_END: Final = " expected"
"""The end of a reason that shows a value of the reply."""

BOM: Final = "\ufeff".encode()
"""Some editors write it before a text; it is not part of the content."""

_BOMS: Final = re.compile(b"(?:%b)*" % BOM)
_EDGE: Final = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
"""White space as ``str.strip`` defines it, and the BOM."""

_JSON_EDGE: Final = " \t\r\n\ufeff"
_PATTERN: Final = re.compile(r"[1-5]xx")
_ESCAPE: Final = re.compile(r"~[01]")
_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")


class JsonCheck(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """At ``pointer`` (RFC 6901; ``""`` is the whole body) stands the type and value of ``equals``."""

    pointer: str
    equals: Any


class SuccessRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """All that is given must hold: one of ``status``, the whole body as ``text``, every check of ``json``.

    Checked when made and when parsed; `BadValue` names the member (msgspec wraps it into its own
    ValidationError, which says where the rule stood).
    """

    status: tuple[int | str, ...] = ("2xx",)
    text: str | None = None
    json: tuple[JsonCheck, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.status) <= STATUSES_MAX:
            raise BadValue(f'status: 1 to {STATUSES_MAX} entries, like ["2xx", 304]', "status")
        for at, status in enumerate(self.status):
            fits = _PATTERN.fullmatch(status) if isinstance(status, str) else 100 <= status <= 599
            if not fits:
                raise BadValue(f'status[{at}]: a number from 100 to 599, or "1xx" to "5xx"', f"status[{at}]")
        if self.text is not None and self.text != self.text.strip():
            raise BadValue("text: white space around it never matches, replies are compared without", "text")
        if self.json is not None:
            if not 1 <= len(self.json) <= CHECKS_MAX:
                raise BadValue(
                    f'json: 1 to {CHECKS_MAX} entries, like {{"pointer":"/status","equals":"ok"}}', "json"
                )
            for at, check in enumerate(self.json):
                _check_pointer(check.pointer, f"json[{at}].pointer")
                _check_expected(check.equals, f"json[{at}].equals")


DEFAULT_SUCCESS: Final = SuccessRule()
"""For tasks without a rule: any 2xx."""


def unmet(
    rule: SuccessRule, status: int, body: bytes, truncated: bool, undecoded: str | None = None,
    bytes_max: int = REPLY_BYTES_MAX, shown_chars_max: int = SHOWN_CHARS_MAX,
) -> str | None:  # fmt: skip
    """None if the reply meets the rule, else why it does not; "" if the status alone does not meet it.

    ``truncated``: the reply had more than ``body``; ``undecoded``: why ``body`` is not the content.
    ``shown_chars_max``: most characters of a value of the reply in the reason.

    ``text`` takes the body as UTF-8 (anything else fails) and strips white space and BOMs around it; ``json``
    parses it as one JSON value. Cost: 1 us, and the parsing of at most `REPLY_BYTES_MAX` bytes.
    """
    if status not in rule.status and f"{status // 100}xx" not in rule.status:
        return ""
    if rule.text is None and rule.json is None:
        return None
    problem = unread(rule, status, body, truncated, undecoded, bytes_max)
    if problem is not None:
        return problem
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "the body is no UTF-8"
    if rule.text is not None and (found := text.strip(_EDGE)) != rule.text.strip(_EDGE):
        return _other("text", found, rule.text, shown_chars_max)
    if rule.json is None:
        return None
    try:
        document = parsed(text.strip(_JSON_EDGE), any(_has_integer(check.equals) for check in rule.json))
    except NoJson as no_json:
        return f"the body is {no_json}"
    for check in rule.json:
        at = escaped(check.pointer) or "the body"
        if len(at) > SHOWN_CHARS_MAX:
            at = at[:SHOWN_CHARS_MAX] + "..."
        try:
            value = _found(check.pointer, document)
        except LookupError:
            return f"{at} is missing"
        if not _same(value, check.equals):
            return _other(at, value, check.equals, shown_chars_max)
    return None


def _other(what: str, found: Any, expected: Any, shown_chars_max: int) -> str:
    """The reason. It ends in `OTHER_END`; the reply's value follows " is "."""
    came = shown(found, min(shown_chars_max, SHOWN_CHARS_MAX)) if shown_chars_max else "another value"
    return f"{what} is {came}, {shown(expected, SHOWN_CHARS_MAX)}{OTHER_END}"


def unread(
    rule: SuccessRule, status: int, body: bytes, truncated: bool, undecoded: str | None = None,
    bytes_max: int = REPLY_BYTES_MAX,
) -> str | None:  # fmt: skip
    """Why ``text`` and ``json`` cannot be compared with this reply; None if they can, or need not be."""
    if rule.text is None and rule.json is None:
        return None
    if status not in rule.status and f"{status // 100}xx" not in rule.status:
        return None
    if truncated or len(body) > bytes_max:
        over = f"the body is over {bytes_max} bytes" if len(body) >= bytes_max else "the body is not whole"
        return f"{over}, so text and json cannot be compared with it"
    return None if undecoded is None else f"{undecoded}, so text and json cannot be compared with the body"


def without_bom(body: bytes) -> bytes:
    """The body without the BOMs at its beginning."""
    boms = _BOMS.match(body)
    assert boms is not None
    return body[boms.end() :]


def _found(pointer: str, value: Any) -> Any:
    """The value at ``pointer``. Raises LookupError."""
    for token in pointer.split("/")[1:]:
        if isinstance(value, dict):
            name = _ESCAPE.sub(lambda found: "~" if found[0] == "~0" else "/", token)
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            raise LookupError(token)
    return value


def _same(value: Any, expected: Any) -> bool:
    """Equal in JSON's types and value all the way down: 1, true and "1" are three values, 1 and 1.0 are one.

    An ``expected`` without fraction and exponent is compared exactly, any other number as an IEEE double.
    """
    if type(expected) is float:
        try:
            return type(value) in NUMBERS and float(value) == expected
        except OverflowError:  # an integer that no float can hold
            return False
    if type(expected) is int:
        return type(value) in NUMBERS and bool(value == expected)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_same(value[name], expected[name]) for name in value)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    return bool(value == expected)


def _has_integer(expected: Any) -> bool:
    """Whether it has an integer, for which replies are parsed exactly: a double may equal many integers."""
    if isinstance(expected, dict):
        return any(map(_has_integer, expected.values()))
    if isinstance(expected, list):
        return any(map(_has_integer, expected))
    return type(expected) is int


def _check_pointer(pointer: str, field: str) -> None:
    if len(pointer) > POINTER_CHARS_MAX:
        raise BadValue(f"{field}: at most {POINTER_CHARS_MAX} characters", field)
    if pointer and not pointer.startswith("/"):
        raise BadValue(f'{field}: a JSON pointer starts with "/", like "/status"', field)
    if _BAD_ESCAPE.search(pointer):
        raise BadValue(f'{field}: in a JSON pointer "~" is written ~0 and "/" in a name ~1', field)


def _check_expected(value: Any, field: str) -> None:
    """Refuse too much depth, and integers beyond 64 bits, which the journal's format cannot store."""
    level = [value]
    for _ in range(EXPECTED_DEPTH_MAX + 1):
        if any(type(one) is int and not -(2**63) <= one < 2**64 for one in level):
            raise BadValue(f"{field}: an integer of more than 64 bits", field)
        containers = [one.values() if isinstance(one, dict) else one for one in level if _nests(one)]
        if not containers:
            return
        level = [one for container in containers for one in container]
    raise BadValue(f"{field}: nested deeper than {EXPECTED_DEPTH_MAX}", field)


def _nests(value: Any) -> bool:
    return isinstance(value, dict | list)
