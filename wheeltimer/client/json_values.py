"""Refuses values that JSON has no form for, with the field's name and the place inside it.

msgspec's encoder raises no error for them: it writes ``null`` for NaN and infinity, base64 for bytes, a list
for a set.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import to_builtins

from wheeltimer.errors import BadValue

BYTES: Final = (bytes, bytearray, memoryview)
_JSON_LACKS: Final = ", which JSON does not have"
_RECORDS: Final = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__")  # encoded as mappings


def check_json(name: str, value: Any) -> None:
    """Raise BadValue for a value, at any depth, that the encoder would silently write as another value."""
    found = _not_json(value)
    if found is None:
        return
    place, problem = found
    if place:
        problem = f"{place if place.isprintable() else ascii(place)[1:-1]} is {problem}"
    elif name == "body" and isinstance(value, BYTES):
        problem = "bytes are no JSON; write body_bytes= to send them as they are, or body_text= for text"
    raise BadValue(f"{name}: {problem}", name)


def _not_json(value: Any) -> tuple[str, str] | None:
    """The first part without a form in JSON: (JSON pointer, what is wrong with it); None: there is none."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", f"{float(value)}{_JSON_LACKS}; write None or text")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str and (found := _not_json(key)) is not None:
                return f"/{key!r}", f"under a key that is {found[1]}"
            if (found := _not_json(item)) is not None:
                return f"/{key}{found[0]}", found[1]
        return None
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if (found := _not_json(item)) is not None:
                return f"/{index}{found[0]}", found[1]
        return None
    if isinstance(value, BYTES):
        return "", f"bytes{_JSON_LACKS}; write text"
    if isinstance(value, set | frozenset):
        return "", f"a set{_JSON_LACKS}; write a list"
    if any(hasattr(kind, mark) for mark in _RECORDS):
        with contextlib.suppress(TypeError):  # the encoder will raise it as well
            return _not_json(to_builtins(value, builtin_types=BYTES))
    return None


def half_pair(request: Mapping[str, Any], encode: Callable[[Any], bytes]) -> BadValue:
    """The error of a request that ``encode`` refused with UnicodeEncodeError, with the field's name.

    A single surrogate is half of a character beyond U+FFFF, and UTF-8 has no form for it.
    """
    for name, value in request.items():
        try:
            encode({name: value})
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            field = ascii(name)[1:-1]
            return BadValue(f"{field}: {half} is half of a surrogate pair; send whole characters", field)
    raise AssertionError("no field has it")
