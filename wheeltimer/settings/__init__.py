"""Settings of the daemon: frozen, checked once, explained in one place.

There are four layers, and the first that has a value wins: flags, ``WHEELTIMER_*`` variables, the TOML file,
the default. ``definitions.py`` defines the settings, ``values.py`` reads one value, ``load.py`` makes one
``Settings`` from the layers, and compares two. ``protocol/retry.py`` explains retry rules; the file that
applies a limit explains it.
"""

from __future__ import annotations

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
from wheeltimer.settings.load import FLAGS, changed_keys, load
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
