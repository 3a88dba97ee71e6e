"""Turning clients away: if no descriptor is left for one, and if a limit refuses one.

Without a descriptor a client stays in the listener's queue and keeps it readable, so the loop would spin.
`Overflow` first closes connections that are kept to receivers. If there are none, it closes a descriptor that
it keeps in reserve: then one client can be accepted, which gets ``full``.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Final

import trio

from wheeltimer.core.schedule import RETRY_FULL_MS
from wheeltimer.protocol import wire
from wheeltimer.protocol.replies import ErrorReply
from wheeltimer.runtime.ratelog import RateLimitedLog

NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_S: Final = 0.1  # at most for turning one client away; also the pause if that is not possible
GIVEN_UP: Final = 4  # kept connections that are closed at once: one client behind TLS takes three descriptors
FULL: Final = wire.encode(
    ErrorReply(
        False, "full",
        "no file descriptor or memory is left for one more client; connect again later, and raise"
        " LimitNOFILE (ulimit -n) if that goes on",
        retry_after_ms=RETRY_FULL_MS,
    )
) + b"\n"  # fmt: skip
_log = logging.getLogger("wheeltimer.server")


class Overflow:
    """One per daemon. ``give_up_idle(count)`` closes kept connections and returns how many."""

    def __init__(self, give_up_idle: Callable[[int], int] = lambda count: 0) -> None:
        self._give_up_idle = give_up_idle
        self._said = RateLimitedLog(_log, logging.WARNING)
        self._spare_fd = -1

    def take(self) -> bool:
        """Reserve a descriptor; False if there is none."""
        if self._spare_fd < 0:
            try:
                self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close the reserved descriptor."""
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1

    def relieved(self, error: OSError) -> bool:
        """Close kept connections after ``error``, one of `NONE_LEFT`; whether any was closed."""
        given_up = self._give_up_idle(GIVEN_UP)
        self._said.say(
            "a client cannot be taken in: %s; kept connections closed=%d; raise LimitNOFILE (ulimit -n),"
            " or lower connections_max or concurrency",
            error.strerror, given_up,
        )  # fmt: skip
        return given_up > 0

    async def turn_away(self, listener: trio.SocketListener, reason: bytes) -> None:
        """Accept one client with the reserved descriptor, send ``reason``, close; pause if that fails."""
        if not self.take():
            await trio.sleep(PAUSE_S)
            return
        self.close()
        stream = None
        try:
            with trio.move_on_after(PAUSE_S):  # the client may be gone already
                stream = await listener.accept()
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            await trio.sleep(PAUSE_S)  # another thread took the descriptor
        try:
            if stream is not None and reason:
                await send_and_close(stream, reason, PAUSE_S)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            self.take()


# -- the last bytes of a connection ------------------------------------------------------------------------

RECEIVE_BYTES: Final = 131_072
CLOSE_GRACE_S: Final = 1.0  # how long the client may take to read the last reply before it is cut off
TURNED_AWAY_MAX: Final = 64  # clients that get a reason at the same time; each has a descriptor meanwhile


class Rejections:
    """Turns clients away: with a reason, or without one while ``most`` others are getting theirs."""

    def __init__(self, most: int = TURNED_AWAY_MAX) -> None:
        self._most = most
        self._telling = 0

    async def turn_away(self, stream: trio.SocketStream, reason: bytes) -> None:
        """Send the reason, then close. The bound keeps a storm of clients from using up all descriptors."""
        if self._telling >= self._most:
            await trio.aclose_forcefully(stream)
            return
        self._telling += 1
        try:
            await send_and_close(stream, reason)
        finally:
            self._telling -= 1


async def send_and_close(stream: trio.SocketStream, data: bytes, grace_s: float = CLOSE_GRACE_S) -> None:
    """Send the last bytes of a connection and its end, and wait at most ``grace_s`` until the client closes.

    What the client still sends is read and dropped: closing a socket with unread input resets the
    connection, and the client could lose that last reply.
    """
    with trio.move_on_after(grace_s):
        try:
            await stream.send_all(data)
            await stream.send_eof()
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        except trio.BrokenResourceError:
            pass  # the client is gone
