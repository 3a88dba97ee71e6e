"""Hosts that no name can be are refused when a request brings them; the rest is left to the resolver."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core.addresses import AddressRule
from wheeltimer.core.policy import Policy
from wheeltimer.protocol.hosts import host_problem
from wheeltimer.protocol.requests import split_url

pytestmark = pytest.mark.quick

EMPTY, LONG, STAR, ESCAPE = "no empty part", "at most 63", "no *", "no % escapes"
NO_HOSTS = {
    "a..b.example": EMPTY, ".example": EMPTY, "example..": EMPTY, ".": EMPTY, "..": EMPTY,
    "a" * 64 + ".example": LONG, "example." + "a" * 64: LONG, "a" * 64 + ".": LONG,
    "*": STAR, "*.example": STAR, "a*b.example": STAR,
    "a%00.example": ESCAPE, "a%0a.example": ESCAPE, "a%7F.example": ESCAPE, "%2a.example": ESCAPE,
    "b%C3%BCcher.example": ESCAPE, "a%2eb": ESCAPE, "%": ESCAPE,
    "127.0.0.1.": "write 127.0.0.1", "127.1.": "write 127.1", "0x7f.1.": "write 0x7f.1",
    "2130706433.": "write 2130706433", "1.2.3.4.5.": "no closing dot", "example.1.": "no closing dot",
    **{f"a{char}b.example": f'no "{char}"' for char in "!$&'()+,;="}, "$HOST": "fill in the variable",
    "(a)": 'no "("', "a,": 'no ","', "=": 'no "="',
    "x" * 254: "at most 253", ".".join("x" * 60 for _ in range(5)): "at most 253",
}  # fmt: skip
NO_ADDRESSES = ("256.0.0.1", "1.2.3.4.5", "example.1", "example.0x1f", "09.0.0.1", "1.2.3.4.0")
HOSTS = (
    "r", "my_service", "_dns.example", "a_b.c_d.example", "example.org.", "localhost.", "r.", "A.Example",
    "a" * 63, "a" * 63 + ".example.", "xn--bcher-kva.example", "a-.example", "1a.example", "1.example",
    "10.0.0.1.example.", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3.4",
    "[::1]", "[2001:db8::1.2.3.4]", "a~b", ".".join("x" * 49 for _ in range(5)),
)  # fmt: skip


def driver() -> Driver:
    return Driver(policy=Policy(check_host=AddressRule(open_listener=False).check_host))


def refused(reply: dict[str, Any], field: str) -> str:
    assert (reply["ok"], reply["error"], reply["field"]) == (False, "bad_request", field), reply
    assert reply["message"].startswith(f"{field}: ")
    return str(reply["message"])


@pytest.mark.parametrize("host", NO_HOSTS, ids=lambda host: host[:20])
def test_hosts_that_no_name_can_be(host: str) -> None:
    game, bad = driver(), f"http://{host}:9/"
    for _ in range(2):  # what was refused is not remembered as checked
        assert NO_HOSTS[host] in refused(game.ask("schedule", url=bad), "url")
        for field in ("on_done", "on_dead"):
            assert NO_HOSTS[host] in refused(game.ask("schedule", url="http://r/", **{field: bad}), field)
    assert game.ask("schedule", id="t", url="http://r/", delay="1h")["ok"]
    for field in ("url", "on_done", "on_dead"):
        assert NO_HOSTS[host] in refused(game.ask("reschedule", id="t", **{field: bad}), field)
    assert refused(game.ask("schedule", id="t", url=bad, delay="1h"), "url"), "of a known id too"
    line = b'{"op":"schedule","id":"u","url":"%s","delay":5}' % bad.encode()
    assert not game.run([line]), "a run of plain requests is none"


def test_what_is_no_address_is_no_name_either() -> None:
    for host in NO_ADDRESSES:
        assert "ends in a number" in refused(driver().ask("schedule", url=f"http://{host}/"), "url")


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_that_resolvers_take_are_taken(host: str) -> None:
    game = driver()
    assert game.ask("schedule", id="t", url=f"http://{host}:9/", on_done=f"http://{host}/")["ok"]
    line = b'{"op":"schedule","id":"u","url":"http://%s:9/","delay":5}' % host.encode()
    assert game.run([line]), "the second time in a run"


def test_a_stored_url_is_still_read() -> None:
    """By the attempt, which makes its error of it, and by the configuration."""
    for host in NO_HOSTS:
        assert split_url(f"http://{host}:9/x") == ("http", host.lower(), 9, "/x")


def test_a_checked_origin_is_not_checked_again() -> None:
    seen: list[str] = []
    game = Driver(policy=Policy(check_host=seen.append))
    for n in range(3):
        assert game.ask("schedule", url=f"http://my_service:9/{n}")["ok"]
    assert seen == ["my_service"]


IDN = {
    "http://b\u00fccher.example/": "xn--bcher-kva.example",
    "https://B\u00dcCHER.example:8443/x?y": "xn--bcher-kva.example",
    "http://bu\u0308cher.example": "xn--bcher-kva.example",
    "http://\u4f8b\u5b50.\u6d4b\u8bd5/\u8def": "xn--fsqu00a.xn--0zwm56d",
    # Another name, or none, by Python's codec of 2003: not shown.
    "http://stra\u00dfe.example/": None,
    "http://\uff11\uff12\uff17.0.0.1/": None,
    "http://\u00e4..example/": None,
    "http://\U0001f4a9\u200d.example/": None,
    "http://" + "\u00e4" * 8000 + "/": None,
}


@pytest.mark.parametrize("url", IDN, ids=lambda url: ascii(url[:30]))
def test_a_host_beyond_ascii_says_to_write_punycode(url: str) -> None:
    for field, others in (("url", {}), ("on_done", {"url": "http://r/"})):
        message = refused(driver().ask("schedule", **{field: url}, **others), field)
        assert "punycode" in message
        shown = IDN[url]
        assert (f"write {shown}" in message) if shown else "xn--..." in message
        if shown:
            assert driver().ask("schedule", url=f"http://{shown}/")["ok"], "and that is taken"


ABSOLUTE = "an absolute http:// or https:// URL expected; "
WRONG = {
    "example.org/hook": ABSOLUTE + "write http://example.org/hook",
    "localhost:8000": ABSOLUTE + "write http://localhost:8000",
    "r/?next=http://s/": ABSOLUTE + "write http://r/?next=http://s/",
    "//r/hook": ABSOLUTE + "begin with http://",
    "": ABSOLUTE + "begin with http://",
    "{base}/hook": ABSOLUTE + "begin with http://",
    "ftp://r/": ABSOLUTE + "no other scheme",
    "mailto:r": ABSOLUTE + "no other scheme",
    "https:r/hook": ABSOLUTE + "behind the colon stand two slashes",
    "http:/r/hook": ABSOLUTE + "behind the colon stand two slashes",
    " http://r/": "white space stands around",
    "http://r/\n": "white space stands around",
    "http:///hook": "a host expected",
    "http://:80/hook": "a host expected",
    "http://::1/": "an IPv6 address, without a zone, stands in brackets",
    "http://fe80::1:8080/": "an IPv6 address, without a zone, stands in brackets",
    "http://[::1/": "an IPv6 address, without a zone, stands in brackets",
    "http://[r]/": "an IPv6 address, without a zone, stands in brackets",
    "http://[fe80::1%eth0]/": "an IPv6 address, without a zone, stands in brackets",
    "http://{host}/": "a host has no braces",
    "http://r:{port}/": "a host has no braces",
    "http://<host>/": "a host has no braces",
    "http://a b/": "a host has no white space",
    "http://a\\b/": 'a host has no "\\"',
    "http://a[b/": 'a host has no "["',
    "http://a\x00b/": 'a host has no "\\x00"',
    "http://r:/": "a port from 1 to 65535",
    "http://r:http/": "a port from 1 to 65535",
    "http://[::1]r/": "a port from 1 to 65535",
    "http://r:99999/": "a port from 1 to 65535",
    "http://r/a b": "white space in a path or query is percent-encoded; write %20",
    "http://r/a\tb": "white space in a path or query is percent-encoded; write %09",
    "http://r/\u00fc": "a character beyond ASCII in a path or query is percent-encoded; write %C3%BC",
    "http://r?q=\u00fc": "a character beyond ASCII in a path or query is percent-encoded; write %C3%BC",
    "http://r/\x7fa": "a control character in a path or query is percent-encoded; write %7F",
    "http://r#top": "a fragment",
    "http://r/#top": "a URL without a fragment",
    "http://r/" + "a" * 8192: "a URL of at most 8192 bytes",
}


@pytest.mark.parametrize("url", WRONG, ids=lambda url: ascii(url[:30]))
def test_each_mistake_in_a_url_has_its_own_sentence(url: str) -> None:
    for field, others in (("url", {}), ("on_dead", {"url": "http://r/"})):
        message = refused(driver().ask("schedule", **{field: url}, **others), field)
        assert WRONG[url] in message
        assert len(message) < 250


def test_braces_in_a_path_are_sent() -> None:
    assert driver().ask("schedule", url="http://r/{a}?b={c}")["ok"]


@pytest.mark.parametrize("user", ["u:p@", "u@", "@", "u:p@x@", "\u00fc:p@", "u:%40@"])
def test_a_user_name_says_to_write_a_header(user: str) -> None:
    url = f"http://{user}127.0.0.1:9/a"
    message = refused(driver().ask("schedule", url=url), "url")
    assert "authorization" in message
    assert user == "@" or user not in message, "a password is not repeated"
    assert "webhook-signature" in refused(driver().ask("schedule", url="http://r/", on_done=url), "on_done")
    assert driver().ask("schedule", url="http://r/a@b?c=d@e")["ok"], "an @ elsewhere is none"


def test_long_hosts_cost_little() -> None:
    """Of 8 KiB, which is all that a URL may have: each check looks at them once."""
    for host in ("a." * 4000, "a" * 8000, "." * 8000, "%" * 8000, "1." * 4000, "a," * 4000):
        assert host_problem(host)
