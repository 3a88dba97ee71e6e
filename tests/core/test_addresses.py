"""The address guard: every spelling, every kind of address, both rules."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from wheeltimer.core.addresses import SETTING, AddressRule, parse_literal
from wheeltimer.errors import BadValue
from wheeltimer.protocol.hosts import HOST_CHARS_MAX

pytestmark = pytest.mark.quick

# What a literal is: "global" may always be called; "inside" with loopback listeners only, or by an entry
# of allow; "exact" only by an entry for that one address. The third column is what it is judged as.
TABLE: list[tuple[str, str, str]] = [
    # global
    ("8.8.8.8", "global", "8.8.8.8"),
    ("1.1.1.1", "global", "1.1.1.1"),
    ("9.255.255.255", "global", "9.255.255.255"),
    ("11.0.0.0", "global", "11.0.0.0"),
    ("172.15.255.255", "global", "172.15.255.255"),
    ("172.32.0.0", "global", "172.32.0.0"),
    ("192.167.255.255", "global", "192.167.255.255"),
    ("100.63.255.255", "global", "100.63.255.255"),
    ("100.128.0.0", "global", "100.128.0.0"),
    ("169.253.255.255", "global", "169.253.255.255"),
    ("223.255.255.255", "global", "223.255.255.255"),
    ("134744072", "global", "8.8.8.8"),
    ("0x08080808", "global", "8.8.8.8"),
    ("[2606:4700:4700::1111]", "global", "2606:4700:4700::1111"),
    ("2a00:1450:4001::200e", "global", "2a00:1450:4001::200e"),
    ("[::ffff:8.8.8.8]", "global", "8.8.8.8"),
    ("64:ff9b::8.8.8.8", "global", "8.8.8.8"),
    ("2002:808:808::1", "global", "8.8.8.8"),
    # loopback, spelled
    ("127.0.0.1", "inside", "127.0.0.1"),
    ("127.255.255.254", "inside", "127.255.255.254"),
    ("127.1", "inside", "127.0.0.1"),
    ("127.0.1", "inside", "127.0.0.1"),
    ("127.65535", "inside", "127.0.255.255"),
    ("127.0.0.1.", "inside", "127.0.0.1"),
    ("2130706433", "inside", "127.0.0.1"),
    ("0x7f000001", "inside", "127.0.0.1"),
    ("0X7F.0x0.0X0.0x1", "inside", "127.0.0.1"),
    ("0x7f.1", "inside", "127.0.0.1"),
    ("017700000001", "inside", "127.0.0.1"),
    ("0177.0.0.1", "inside", "127.0.0.1"),
    ("0000177.0x0.00.01", "inside", "127.0.0.1"),
    ("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "inside", "127.0.0.1"),
    ("127\u30020\u30020\uff0e1", "inside", "127.0.0.1"),
    ("\u2460\u2461\u2466.0.0.1", "inside", "127.0.0.1"),
    ("[::1]", "inside", "::1"),
    ("::1", "inside", "::1"),
    ("0:0:0:0:0:0:0:1", "inside", "::1"),
    ("[::1%25lo]", "inside", "::1"),
    ("::ffff:127.0.0.1", "inside", "127.0.0.1"),
    ("::ffff:7f00:1", "inside", "127.0.0.1"),
    ("::127.0.0.1", "inside", "127.0.0.1"),  # 3.11's ipaddress: global
    ("::ffff:0:127.0.0.1", "inside", "127.0.0.1"),
    ("64:ff9b::7f00:1", "inside", "127.0.0.1"),
    ("2002:7f00:1::", "inside", "127.0.0.1"),
    # this host
    ("0.0.0.0", "inside", "0.0.0.0"),
    ("0", "inside", "0.0.0.0"),
    ("0x", "inside", "0.0.0.0"),
    ("0.1.2.3", "inside", "0.1.2.3"),
    ("[::]", "inside", "::"),
    # private
    ("10.0.0.1", "inside", "10.0.0.1"),
    ("10.1", "inside", "10.0.0.1"),
    ("012.0.0.1", "inside", "10.0.0.1"),
    ("172.16.0.1", "inside", "172.16.0.1"),
    ("172.31.255.255", "inside", "172.31.255.255"),
    ("192.168.1.1", "inside", "192.168.1.1"),
    ("192.168.257", "inside", "192.168.1.1"),
    ("0xc0a80101", "inside", "192.168.1.1"),
    ("fd12:3456::1", "inside", "fd12:3456::1"),
    ("fc00::", "inside", "fc00::"),
    ("fec0::1", "inside", "fec0::1"),  # 3.11's ipaddress: global
    ("feff:ffff::1", "inside", "feff:ffff::1"),
    ("::ffff:10.0.0.1", "inside", "10.0.0.1"),
    ("64:ff9b::10.0.0.1", "inside", "10.0.0.1"),
    ("64:ff9b:1::8.8.8.8", "inside", "64:ff9b:1::808:808"),
    ("2002:a00:1::1", "inside", "10.0.0.1"),
    ("2001:0:808:808:0:0:f5ff:fffe", "inside", "10.0.0.1"),  # Teredo client
    ("2001:0:a00:1:0:0:f7f7:f7f7", "inside", "10.0.0.1"),  # Teredo server
    ("2a00:1450::5efe:10.0.0.1", "inside", "10.0.0.1"),  # ISATAP
    ("2a00:1450::200:5efe:10.0.0.1", "inside", "10.0.0.1"),
    # shared, protocols, documentation, benchmarks, multicast, reserved
    ("100.64.0.1", "inside", "100.64.0.1"),
    ("100.127.255.255", "inside", "100.127.255.255"),
    ("192.0.0.8", "inside", "192.0.0.8"),
    ("192.0.2.1", "inside", "192.0.2.1"),
    ("198.51.100.7", "inside", "198.51.100.7"),
    ("203.0.113.255", "inside", "203.0.113.255"),
    ("192.88.99.1", "inside", "192.88.99.1"),
    ("198.18.0.1", "inside", "198.18.0.1"),
    ("198.19.255.255", "inside", "198.19.255.255"),
    ("224.0.0.1", "inside", "224.0.0.1"),
    ("239.255.255.250", "inside", "239.255.255.250"),
    ("240.0.0.1", "inside", "240.0.0.1"),
    ("255.255.255.255", "inside", "255.255.255.255"),
    ("4294967295", "inside", "255.255.255.255"),
    ("2001:db8::1", "inside", "2001:db8::1"),
    ("3fff::1", "inside", "3fff::1"),
    ("2001:2::1", "inside", "2001:2::1"),
    ("2001:10::1", "inside", "2001:10::1"),
    ("100::1", "inside", "100::1"),
    ("5f00::1", "inside", "5f00::1"),
    ("ff02::1", "inside", "ff02::1"),
    ("4000::1", "inside", "4000::1"),  # nobody's
    ("::2", "inside", "::2"),
    # link-local and the metadata services of clouds
    ("169.254.169.254", "exact", "169.254.169.254"),
    ("169.254.0.0", "exact", "169.254.0.0"),
    ("169.254.170.2", "exact", "169.254.170.2"),
    ("2852039166", "exact", "169.254.169.254"),
    ("0xa9fea9fe", "exact", "169.254.169.254"),
    ("0251.0376.0251.0376", "exact", "169.254.169.254"),
    ("169.254.43518", "exact", "169.254.169.254"),
    ("169.16689662", "exact", "169.254.169.254"),
    ("[::ffff:169.254.169.254]", "exact", "169.254.169.254"),
    ("::ffff:a9fe:a9fe", "exact", "169.254.169.254"),
    ("::169.254.169.254", "exact", "169.254.169.254"),
    ("64:ff9b::a9fe:a9fe", "exact", "169.254.169.254"),
    ("2002:a9fe:a9fe::", "exact", "169.254.169.254"),
    ("2001:0:808:808:0:0:5601:5601", "exact", "169.254.169.254"),
    ("fe80::1", "exact", "fe80::1"),
    ("fe80::1%eth0", "exact", "fe80::1"),
    ("[fe80::1%25eth0]", "exact", "fe80::1"),
    ("febf:ffff::1", "exact", "febf:ffff::1"),
    ("fd00:ec2::254", "exact", "fd00:ec2::254"),
    ("fd20:ce::254", "exact", "fd20:ce::254"),
    ("100.100.100.200", "exact", "100.100.100.200"),
    ("::ffff:100.100.100.200", "exact", "100.100.100.200"),
    ("168.63.129.16", "exact", "168.63.129.16"),
    ("192.0.0.192", "exact", "192.0.0.192"),
    ("fd00:ec2::23", "exact", "fd00:ec2::23"),
]

INSIDE_ONLY = AddressRule(open_listener=False)
OPEN = AddressRule(open_listener=True)
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TABLE) == len({literal for literal, _, _ in TABLE}) >= 80


@pytest.mark.parametrize(("literal", "kind", "judged"), TABLE)
def test_every_spelling_is_judged_by_the_address_it_reaches(literal: str, kind: str, judged: str) -> None:
    for rule, kinds in (
        (OPEN, {"global"}),
        (INSIDE_ONLY, {"global", "inside"}),
        (AddressRule(True, EVERYTHING), {"global", "inside"}),
        (AddressRule(True, (*EVERYTHING, ip_network(judged))), {"global", "inside", "exact"}),
        (AddressRule(False, (ip_network(judged),)), {"global", "inside", "exact"}),
    ):
        reason = rule.check_host(literal)
        assert (reason is None) == (kind in kinds), (rule, reason)
        if reason is not None:
            assert reason.startswith(judged)
            assert SETTING in reason


@pytest.mark.parametrize(("literal", "kind", "judged"), TABLE)
def test_what_the_resolver_answers_is_judged_like_the_literal(literal: str, kind: str, judged: str) -> None:
    address = parse_literal(literal)
    assert isinstance(address, IPv4Address | IPv6Address)
    assert (OPEN.check(address) is None) == (kind == "global")
    assert (INSIDE_ONLY.check(address) is None) == (kind != "exact")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "this host"),
        ("::", "this host"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("fd00::1", "private"),
        ("fec0::1", "site-local"),
        ("100.64.0.1", "carrier"),
        ("192.0.2.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("64:ff9b:1::808:808", "NAT64"),
        ("100::1", "discard"),
        ("100:0:0:1::1", "dummy"),
        ("5f00::1", "segment routing"),
        ("4000::1", "no global address"),
        ("169.254.1.1", "link-local address, allowed only by an entry of its own"),
        ("fe80::1", "link-local address, allowed only by an entry of its own"),
        ("100.100.100.200", "metadata service (Alibaba), allowed only by an entry of its own"),
    ],
)
def test_the_reason_says_what_kind_of_address_it_is(address: str, reason: str) -> None:
    assert reason in str(OPEN.check(ip_address(address)))


def test_what_is_reached_through_another_address_is_named_with_it() -> None:
    reason = str(OPEN.check_host("64:ff9b::10.0.0.1"))
    assert reason.startswith("10.0.0.1 is a private address, reached through 64:ff9b::a00:1; ")


def test_relays_of_as112_and_amt_are_global() -> None:
    for address in ("192.31.196.1", "192.52.193.1", "192.175.48.1", "2620:4f:8000::1"):
        assert OPEN.check_host(address) is None


def test_an_entry_for_a_network_opens_that_network_and_not_the_metadata_in_it() -> None:
    rule = AddressRule(
        True, (ip_network("10.20.0.0/16"), ip_network("100.64.0.0/10"), ip_network("fe80::/64"))
    )
    assert rule.check_host("10.20.255.1") is None
    assert rule.check_host("::ffff:10.20.0.1") is None
    assert rule.check_host("100.100.100.201") is None
    assert rule.check_host("10.21.0.1") is not None
    assert rule.check_host("100.100.100.200") is not None
    assert rule.check_host("fe80::1") is not None


def test_a_wide_entry_is_no_exact_entry() -> None:
    for entry in ("169.254.0.0/16", "169.254.169.254/31", "0.0.0.0/0"):
        assert AddressRule(False, (ip_network(entry),)).check_host("169.254.169.254") is not None
    assert AddressRule(False, (ip_network("169.254.169.254/32"),)).check_host("169.254.169.254") is None
    assert AddressRule(False, (ip_network("169.254.169.253/32"),)).check_host("169.254.169.254") is not None


def test_both_ends_of_a_teredo_address_count() -> None:
    teredo = "2001:0:808:808:0:0:f5ff:fffe"  # a public server, a client in 10/8
    assert OPEN.check_host(teredo) is not None
    assert AddressRule(True, (ip_network("10.0.0.0/8"),)).check_host(teredo) is None
    assert AddressRule(True, (ip_network("8.0.0.0/8"),)).check_host(teredo) is not None


@pytest.mark.parametrize(
    "spelled",
    [
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1::a9:fea9:fe00:0",
    ],
    ids=["96", "48", "56", "64"],
)
def test_a_local_nat64_leads_to_the_metadata_service_too(spelled: str) -> None:
    """Wherever its prefix ends, in bits."""
    assert "169.254.169.254 is a link-local" in str(INSIDE_ONLY.check_host(spelled))
    assert "local NAT64" in str(OPEN.check_host(spelled))
    inside = AddressRule(True, (ip_network("64:ff9b:1::/48"), ip_network("8.8.8.8/32")))
    assert inside.check_host(spelled) is not None
    assert inside.check_host("64:ff9b:1::808:808") is None


def test_a_zone_does_not_hide_an_address_from_the_rule() -> None:
    assert OPEN.check(ip_address("fe80::1%eth0")) is not None
    assert INSIDE_ONLY.check(ip_address("fe80::1%eth0")) is not None
    assert OPEN.check(ip_address("fd00::1%eth0")) is not None
    assert parse_literal("[fe80::1%25eth0]") == IPv6Address("fe80::1")


@pytest.mark.parametrize(
    "name",
    ["example.com", "localhost", "a.b.c.d", "1a", "127.0.0.1.example.com", "127.0.0.1a", "0x7f000001.com",
     "xn--p1ai", "0xg", "1.2.3.4e", "deadbeef", "127.0.0.1.nip.io", "\u4f8b\u3048.jp", ""],
)  # fmt: skip
def test_names_are_left_to_the_check_at_connect_time(name: str) -> None:
    assert parse_literal(name) is None
    assert OPEN.check_host(name) is None


@pytest.mark.parametrize(
    "host",
    ["256.0.0.1", "1.2.3.256", "1.2.65536", "1.16777216", "4294967296", "1.2.3.4.5", "1.2.3.4.0", "08.0.0.1",
     "127.0.0.09", "1..2", ".1", "0x100.0.0.1", "00400.1", "example.1", "example.0x1",
     "99999999999999999999", "-1.0.0.1", "+1.0.0.1", "1_0.0.0.1", "[::1", "::1]", "[127.0.0.1]",
     "[example.com]", ":::", "1:2:3", "::ffff:256.0.0.1", "::ffff:0127.0.0.1", "[]", "12345::",
     "::1:\u0661.0.0.1", "x" * (HOST_CHARS_MAX + 1)],
)  # fmt: skip
def test_what_is_neither_address_nor_name_is_refused(host: str) -> None:
    with pytest.raises(BadValue) as caught:
        OPEN.check_host(host, "on_done")
    assert caught.value.field == "on_done"
    assert str(caught.value).startswith("on_done: ")
