"""Retry rules: how long to wait after a number of failed attempts, or that no attempt is left.

Here are the four kinds of rule in the spelling of the protocol and the configuration, the built-in rules,
and the arithmetic. Not here: which attempts count as failed, and the source of random numbers (``chance`` is
an argument).

``attempts`` counts attempts, not retries: after the last one there is no delay, so a rule of 16 attempts
has 15 delays, and a list of 9 delays makes 10 attempts.

**Jitter** of 0.2 spreads a delay evenly over 80 % to 120 % of its nominal length, on both sides, so that
tasks that failed together are not retried together, and the mean delay is the rule's. Jitter is applied after
the cap: with a cap of 1h and jitter 0.2 a wait is at most 72 minutes. All arithmetic is in integers
(permille), and each result is rounded up to a whole millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from wheeltimer.errors import BadValue
from wheeltimer.protocol.units import DURATION_MS_MAX, parse_duration_ms

ATTEMPTS_MAX: Final = 1000
"""Most attempts of one rule: at the built-in cap of an hour, six weeks."""

DELAYS_MAX: Final = 100
"""Most entries of a list rule; a rule is kept with every task that gives it inline."""

FACTOR_MAX: Final = 10
"""Largest factor of an exponential rule: from 1 ms it passes ten years in a dozen steps."""

CHANCE_MAX: Final = 2**32 - 1
"""Largest ``chance``: 0 is the shortest delay, this the longest."""

_PERMILLE: Final = 1000
_PLANS_MAX: Final = 1024  # rules kept in their compiled form; to compile another one takes a few us


class ExponentialRule(
    msgspec.Struct, tag_field="kind", tag="exponential", forbid_unknown_fields=True, frozen=True, gc=False
):
    """``base``, then each delay ``factor`` (1 to 10) times the one before, at most ``cap``."""

    base: int | str
    attempts: int
    factor: int | float = 2
    cap: int | str = DURATION_MS_MAX
    jitter: int | float = 0.2


class FixedRule(
    msgspec.Struct, tag_field="kind", tag="fixed", forbid_unknown_fields=True, frozen=True, gc=False
):
    """The same delay each time."""

    every: int | str
    attempts: int
    jitter: int | float = 0.2


class LinearRule(
    msgspec.Struct, tag_field="kind", tag="linear", forbid_unknown_fields=True, frozen=True, gc=False
):
    """``step``, twice ``step``, three times ``step``; no delay is longer than ten years."""

    step: int | str
    attempts: int
    jitter: int | float = 0.2


class ListRule(
    msgspec.Struct, tag_field="kind", tag="list", forbid_unknown_fields=True, frozen=True, gc=False
):
    """These delays one after the other, so one attempt more than there are delays."""

    delays: tuple[int | str, ...]
    jitter: int | float = 0.2


Rule = ExponentialRule | FixedRule | LinearRule | ListRule
"""A rule as it was given (text and fractions included), as a task keeps it and ``get`` shows it. A rule from
`resolve` or `parse_rule` is within all bounds."""

DEFAULT_RULE: Final = ExponentialRule(base="1s", factor=2, cap="1h", attempts=16)

BUILT_IN: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "default": DEFAULT_RULE,
        "none": FixedRule(every="1s", attempts=1),
        "standard": ListRule(("5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h")),
        "alipay": ListRule(("4m", "10m", "10m", "1h", "2h", "6h", "15h")),
        "wechat": ListRule(("15s", "15s", "30s", "3m", "30m", "30m", "30m", "30m", "1h")),
    }
)
"""The rules that need no configuration."""


def resolve(rule: str | Rule, named: Mapping[str, Rule], field: str = "retry") -> Rule:
    """The rule of a name (built in, else in ``named``), or the inline rule itself, checked.

    `BadValue` names ``field`` for an unknown name, and the member below it (``retry.base``) for a rule
    that is out of bounds.
    """
    if not isinstance(rule, str):
        try:
            _plan(rule)
        except BadValue as error:
            raise BadValue(f"{field}.{error}".lstrip("."), f"{field}.{error.field}".lstrip(".")) from error
        return rule
    found = BUILT_IN.get(rule) or named.get(rule)
    if found is None:
        names = ", ".join(sorted({*BUILT_IN, *named}))
        raise BadValue(f"{field}: no retry rule is called {rule[:128]!a}; there are {names}", field)
    return found


def parse_rule(value: object, field: str = "retry") -> Rule:
    """A rule from decoded TOML or JSON; `BadValue` like that of `resolve`."""
    try:
        rule = msgspec.convert(value, Rule)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `$")
        where = (field + path.removesuffix("`")).lstrip(".")
        raise BadValue(f"{where}: {sentence}".removeprefix(": "), where) from error
    return resolve(rule, {}, field)


def next_delay_ms(rule: Rule, failed: int, chance: int) -> int | None:
    """How long to wait after ``failed`` (from 1) attempts have failed; None: no attempt is left.

    ``chance`` is a random integer, 0 to `CHANCE_MAX`. At least 1 ms, at most twice ten years. About
    1 us; an exponential rule with an odd factor near its thousandth attempt, 0.1 ms.
    """
    assert failed >= 1, "a delay comes after a failed attempt"
    assert 0 <= chance <= CHANCE_MAX
    plan = _plan(rule)
    if failed >= plan.attempts:
        return None
    # nominal * (1 - jitter + 2 * jitter * chance / CHANCE_MAX), as one fraction, rounded up
    parts = (_PERMILLE - plan.jitter_permille) * CHANCE_MAX + 2 * plan.jitter_permille * chance
    return max(1, _ceil_div(plan.nominal_ms(failed) * parts, _PERMILLE * CHANCE_MAX))


def budget_ms(rule: Rule, *, latest: bool = False) -> int:
    """The time from the first attempt to the last if each fails at once: the sum of all delays.

    Nominal, or with ``latest`` the longest that jitter allows. O(attempts), at most 5 ms; cached.
    """
    return _budgets_ms(rule)[latest]


def check_poll(every: int | str, factor: int | float, cap: int | str) -> None:
    """`BadValue` names the member that is out of bounds, as ``poll.factor``."""
    try:
        _poll_plan(every, factor, cap)
    except BadValue as error:
        raise BadValue(f"poll.{error}", f"poll.{error.field}") from error


def poll_delay_ms(every: int | str, factor: int | float, cap: int | str, polls: int) -> int:
    """How long to wait after ``polls`` (from 1) not-yet replies; the others as `check_poll` takes them.

    ``every``, each time ``factor`` (1 to `FACTOR_MAX`) as long, at most ``cap``, which has no effect with a
    factor of 1. From the `ATTEMPTS_MAX`-th reply on the wait is constant, to bound the integers.
    """
    return _poll_plan(every, factor, cap).nominal_ms(min(polls, ATTEMPTS_MAX))


@lru_cache(maxsize=_PLANS_MAX)
def _poll_plan(every: int | str, factor: int | float, cap: int | str) -> _Plan:
    every_ms = _delay_ms(every, "every")
    factor_permille = _permille(factor, "factor", 1, FACTOR_MAX)
    if factor_permille == _PERMILLE:
        parse_duration_ms(cap, "cap")
        return _Plan(0, 0, base_ms=every_ms)
    cap_ms = parse_duration_ms(cap, "cap", min_ms=every_ms)
    return _Plan(0, 0, base_ms=every_ms, factor_permille=factor_permille, cap_ms=cap_ms)


class _Plan(NamedTuple):
    """A rule in integers. Delays are ``delays_ms`` if there are any, else ``base_ms`` grows by
    ``factor_permille`` for each delay (exponential, fixed) and by ``step_ms`` (linear), up to ``cap_ms``."""

    attempts: int
    jitter_permille: int
    delays_ms: tuple[int, ...] = ()
    base_ms: int = 0
    factor_permille: int = _PERMILLE
    step_ms: int = 0
    cap_ms: int = DURATION_MS_MAX

    def nominal_ms(self, n: int) -> int:
        """Delay number ``n`` (from 1) without jitter."""
        if self.delays_ms:
            return self.delays_ms[n - 1]
        delay_ms = self.base_ms + self.step_ms * (n - 1)
        if self.factor_permille > _PERMILLE:
            # Exact: with at most ATTEMPTS_MAX factors these integers stay below 14,000 bits.
            delay_ms = _ceil_div(delay_ms * self.factor_permille ** (n - 1), _PERMILLE ** (n - 1))
        return min(delay_ms, self.cap_ms)

    def all_nominal_ms(self) -> Iterator[int]:
        """The same for every ``n``, in one pass."""
        delay_ms, factors, permilles = 0, 1, 1
        for n in range(1, self.attempts):
            if self.factor_permille == _PERMILLE:
                delay_ms = self.nominal_ms(n)
            elif delay_ms < self.cap_ms:
                delay_ms = min(_ceil_div(self.base_ms * factors, permilles), self.cap_ms)
                factors *= self.factor_permille
                permilles *= _PERMILLE
            yield delay_ms


@lru_cache(maxsize=_PLANS_MAX)
def _plan(rule: Rule) -> _Plan:
    """The rule in integers; BadValue names the member that is out of bounds."""
    jitter_permille = _permille(rule.jitter, "jitter", 0, 1)
    if isinstance(rule, ListRule):
        if not 1 <= len(rule.delays) <= DELAYS_MAX:
            raise BadValue(f'delays: 1 to {DELAYS_MAX} durations, like ["4m", "10m"]', "delays")
        delays_ms = tuple(_delay_ms(delay, f"delays[{at}]") for at, delay in enumerate(rule.delays))
        return _Plan(len(delays_ms) + 1, jitter_permille, delays_ms)
    if not 1 <= rule.attempts <= ATTEMPTS_MAX:
        raise BadValue(f"attempts: from 1 to {ATTEMPTS_MAX}, the first attempt counted", "attempts")
    if isinstance(rule, FixedRule):
        return _Plan(rule.attempts, jitter_permille, base_ms=_delay_ms(rule.every, "every"))
    if isinstance(rule, LinearRule):
        step_ms = _delay_ms(rule.step, "step")
        return _Plan(rule.attempts, jitter_permille, base_ms=step_ms, step_ms=step_ms)
    base_ms = _delay_ms(rule.base, "base")
    return _Plan(
        rule.attempts,
        jitter_permille,
        base_ms=base_ms,
        factor_permille=_permille(rule.factor, "factor", 1, FACTOR_MAX),
        cap_ms=parse_duration_ms(rule.cap, "cap", min_ms=base_ms),
    )


@lru_cache(maxsize=_PLANS_MAX)
def _budgets_ms(rule: Rule) -> tuple[int, int]:
    """(nominal, latest) sum of all delays."""
    plan = _plan(rule)
    nominal_ms = latest_ms = 0
    for delay_ms in plan.all_nominal_ms():
        nominal_ms += delay_ms
        latest_ms += _ceil_div(delay_ms * (_PERMILLE + plan.jitter_permille), _PERMILLE)
    return nominal_ms, latest_ms


def _ceil_div(value: int, by: int) -> int:
    return -(-value // by)


def _delay_ms(value: int | str, field: str) -> int:
    return parse_duration_ms(value, field, min_ms=1)


def _permille(value: int | float, field: str, low: int, high: int) -> int:
    """A number like 1.5 as 1500; the only place that computes with a rule's float."""
    if low <= value <= high:  # false for NaN
        permille = round(value * _PERMILLE)
        if abs(value * _PERMILLE - permille) < 1e-6:
            return permille
    raise BadValue(f"{field}: a number from {low} to {high} with at most three decimals", field)
