"""Durations and instants: from the text that people write to integer milliseconds, and back.

Here are the spellings of the protocol, the command line and the configuration file. Not here: clocks,
ticks, and nanoseconds, which the daemon uses internally.

A fraction of a millisecond is rounded up: an instant becomes late, never early.
"""

from __future__ import annotations

import math
import re
from datetime import date

from wheeltimer.errors import BadValue

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

DURATION_MS_MAX = 3653 * DAY_MS
"""Ten years with the most leap days that ten years can have."""

INSTANT_MS_MAX = 7_258_118_399_999
"""2199-12-31T23:59:59.999Z. As nanoseconds it fits into 64 bits with sign, and so does any sum with a
duration."""

SECONDS_BELOW = 10**11
"""Below this number an instant is taken for seconds: as milliseconds the number is in March 1973, as seconds
in the year 5138."""

TEXT_CHARS_MAX = 64
"""Longest text of an instant, and most of a refused text that a message repeats."""

_UNITS = (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS), ("ms", 1))
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit, _ in _UNITS))
AN_INTEGER_OR = "milliseconds as an integer, or "
"""The command line removes this from a message, because its options take no integer."""
_DURATION_HINT = f'give {AN_INTEGER_OR}units like "250ms", "90s", "1h30m", "7d"'

_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?"
)
_INSTANT_HINT = 'give Unix milliseconds as an integer, or RFC 3339 like "2030-01-31T08:00:00Z"'
_EPOCH_DAYS = date(1970, 1, 1).toordinal()
_INSTEAD = {
    "at": "; a time from now goes into delay, and without both the task is due now",
    "expires_at": "; a time after the due goes into expires_in",
}


def parse_duration_ms(value: object, field: str, max_ms: int = DURATION_MS_MAX, *, min_ms: int = 0) -> int:
    """A duration from outside, in ms: an integer of ms, or text with units, largest first, each once.

    Floats, booleans, text without a unit and values outside ``min_ms..max_ms`` raise `BadValue` with
    ``field``. Cost: 0.2 us for an integer, 2 us for text.
    """
    if type(value) is int:
        if min_ms <= value <= max_ms:
            return value
        value_ms = value
    elif isinstance(value, str):
        found = _DURATION.fullmatch(value) if value else None
        if found is None:
            raise _bad(field, f"{_shown(value)} is not a duration; {_DURATION_HINT}")
        value_ms = 0
        for count, (_, unit_ms) in zip(found.groups(), _UNITS, strict=True):
            if count:
                value_ms += int(count) * unit_ms
    else:
        kind = _kind(value)
        said = "a fraction is no duration" if kind == "fraction" else f"a duration is no {kind}"
        raise _bad(field, f"{said}; {_DURATION_HINT}")
    if min_ms <= value_ms <= max_ms:
        return value_ms
    if value_ms < 0:
        raise _bad(field, f"a duration is not negative; {_DURATION_HINT}")
    if value_ms < min_ms:
        raise _bad(field, f"a duration of at least {format_duration(min_ms)} is needed")
    raise _bad(field, f"a duration of at most {format_duration(max_ms)} is allowed")


def parse_instant_ms(value: object, field: str) -> int:
    """An instant from outside, in Unix ms: an integer, or RFC 3339 with an offset; from 1970 to 2199.

    Fractions are rounded up. A leap second (:60, only as the last second of a month in UTC) is the
    first instant of the next day, which has the same Unix time. "-00:00" is UTC. Any other value raises
    `BadValue` with ``field``.
    """
    if type(value) is int:
        value_ms = value
    elif isinstance(value, str):
        value_ms = _rfc3339_ms(value, field)
    elif isinstance(value, float):
        meant = _meant(math.ceil(value * SECOND_MS), field) if 0 <= value < SECONDS_BELOW else _INSTANT_HINT
        raise _bad(field, f"a fraction is no instant; {meant}")
    else:
        raise _bad(field, f"an instant is no {_kind(value)}; {_INSTANT_HINT}")
    if 0 <= value_ms <= INSTANT_MS_MAX:
        return value_ms
    raise _bad(field, f"an instant lies in the years 1970 to 2199 (UTC); {_INSTANT_HINT}")


def check_instant(value: object, field: str, now_ms: int) -> None:
    """Check an instant in a request: as `parse_instant_ms`, and refuse an integer that must be seconds.

    ``now_ms`` is the wall clock of the daemon: before 1973 any integer is accepted. Stored instants are not
    checked again, so `parse_instant_ms` itself accepts every integer.
    """
    value_ms = parse_instant_ms(value, field)
    if type(value) is int and value_ms < SECONDS_BELOW <= now_ms:
        raise _bad(field, seconds_problem(value_ms, value, field))


