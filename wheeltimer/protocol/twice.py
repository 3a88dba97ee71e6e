"""Fields that stand twice: refused by name, in a request and in the objects that the protocol defines.

JSON does not define which of the two counts, so the sender made a mistake (RFC 8259, section 4). Names inside
``body``, ``meta``, ``reply`` and ``equals`` are the client's own and are not checked.

The parser keeps the last value of a name and raises no error. So commas are counted: one stands between two
members of an object, a value may contain some, and a member that stands twice adds at least one. If the line
has exactly the commas of the members that were parsed, no name stands twice. No line evades this: commas
inside strings only increase the number, and then the names are read one by one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.limits import HEADERS_MOST

_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_entries: Final = msgspec.json.Decoder(list[Raw]).decode
_OBJECTS: Final = ("headers", "retry", "success", "poll")


class _Name(str):
    """A member's name. The parser calls a hook with each name that it reads, including repeated ones."""

    __slots__ = ()


def check_once(line: bytes, command: c.AnyCommand) -> None:
    """Refuse a name that stands twice in a line that was parsed. Raises BadValue, RecursionError.

    About 0.35 us for a ``schedule`` with a body and no other task field, a ``get`` or a ``cancel`` by id; for
    other lines, as long as parsing them.
    """
    if type(command) is c.Schedule or type(command) is c.Get or type(command) is c.Cancel:
        # Only the fields that most requests have are counted. A line with another field has more commas.
        commas = 0  # one before each member but the first, which may be "op"
        if command.id is not None:
            commas += 1
        if command.queue is not None:
            commas += 1
        if command.seq is not None:
            commas += 1
        if type(command) is c.Schedule:
            commas += 1  # of "url"
            if command.delay is not None or command.at is not None:
                commas += 1
            if body := command.body:
                commas += 1 + bytes(body).count(b",")
        if line.count(b",") == commas:
            return
    members = check_names(line)
    if type(command) is c.Schedule or type(command) is c.Reschedule:
        for name in _OBJECTS:
            if name in members and (name != "headers" or len(command.headers or ()) <= HEADERS_MOST):
                _check_object(bytes(members[name]), name)


def _check_object(raw: bytes, path: str) -> None:
    if raw[:1] != b"{":
        return  # null, or the name of a retry rule
    members = check_names(raw, f"{path}.")
    if path == "success" and bytes(checks := members.get("json", Raw())).startswith(b"["):
        for at, entry in enumerate(_entries(checks)):
            check_names(bytes(entry), f"{path}.json[{at}].")


def tag_twice(line: bytes, path: str) -> BadValue | None:
    """The refusal of a name that stands twice in a line that the parser refused at ``path``; else None.

    ``path`` is "op" or "retry.kind": a second one that differs is for the parser an invalid value.
    """
    try:
        members = check_names(line)
        if path == "retry.kind":
            check_names(bytes(members["retry"]), "retry.")
    except BadValue as error:
        return error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # the rest of the line is no JSON; the refusal stays that of the parser
    return None


def check_names(raw: bytes, prefix: str = "") -> dict[str, Raw]:
    """The members of one JSON object, none of which stands twice.

    ``prefix`` is the object's path and a dot, "" for the request. Raises BadValue with the field's name
    if one stands twice, RecursionError, and msgspec's errors if ``raw`` is no JSON object.
    """
    members = _members(raw)
    if raw.count(b",") != max(0, len(members) - 1) + b"".join(members.values()).count(b","):
        _find(raw, prefix)
    return members


def _find(raw: bytes, prefix: str) -> None:
    """Read an object's names one by one, and no value. Raises BadValue at the first that stands twice."""
    seen = set[str]()

    def note(_: type, name: Any) -> _Name:
        if name in seen:
            field = f"{prefix}{name}"
            raise BadValue(f"{field}: stands twice; give it once", field)
        seen.add(name)
        return _Name(name)

    try:
        msgspec.json.decode(raw, type=dict[_Name, Raw], dec_hook=note)
    except msgspec.ValidationError as error:
        cause = error.__cause__  # the error of ``note``: the line has no other fault
        raise (cause if isinstance(cause, BadValue) else error) from None
