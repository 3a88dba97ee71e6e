"""Which addresses callbacks may call: literals in all their spellings, and the rule.

This is the pure part of the address guard. ``delivery`` looks names up, and connects to the very address
that was checked.

The registries are IANA's for IPv4 and IPv6 special purpose addresses. `ipaddress`'s own ``is_global``
is not used: it changes between Python versions, and 3.11's calls ``fec0::1`` and ``::127.0.0.1`` global.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

import msgspec

from wheeltimer.errors import BadValue
from wheeltimer.protocol.hosts import HOST_CHARS_MAX, ends_in_number

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


SETTING: Final = "allow_nets (--allow-net)"


def _named(*rows: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(network), name) for network, name in rows)


_LINK_LOCAL: Final = _named(
    ("169.254.0.0/16", "a link-local address"),
    ("fe80::/10", "a link-local address"),
    ("fd00:ec2::254/128", "a cloud's metadata service (AWS)"),
    ("fd00:ec2::23/128", "a cloud's credentials service (AWS)"),
    ("fd20:ce::254/128", "a cloud's metadata service (Google)"),
    ("100.100.100.200/32", "a cloud's metadata service (Alibaba)"),
    ("168.63.129.16/32", "a cloud's host service (Azure)"),
    ("192.0.0.192/32", "a cloud's metadata service (Oracle)"),
)
"""Services that give the machine's credentials to any of its processes: allowed by exact entry only."""

