"""Clients of the daemon: one line of JSON out, one line in.

``Client`` blocks (``sync_client.py``), ``AsyncClient`` is for Trio and asyncio (``async_client.py``). Both
use ``pipeline.py``, ``subscription.py`` and ``results.py`` for the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheeltimer.client.pipeline import OutcomeUnknown
from wheeltimer.client.sync_client import Client

if TYPE_CHECKING:
    from wheeltimer.client.async_client import AsyncClient

__all__ = ["AsyncClient", "Client", "OutcomeUnknown"]


def __getattr__(name: str) -> object:
    """Import ``AsyncClient``, and with it anyio, at first use."""
    if name == "AsyncClient":
        from wheeltimer.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
