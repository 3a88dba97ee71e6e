"""Settings of the daemon: frozen, checked once, explained in one place.

Four layers, the first that speaks wins: flags, ``WHEELTIMER_*`` variables, the TOML file, the default.
``definitions.py`` says what can be set, ``values.py`` how one value is read, ``load.py`` how the layers
become one ``Settings``, ``changes.py`` what differs between two. What a retry rule means is in
``protocol/retry.py``; what a limit protects, where it is used.
"""

from __future__ import annotations

from wheeltimer.settings.changes import changed_keys
from wheeltimer.settings.definitions import (
    Destination,
    Journal,
    Knob,
    Limits,
    Queue,
    Settings,
    Tls,
    Token,
    knobs,
)
from wheeltimer.settings.load import FLAGS, load
from wheeltimer.settings.values import DEFAULT_PORT, Address, Rate, Secret, parse_address

__all__ = [
    "DEFAULT_PORT",
    "FLAGS",
    "Address",
    "Destination",
    "Journal",
    "Knob",
    "Limits",
    "Queue",
    "Rate",
    "Secret",
    "Settings",
    "Tls",
    "Token",
    "changed_keys",
    "knobs",
    "load",
    "parse_address",
]
