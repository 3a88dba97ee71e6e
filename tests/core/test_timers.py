"""What was overdue at the start and what comes due after it: neither waits for the other."""

from __future__ import annotations

import random

from wheeltimer.core.timers import OVERDUE_NS, TimerPair

START_NS = 10**15
TICK_NS = 10_000_000
LIMIT = 64


def line(deadlines_ns: dict[str, int]) -> TimerPair:
    made = TimerPair(TICK_NS, 64, deadlines_ns.__getitem__, START_NS)
    made.schedule_many(list(deadlines_ns), list(deadlines_ns.values()))
    made.check()
    return made


def handed_over(wheels: TimerPair, now_ns: int, slices: int) -> list[str]:
    keys: list[str] = []
    for _ in range(slices):
        keys += wheels.expire(now_ns, LIMIT)
    return keys


def test_what_comes_due_does_not_stand_behind_a_backlog() -> None:
    """Of a great many that are overdue a few slices have gone when the first fresh one comes due."""
    old = {
        f"old-{number:05}": START_NS - OVERDUE_NS - 1 - (10_000 - number) * 10**6 for number in range(10_000)
    }
    fresh = {f"fresh-{number}": START_NS + number * 10**6 for number in range(20)}
    wheels = line(old | fresh)
    keys = handed_over(wheels, START_NS - 1, 60)
    assert keys
    assert keys == sorted(old)[: len(keys)], "the backlog goes in due order"
    assert wheels.next_wake_ns(START_NS, 10**9) == START_NS, "there is more to do at once"
    assert wheels.expire(START_NS + 10**9, LIMIT)[:20] == list(fresh)


def test_a_backlog_goes_on_beside_a_flood_of_fresh_ones() -> None:
    old = {f"old-{number:04}": START_NS - 2 * OVERDUE_NS + number for number in range(1000)}
    fresh = {f"fresh-{number:05}": START_NS + number * 10**6 for number in range(20_000)}
    wheels = line(old | fresh)
    keys = handed_over(wheels, START_NS + 20 * 10**9, 200)
    assert [key for key in keys if key in old] == sorted(old), "all of it, in due order"
    some = [key for key in keys if key in fresh]
    assert some == sorted(fresh)[: len(some)]
    assert len(some) < len(fresh), "the flood was over: nothing was tried"


def test_whatever_goes_in_and_out_is_handed_over_once_and_never_early() -> None:
    for seed in range(30):
        chance = random.Random(seed)
        spread_ns = chance.choice((10**7, 10**9, 10**11))
        deadlines_ns = {
            str(number): START_NS - OVERDUE_NS + chance.randrange(-spread_ns, spread_ns)
            for number in range(300)
        }
        wheels = line(deadlines_ns)
        gone = set(chance.sample(sorted(deadlines_ns), 100))
        for key in gone:
            wheels.cancel(key, deadlines_ns[key])
        wheels.check()
        seen: list[str] = []
        now_ns = START_NS
        while len(wheels):
            for key in wheels.expire(now_ns, 16):
                assert deadlines_ns[key] <= now_ns, f"seed {seed}: {key} is early"
                seen.append(key)
            wheels.check()
            now_ns = wheels.next_wake_ns(now_ns, 10**9)
        assert sorted(seen) == sorted(set(deadlines_ns) - gone), f"seed {seed}"
