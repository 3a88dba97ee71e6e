"""The end of a daemon's work: what is under way may end, for a while. Who asks for it: ``run.py``."""

from __future__ import annotations

import logging
from typing import Final

import trio

from wheeltimer.delivery.dispatcher import Dispatcher
from wheeltimer.server.scans import Bulk

CUT_GRACE_S: Final = 1.0  # for the replies of requests that are cut; a disk that hangs gives them none
_log = logging.getLogger("wheeltimer")


async def drain(dispatcher: Dispatcher, bulk: Bulk, drain_ms: int) -> None:
    """Start no attempt and return when those in flight have ended, and so have groups that are being changed.

    After ``drain_ms`` a request that changes a group answers with how far it came. What attempts are in
    flight then is for the caller to cut.
    """
    with trio.move_on_after(drain_ms / 1000) as patience:
        await dispatcher.drain()
        await bulk.quiet()
    bulk.cut = True  # also those that begin before the end
    if patience.cancelled_caught:
        _log.warning("drain cut attempts in_flight=%d requests=%d", dispatcher.in_flight, bulk.changing)
        with trio.move_on_after(CUT_GRACE_S):
            await bulk.quiet()
