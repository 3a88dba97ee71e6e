"""File descriptors: as many as the system allows, shared among attempts, kept connections and clients.

What each may have is fixed at the start, so that none can take another's. If they run out all the same (the
limit is the whole system's, or was lowered), see ``overflow.py`` and ``journal/spare_descriptors.py``.
"""

from __future__ import annotations

import logging
import resource
from typing import Final, NamedTuple

import msgspec

from wheeltimer.daemon.farewell import TURNED_AWAY_MAX
from wheeltimer.delivery.pool import IDLE_MAX
from wheeltimer.errors import SettingsError
from wheeltimer.settings import Settings

LEAST: Final = 64  # with fewer there is nothing to share
OWN: Final = 128  # HELD, listeners, and what is open for a moment: clients turned away, lookups
# Standard streams 3; locks of file, folder and path 3, folder, segment and 3 spares 5, in hand 5, readers of
# the journal 2, eventfd 1; epoll and wake-ups of Trio 5; timers 3; epoll of replies 1; service manager 1; in
# hand for a client 1.
HELD: Final = 30
PER_LISTENER: Final = 2  # a name may have an address of each family
PER_TLS: Final = 3  # a client behind TLS: its socket, and the pair that leads to the plain side
_log = logging.getLogger("wheeltimer")


class Share(NamedTuple):
    """How many descriptors each has: attempts in flight, connections kept after them, clients, and clients
    that are being turned away."""

    concurrency: int
    idle_max: int
    connections_max: int
    turned_away_max: int


def share(limit: int, settings: Settings) -> Share:
    """Share out ``limit`` descriptors.

    If they do not suffice for the settings, attempts get what they ask for up to a half, kept connections and
    clients up to a quarter each, and what one of the three does not need goes to the others.
    """
    held = HELD + PER_LISTENER * len(settings.listen)
    own = min(OWN, held + max(0, limit - held) // 4)
    room = max(3, limit - own)
    each = PER_TLS if any(address.kind == "tls" for address in settings.listen) else 1
    wanted, clients = settings.concurrency, settings.limits.connections_max
    concurrency = min(wanted, max(room // 2, room - room // 4 - clients * each))
    left = room - concurrency
    connections = max(1, min(clients, max(left // 2, left - concurrency) // each))
    idle = max(1, min(IDLE_MAX, left - connections * each))
    return Share(concurrency, idle, connections, max(1, min(TURNED_AWAY_MAX, (own - held) * 2 // 3)))


def ample(settings: Settings) -> Share:
    """All that the settings ask for."""
    return Share(settings.concurrency, IDLE_MAX, settings.limits.connections_max, TURNED_AWAY_MAX)


def fit(settings: Settings) -> tuple[Settings, Share]:
    """Raise the soft limit to the hard one; lower ``concurrency`` and ``connections_max`` to what there is.

    Raises SettingsError if there are too few for anything.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST:
        raise SettingsError(
            f"descriptors: {hard} are allowed, {LEAST} are needed; raise LimitNOFILE (ulimit -n)"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = ample(settings)
    if hard == resource.RLIM_INFINITY:
        return settings, given
    found = share(hard, settings)
    lowered = [
        f"{name}={now} instead of {before}"
        for name, now, before in (
            ("concurrency", found.concurrency, given.concurrency),
            ("connections_max", found.connections_max, given.connections_max),
        )
        if now < before
    ]
    if not lowered:
        return settings, found
    _log.warning(
        "descriptors=%d are too few for the settings: %s, and at most %d connections kept after attempts;"
        " raise LimitNOFILE (ulimit -n), or lower connections_max or concurrency",
        hard, ", ".join(lowered), found.idle_max,
    )  # fmt: skip
    limits = msgspec.structs.replace(settings.limits, connections_max=found.connections_max)
    return msgspec.structs.replace(settings, concurrency=found.concurrency, limits=limits), found