_NOT_GLOBAL: Final = _named(
    ("0.0.0.0/8", "an address of this host"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a shared address of a carrier's NAT"),
    ("127.0.0.0/8", "a loopback address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address reserved for protocols"),
    ("192.0.2.0/24", "an address for documentation"),
    ("192.88.99.0/24", "an address of a 6to4 relay"),
    ("192.168.0.0/16", "a private address"),
    ("198.18.0.0/15", "an address for benchmarks"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "an address of this host"),
    ("::1/128", "a loopback address"),
    ("64:ff9b:1::/48", "an address of a local NAT64"),
    ("100::/64", "an address to discard"),
    ("100:0:0:1::/64", "a dummy address"),
    ("2001::/23", "an address reserved for protocols"),
    ("2001:db8::/32", "an address for documentation"),
    ("3fff::/20", "an address for documentation"),
    ("5f00::/16", "an address of segment routing"),
    ("fc00::/7", "a private address"),
    ("fec0::/10", "a private (site-local) address"),
    ("ff00::/8", "a multicast address"),
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")  # RFC 2765, SIIT
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214 section 6.1, in front of the IPv4 address

_NUMBER: Final = re.compile(r"(?:0[xX]([0-9a-fA-F]*)|(0[0-7]*)|([1-9][0-9]*))")


class AddressRule(msgspec.Struct, frozen=True):
    """Which addresses may be called.

    ``open_listener`` is True when the daemon listens on anything but loopback or Unix sockets: then only
    global addresses and those in ``allow`` may be called. Otherwise any address may. Link-local addresses
    and the metadata services of clouds always need an entry of ``allow`` for that one address.
    """

    open_listener: bool
    allow: tuple[Network, ...] = ()

    def check(self, address: Address) -> str | None:
        """None if ``address`` may be called, else why not and which setting would allow it.

        An IPv6 address that carries an IPv4 one is judged by the address that is reached in the end.
        Cost: about 20 us, or 2 us with loopback listeners only.
        """
        for reached in _reached(address):
            reason = self._reason(reached)
            if reason is not None:
                through = "" if reached == address else f", reached through {address}"
                return f"{reached} is {reason}{through}; to call it, name it in {SETTING}"
        return None

    def check_host(self, host: str, field: str = "url") -> str | None:
        """The same for the host of a URL; names pass, their addresses are checked when connecting.

        Raises BadValue as `parse_literal` does.
        """
        address = parse_literal(host, field)
        return None if address is None else self.check(address)

    def _reason(self, address: Address) -> str | None:
        if (link_local := _found(address, _LINK_LOCAL)) is not None:
            exact = ip_network(address)
            return None if exact in self.allow else f"{link_local}, allowed only by an entry of its own"
        if not self.open_listener or any(address in network for network in self.allow):
            return None
        if (special := _found(address, _NOT_GLOBAL)) is not None:
            return special
        if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
            return "no global address"
        return None


def parse_literal(host: str, field: str = "url") -> Address | None:
    """The address that a URL's host spells, or None if it is a name to be looked up.

    Takes what resolvers take: IPv6 with or without brackets and zone (which is dropped), and IPv4 as
    ``inet_aton`` does: one to four numbers, decimal, hexadecimal (0x) or octal (0), the last filling the
    rest; also with a final dot, and in other scripts' digits, which UTS 46 maps to ASCII in names. A host
    that ends in a number and is no such address is no name either: BadValue.
    """
    if len(host) > HOST_CHARS_MAX:
        raise BadValue(f"{field}: a host has at most {HOST_CHARS_MAX} characters", field)
    text = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    if ":" in text or text.startswith("["):
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            return IPv6Address(inner.partition("%")[0])
        except ValueError as error:
            raise BadValue(f"{field}: {host!a} is no IPv6 address ({error})", field) from error
    text = text.removesuffix(".")
    if not ends_in_number(text):
        return None
    value = _inet_aton(text.split("."))
    if value is None:
        raise BadValue(f"{field}: {host!a} ends in a number and is no IPv4 address", field)
    return IPv4Address(value)


def _inet_aton(parts: list[str]) -> int | None:
    if len(parts) > 4:
        return None
    numbers = []
    for part in parts:
        found = _NUMBER.fullmatch(part) if len(part) <= HOST_CHARS_MAX else None
        if found is None:
            return None
        hexadecimal, octal, decimal = found.groups()
        if hexadecimal is not None:
            numbers.append(int(hexadecimal or "0", 16))
        else:
            numbers.append(int(octal, 8) if octal else int(decimal))
    *high, low = numbers
    if any(number > 255 for number in high) or low >= 256 ** (4 - len(high)):
        return None
    value = low
    for at, number in enumerate(high):
        value |= number << 8 * (3 - at)
    return value


def _reached(address: Address) -> tuple[Address, ...]:
    """The addresses that a packet to ``address`` may reach: itself, or what it carries, or both."""
    if isinstance(address, IPv4Address):
        return (address,)
    value = int(address)
    plain = IPv6Address(value)  # without a zone: to `ipaddress`, fe80::1%eth0 is in no network
    low = IPv4Address(value & 0xFFFF_FFFF)
    if plain in _MAPPED or plain in _NAT64 or plain in _TRANSLATED:
        return (low,)
    if plain in _COMPATIBLE and value > 0xFFFF:  # :: and ::1 carry no IPv4 address, nor does ::ffff or below
        return (low,)
    if plain in _6TO4:
        return (IPv4Address(value >> 80 & 0xFFFF_FFFF),)
    if plain in _TEREDO:  # RFC 4380 section 4: the server, and the client's address with all bits inverted
        return IPv4Address(value >> 64 & 0xFFFF_FFFF), IPv4Address(~value & 0xFFFF_FFFF)
    if plain in _LOCAL_NAT64:  # the prefix length is local, and with it the place of the IPv4 address
        carried = map(IPv4Address, _carried(value))
        return plain, low, *(address for address in carried if _found(address, _LINK_LOCAL))
    if value >> 32 & 0xFFFF_FFFF in _ISATAP:
        return plain, low
    return (plain,)


def _carried(value: int) -> tuple[int, int, int]:
    """The addresses behind prefixes of 48, 56 and 64 bits, without bits 64 to 71 (RFC 6052 section 2.2)."""
    return (
        (value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF,
        (value >> 64 & 0xFF) << 24 | value >> 32 & 0xFF_FFFF,
        value >> 24 & 0xFFFF_FFFF,
    )


def _found(address: Address, table: Iterable[tuple[Network, str]]) -> str | None:
    for network, name in table:
        if address in network:
            return name
    return None
