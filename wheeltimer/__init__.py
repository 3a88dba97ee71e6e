"""wheeltimer: call me back at this URL in 30 minutes, for sure and on time.

One process: a hashed wheel timer in memory, an append-only journal on disk, a line protocol over TCP on
one side and HTTP callbacks on the other. Data flows in one direction::

    TCP line ─ server/ ───── protocol/ ► request ┐
    time ───── shard/ticker ───────────► due key ├─► core/ decides ─► records ─► apply ─► rows, timers
    HTTP ───── delivery/ ──────────────► answer  ┘                       └─► journal/ ─ sync ─► durable lsn
                                                                                                         │
           replies to sockets, first attempts of new tasks, events to subscribers: only when durable ◄───┘

Rooms, each may import those to its right: cli, daemon, server, {shard, delivery}, runtime, core, protocol,
errors. ``journal`` stores bytes and decodes no record; ``journal_tools`` reads both. ``client`` and
``settings`` need ``protocol`` only. ``shard/durable.py`` is the one place that applies a decision and submits
it to the journal.

Where to begin: ``core/task.py`` and ``core/states.py`` (what a task is, and the table of its moves),
``core/engine.py`` (the state), ``core/wheel.py`` (ticks, buckets, rounds), ``shard/durable.py``,
``journal/__init__.py`` (msgpack records in frames, on disk), ``daemon/run.py`` (starts and connects the
parts).

The path of one task: ``server/connection.py`` (its line), ``server/service.py``, ``core/schedule.py``
(``core/schedule_batch.py`` for many plain ones), ``shard/durable.py``, ``shard/ticker.py``,
``delivery/dispatcher.py``, ``delivery/callback.py``, ``delivery/executor.py``, ``core/outcome.py``.

Each attempt on a new connection is a Trio nursery task of its own. Attempts on kept connections are the
exception: a nursery task costs 30 us, so one task awaits all their replies (``delivery/executor.py``).
httpx calls through an egress proxy (``delivery/proxy.py``); its pool is too slow for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

__version__ = "0.1.0"
__all__ = [
    "AsyncClient", "BadRequest", "BadValue", "Client", "ClientMisused", "Conflict", "Draining",
    "Exists", "Forbidden", "Full", "Lagged", "LineTooLong", "NotFound", "OutcomeUnknown", "Refused",
    "ServerUnreachable", "Storage", "TargetBlocked", "TooLate", "Unauthorized", "Unavailable",
    "WheeltimerError", "__version__",
]  # fmt: skip

if TYPE_CHECKING:
    from wheeltimer.client import AsyncClient, Client, OutcomeUnknown
    from wheeltimer.errors import (
        BadRequest,
        BadValue,
        ClientMisused,
        Conflict,
        Draining,
        Exists,
        Forbidden,
        Full,
        Lagged,
        LineTooLong,
        NotFound,
        Refused,
        ServerUnreachable,
        Storage,
        TargetBlocked,
        TooLate,
        Unauthorized,
        Unavailable,
        WheeltimerError,
    )

_OF_CLIENT: Final = ("AsyncClient", "Client", "OutcomeUnknown")


def __getattr__(name: str) -> object:
    """Import a name at first use, so that the command line starts without the clients."""
    if name in _OF_CLIENT:
        from wheeltimer import client

        return getattr(client, name)
    if name in __all__:
        from wheeltimer import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
