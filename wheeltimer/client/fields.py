"""Fields of requests as Python has them: typed names, durations that need a unit, instants, bytes.

The typed methods (``schedule``, ``reschedule``, ``schedule_many``, ``forecast``) take the fields of the
``TypedDict`` classes, and ``typed`` turns them into the protocol's fields. They accept no bare number as a
duration: ``delay=30`` is 30 ms in the protocol, which is rarely intended. ``request``, ``request_many`` and
``schedule_plain`` take the protocol's own integers (``plain``).
"""

from __future__ import annotations

import base64
import operator
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, Required, TypedDict

from msgspec import Raw

from wheeltimer.client.json_values import BYTES, check_json
from wheeltimer.errors import BadValue
from wheeltimer.protocol.ids import make_id

Span = str | timedelta | Literal[0]
"""A duration: text with units, or a ``timedelta``. An integer of ms goes into the field with ``_ms``."""
Moment = int | str | datetime
"""An instant: Unix ms, RFC 3339, or a ``datetime`` with a time zone."""
Bytes = bytes | bytearray | memoryview


class RetryRule(TypedDict, total=False):
    """A retry rule of any kind; ``exponential``: base factor cap attempts, ``fixed``: every attempts,
    ``linear``: step attempts, ``list``: delays. Each takes ``jitter``."""

    kind: Required[Literal["exponential", "fixed", "linear", "list"]]
    attempts: int
    jitter: float
    base: Span
    base_ms: int
    factor: float
    cap: Span
    cap_ms: int
    every: Span
    every_ms: int
    step: Span
    step_ms: int
    delays: Sequence[Span]
    delays_ms: Sequence[int]


class PollRule(TypedDict, total=False):
    """Call again after ``every`` while the answer is "not yet", at most ``max`` times; each wait is
    ``factor`` times the one before, up to ``cap``."""

    every: Span
    every_ms: int
    factor: float
    cap: Span
    cap_ms: int
    max: int


class JsonCheck(TypedDict):
    """A place in the reply's JSON and the value that must be there."""

    pointer: str
    equals: Any


class SuccessRule(TypedDict, total=False):
    """Conditions for a reply; all that are given must hold."""

    status: Sequence[int | str]
    text: str
    json: Sequence[JsonCheck]


class TaskFields(TypedDict, total=False):
    """The fields that ``schedule`` and ``reschedule`` share; None is "not given"."""

    delay: Span | None
    delay_ms: int | None
    at: Moment | None
    method: Literal["POST", "GET", "PUT", "PATCH", "DELETE"] | None
    headers: Mapping[str, str] | None
    body: Any
    body_text: str | None
    body_base64: str | None
    body_bytes: Bytes | None
    meta: Any
    retry: str | RetryRule | None
    timeout: Span | None
    timeout_ms: int | None
    connect_timeout: Span | None
    connect_timeout_ms: int | None
    expires_in: Span | None
    expires_in_ms: int | None
    expires_at: Moment | None
    success: SuccessRule | None
    poll: PollRule | None
    group: str | None
    on_done: str | None
    on_dead: str | None


class ScheduleFields(TaskFields, total=False):
    """The fields of ``schedule`` besides ``url``."""

    id: str | None
    queue: str | None
    on_conflict: Literal["error", "keep", "replace"] | None


class ScheduleItem(ScheduleFields, total=False):
    """A task of ``schedule_many``."""

    url: Required[str]


class RescheduleFields(TaskFields, total=False):
    """The fields of ``reschedule`` besides ``id``."""

    queue: str | None
    url: str | None
    if_version: int | None


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 -- one name in every version
_PLAIN: Final = (str, int, Raw)
_AS_IT_IS: Final = (str, Raw)
_MS: Final = timedelta(milliseconds=1)
_NOW: Final = "datetime.now(timezone.utc) + timedelta(minutes=30)"
_RULES: Final = {"retry": ("base", "cap", "every", "step", "delays"), "poll": ("every", "cap")}
"""The durations inside a rule."""


