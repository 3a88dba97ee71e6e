"""From a host name to a connected socket whose address was checked: lookup, check, staggered connects.

The order matters. Every address of the lookup is checked before the first packet is sent, one bad address
refuses them all, and the socket connects to an address that was checked: there is no second lookup between
check and connect, to which a hostile name server could give another answer.

Elsewhere: the rule itself (``core/addresses.py``, passed in as ``check``), TLS and HTTP
(``http_connection.py``), reuse of connections (``transport.py``).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

import trio

from wheeltimer.delivery.reply import AttemptError
from wheeltimer.delivery.shortage import Shortage, no_descriptors, reason_of
from wheeltimer.errors import TargetBlocked

STAGGER_S = 0.25  # RFC 8305 section 5: time for one address before the next is tried in parallel
ADDRESSES_TRIED_MAX = 8  # a name may have hundreds: all are checked, but an attempt tries no more than 8
LOOKUPS_MAX = 128  # blocking lookups at once, over all hosts: bounds the threads that dead name servers block

_log = logging.getLogger("wheeltimer.delivery")

Check = Callable[[IPv4Address | IPv6Address], str | None]
"""An address -> ``None`` if it may be called, else the reason, with the setting that would allow it."""

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
"""``socket.getaddrinfo``, or a test's own."""

NewSocket = Callable[[int, int], socket.socket]
"""``socket.socket``, or a test's own."""

StartThread = Callable[..., None]
"""``trio.lowlevel.start_thread_soon``, or a test's own."""


class Address(NamedTuple):
    """One address of a lookup, ready for ``connect``; ``sockaddr`` holds a numeric address and the port."""

    family: int
    sockaddr: tuple[Any, ...]


class _Lookup:
    """A lookup under way; all callers with the same host and port wait for it."""

    __slots__ = ("answer", "ended")

    def __init__(self) -> None:
        self.ended = trio.Event()
        # A string: why there is no address. A Shortage: why no name server was asked.
        self.answer: list[Address] | Shortage | str = "not answered"


class Resolver:
    """Host and port -> addresses, in threads of its own, at most one per host and port at a time.

    A thread that hangs in the system's resolver cannot be cancelled. With one thread per name a dead name
    server delays only its own names, until ``LOOKUPS_MAX`` names hang at once. Answers are not cached: the
    system's resolver has its own cache.
    """

    def __init__(
        self,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
        start_thread: StartThread = trio.lowlevel.start_thread_soon,
        no_descriptors: Callable[[], bool] = no_descriptors,
    ) -> None:
        self._getaddrinfo = getaddrinfo
        self._start_thread = start_thread
        self._no_descriptors = no_descriptors
        self._under_way: dict[tuple[str, int], _Lookup] = {}
        self._waiting = trio.lowlevel.ParkingLot()

    async def lookup(self, host: str, port: int) -> list[Address]:
        """Every address of ``host``, at least one. Literal addresses need no thread.

        Raises AttemptError("dns"), or Shortage if there was no thread, descriptor or memory for the lookup.
        """
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        key = (host, port)
        while (lookup := self._under_way.get(key)) is None:
            if len(self._under_way) < LOOKUPS_MAX:
                lookup = self._start(key)
                break
            await self._waiting.park()
        await lookup.ended.wait()
        if isinstance(lookup.answer, Shortage):
            # A new error for each waiter: a traceback grows each time that an error is raised again.
            raise Shortage(lookup.answer.reason, str(lookup.answer))
        if isinstance(lookup.answer, str):
            raise AttemptError("dns", f"lookup of {host}: {lookup.answer}")
        return lookup.answer

    def _start(self, key: tuple[str, int]) -> _Lookup:
        """Start a lookup in a thread of its own. Raises Shortage if no thread can be started."""
        lookup = _Lookup()
        token = trio.lowlevel.current_trio_token()

        def finish(answer: Any) -> None:
            try:
                lookup.answer = answer.unwrap()
            except Exception as bug:  # noqa: BLE001 -- one of the places that isolate: only this lookup fails
                _log.exception("lookup failed inside host=%s", key[0])
                lookup.answer = f"{type(bug).__name__}: {bug}"
            lookup.ended.set()
            del self._under_way[key]
            self._waiting.unpark_all()

        def deliver(answer: Any) -> None:
            with suppress(trio.RunFinishedError):  # the daemon ended during the lookup
                token.run_sync_soon(finish, answer)

        try:
            self._start_thread(lambda: self._blocking(*key), deliver, name=f"lookup {key[0]}")
        except (RuntimeError, MemoryError) as error:  # the system's limits
            raise Shortage(reason_of(error) or "threads", f"lookup of {key[0]}: {error}") from error
        self._under_way[key] = lookup  # after the start, as only ``finish`` removes it
        return lookup

    def _blocking(self, host: str, port: int) -> list[Address] | Shortage | str:
        try:
            rows = self._getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except (OSError, ValueError, MemoryError) as error:  # ValueError: a name that IDNA or C cannot encode
            reason = reason_of(error)
            if reason is None and isinstance(error, OSError) and self._no_descriptors():
                reason = "descriptors"  # without one glibc cannot read its files and reports an unknown name
            return f"{error}" if reason is None else Shortage(reason, f"lookup of {host}: {error}")
        addresses = [Address(row[0], row[4]) for row in rows if row[0] in (socket.AF_INET, socket.AF_INET6)]
        return addresses or "no address"


