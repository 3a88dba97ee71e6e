"""JSON of receivers: parsed so that one odd value does not make the rest unreadable, and shown in a few
characters.

msgspec parses nearly all of it. JSON that it refuses although the grammar of RFC 8259 allows it (a number
beyond a double, an integer of thousands of digits, half of a surrogate pair) is parsed again by the standard
library. The input is at most 64 KiB, which take at most 20 ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal, DecimalException, InvalidOperation
from typing import Any, Final, NoReturn

import msgspec

INT_CHARS_MAX: Final = 20  # longer integers become a Decimal: ``int()`` takes quadratic time

_decode: Final = msgspec.json.Decoder().decode
_decode_exactly: Final = msgspec.json.Decoder(float_hook=Decimal).decode


class NoJson(ValueError):
    """``str()`` is the fault, for a sentence that begins with "the body is"."""


class Far(str):
    """A number that is not zero and whose exponent is too large even for Decimal, as it was written."""

    __slots__ = ()


Number = int | float | Decimal | Far
NUMBERS: Final = (int, float, Decimal, Far)
"""The types of numbers that `parsed` returns; ``float()`` takes each."""


def parsed(text: str, exactly: bool) -> Any:
    """The JSON value in ``text``. ``exactly``: numbers keep their value, else they may become doubles.

    Numbers are of `NUMBERS`; a str may hold half of a surrogate pair. Raises NoJson.
    """
    try:
        return (_decode_exactly if exactly else _decode)(text)
    except RecursionError:
        raise NoJson("nested too deep") from None
    except (msgspec.DecodeError, DecimalException):
        pass
    try:
        return _decode_all(text)
    except RecursionError:
        raise NoJson("nested too deep") from None
    except ValueError:
        raise NoJson("no JSON") from None


def _integer(text: str) -> Number:
    return int(text) if len(text) <= INT_CHARS_MAX else Decimal(text)


def _fraction(text: str) -> Number:
    try:
        return Decimal(text)
    except InvalidOperation:
        mantissa = text.lower().partition("e")[0]
        return Far(text) if mantissa.strip("-0.") else Decimal(0)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


_decode_all: Final = json.JSONDecoder(
    parse_int=_integer, parse_float=_fraction, parse_constant=_no_constant
).decode


def shown(value: Any, chars_max: int) -> str:
    """``value`` as JSON in visible characters, at most ``chars_max`` of them and "..." for the rest."""
    text = ""
    for part in _parts(value, chars_max):
        text += part
        if len(text) > chars_max:
            return text[:chars_max] + "..."
    return text


def escaped(text: str) -> str:
    """``text`` as within the quotes of a JSON string, with every invisible character escaped."""
    return "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text)


def _escape(c: str) -> str:
    return "\\u007f" if c == "\x7f" else json.dumps(c)[1:-1]


def _parts(value: Any, chars_max: int) -> Iterator[str]:
    """The pieces of `shown`, made lazily: a reply may be wide and deep, and only its beginning is shown."""
    if isinstance(value, dict):
        yield "{"
        for n, (name, member) in enumerate(value.items()):
            yield from (", " if n else "", *_parts(name, chars_max), ": ")
            yield from _parts(member, chars_max)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for n, member in enumerate(value):
            yield ", " if n else ""
            yield from _parts(member, chars_max)
        yield "]"
    elif isinstance(value, str) and not isinstance(value, Far):
        yield f'"{escaped(value[: chars_max + 1])}"'
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    else:
        yield str(value)