# -- values as the protocol has them ----------------------------------------------------------------


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not None, ``datetime`` and ``timedelta`` as ms. Raises BadValue."""
    return {name: _plain(name, value) for name, value in fields.items() if value is not None}


def _plain(name: str, value: Any) -> Any:
    """``datetime`` and ``timedelta`` as integers of milliseconds, rounded up; also inside a rule."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, timedelta):
        return -(-value // _MS)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise BadValue(f"{name}: a datetime with a time zone expected, as {_NOW}", name)
        return -((_EPOCH - value) // _MS)
    if name in _RULES and isinstance(value, Mapping):
        return {key: _plain(key, item) for key, item in value.items()}
    if name == "delays" and isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    check_json(name, value)
    return value


# -- values of the typed methods --------------------------------------------------------------------


def typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's fields for the arguments of a typed method. Raises BadValue, with the field's name."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        form = _FORMS.get(name)
        if form is not None:
            name, value = form(name, value)
        if name in found:
            raise BadValue(f"{name}: given twice, in two forms", name)
        found[name] = value
    return found


def _span(name: str, value: Any) -> tuple[str, Any]:
    return name, duration(name, value)


def _span_ms(name: str, value: Any) -> tuple[str, Any]:
    return name.removesuffix("_ms"), _whole(name, value)


def _rule(name: str, value: Any) -> tuple[str, Any]:
    """A retry or poll rule. The daemon, not this function, checks a value that is no mapping, as a name."""
    if not isinstance(value, Mapping):
        return name, value
    rule: dict[str, Any] = {}
    for key, item in value.items():
        short = key.removesuffix("_ms")
        if short in _RULES[name]:
            path = f"{name}.{key}"
            if short != key and short in value:
                raise BadValue(f"{path}: either {short} or {key} expected, not both", path)
            one: Callable[[str, Any], Any] = duration if short == key else _whole
            many = short == "delays" and isinstance(item, Sequence) and not isinstance(item, str)
            item = [one(path, part) for part in item] if many else one(path, item)
            key = short
        else:
            check_json(f"{name}.{key}", item)
        rule[key] = item
    return name, rule


def duration(name: str, value: Any) -> Any:
    """A duration of the protocol: text unchanged, a ``timedelta`` in ms, rounded up. Raises BadValue."""
    if isinstance(value, _AS_IT_IS):
        return value
    if isinstance(value, timedelta):
        return -(-value // _MS)
    number = isinstance(value, int | float) or hasattr(value, "__float__") or hasattr(value, "__index__")
    if not number:
        raise BadValue(f'{name}: a timedelta, or text as "30m", expected', name)
    if not isinstance(value, bool) and value == 0:
        return 0
    field = name.rpartition(".")[2]
    key = f'"{field}_ms": ' if "." in name else f"{field}_ms="
    raise BadValue(
        f'{name}: {value} is a number without a unit; write timedelta(minutes=30), "30m",'
        f" or {key}1800000 for an integer of milliseconds",
        name,
    )


def _whole(name: str, value: Any) -> Any:
    """An integer of ms. Raises BadValue."""
    if isinstance(value, Raw):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise BadValue(f"{name}: an integer of milliseconds expected", name) from error


def _bytes(_name: str, value: Any) -> tuple[str, Any]:
    if not isinstance(value, BYTES):
        raise BadValue("body_bytes: bytes expected; for text write body_text=", "body_bytes")
    return "body_base64", base64.b64encode(value).decode()


def _json(name: str, value: Any) -> tuple[str, Any]:
    check_json(name, value)
    return name, value


def _instant(name: str, value: Any) -> tuple[str, Any]:
    """An instant: text and integers unchanged, a ``datetime`` in ms, rounded up. Raises BadValue."""
    if isinstance(value, (datetime, *_PLAIN)):
        return name, _plain(name, value)
    try:
        return name, operator.index(value)  # an integer type of another library
    except TypeError as error:
        raise BadValue(
            f"{name}: {type(value).__name__} {value!s:.60} is no instant; write an int of Unix milliseconds,"
            f' as int(time.time() * 1000) + 60_000, RFC 3339 text, as "2030-01-31T08:00:00Z", or a datetime'
            f" with a time zone, as {_NOW}",
            name,
        ) from error


_DURATIONS: Final = ("delay", "timeout", "connect_timeout", "expires_in", "horizon")
_FORMS: Final[dict[str, Callable[[str, Any], tuple[str, Any]]]] = {
    **dict.fromkeys(_DURATIONS, _span),
    **dict.fromkeys((f"{name}_ms" for name in _DURATIONS), _span_ms),
    **dict.fromkeys(_RULES, _rule),
    **dict.fromkeys(("at", "expires_at"), _instant),
    **dict.fromkeys(("body", "body_text", "body_base64", "meta", "headers", "success"), _json),
    "body_bytes": _bytes,
}
"""How to read the fields whose values have another form in the protocol."""


def with_id(task: Mapping[str, Any]) -> dict[str, Any]:
    """``typed`` fields of a ``schedule``, with an id made here if none is given."""
    return with_new_id(typed(task))


def with_new_id(fields: dict[str, Any]) -> dict[str, Any]:
    """The same dict, with an id made here if none is given."""
    if "id" not in fields:
        fields["id"] = new_id()
    return fields


def new_id() -> str:
    """An id for a task without one: only a request with an id can be sent again."""
    return make_id(time.time_ns() // 1_000_000, random.getrandbits(48), random.getrandbits(32))
