"""Which URLs pass unread as their origin was checked before; what a check says: ``test_addresses.py``."""

from __future__ import annotations

import pytest

from wheeltimer.core.policy import Policy
from wheeltimer.errors import TargetBlocked
from wheeltimer.protocol.requests import URL_BYTES_MAX

SEEN = "http://10.0.0.1:80"


@pytest.fixture
def policy() -> Policy:
    """One that refuses every host but one, whose URLs have been seen."""
    policy = Policy(check_host=lambda host: None if host == "10.0.0.1" else "not that one")
    policy.check_target(f"{SEEN}/hook")
    return policy


@pytest.mark.parametrize(
    "other",
    [
        f"{SEEN}80/hook",
        "http://10.0.0.11/hook",
        "https://10.0.0.1:80/hook",
        f"{SEEN}@evil/hook",
        "http://x/y",
    ],
)
def test_an_origin_that_only_begins_like_one_that_passed_does_not_pass(policy: Policy, other: str) -> None:
    assert policy.all_pass([f"{SEEN}/a", f"{SEEN}/b"])
    assert not policy.all_pass([other])
    assert not policy.all_pass([f"{SEEN}/a", other, f"{SEEN}/b"])
    with pytest.raises(TargetBlocked, match="not that one"):
        policy.check_target("http://10.0.0.11/hook")


def test_several_origins_that_passed_pass_together(policy: Policy) -> None:
    policy.check_target("http://10.0.0.1:81?query")
    assert policy.all_pass([f"{SEEN}/a", "http://10.0.0.1:81?other", f"{SEEN}?x=/", SEEN])


@pytest.mark.parametrize("bad", ["/a b", "/a#b", "/\x7f", "/ü", "/" + "x" * URL_BYTES_MAX])
def test_a_malformed_rest_does_not_pass(policy: Policy, bad: str) -> None:
    assert not policy.all_pass([f"{SEEN}/a", SEEN + bad])


@pytest.mark.parametrize("code", [*range(300), 0x2028, 0xD800, 0x1F600], ids=hex)
def test_one_url_passes_without_a_second_look_if_it_would_pass_in_a_batch(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Both have the characters of a URL, each in the way that is fast for it."""
    looked = list[str]()
    monkeypatch.setattr("wheeltimer.core.policy.split_url", lambda url, field: looked.append(url) or 1 / 0)
    url = f"{SEEN}/a{chr(code)}b"
    passes = policy.all_pass((url,))
    if passes:
        policy.check_target(url)
    else:
        with pytest.raises(ZeroDivisionError):
            policy.check_target(url)
    assert bool(looked) != passes