def _literal(host: str, port: int) -> Address | None:
    """The address if ``host`` is one in strict form. Short, octal and scoped forms go to the system's
    resolver, and its answer is checked like any other."""
    if "%" in host:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return Address(socket.AF_INET, (host, port))
    return Address(socket.AF_INET6, (host, port, 0, 0))


def check_all(host: str, addresses: list[Address], check: Check) -> None:
    """Raise TargetBlocked if any address is not allowed.

    All are checked, not only the one that is tried first: if a name has a public and a private address, a
    retry could reach the private one.
    """
    for address in addresses:
        reason = check(ip_address(address.sockaddr[0]))
        if reason is not None:
            raise TargetBlocked(f"{host} has the address {address.sockaddr[0]}: {reason}")


async def connect(
    addresses: list[Address],
    failures: list[OSError] | None = None,
    new_socket: NewSocket = socket.socket,
    make_room: Callable[[], bool] = lambda: False,
) -> socket.socket:
    """A connected non-blocking socket to the first address that answers.

    IPv4 and IPv6 alternate. Each address gets STAGGER_S before the next is tried in parallel; after a refusal
    the next is tried at once (RFC 8305). No socket except the returned one stays open, also if cancelled.
    ``make_room`` frees descriptors if there is none for a socket; True: there may be one now. The error of
    each address is appended to ``failures``, for a caller whose time limit comes first. Raises AttemptError
    ("connect") if none answers, or Shortage (see `raise_if_short`). The caller sets the time limit.
    """
    addresses = _take_turns(addresses)[:ADDRESSES_TRIED_MAX]
    failures = [] if failures is None else failures
    winners: list[socket.socket] = []

    async def attempt(address: Address, failed: trio.Event, scope: trio.CancelScope) -> None:
        try:
            winners.append(await _connect_one(address, new_socket, make_room))
        except (OSError, MemoryError) as error:  # a nursery would wrap a MemoryError in a group
            failures.append(error if isinstance(error, OSError) else OSError(errno.ENOMEM, "no memory"))
            failed.set()
        else:
            scope.cancel()

    if len(addresses) == 1:
        await attempt(addresses[0], trio.Event(), trio.CancelScope())
    else:
        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed, nursery.cancel_scope)
                    with trio.move_on_after(STAGGER_S):
                        await failed.wait()
        except BaseException:
            for sock in winners:
                sock.close()
            raise
    for sock in winners[1:]:
        sock.close()
    if winners:
        return winners[0]
    raise_if_short(failures)
    texts = [error.strerror or str(error) for error in failures]
    raise AttemptError("connect", "; ".join(dict.fromkeys(texts))) from failures[-1]


def raise_if_short(failures: list[OSError]) -> None:
    """Raise Shortage if a shortage of this machine kept an address from being tried: it could have answered.

    A shortage of ports counts only if no address failed otherwise: the owner of a name can add an address to
    which no port is free.
    """
    reasons = [reason_of(error) for error in failures]
    for error, reason in zip(failures, reasons, strict=True):
        if reason is not None and (reason != "ports" or None not in reasons):
            raise Shortage(reason, error.strerror or str(error)) from error


async def _connect_one(
    address: Address, new_socket: NewSocket, make_room: Callable[[], bool]
) -> socket.socket:
    try:
        sock = new_socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        if reason_of(error) != "descriptors" or not make_room():
            raise
        sock = new_socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address.sockaddr)
        except BlockingIOError as error:
            if error.errno != errno.EINPROGRESS:  # EAGAIN: no connect was begun
                raise
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
    except OSError as error:
        sock.close()
        if reason_of(error) == "ports" and not _has_route(address, new_socket):
            raise OSError(errno.ENETUNREACH, error.strerror) from error
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _has_route(address: Address, new_socket: NewSocket) -> bool:
    """Whether this machine has a source address for this destination address.

    Without one (IPv6 is switched off, for example) connect(2) fails with the same error as without a free
    port. The test uses UDP: it has ports of its own, and its connect(2) sends nothing.
    """
    try:
        with new_socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.connect(address.sockaddr)
    except OSError as error:
        return reason_of(error) is not None and error.errno != errno.EADDRNOTAVAIL  # the test itself failed
    return True


def _take_turns(addresses: list[Address]) -> list[Address]:
    """Alternate IPv4 and IPv6, beginning with the family that the system's resolver put first."""
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    turns: list[Address] = []
    for index in range(max(len(first), len(other))):
        turns += first[index : index + 1] + other[index : index + 1]
    return turns
