"""Retry rules: tables of delays, jitter, bounds, and the sum of a rule's delays."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wheeltimer.errors import BadValue
from wheeltimer.protocol.retry import (
    ATTEMPTS_MAX,
    BUILT_IN,
    CHANCE_MAX,
    DEFAULT_RULE,
    DELAYS_MAX,
    ExponentialRule,
    FixedRule,
    LinearRule,
    ListRule,
    Rule,
    budget_ms,
    next_delay_ms,
    parse_rule,
    resolve,
)
from wheeltimer.protocol.units import DAY_MS, DURATION_MS_MAX, HOUR_MS, MINUTE_MS, SECOND_MS

pytestmark = pytest.mark.quick

LONGEST = CHANCE_MAX


def nominal(rule: Rule, count: int) -> list[int | None]:
    """The first delays of a rule without its jitter."""
    return [next_delay_ms(msgspec.structs.replace(rule, jitter=0), n, 0) for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("rule", "expected_ms"),
    [
        (ExponentialRule(base="1s", cap="10s", attempts=7), [1000, 2000, 4000, 8000, 10000, 10000, None]),
        (ExponentialRule(base=1000, factor=1.5, cap=10**6, attempts=6), [1000, 1500, 2250, 3375, 5063, None]),
        (ExponentialRule(base=1, factor=1.1, attempts=9), [1, 2, 2, 2, 2, 2, 2, 2, None]),  # late
        # as a float the last would be 1331.0000000000002, so 1332
        (ExponentialRule(base=1000, factor=1.1, attempts=5), [1000, 1100, 1210, 1331, None]),
        (ExponentialRule(base=7, factor=1, attempts=4), [7, 7, 7, None]),
        (ExponentialRule(base=7, cap=7, attempts=4), [7, 7, 7, None]),
        (ExponentialRule(base="5s", attempts=1), [None, None]),
        (FixedRule(every="30s", attempts=5), [30000, 30000, 30000, 30000, None, None]),
        (LinearRule(step="10s", attempts=4), [10000, 20000, 30000, None]),
        (LinearRule(step="3000d", attempts=4), [3000 * DAY_MS, DURATION_MS_MAX, DURATION_MS_MAX, None]),
        (ListRule(delays=("4m", 600_000)), [240_000, 600_000, None, None]),
    ],
)  # fmt: skip
def test_delays(rule: Rule, expected_ms: list[int | None]) -> None:
    assert nominal(resolve(rule, {}), len(expected_ms)) == expected_ms


@pytest.mark.parametrize(
    ("name", "attempts", "first_ms", "last_ms"),
    [
        ("default", 16, SECOND_MS, HOUR_MS),
        ("none", 1, None, None),
        ("standard", 10, 5 * SECOND_MS, 24 * HOUR_MS),
        ("alipay", 8, 4 * MINUTE_MS, 15 * HOUR_MS),
        ("wechat", 10, 15 * SECOND_MS, HOUR_MS),
    ],
)
def test_built_in_rules(name: str, attempts: int, first_ms: int | None, last_ms: int | None) -> None:
    rule = resolve(name, {})
    delays_ms = nominal(rule, attempts)
    assert delays_ms.index(None) == attempts - 1
    if attempts > 1:
        assert (delays_ms[0], delays_ms[-2]) == (first_ms, last_ms)


def test_the_default_rule_is_the_one_that_is_promised() -> None:
    assert resolve("default", {}) is DEFAULT_RULE
    delays_ms = nominal(DEFAULT_RULE, 16)
    assert delays_ms == [*(1000 * 2**n for n in range(12)), HOUR_MS, HOUR_MS, HOUR_MS, None]


def test_attempts_counts_attempts_not_retries() -> None:
    """A rule of n attempts has n - 1 delays, and is dead for good after that."""
    for attempts in (1, 2, ATTEMPTS_MAX):
        rule = FixedRule(every=1, attempts=attempts)
        delays = 0
        while next_delay_ms(rule, delays + 1, 0) is not None:
            delays += 1
        assert delays == attempts - 1
        for failed in (attempts, attempts + 1, 10**6):
            assert next_delay_ms(rule, failed, LONGEST) is None


def test_jitter_spreads_evenly_to_both_sides() -> None:
    rule = FixedRule(every="10s", attempts=2)
    assert next_delay_ms(rule, 1, 0) == 8000
    assert next_delay_ms(rule, 1, CHANCE_MAX // 4) == 9000
    assert next_delay_ms(rule, 1, CHANCE_MAX // 2) == 10000
    assert next_delay_ms(rule, 1, LONGEST) == 12000
    seed = 11
    chance = random.Random(seed)
    delays_ms = [next_delay_ms(rule, 1, chance.getrandbits(32)) or 0 for _ in range(10_000)]
    assert abs(sum(delays_ms) / len(delays_ms) - 10_000) < 50, f"seed={seed}"
    assert 8000 <= min(delays_ms) < 8020
    assert 11_980 < max(delays_ms) <= 12_000


def test_jitter_is_rounded_up_and_never_makes_no_delay_of_one() -> None:
    rule = FixedRule(every=1, attempts=2, jitter=1)
    assert next_delay_ms(rule, 1, 0) == 1  # nominally 0 to 2 ms
    assert next_delay_ms(rule, 1, 1) == 1
    assert next_delay_ms(rule, 1, CHANCE_MAX // 2 + 1) == 2  # a hair over 1
    assert next_delay_ms(FixedRule(every=3, attempts=2, jitter=0.001), 1, LONGEST) == 4
    assert next_delay_ms(FixedRule(every=3, attempts=2, jitter=0), 1, LONGEST) == 3


def test_jitter_comes_after_the_cap() -> None:
    rule = ExponentialRule(base="1h", cap="1h", attempts=5)
    assert next_delay_ms(rule, 4, LONGEST) == 72 * MINUTE_MS


def test_the_thousandth_attempt_of_the_steepest_rule_is_capped_not_an_overflow() -> None:
    rule = resolve(ExponentialRule(base=1, factor=9.999, attempts=ATTEMPTS_MAX, jitter=1), {})
    assert next_delay_ms(rule, ATTEMPTS_MAX - 1, LONGEST) == 2 * DURATION_MS_MAX
    assert next_delay_ms(rule, 10**6, LONGEST) is None


RULES = st.one_of(
    st.builds(
        ExponentialRule,
        base=st.integers(1, 10**6),
        factor=st.integers(1000, 10_000).map(lambda permille: permille / 1000),
        cap=st.integers(10**6, DURATION_MS_MAX),
        attempts=st.integers(1, 60),
        jitter=st.integers(0, 1000).map(lambda permille: permille / 1000),
    ),
    st.builds(FixedRule, every=st.integers(1, DURATION_MS_MAX), attempts=st.integers(1, 60)),
    st.builds(LinearRule, step=st.integers(1, DURATION_MS_MAX), attempts=st.integers(1, 60)),
    st.builds(ListRule, delays=st.lists(st.integers(1, DURATION_MS_MAX), min_size=1, max_size=20).map(tuple)),
)


@settings(deadline=None, derandomize=True, database=None)
@given(RULES, st.integers(0, CHANCE_MAX))
def test_the_budget_is_the_sum_of_all_delays(rule: Rule, chance: int) -> None:
    rule = resolve(rule, {})
    latest_ms = drawn_ms = nominal_ms = 0
    failed = 1
    while (delay_ms := next_delay_ms(rule, failed, LONGEST)) is not None:
        latest_ms += delay_ms
        drawn_ms += next_delay_ms(rule, failed, chance) or 0
        nominal_ms += next_delay_ms(msgspec.structs.replace(rule, jitter=0), failed, 0) or 0
        failed += 1
    assert budget_ms(rule, latest=True) == latest_ms
    assert budget_ms(rule) == nominal_ms
    assert drawn_ms <= latest_ms


def test_budgets_of_the_built_in_rules() -> None:
    assert budget_ms(BUILT_IN["none"]) == 0
    assert budget_ms(BUILT_IN["alipay"]) == (24 * 60 + 24) * MINUTE_MS
    assert budget_ms(BUILT_IN["standard"]) == 5 * SECOND_MS + 35 * MINUTE_MS + 75 * HOUR_MS
    assert budget_ms(BUILT_IN["alipay"], latest=True) == (24 * 60 + 24) * MINUTE_MS * 6 // 5


def test_a_rule_is_found_inline_by_its_own_name_and_by_a_built_in_one() -> None:
    inline = FixedRule(every="1s", attempts=2)
    partner = ListRule(delays=("4m",))
    assert resolve(inline, {}) is inline
    assert resolve("partner", {"partner": partner}) is partner
    assert resolve("default", {"default": partner}) is DEFAULT_RULE  # a task by this name never changes
    with pytest.raises(BadValue, match=r"alipay, default, none, partner, standard, wechat") as caught:
        resolve("partnr", {"partner": partner})
    assert caught.value.field == "retry"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "exponential", "base": 0, "attempts": 2}, "retry.base"),
    ({"kind": "exponential", "base": "0s", "attempts": 2}, "retry.base"),
    ({"kind": "exponential", "base": -1, "attempts": 2}, "retry.base"),
    ({"kind": "exponential", "base": "1x", "attempts": 2}, "retry.base"),
    ({"kind": "exponential", "base": "1s", "attempts": 0}, "retry.attempts"),
    ({"kind": "exponential", "base": "1s", "attempts": ATTEMPTS_MAX + 1}, "retry.attempts"),
    ({"kind": "exponential", "base": "1s", "attempts": True}, "retry.attempts"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": 0.999}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": 10.001}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": 1.0001}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": float("nan")}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": float("inf")}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": 10**400}, "retry.factor"),
    ({"kind": "exponential", "base": "1s", "attempts": 2, "factor": "2"}, "retry.factor"),
    ({"kind": "exponential", "base": "2s", "cap": "1s", "attempts": 2}, "retry.cap"),
    ({"kind": "exponential", "base": "2s", "cap": DURATION_MS_MAX + 1, "attempts": 2}, "retry.cap"),
    ({"kind": "fixed", "every": 1, "attempts": 2, "jitter": -0.1}, "retry.jitter"),
    ({"kind": "fixed", "every": 1, "attempts": 2, "jitter": 1.001}, "retry.jitter"),
    ({"kind": "fixed", "every": 1, "attempts": 2, "jitter": True}, "retry.jitter"),
    ({"kind": "fixed", "every": 0, "attempts": 2}, "retry.every"),
    ({"kind": "fixed", "every": 1.5, "attempts": 2}, "retry.every"),
    ({"kind": "linear", "step": "3654d", "attempts": 2}, "retry.step"),
    ({"kind": "list", "delays": []}, "retry.delays"),
    ({"kind": "list", "delays": [1] * (DELAYS_MAX + 1)}, "retry.delays"),
    ({"kind": "list", "delays": ["1s", "1s1s"]}, "retry.delays[1]"),
    ({"kind": "list", "delays": ["1s", None]}, "retry.delays[1]"),
    ({"kind": "list", "delays": ["1s"], "attempts": 2}, "retry"),
    ({"kind": "fixed", "attempts": 2}, "retry"),
    ({"kind": "none"}, "retry.kind"),
    ({"every": 1, "attempts": 2}, "retry"),
]


@pytest.mark.parametrize(("value", "field"), BAD)
def test_a_rule_out_of_bounds_is_refused_by_its_member(value: dict[str, Any], field: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_rule(value)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    with pytest.raises(BadValue) as caught:
        parse_rule(value, "")
    assert caught.value.field == field.removeprefix("retry").removeprefix(".")
    assert not str(caught.value).startswith((".", ":"))


def test_every_permille_is_taken_as_it_is_written() -> None:
    """1.001 * 1000 is 1000.9999999999999."""
    for permille in range(1000, 10_001):
        rule = parse_rule({"kind": "exponential", "base": 1000, "attempts": 3, "factor": permille / 1000})
        assert next_delay_ms(msgspec.structs.replace(rule, jitter=0), 2, 0) == permille


def test_something_else_than_a_table_is_refused() -> None:
    for value in (3, "default", None, []):
        with pytest.raises(BadValue):
            parse_rule(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"exponential","base":"1s","factor":2,"cap":"1h","attempts":16}',
        '{"kind":"fixed","every":"30s","attempts":5}',
        '{"kind":"linear","step":"10s","attempts":10,"jitter":0.5}',
        '{"kind":"list","delays":["4m",600000]}',
    ],
)
def test_a_rule_is_kept_as_it_was_given(text: str) -> None:
    rule = msgspec.json.decode(text, type=Rule)
    assert resolve(rule, {}) is rule
    given = msgspec.json.decode(text)
    shown = msgspec.json.decode(msgspec.json.encode(rule))
    assert shown == {"jitter": 0.2} | given
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rule), type=Rule) == rule
    assert parse_rule(given) == rule
