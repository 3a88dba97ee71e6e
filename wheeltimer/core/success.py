"""Whether a reply means success: the rule that a task carries, and its judgement.

Not here: what follows from a reply that is no success (failed, not yet, final), and reading the reply.
"""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException
from typing import Any, Final

import msgspec

from wheeltimer.core.limits import REPLY_BYTES_MAX
from wheeltimer.errors import BadValue

STATUSES_MAX: Final = 32
"""Most entries of ``status``; five patterns cover all there is."""

CHECKS_MAX: Final = 16
"""Most entries of ``json``; the body is parsed once for all of them."""

POINTER_CHARS_MAX: Final = 1024
"""Longest JSON pointer."""

EXPECTED_DEPTH_MAX: Final = 32
"""Deepest nesting of ``equals``; comparing goes as deep as this and no deeper, whatever the reply."""

BOM: Final = "\ufeff".encode()
"""What some editors put before a text; it is no content."""

_BOMS: Final = re.compile(b"(?:%b)*" % BOM)
_EDGE: Final = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
"""White space as ``str.strip`` knows it, and the BOM."""

_JSON_EDGE: Final = " \t\r\n\ufeff"
_EXACT_FLOAT_MAX: Final = 2**53
"""Up to here every integer is a float of its own."""

_decode: Final = msgspec.json.Decoder().decode
_decode_exactly: Final = msgspec.json.Decoder(float_hook=Decimal).decode
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
"""For tasks that carry no rule: any 2xx."""


def judge(rule: SuccessRule, status: int, body: bytes, truncated: bool, undecoded: str | None = None) -> bool:
    """True when the reply meets the rule. ``truncated``: there was more than ``body``; ``undecoded``: why
    ``body`` is not the content.

    ``text`` takes the body as UTF-8 (anything else fails) and strips white space and BOMs around it; ``json``
    parses it as one JSON value. Cost: 1 us, and the parsing of at most `REPLY_BYTES_MAX` bytes.
    """
    if status not in rule.status and f"{status // 100}xx" not in rule.status:
        return False
    if rule.text is None and rule.json is None:
        return True
    if unread(rule, status, body, truncated, undecoded) is not None:
        return False
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    if rule.text is not None and text.strip(_EDGE) != rule.text.strip(_EDGE):
        return False
    if rule.json is None:
        return True
    decode = _decode_exactly if any(_is_wide(check.equals) for check in rule.json) else _decode
    try:
        document = decode(text.strip(_JSON_EDGE))
    except (msgspec.DecodeError, DecimalException, RecursionError):
        return False
    return all(_holds(check, document) for check in rule.json)


def unread(
    rule: SuccessRule, status: int, body: bytes, truncated: bool, undecoded: str | None = None,
    bytes_max: int = REPLY_BYTES_MAX,
) -> str | None:  # fmt: skip
    """Why ``text`` and ``json`` cannot be compared with this reply; None where they can, or need not be."""
    if rule.text is None and rule.json is None:
        return None
    if status not in rule.status and f"{status // 100}xx" not in rule.status:
        return None
    if truncated or len(body) > bytes_max:
        over = f"the body is over {bytes_max} bytes" if len(body) >= bytes_max else "the body is not whole"
        return f"{over}, so text and json cannot be compared with it"
    return None if undecoded is None else f"{undecoded}, so text and json cannot be compared with the body"


def without_bom(body: bytes) -> bytes:
    """The body without BOMs before it."""
    boms = _BOMS.match(body)
    assert boms is not None
    return body[boms.end() :]


def _holds(check: JsonCheck, value: Any) -> bool:
    for token in check.pointer.split("/")[1:]:
        if isinstance(value, dict):
            name = _ESCAPE.sub(lambda found: "~" if found[0] == "~0" else "/", token)
            if name not in value:
                return False
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return False
    return _same(value, check.equals)


def _same(value: Any, expected: Any) -> bool:
    """Equal in JSON's types and value all the way down: 1, true and "1" are three values, 1 and 1.0 are one.

    Integers are compared exactly, numbers with a fraction or an exponent as IEEE doubles.
    """
    if type(expected) is float:
        try:
            return type(value) in _NUMBERS and float(value) == expected
        except OverflowError:  # an integer that no float can hold
            return False
    if type(expected) is int:
        return type(value) in _NUMBERS and bool(value == expected)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_same(value[name], expected[name]) for name in value)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    return bool(value == expected)


_NUMBERS: Final = (int, float, Decimal)


def _is_wide(expected: Any) -> bool:
    """Whether there is an integer in it that a float may not hold."""
    if isinstance(expected, dict):
        return any(map(_is_wide, expected.values()))
    if isinstance(expected, list):
        return any(map(_is_wide, expected))
    return type(expected) is int and abs(expected) > _EXACT_FLOAT_MAX


def _check_pointer(pointer: str, field: str) -> None:
    if len(pointer) > POINTER_CHARS_MAX:
        raise BadValue(f"{field}: at most {POINTER_CHARS_MAX} characters", field)
    if pointer and not pointer.startswith("/"):
        raise BadValue(f'{field}: a JSON pointer starts with "/", like "/status"', field)
    if _BAD_ESCAPE.search(pointer):
        raise BadValue(f'{field}: in a JSON pointer "~" is written ~0 and "/" in a name ~1', field)


def _check_expected(value: Any, field: str) -> None:
    """Bounded depth, and integers that any 64-bit reader can hold (the journal's format among them)."""
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
