"""The window of a destination, its token bucket, and when it is held; time is a number here."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from tests.delivery.fakes import answer, no_answer
from wheeltimer.core.outcome import Answer
from wheeltimer.delivery.window import (
    HOLD_NS,
    NS_PER_S,
    SHORT_MAX_NS,
    WINDOW_FIRST,
    WINDOW_MAX,
    TokenBucket,
    Window,
)

MS = 1_000_000
DOWN = {f"status_{status}": answer(status) for status in (502, 503, 504)} | {
    kind: no_answer(kind) for kind in ("dns", "connect", "tls", "timeout")
}
CROWDED = {"status_429": answer(429), "reset": no_answer("reset")}  # too much, but there
FINE = {f"status_{status}": answer(status) for status in (204, 301, 404, 410, 500, 501, 505)} | {
    kind: no_answer(kind) for kind in ("protocol", "blocked", "internal")
}


def attempt(window: Window, told: Answer, started_ns: int, ended_ns: int | None = None) -> None:
    window.start(started_ns)
    window.end(told, started_ns, started_ns if ended_ns is None else ended_ns)


def down(window: Window, count: int, at_ns: int = 0) -> int:
    """So many failures, 1 ms apart; when the last one ended."""
    for _ in range(count):
        at_ns += MS
        attempt(window, no_answer(), at_ns)
    return at_ns


def is_open(window: Window, now_ns: int) -> bool:
    return window.held_ns is None and window.wait_ns(now_ns) == 0


# --- the window ------------------------------------------------------------------------------------------


def test_window_grows_by_one_for_each_success_up_to_its_maximum() -> None:
    window = Window()
    for number in range(2 * WINDOW_MAX):
        assert window.size == min(WINDOW_FIRST + number, WINDOW_MAX)
        attempt(window, answer(), number)
    assert Window(3).size == 3


@pytest.mark.parametrize("name", sorted(DOWN | CROWDED))
def test_window_is_halved_by_what_asks_for_less(name: str) -> None:
    window = Window()
    sizes = []
    for at_ns in range(1, 6):
        attempt(window, (DOWN | CROWDED)[name], at_ns)
        sizes.append(window.size)
    assert sizes == [4, 2, 1, 1, 1]


@pytest.mark.parametrize("name", sorted(FINE.keys() - {"status_204"}))
def test_window_is_left_alone_by_other_failures(name: str) -> None:
    window = Window()
    attempt(window, FINE[name], 1)
    assert window.size == WINDOW_FIRST


def test_a_whole_window_refused_at_once_halves_it_once() -> None:
    """What was in flight at the halving says nothing new; what started after it does."""
    window = Window()
    for number in range(8):
        window.start(number)
    for number in range(8):
        window.end(answer(429), number, 100 + number)
    assert window.size == 4
    attempt(window, answer(429), 100)  # as it was halved at 100: not after it
    assert window.size == 4
    attempt(window, answer(429), 101, 200)
    assert window.size == 2
    attempt(window, answer(429), 150, 300)
    assert window.size == 2
    attempt(window, answer(429), 201, 400)
    assert window.size == 1


def test_window_is_full_until_an_attempt_ends() -> None:
    window = Window(2)
    for _ in range(2):
        assert window.wait_ns(0) == 0
        window.start(0)
    assert window.wait_ns(1 << 60) is None
    window.cut()
    assert (window.wait_ns(0), window.size) == (0, 2)


# --- held ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DOWN))
def test_held_after_ten_in_a_row(name: str) -> None:
    window = Window()
    for number in range(10):
        assert window.held_ns is None
        attempt(window, DOWN[name], number + 1)
    assert window.held_ns == 10


@pytest.mark.parametrize("name", sorted(CROWDED | FINE))
def test_never_held_by_what_was_answered(name: str) -> None:
    window = Window()
    for number in range(100):
        attempt(window, (CROWDED | FINE)[name], number + 1)
    assert window.held_ns is None


@pytest.mark.parametrize(
    ("outcomes", "held"),
    [("..xx.xxxxx", True), ("...xx.xxxxx", False), ("....xxxxxxxxx", False), ("...xxxx.xxxxxx", True),
     ("xxxxxxxxx", False), (".xxxxxxxx", False), (".xxxxxxxxx", True)],
)  # fmt: skip
def test_held_at_seven_of_ten(outcomes: str, held: bool) -> None:
    """70 % of at least 10, without ten in a row; not before the last one."""
    window = Window()
    for number, outcome in enumerate(outcomes):
        assert window.held_ns is None
        attempt(window, no_answer() if outcome == "x" else answer(), (number + 1) * MS)
    assert (window.held_ns is not None) == held


def test_outcomes_of_five_minutes_ago_no_longer_count() -> None:
    window = Window()
    down(window, 6)
    attempt(window, answer(), NS_PER_S)
    down(window, 5, 311 * NS_PER_S)  # with the old ones 11 of 12
    assert window.held_ns is None
    down(window, 5, 312 * NS_PER_S)  # ten in a row
    assert window.held_ns is not None


def test_memory_of_outcomes_is_bounded() -> None:
    window = Window()
    for second in range(0, 100_000, 3):
        attempt(window, answer(), second * NS_PER_S)
    assert len(window._slots) <= 31


def test_held_thirty_seconds_then_one_probe_at_a_time() -> None:
    window = Window()
    held_ns = down(window, 10)
    assert window.held_ns == held_ns
    assert window.wait_ns(held_ns) == HOLD_NS == 30 * NS_PER_S
    assert window.wait_ns(held_ns + HOLD_NS - 1) == 1
    probe_ns = held_ns + HOLD_NS
    for number in range(1, 4):
        assert window.wait_ns(probe_ns) == 0
        window.start(probe_ns)
        assert window.wait_ns(probe_ns + NS_PER_S) is None, "a second one beside the probe"
        window.end(no_answer("timeout"), probe_ns, probe_ns + 15 * NS_PER_S)
        assert window.probes == number
        assert window.held_ns == held_ns
        probe_ns += 15 * NS_PER_S
        assert window.wait_ns(probe_ns) == HOLD_NS
        probe_ns += HOLD_NS
    attempt(window, answer(), probe_ns)
    assert is_open(window, probe_ns)
    assert window.probes == 0


def test_success_of_an_attempt_that_began_before_opens() -> None:
    window = Window()
    window.start(0)
    at_ns = down(window, 10)
    assert window.held_ns is not None
    assert window.wait_ns(at_ns + HOLD_NS) is None
    window.end(answer(), 0, at_ns + 1)
    assert is_open(window, at_ns + 1)


def test_failure_of_an_attempt_that_began_before_is_no_probe() -> None:
    window = Window()
    window.start(0)
    held_ns = down(window, 10)
    window.end(no_answer(), 0, held_ns + 29 * NS_PER_S)
    assert window.probes == 0
    assert window.wait_ns(held_ns + 29 * NS_PER_S) == NS_PER_S


def test_opened_it_begins_to_count_anew() -> None:
    window = Window()
    held_ns = down(window, 10)
    attempt(window, answer(), held_ns + HOLD_NS)
    at_ns = down(window, 8, held_ns + HOLD_NS)
    assert window.held_ns is None
    down(window, 1, at_ns)  # 9 of 10, the success that opened it counted
    assert window.held_ns is not None


# --- the bucket ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "period_ms", "burst"),
    [(100, 1000, 100), (1, 1000, 1), (7, 1000, 7), (90, 60_000, 1), (600, 60_000, 10), (1, 3_600_000, 1),
     (999_999_937, 1000, 999_999_937), (10_007, 3_600_000, 2)],
)  # fmt: skip
def test_burst_is_one_second(count: int, period_ms: int, burst: int) -> None:
    bucket = TokenBucket(count, period_ms)
    taken, most = 0, min(burst, 500)
    while bucket.wait_ns(10**18) == 0 and taken < 600:
        bucket.take(10**18)
        taken += 1
    assert taken == most if burst <= 500 else taken == 600


@pytest.mark.parametrize(
    ("count", "period_ms"), [(3, 1000), (7, 1000), (997, 1000), (7, 60_000), (11, 3_600_000), (400, 60_000)]
)
def test_rate_is_exact_over_a_long_time(count: int, period_ms: int) -> None:
    """Always taken as soon as there is one: after n tokens exactly n/rate have passed, rounded late.

    Rounding adds up only where no burst makes up for it, 1 ns each time.
    """
    bucket, now_ns = TokenBucket(count, period_ms), 5
    burst = max(1, count * 1000 // period_ms)
    for _ in range(burst):
        assert bucket.wait_ns(now_ns) == 0
        bucket.take(now_ns)
    burst_ns = max(Fraction(NS_PER_S), Fraction(period_ms * MS, count))
    for number in range(1, 2000):
        wait_ns = bucket.wait_ns(now_ns)
        now_ns += wait_ns
        assert bucket.wait_ns(now_ns) == 0
        due_ns = 5 + Fraction((number + burst) * period_ms * MS, count) - burst_ns
        assert due_ns <= now_ns < due_ns + (1 if burst > 1 else 1 + number)
        bucket.take(now_ns)


def test_no_span_has_more_than_burst_and_rate() -> None:
    seed = 20_240_811
    chance = random.Random(seed)
    for _ in range(12):
        count, period_ms = chance.randint(1, 50), chance.choice((1000, 60_000))
        bucket, now_ns, taken = TokenBucket(count, period_ms), 0, list[int]()
        for _ in range(200):
            now_ns += chance.choice((0, 0, 1, MS, NS_PER_S // 7, 3 * NS_PER_S))
            if bucket.wait_ns(now_ns) == 0:
                bucket.take(now_ns)
                taken.append(now_ns)
        burst = max(Fraction(1), Fraction(count * 1000, period_ms))
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                most = burst + Fraction((taken[last] - taken[first]) * count, period_ms * MS)
                assert last - first + 1 <= most, f"seed {seed}, rate {count} in {period_ms} ms"


def test_reload_with_the_same_rate_gives_no_second_burst() -> None:
    window = Window(8, TokenBucket(1, 1000))
    window.start(0)
    window.limit(Window(4, TokenBucket(1, 1000)))
    assert (window.size_max, window.size, window.wait_ns(0)) == (4, 4, NS_PER_S)
    window.limit(Window(4, TokenBucket(2, 1000)))
    assert window.wait_ns(0) == 0


def test_a_new_shortage_of_ports_does_not_count_from_an_old_one() -> None:
    """The first one's task was cancelled, so that no end of an attempt told that it was over."""
    window, now_ns = Window(), 0
    assert window.short(now_ns)
    now_ns += SHORT_MAX_NS + 2 * NS_PER_S
    assert window.short(now_ns), "its first lapse"
    until_ns = now_ns + SHORT_MAX_NS
    while now_ns < until_ns:
        assert window.short(now_ns)
        now_ns = window.short_until_ns
    assert not window.short(now_ns), "lapse after lapse for two minutes"
