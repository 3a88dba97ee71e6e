"""Bytes to commands and replies to bytes; the reader that cuts a stream into lines.

This file has no socket and no state of tasks: bytes are arguments, lines are return values.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from wheeltimer.errors import BadValue, Refused
from wheeltimer.protocol import foreign, requests
from wheeltimer.protocol.hints import did_you_mean, fields_at
from wheeltimer.protocol.replies import ErrorReply
from wheeltimer.protocol.twice import check_once, tag_twice
from wheeltimer.protocol.units import SECONDS_BELOW, parse_duration_ms, parse_instant_ms

encode: Final = msgspec.json.Encoder().encode

# msgspec's messages may repeat up to 128 KiB of what a client sent, so each pattern here is tried at one
# position only.
_PATH: Final = re.compile(r"(?:key in )?\$\.?([A-Za-z0-9_.\[\]]*)`").fullmatch
_UNKNOWN: Final = "Object contains unknown field `"
_MISSING: Final = "Object missing required field `"
_TEXT_CHARS_MAX: Final = 200  # of a message that repeats what the client sent
_WORD_CHARS_MAX: Final = 100  # of a message that is followed by the list of all valid words


class LineReader:
    """Cuts a stream into lines; memory is bounded by one line's limit plus the bytes of one receive.

    ``feed`` takes bytes and returns whole lines without their ends. A blank line is ``b""``. ``more`` is True
    while there are whole lines that no ``feed`` has returned. ``overlong`` is True once a line is longer than
    ``line_bytes_max``: the rest is not kept.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest = b""
        self.more = False
        self.overlong = False

    @property
    def partial(self) -> bool:
        """True if a line has begun and not ended."""
        return bool(self._rest) and not self.more

    @property
    def rest(self) -> bytes:
        """The bytes that were fed and not returned."""
        return self._rest

    def feed(self, data: bytes, count: int = -1) -> list[bytes]:
        """Append ``data`` and return the next ``count`` lines (-1: all), but none from an overlong one on."""
        # Only the new bytes are searched for a line's end: otherwise a line that arrives byte by byte would
        # be searched again for each byte.
        if not self.more and b"\n" not in data:
            self._rest += data
            lines = []
        else:
            lines = (self._rest + data).split(b"\n", count)
            self._rest = lines.pop()
            self.more = count >= 0 and b"\n" in self._rest
            for number, line in enumerate(lines) if max(map(len, lines)) > self._line_bytes_max else ():
                if len(line.removesuffix(b"\r")) > self._line_bytes_max:
                    self._end()
                    return lines[:number]
        # A carriage return may be the first half of a line's end.
        if (
            len(self._rest) > self._line_bytes_max
            and not self.more
            and len(self._rest.removesuffix(b"\r")) > self._line_bytes_max
        ):
            self._end()
        return lines

    def _end(self) -> None:
        self.overlong, self.more, self._rest = True, False, b""


def decode(line: bytes) -> requests.AnyCommand:
    """The command of a line. BadValue names the field; the connection can stay open."""
    try:
        if not line.isascii():
            line.decode()  # a body is kept undecoded, so bad UTF-8 must be detected here
        command: requests.AnyCommand = requests.decode(line)
        check_once(line, command)
    except msgspec.ValidationError as error:
        raise _explained(line, str(error), error.__cause__) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise no_json(line, error) from error
    return command


