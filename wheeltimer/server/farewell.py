"""The last bytes of a connection: said so that they arrive, to as many at once as there is room for."""

from __future__ import annotations

from typing import Final

import trio

RECEIVE_BYTES: Final = 131_072
CLOSE_GRACE_S: Final = 1.0  # how long the last reply may take to arrive before the connection is closed
TURNED_AWAY_MAX: Final = 64  # told why at once; each has a descriptor for as long as that takes


class Rejections:
    """Turns clients away: with a reason, or at once where too many are being told one."""

    def __init__(self, most: int = TURNED_AWAY_MAX) -> None:
        self._most = most
        self._telling = 0

    async def turn_away(self, stream: trio.SocketStream, reason: bytes) -> None:
        """Say why, then close; a storm of clients that cannot stay must not use up the descriptors."""
        if self._telling >= self._most:
            await trio.aclose_forcefully(stream)
            return
        self._telling += 1
        try:
            await send_and_close(stream, reason)
        finally:
            self._telling -= 1


async def send_and_close(stream: trio.SocketStream, data: bytes, grace_s: float = CLOSE_GRACE_S) -> None:
    """Send the last bytes of a connection and its end, and wait a moment until they are read.

    What the client still sends is read and dropped: closing a socket with unread input resets the
    connection, and the client might lose the very reply that tells it why.
    """
    with trio.move_on_after(grace_s):
        try:
            await stream.send_all(data)
            await stream.send_eof()
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        except trio.BrokenResourceError:
            pass  # the client is gone