def seconds_problem(number: int, given: int | str, field: str = "") -> str:
    """What to write instead of a number, not negative, that is too small for Unix milliseconds.

    ``given``: as it was written, at most ``TEXT_CHARS_MAX`` characters.
    """
    year, meant = format_instant(number)[:4], _meant(number * SECOND_MS, field)
    return f"{given!a} is no time in Unix milliseconds (it would be in {year}): {meant}"


def _meant(instant_ms: int, field: str) -> str:
    """What to write instead of a number of seconds; ``instant_ms`` is the number as ms."""
    if SECONDS_BELOW <= instant_ms <= INSTANT_MS_MAX:
        return f'seconds were probably meant; give {instant_ms}, or "{format_instant(instant_ms)}"'
    return f"seconds or a duration were probably meant; {_INSTANT_HINT}{_INSTEAD.get(field, '')}"


def _number_in(text: str) -> int | None:
    """The whole part of text that is only a number; else None."""
    whole, _, fraction = text.partition(".")
    return int(whole) if text.isascii() and whole.isdigit() and (fraction or "0").isdigit() else None


def _rfc3339_ms(text: str, field: str) -> int:
    found = _INSTANT.fullmatch(text) if len(text) <= TEXT_CHARS_MAX else None
    if found is None:
        number = _number_in(text) if len(text) <= TEXT_CHARS_MAX else None
        if number is not None and number < SECONDS_BELOW:
            raise _bad(field, seconds_problem(number, text, field))
        if number is not None and number <= INSTANT_MS_MAX:
            raise _bad(field, f"{_shown(text)} is text; give {number}, without quotes")
        raise _bad(field, f"{_shown(text)} is not an instant; {_INSTANT_HINT}")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    fraction, zulu, sign, offset_hour, offset_minute = found.groups()[6:]
    if zulu is None and sign is None:
        raise _bad(field, f'{_shown(text)} has no offset; end it with "Z" or "+08:00"')
    offset_minutes = 0
    if sign is not None:
        if int(offset_hour) > 23 or int(offset_minute) > 59:
            raise _bad(field, f"{_shown(text)} has no such offset; {_INSTANT_HINT}")
        offset_minutes = int(sign + "1") * (int(offset_hour) * 60 + int(offset_minute))
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAYS
    except ValueError as error:
        raise _bad(field, f"{_shown(text)} is on no calendar ({error})") from error
    if not 1969 <= year <= 2200:
        return -1  # out of bounds with any offset; the caller refuses it
    if hour > 23 or minute > 59 or second > 60:
        raise _bad(field, f"{_shown(text)} is on no clock")
    minutes = (days * 24 + hour) * 60 + minute - offset_minutes
    if second == 60:
        next_day, past_midnight = divmod(minutes + 1, 24 * 60)
        if past_midnight or date.fromordinal(next_day + _EPOCH_DAYS).day != 1:
            raise _bad(field, f"{_shown(text)} is no leap second")
        return (minutes + 1) * MINUTE_MS
    value_ms = minutes * MINUTE_MS + second * SECOND_MS
    if fraction:
        value_ms += int(fraction[:3].ljust(3, "0")) + (fraction[3:].strip("0") != "")
    return value_ms


def format_duration(duration_ms: int) -> str:
    """A duration for people: ``"1h30m"``, ``"250ms"``, ``"0s"``, ``"-5s"``. Exact: `parse_duration_ms` of a
    duration that is not negative returns the same number."""
    if duration_ms == 0:
        return "0s"
    left_ms = abs(duration_ms)
    text = "-" if duration_ms < 0 else ""
    for unit, unit_ms in _UNITS:
        count, left_ms = divmod(left_ms, unit_ms)
        if count:
            text += f"{count}{unit}"
    return text


def format_instant(instant_ms: int) -> str:
    """An instant as RFC 3339 in UTC with ms, ``"2030-01-31T08:00:00.000Z"``; the years 1 to 9999."""
    days, day_ms = divmod(instant_ms, DAY_MS)
    minutes, minute_ms = divmod(day_ms, MINUTE_MS)
    second, ms = divmod(minute_ms, SECOND_MS)
    day = date.fromordinal(days + _EPOCH_DAYS)
    return f"{day.isoformat()}T{minutes // 60:02}:{minutes % 60:02}:{second:02}.{ms:03}Z"


def _bad(field: str, sentence: str) -> BadValue:
    return BadValue(f"{field}: {sentence}" if field else sentence, field)


def _shown(text: str) -> str:
    """Text from outside, short enough for a message; ASCII, so that characters like digits are visible."""
    return ascii(text) if len(text) <= TEXT_CHARS_MAX else ascii(text[:TEXT_CHARS_MAX]) + "..."


def _kind(value: object) -> str:
    names = {bool: "boolean", float: "fraction", type(None): "null", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
