"""An instant in Unix seconds where milliseconds are expected: called at once, or dropped."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.core.task import NS_PER_MS, Now
from wheeltimer.errors import BadValue
from wheeltimer.protocol.units import INSTANT_MS_MAX, SECONDS_BELOW, check_instant, format_instant

pytestmark = pytest.mark.quick

FIELDS = ("at", "expires_at")
NOW_MS = 1_800_000_000_000


def ask_all(driver: Driver, field: str, value: object) -> list[dict[str, Any]]:
    """The replies of every request that can bring this field."""
    driver.ask("schedule", id="t", url="http://r/", delay="1h")
    return [
        driver.ask("schedule", url="http://r/", **{field: value}),
        driver.ask("schedule", id="t", url="http://r/", on_conflict="replace", **{field: value}),
        driver.ask("reschedule", id="t", **{field: value}),
    ]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [1_796_002_145, "1796002145", "1796002145.25", 100_000_000, 7_258_118_399])
def test_seconds_are_refused_and_the_milliseconds_are_shown(field: str, value: int | str) -> None:
    ms = int(float(value)) * 1000
    for reply in ask_all(Driver(), field, value):
        assert (reply["error"], reply["field"]) == ("bad_request", field)
        assert reply["message"].startswith(f"{field}: {value!a} is no time in Unix milliseconds")
        assert "seconds were probably meant" in reply["message"]
        assert f'give {ms}, or "{format_instant(ms)}"' in reply["message"]


@pytest.mark.parametrize(
    ("field", "instead"), [("at", "goes into delay"), ("expires_at", "goes into expires_in")]
)
@pytest.mark.parametrize(
    "value", [0, 1, 60, 3600, 20_301_231, 99_999_999, 7_258_118_400, 10**11 - 1, "0", "86400"]
)
def test_other_small_numbers_are_refused_with_the_ways_to_write_it(
    field: str, instead: str, value: int | str
) -> None:
    for reply in ask_all(Driver(), field, value):
        assert (reply["error"], reply["field"]) == ("bad_request", field)
        for part in ("seconds or a duration were probably meant", "RFC 3339", instead):
            assert part in reply["message"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1_796_002_145.5, 'seconds were probably meant; give 1796002145500, or "2026-11-30T'),
        (1_796_002_145.0, "seconds were probably meant; give 1796002145000, or"),
        (1.5, "seconds or a duration were probably meant; give Unix milliseconds as an integer"),
        (1_796_002_145_000.5, "give Unix milliseconds as an integer, or RFC 3339"),
        (-1.5, "give Unix milliseconds as an integer, or RFC 3339"),
        (1e300, "give Unix milliseconds as an integer, or RFC 3339"),
    ],
)
def test_a_fraction_for_an_instant_says_what_to_write(field: str, value: float, words: str) -> None:
    for reply in ask_all(Driver(), field, value):
        assert (reply["error"], reply["field"]) == ("bad_request", field)
        assert reply["message"].startswith(f"{field}: a fraction is no instant; {words}")


def test_a_fraction_in_a_line_that_is_cut_off_is_refused_too() -> None:
    for rest in (b"", b',"body":' + b"[" * 60_000, b',"at":"x"}'):
        reply = Driver().line(b'{"op":"schedule","url":"http://r/","at":1.5' + rest)
        assert reply["message"].startswith("at: a fraction is no instant; give Unix milliseconds"), rest[:9]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((name, {name: 0.5}) for name in ("delay", "timeout", "connect_timeout", "expires_in", "horizon")),
        ("poll.every", {"poll": {"every": 0.5}}),
        ("poll.cap", {"poll": {"every": "1s", "cap": 0.5}}),
        ("retry.every", {"retry": {"kind": "fixed", "every": 0.5, "attempts": 2}}),
        ("retry.step", {"retry": {"kind": "linear", "step": 0.5, "attempts": 2}}),
        ("retry.base", {"retry": {"kind": "exponential", "base": 0.5, "attempts": 2}}),
        ("retry.cap", {"retry": {"kind": "exponential", "base": "1s", "cap": 0.5, "attempts": 2}}),
        ("retry.delays[1]", {"retry": {"kind": "list", "delays": ["1s", 0.5]}}),
    ],
)
def test_a_fraction_for_a_duration_says_what_to_write(path: str, fields: dict[str, Any]) -> None:
    op = "forecast" if path == "horizon" else "schedule"
    reply = Driver().ask(op, **({} if path == "horizon" else {"url": "http://r/"}), **fields)
    assert (reply["error"], reply["field"]) == ("bad_request", path)
    assert reply["message"].startswith(
        f"{path}: a fraction is no duration; give milliseconds as an integer, or units like"
    )


def test_a_fraction_elsewhere_is_no_duration() -> None:
    reply = Driver().ask("schedule", url="http://r/", success={"status": [200.5]})
    assert (reply["field"], "duration" in reply["message"]) == ("success.status[0]", False)


def test_every_integer_below_the_limit_is_refused_and_none_from_there_on() -> None:
    chance = random.Random(15)
    for value in (0, SECONDS_BELOW - 1, *(chance.randrange(SECONDS_BELOW) for _ in range(500))):
        with pytest.raises(BadValue, match="seconds"):
            check_instant(value, "at", NOW_MS)
    for value in (
        SECONDS_BELOW,
        INSTANT_MS_MAX,
        *(chance.randrange(SECONDS_BELOW, INSTANT_MS_MAX) for _ in range(500)),
    ):
        check_instant(value, "at", NOW_MS)


@pytest.mark.parametrize("field", FIELDS)
def test_rfc_3339_of_any_year_is_taken(field: str) -> None:
    for value in (
        "1970-01-01T00:00:00Z", "1970-01-01T00:00:01.5Z", "1972-06-30T23:59:60Z", "1973-03-03T09:46:39Z",
        "2199-12-31T23:59:59Z",
    ):  # fmt: skip
        assert all(reply["ok"] for reply in ask_all(Driver(), field, value)), value


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, 5, 1_796_002_145, SECONDS_BELOW - 1])
def test_a_daemon_whose_own_clock_is_before_that_takes_any_integer(field: str, value: int) -> None:
    """A board without a battery for its clock counts from 1970 until the network has told it the time."""
    driver = Driver()
    driver.now = Now(driver.now.elapsed_ns, (SECONDS_BELOW - 1) * NS_PER_MS)
    replies = ask_all(driver, field, value)
    assert all(reply["ok"] for reply in replies), replies
    if field == "at":
        assert {reply["due"] for reply in replies} == {value}
    driver.now = Now(driver.now.elapsed_ns, SECONDS_BELOW * NS_PER_MS)
    assert [reply["ok"] for reply in ask_all(driver, field, value)] == [False] * 3, "when it is set, no more"


def test_durations_are_no_instants() -> None:
    for fields in ({"delay": 60}, {"delay": 0}, {"delay": 5, "expires_in": 1_796_002}, {"expires_in": 1}):
        assert Driver().ask("schedule", url="http://r/", **fields)["ok"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [-1, -1_796_002_145, INSTANT_MS_MAX + 1, 1_796_002_145_000_000])
def test_numbers_that_were_refused_before_say_what_they_said(field: str, value: int) -> None:
    for reply in ask_all(Driver(), field, value):
        assert reply["field"] == field
        assert "an instant lies in the years 1970 to 2199" in reply["message"]


@pytest.mark.parametrize("field", FIELDS)
def test_milliseconds_in_quotes_say_to_leave_them_out(field: str) -> None:
    for reply in ask_all(Driver(), field, "1796002145000"):
        assert reply["field"] == field
        assert "is text; give 1796002145000, without quotes" in reply["message"]
