"""Values of options: durations, instants, JSON, headers.

Only values that are certainly mistakes, or that cannot be part of a line of JSON, are refused here; the
daemon checks the rest.
"""

from __future__ import annotations

import codecs
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from wheeltimer.cli import output
from wheeltimer.errors import BadValue
from wheeltimer.protocol import foreign, wire
from wheeltimer.protocol.units import AN_INTEGER_OR, SECONDS_BELOW, parse_duration_ms, seconds_problem

_DIGITS_MAX: Final = 64  # a longer number is refused unread
BOM: Final = codecs.BOM_UTF8
"""Some editors write it in front of a text file; it is not part of the JSON (RFC 8259 section 8.1)."""


def _is_number(text: str) -> bool:
    return text.lstrip("+-").replace(".", "", 1).isdecimal()


def duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Text with units. A bare number would be milliseconds in the protocol, which is rarely intended."""
    if text and _is_number(text):
        raise click.BadParameter(f"{text!r} has no unit; write {text}s, {text}m or {text}ms")
    if text is None:
        return None
    try:
        parse_duration_ms(text, "")
    except BadValue as error:
        raise click.BadParameter(str(error).replace(AN_INTEGER_OR, "")) from error
    return text


def delay(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> str | None:
    """A duration from an option with two names, which may be given once."""
    if len(texts) > 1:
        raise click.UsageError(f"{' and '.join(parameter.opts)} are the same option; give it once", context)
    return duration(context, parameter, texts[0]) if texts else None


def instant(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | str | None:
    """RFC 3339, or Unix milliseconds if the number cannot be seconds, by the daemon's rule.

    If this machine's clock has not been set yet, any number may be milliseconds; then the daemon decides.
    """
    if text is None or not _is_number(text):
        return text
    whole = text.partition(".")[0][:_DIGITS_MAX]
    if whole.isdecimal() and int(whole) < SECONDS_BELOW <= output.now_ms():
        raise click.BadParameter(seconds_problem(int(whole), text))
    if not text.isdecimal() or len(text) > _DIGITS_MAX:
        raise click.BadParameter(
            f"{text!r} is no time in Unix milliseconds; write those, or 2030-01-31T08:00:00Z"
        )
    return int(text)


def json(_context: click.Context, _parameter: click.Parameter, text: str | None) -> msgspec.Raw | None:
    """JSON, ``@FILE`` or ``-``: its bytes without a BOM and line ends, which would end the request."""
    if text is None:
        return None
    try:
        if text == "-":
            raw = sys.stdin.buffer.read()
        elif text.startswith("@"):
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
        raw = raw.removeprefix(BOM)
        raw.decode()
        msgspec.json.decode(raw)
    except OSError as error:
        raise click.BadParameter(f"cannot read {text[1:]}: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"not UTF-8: {error.reason}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.BadParameter(_no_json(raw, error)) from error
    # In JSON an unescaped line end is white space: in strings line ends are escaped.
    return msgspec.Raw(raw.replace(b"\r", b" ").replace(b"\n", b" ").strip())


def _no_json(raw: bytes, error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> str:
    """Why ``raw`` is no JSON, as the daemon's message; with a hint at missing quotes if that fits."""
    half = foreign.half_pair(b'{"":%b}' % raw)
    if half is not None:
        return f"{half[0]} is half of a surrogate pair: send whole characters"
    said = str(wire.no_json(raw, error))
    if isinstance(error, msgspec.DecodeError) and foreign.named(raw) is None:
        said += "; a text stands in quotes, as '\"hello\"'"
    return said


def name_or_json(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """A name, or JSON if the text begins like an object."""
    return json(context, parameter, text) if text and text.startswith("{") else text


def headers(
    _context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str] | None:
    """``NAME: VALUE``, any number of them."""
    given = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon:
            raise click.BadParameter(f"{pair!r} has no colon; write 'NAME: VALUE'.")
        given[name.strip()] = value.strip()
    return given or None
