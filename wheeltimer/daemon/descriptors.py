"""File descriptors: as many as the system allows, and clients leave those that callbacks and files need."""

from __future__ import annotations

import logging
import resource
from typing import Final

import msgspec

from wheeltimer.errors import SettingsError
from wheeltimer.settings import Settings

LEAST: Final = 64  # with fewer neither the journal nor a callback is sure of its own
OWN: Final = 128  # journal, log, timers, lookups, and clients that are being turned away
PER_TLS: Final = 3  # a client behind TLS: its socket, and the pair that leads to the plain side
PER_ATTEMPT: Final = 2  # an attempt in flight, and a connection that is kept after it
_log = logging.getLogger("wheeltimer")


def fit(settings: Settings) -> Settings:
    """Raise the soft limit to the hard one; lower ``connections_max`` where that is not enough for all.

    Without it a crowd of clients would take the last descriptors, and callbacks of others would fail. Raises
    SettingsError where there are too few for anything.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST:
        raise SettingsError(
            f"descriptors: {hard} are allowed, {LEAST} are needed; raise LimitNOFILE (ulimit -n)"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = settings.limits.connections_max
    each = PER_TLS if any(address.kind == "tls" for address in settings.listen) else 1
    room = max(1, (hard - OWN - PER_ATTEMPT * settings.concurrency) // each)
    if hard == resource.RLIM_INFINITY or wanted <= room:
        return settings
    _log.warning(
        "descriptors=%d leave room for %d clients, not connections_max=%d; raise LimitNOFILE (ulimit -n),"
        " or lower connections_max or concurrency",
        hard, room, wanted,
    )  # fmt: skip
    return msgspec.structs.replace(
        settings, limits=msgspec.structs.replace(settings.limits, connections_max=room)
    )
