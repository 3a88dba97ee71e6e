"""What differs between two settings, by the keys of the configuration file; never a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from wheeltimer.settings.definitions import Destination, Journal, Limits, Queue, Settings, Tls, Token

_TABLES: Final = (Settings, Limits, Journal, Queue, Destination, Token, Tls, Mapping, tuple)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")  # what TOML takes as a key without quotes


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """Keys as ``tick``, ``limits.keep_done``, ``queues.orders.rate``; of a table that was added or removed,
    its name."""
    return [key for key in _changed("", old, new) if key != "config_file"]


def _changed(name: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if not (isinstance(old, _TABLES) and isinstance(new, _TABLES)):
        yield name
        return
    before, after = _members(name, old), _members(name, new)
    if before is None or after is None:
        yield name
        return
    for key in before | after:
        shown = key if _BARE.fullmatch(key) else f'"{key}"'
        inner = f"{name}.{shown}" if name else shown
        if key in before and key in after:
            yield from _changed(inner, before[key], after[key])
        else:
            yield inner


def _members(name: str, table: object) -> dict[str, Any] | None:
    """A table's members by key; None for a list that is no table."""
    if isinstance(table, Mapping):
        return dict(table)
    if isinstance(table, Struct):
        fields = type(table).__struct_fields__
        return {field.removesuffix("_ms"): getattr(table, field) for field in fields}
    assert isinstance(table, tuple)
    return {token.name: token for token in table} if name == "tokens" else None
