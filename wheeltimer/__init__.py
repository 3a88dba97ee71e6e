"""wheeltimer: call me back at this URL in 30 minutes, for sure and on time.

One process: a hashed wheel timer in memory, an append-only journal on disk, a line protocol over TCP on
one side and HTTP callbacks on the other. Data goes one way round::

    TCP line ── server ── wire ─► command ┐
    time ────── ticker ─────────► key due ├─► decide ─► records ─┬─► apply ─► rows, timers, counts
    HTTP ────── dispatcher ─────► answer  ┘    (core, pure)      └─► journal ── fdatasync ─► durable lsn
                                                                                                │
     replies to sockets, first attempts of new tasks, events to subscribers: only when durable ◄┘

``core`` decides and knows nothing of the world; ``journal`` keeps bytes; ``delivery`` calls out;
``daemon`` has the clocks, the sockets and the one place where a decision becomes true (``ledger``).

Where to begin: ``core/task.py`` (what a task is, and the table of its moves), ``core/engine.py`` (the
state), ``core/wheel.py`` (the timer), ``shard/durable.py``, ``daemon/run.py`` (how it is put together),
``server/subscriptions.py`` (events), ``journal/__init__.py`` (the life of a record on disk).

The way of one task: ``server/connection.py`` (its line), ``server/service.py``, ``core/schedule_batch.py``
where many plain ones come at once, ``shard/ticker.py``, ``delivery/dispatcher.py``, ``delivery/callback.py``.
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
    """Import what is asked for when it is asked for: the command line starts without a client."""
    if name in _OF_CLIENT:
        from wheeltimer import client

        return getattr(client, name)
    if name in __all__:
        from wheeltimer import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
