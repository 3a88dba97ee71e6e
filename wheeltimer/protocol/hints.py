"""Suggestions for a misspelt word: "did you mean delay?"

Called only for lines that are refused anyway. A word is compared with some dozens of others at most; one
that is longer than `WORD_CHARS_MAX` is not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final, get_args

import msgspec
from msgspec import Raw

from wheeltimer.protocol import requests as c
from wheeltimer.protocol.retry import Rule
from wheeltimer.protocol.success import JsonCheck, SuccessRule
from wheeltimer.protocol.task_view import Poll

WORD_CHARS_MAX: Final = 40  # twice the longest word that is known
_CUTOFF: Final = 0.6  # of difflib's ratio: dealy and delay have 0.8, ulr and url 0.67, text and meta 0.5

_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_word: Final = msgspec.json.Decoder(str).decode
_BY_OP: Final = {struct.__struct_config__.tag: struct for struct in get_args(c.AnyCommand)}
_BY_KIND: Final = {rule.__struct_config__.tag: rule for rule in get_args(Rule)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or "" if no known word is similar. Case is ignored."""
    if len(word) > WORD_CHARS_MAX:
        return ""
    by_lower = {name.lower(): name for name in known if name != word}
    close = get_close_matches(word.lower(), by_lower, 1, _CUTOFF)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def fields_at(line: bytes, path: str) -> Sequence[str]:
    """The fields of the object at ``path`` ("" is the request), or none if the line does not show its kind.

    ``path`` is the parser's: ``retry``, ``success.json[0]``.
    """
    try:
        members = _members(line)
        if not path:
            return _names(_BY_OP.get(_word(members["op"])), "op")
        if path == "retry":
            return _names(_BY_KIND.get(_word(_members(members["retry"])["kind"])), "kind")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return ()
    within: dict[str, type[msgspec.Struct]] = {
        "poll": Poll,
        "success": SuccessRule,
        "success.json": JsonCheck,
    }
    return _names(within.get(path.partition("[")[0]))


def _names(struct: type[msgspec.Struct] | None, *tag: str) -> Sequence[str]:
    return () if struct is None else (*tag, *struct.__struct_encode_fields__)