def no_json(line: bytes, error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> BadValue:
    """The refusal of bytes that are no JSON: a sentence of ``foreign.py``, else the parser's."""
    if isinstance(error, RecursionError):
        return BadValue(f"nested deeper than {requests.DEPTH_MAX}")
    what = foreign.named(line)
    if isinstance(error, UnicodeDecodeError):
        return BadValue(what or f"not UTF-8: {error.reason} at byte {error.start}")
    if what is not None:
        return BadValue(f"not JSON: {what}")
    # For half of a surrogate pair the parser has four messages, one of them "cut off".
    if (half := foreign.half_pair(line)) is not None:
        escape, field = half
        where = f"{_cut(field)}: " if field else ""
        return BadValue(f"{where}{escape} is half of a surrogate pair: send whole characters", field)
    problem = str(error).removeprefix("JSON is malformed: ")
    return BadValue(f"not JSON: {problem}")


def _explained(line: bytes, text: str, cause: BaseException | None) -> BadValue:
    """msgspec's message, with the field before it and, if only some words are valid, those after it.

    ``cause``: the error that one of our own structs raised for its members.
    """
    path, sentence = "", text
    before, _, at = text.rpartition(" - at `")
    if match := _PATH(at):
        path, sentence = match.group(1).removesuffix("[...]"), before
    if path in ("op", "retry.kind") and (twice := tag_twice(line, path)) is not None:
        return twice
    if isinstance(cause, BadValue):
        return BadValue(f"{path}.{cause}", f"{path}.{cause.field}")
    for prefix, problem in ((_UNKNOWN, "no such field here"), (_MISSING, "missing")):
        if sentence.startswith(prefix):
            name = sentence[len(prefix) : -1]
            field = f"{path}.{name}".lstrip(".")
            hint = did_you_mean(name, fields_at(line, path)) if prefix is _UNKNOWN else ""
            return BadValue(f"{_cut(field)}: {problem}{hint}", field)
    sentence = _cut(f"{sentence[0].lower()}{sentence[1:]}")
    if not path:
        return BadValue(f"a JSON object expected: {sentence}")
    if sentence.startswith("expected `int | str") and sentence.endswith("got `float`"):
        refused = _fraction_refused(line, path)
        if refused is not None:
            return refused
    if path in requests.CHOICES and sentence.startswith("invalid "):
        *most, last = requests.CHOICES[path]
        hint = did_you_mean(sentence.partition("'")[2].rpartition("'")[0], requests.CHOICES[path])
        sentence = sentence.replace("invalid enum value", "invalid value", 1)
        sentence = f"{_cut(sentence, _WORD_CHARS_MAX)}; {', '.join(most)} or {last} expected{hint}"
    return BadValue(f"{path}: {sentence}", path)


class _Instants(msgspec.Struct, gc=False):
    at: msgspec.Raw = msgspec.Raw()
    expires_at: msgspec.Raw = msgspec.Raw()


_instants_of: Final = msgspec.json.Decoder(_Instants).decode


def _fraction_refused(line: bytes, path: str) -> BadValue | None:
    """The refusal of a fraction at ``path``; None if the field is neither an instant nor a duration."""
    if path.startswith("success."):
        return None
    try:
        if path in _Instants.__struct_fields__:
            parse_instant_ms(_fraction_of(line, path), path)
        else:
            parse_duration_ms(0.5, path)  # the message is the same for any fraction
    except BadValue as error:
        return error
    return None


def _fraction_of(line: bytes, field: str) -> float:
    """The fraction in ``field``; if it cannot be read `SECONDS_BELOW`, which is no number of seconds."""
    try:
        return float(bytes(getattr(_instants_of(line), field)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return float(SECONDS_BELOW)


def _cut(text: str, chars_max: int = _TEXT_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."


def refusal(error: Refused | BadValue, seq: int | float | str | None = None) -> ErrorReply:
    """The reply for an error in the client's request."""
    if isinstance(error, Refused):
        reply = ErrorReply(False, error.code, str(error))
        for name, value in error.extra.items():
            setattr(reply, name, value)
    else:
        reply = ErrorReply(False, "bad_request", str(error))
        if error.field:
            reply.field = error.field
    if seq is not None:
        reply.seq = seq
    return reply


class _SeqOnly(msgspec.Struct, gc=False):
    seq: int | float | str | None = None


_seq_of: Final = msgspec.json.Decoder(_SeqOnly).decode


def seq_of(line: bytes) -> int | float | str | None:
    """The ``seq`` of a line that was refused as a whole, if it can be read."""
    try:
        return _seq_of(line).seq
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
