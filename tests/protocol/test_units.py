"""Durations and instants: tables of what is meant, what is refused, and round trips."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wheeltimer.errors import BadValue
from wheeltimer.protocol.units import (
    DAY_MS,
    DURATION_MS_MAX,
    HOUR_MS,
    INSTANT_MS_MAX,
    MINUTE_MS,
    format_duration,
    format_instant,
    parse_duration_ms,
    parse_instant_ms,
)

pytestmark = pytest.mark.quick

STEADY = settings(deadline=None, derandomize=True, database=None)
NEW_YEAR_2017_MS = 1_483_228_800_000


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (0, 0),
        (250, 250),
        (DURATION_MS_MAX, DURATION_MS_MAX),
        ("250ms", 250),
        ("0s", 0),
        ("90s", 90_000),
        ("5m", 5 * MINUTE_MS),
        ("5ms", 5),
        ("1h30m", HOUR_MS + 30 * MINUTE_MS),
        ("7d", 7 * DAY_MS),
        ("1d2h3m4s5ms", DAY_MS + 2 * HOUR_MS + 3 * MINUTE_MS + 4005),
        ("1m5ms", MINUTE_MS + 5),
        ("0001h", HOUR_MS),
        ("100h", 100 * HOUR_MS),
        ("3653d", DURATION_MS_MAX),
    ],
)
def test_duration(value: int | str, expected_ms: int) -> None:
    assert parse_duration_ms(value, "delay") == expected_ms


@pytest.mark.parametrize(
    "value",
    ["", " ", "1", "1500", "s", "ms", "1 s", " 1s", "1s ", "1s\n", "-1s", "+1s", "1.5h", "1,5h", "1e3s",
     "1h30", "30m1h", "1s1s", "1h1h", "1ms1s", "1S", "1H", "1w", "1y", "1us", "1ns", "PT1H", "1h 30m",
     "0x10s", "\uff11s", "\u0661s", "1\u0455", "1_000s", "9" * 16 + "ms", "1s" * 40, "9" * 100_000,
     "one hour", "null"],
)  # fmt: skip
def test_a_text_that_is_no_duration_is_refused_with_an_example(value: str) -> None:
    with pytest.raises(BadValue, match="1h30m") as caught:
        parse_duration_ms(value, "delay")
    assert caught.value.field == "delay"
    assert str(caught.value).startswith("delay: ")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isascii()


@pytest.mark.parametrize("value", [True, False, None, 1.0, 0.5, float("nan"), [], {}, b"1s"])
def test_another_type_is_no_duration_and_no_instant(value: object) -> None:
    with pytest.raises(BadValue, match="1h30m"):
        parse_duration_ms(value, "delay")
    with pytest.raises(BadValue, match="RFC 3339"):
        parse_instant_ms(value, "at")


@pytest.mark.parametrize(
    "value", [-1, -(10**30), DURATION_MS_MAX + 1, 10**30, "3653d1ms", "999999999999999d"]
)
def test_a_duration_out_of_bounds_is_refused(value: int | str) -> None:
    with pytest.raises(BadValue, match="negative" if str(value).startswith("-") else "at most 3653d"):
        parse_duration_ms(value, "delay")


def test_the_bounds_of_a_duration_are_the_callers() -> None:
    assert parse_duration_ms("1s", "timeout", 1000, min_ms=1000) == 1000
    with pytest.raises(BadValue, match="at most 1s"):
        parse_duration_ms(1001, "timeout", 1000)
    with pytest.raises(BadValue, match="at least 1s"):
        parse_duration_ms("999ms", "timeout", min_ms=1000)
    with pytest.raises(BadValue) as caught:
        parse_duration_ms("x", "")
    assert not str(caught.value).startswith(":")


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (0, 0),
        (INSTANT_MS_MAX, INSTANT_MS_MAX),
        ("1970-01-01T00:00:00Z", 0),
        ("2017-01-01T00:00:00Z", NEW_YEAR_2017_MS),
        ("2017-01-01t00:00:00z", NEW_YEAR_2017_MS),
        ("2017-01-01 00:00:00Z", NEW_YEAR_2017_MS),
        ("2017-01-01T08:00:00+08:00", NEW_YEAR_2017_MS),
        ("2016-12-31T19:30:00-04:30", NEW_YEAR_2017_MS),
        ("2017-01-01T00:00:00+00:00", NEW_YEAR_2017_MS),
        ("2017-01-01T00:00:00-00:00", NEW_YEAR_2017_MS),
        ("2017-01-01T23:59:00+23:59", NEW_YEAR_2017_MS),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2016-02-29T00:00:00Z", 1_456_704_000_000),
        ("2199-12-31T23:59:59.999Z", INSTANT_MS_MAX),
        # fractions: always late
        ("2017-01-01T00:00:00.5Z", NEW_YEAR_2017_MS + 500),
        ("2017-01-01T00:00:00.001Z", NEW_YEAR_2017_MS + 1),
        ("2017-01-01T00:00:00.0001Z", NEW_YEAR_2017_MS + 1),
        ("2017-01-01T00:00:00.0010Z", NEW_YEAR_2017_MS + 1),
        ("2017-01-01T00:00:00.00100000001Z", NEW_YEAR_2017_MS + 2),
        ("2017-01-01T00:00:00.000000000Z", NEW_YEAR_2017_MS),
        ("2016-12-31T23:59:59.9999+00:00", NEW_YEAR_2017_MS),
        # leap seconds: the instant after
        ("2016-12-31T23:59:60Z", NEW_YEAR_2017_MS),
        ("2016-12-31T23:59:60.999Z", NEW_YEAR_2017_MS),
        ("2017-01-01T08:59:60+09:00", NEW_YEAR_2017_MS),
        ("2015-06-30T16:59:60-07:00", 1_435_708_800_000),
    ],
)
def test_instant(value: int | str, expected_ms: int) -> None:
    assert parse_instant_ms(value, "at") == expected_ms


@pytest.mark.parametrize("value", ["2017-01-01T00:00:00", "2017-01-01T00:00:00.123", "2017-01-01 00:00:00"])
def test_an_instant_without_an_offset_is_refused_by_name(value: str) -> None:
    with pytest.raises(BadValue, match=r"at: .* has no offset") as caught:
        parse_instant_ms(value, "at")
    assert caught.value.field == "at"


@pytest.mark.parametrize(
    "value",
    ["", "now", "2017", "2017-01-01", "20170101T000000Z", "2017-1-1T0:0:0Z", "2017-01-01T00:00Z",
     "2017-01-01T00:00:00.Z", "2017-01-01T00:00:00,5Z", "2017-01-01T00:00:00 Z", " 2017-01-01T00:00:00Z",
     "2017-01-01T00:00:00Z\n", "2017-01-01T00:00:00+0800", "2017-01-01T00:00:00+08",
     "2017-01-01T00:00:00+24:00", "2017-01-01T00:00:00+08:60", "2017-01-01T24:00:00Z",
     "2017-01-01T00:60:00Z", "2017-01-01T00:00:61Z", "2017-02-29T00:00:00Z", "2017-04-31T00:00:00Z",
     "2017-13-01T00:00:00Z", "2017-00-01T00:00:00Z", "0000-01-01T00:00:00Z", "+2017-01-01T00:00:00Z",
     "2017-W01-1T00:00:00Z", "\uff12017-01-01T00:00:00Z", "201\u0667-01-01T00:00:00Z",
     "2017-01-01T00:00:60Z", "2016-12-31T23:58:60Z", "2016-12-30T23:59:60Z", "2016-12-31T23:59:60+01:00",
     "1483228800000", "2017-01-01T00:00:00." + "0" * 60 + "Z"],
)  # fmt: skip
def test_a_text_that_is_no_instant_is_refused(value: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_instant_ms(value, "at")
    assert caught.value.field == "at"
    assert str(caught.value).startswith("at: ")
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "value",
    [-1, INSTANT_MS_MAX + 1, 10 ** 40, "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+00:01",
     "2200-01-01T00:00:00Z", "2199-12-31T23:59:59.9991Z", "2199-12-31T23:59:59-00:01",
     "2199-12-31T23:59:60Z", "9999-12-31T23:59:60Z", "9999-12-31T23:59:59-23:59",
     "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:60+23:59"],
)  # fmt: skip
def test_an_instant_outside_the_years_is_refused(value: int | str) -> None:
    with pytest.raises(BadValue, match="1970 to 2199"):
        parse_instant_ms(value, "at")


def test_any_instant_with_any_duration_fits_64_bits_in_nanoseconds() -> None:
    assert (INSTANT_MS_MAX + 2 * DURATION_MS_MAX) * 1_000_000 < 2**63


@STEADY
@given(st.integers(0, DURATION_MS_MAX))
def test_a_formatted_duration_reads_back_as_the_same(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration(duration_ms), "x") == duration_ms
    assert format_duration(-duration_ms) == ("-" if duration_ms else "") + format_duration(duration_ms)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (1, "1ms"), (1000, "1s"), (5_400_000, "1h30m"), (86_400_000, "1d"), (-5_250, "-5s250ms")],
)
def test_format_duration(duration_ms: int, text: str) -> None:
    assert format_duration(duration_ms) == text


@STEADY
@given(st.integers(0, INSTANT_MS_MAX), st.integers(-1439, 1439))
def test_instants_agree_with_datetime_and_read_back(instant_ms: int, offset_minutes: int) -> None:
    text = format_instant(instant_ms)
    assert parse_instant_ms(text, "x") == instant_ms
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant_ms)
    assert text == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    sign, (hours, minutes) = "+-"[offset_minutes < 0], divmod(abs(offset_minutes), 60)
    local = (moment + timedelta(minutes=offset_minutes)).replace(tzinfo=None)
    shifted = f"{local.isoformat(timespec='microseconds')}{sign}{hours:02}:{minutes:02}"
    assert parse_instant_ms(shifted, "x") == instant_ms


@STEADY
@given(st.text(max_size=70))
def test_no_text_crashes_the_readers(text: str) -> None:
    for parse in (parse_duration_ms, parse_instant_ms):
        with suppress(BadValue):
            assert parse(text, "x") >= 0
