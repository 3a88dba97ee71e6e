"""Callbacks through an egress proxy, with httpx's own transport: for networks that allow no other way out.

Without a proxy: ``transport.py``.
"""

from __future__ import annotations

import ssl

import httpx
import trio

from wheeltimer.delivery.pool import IDLE_PER_DESTINATION_MAX, IDLE_S, Destination
from wheeltimer.delivery.reply import BODY_BYTES_MAX, AttemptError, Kind, PartialReply, Reply
from wheeltimer.delivery.shortage import Shortage, reason_within


class ProxyTransport:
    """The methods of ``Transport`` through an egress proxy, with httpx's own transport.

    The proxy looks names up and connects, so the proxy has to check addresses. httpx's pool does some
    hundreds of exchanges a second.
    """

    def __init__(self, proxy_url: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._stock = proxy_transport(proxy_url, ssl_context=ssl_context)

    async def request(
        self,
        destination: Destination,
        method: bytes,
        target: bytes,
        fields: bytes,
        body: bytes,
        connect_timeout_ms: int,
        partial: PartialReply | None = None,
    ) -> Reply:
        """As ``Transport.request``; httpx handles stale connections, and no request is sent twice.

        A shortage of ports is one towards the proxy, as no other socket is opened here.
        """
        request = _request(destination, method, target, fields, body, connect_timeout_ms / 1000)
        parts: list[bytes] = []
        size = 0
        partial = partial or PartialReply()
        try:
            response = await self._stock.handle_async_request(request)
            partial.reply = Reply(response.status_code, tuple(response.headers.raw), b"", True)
            try:
                # Cancelled, not left by ``break``: otherwise httpx's nested generators do not all end.
                with trio.CancelScope() as rest:
                    async for part in response.aiter_raw():
                        if size <= BODY_BYTES_MAX:
                            parts.append(part)
                            size += len(part)
                        if size > BODY_BYTES_MAX:
                            rest.cancel()
            finally:
                await response.aclose()
        except (httpx.ConnectError, RuntimeError) as error:  # RuntimeError: no thread to look the proxy up in
            reason = reason_within(error)
            if reason is not None:
                raise Shortage(reason, str(error)) from error
            if isinstance(error, RuntimeError):
                raise
            raise AttemptError("connect", str(error) or type(error).__name__) from error
        except httpx.TransportError as error:
            text = str(error) or type(error).__name__
            raise AttemptError(_kind(error), text, partial.reply) from error
        body_read = b"".join(parts)[:BODY_BYTES_MAX]
        return Reply(response.status_code, tuple(response.headers.raw), body_read, size > BODY_BYTES_MAX)

    def begin(
        self, destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes
    ) -> None:
        """As ``Transport.begin``: never begins, as the kept connections are httpx's."""

    def flush(self) -> None:
        """As ``Transport.flush``: nothing was begun."""

    def keeps(self, destination: Destination) -> bool:
        """As ``Transport.keeps``: False, as httpx does not show its connections."""
        return False

    def give_up_idle(self, count: int) -> int:
        """As ``Transport.give_up_idle``: closes none, as httpx's pool has no such method."""
        return 0

    def close_idle(self) -> None:
        """As ``Transport.close_idle``: does nothing, as httpx closes idle connections itself."""

    async def aclose(self) -> None:
        await self._stock.aclose()


def proxy_transport(proxy_url: str, *, ssl_context: ssl.SSLContext | None = None) -> httpx.AsyncHTTPTransport:
    """httpx's own transport through the given proxy; environment variables have no effect."""
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=IDLE_PER_DESTINATION_MAX, keepalive_expiry=IDLE_S
    )
    verify = ssl_context or ssl.create_default_context()
    return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, proxy=proxy_url)


def _kind(error: httpx.TransportError) -> Kind:
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    if isinstance(error, httpx.ProtocolError):
        return "protocol"
    if isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.CloseError)):
        return "reset"
    return "connect"


def _request(
    destination: Destination, method: bytes, target: bytes, fields: bytes, body: bytes,
    connect_timeout_s: float,
) -> httpx.Request:  # fmt: skip
    lines = fields.split(b"\r\n")[:-1]
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    authority = destination.authority
    if destination.scheme == "https" and destination.host.endswith("."):  # no certificate has the dot
        headers.append((b"host", authority.encode("ascii")))
        authority = destination._replace(host=destination.host[:-1]).authority
    url = f"{destination.scheme}://{authority}{target.decode('ascii')}"
    timeout = {"connect": connect_timeout_s, "pool": connect_timeout_s}
    return httpx.Request(
        method.decode("ascii"), url, headers=headers, content=body, extensions={"timeout": timeout}
    )
