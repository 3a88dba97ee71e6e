"""The hashed wheel: which keys are due, in deadline order, at a cost in proportion to the keys that are due.

This file has ticks, buckets, rounds and the order in which keys are handed over. It does not know what a key
stands for, and reads no clock: time is an argument. The caller decides when to wake up and what to do with
an expired key.

The scheme is that of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987,
scheme 6), with the round as a dictionary key instead of a counter in every entry: nothing is
decremented, and the cost of a tick is that of the keys due in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar, Final, cast

from msgspec import Struct, defstruct

# Keys moved out of buckets per `expire` (about 1 us each): a crowded tick is opened in slices.
OPEN_KEYS_MAX = 512
# Rounds checked per `expire` after a jump over the whole wheel (about 0.1 us each).
SCAN_ROUNDS_MAX = 4096
# A dict that falls to this many keys becomes a chain again (half of the longest: hysteresis).
DICT_KEYS_MIN = 4
# Cancelled entries a heap may hold beyond the number of its live ones.
STALE_MIN = 64
# Round numbers that buckets share as one object each (about 80 bytes; 31 days of the default wheel).
SHARED_ROUNDS_MAX = 65_536


# -- a few keys of one tick, linked ------------------------------------------------------------------------
# ``HashedWheelTimer`` decides when keys become a chain, and when a dict.

CHAIN_KEYS_MAX: Final = 8
"""The longest chain; bounded because a key is removed by walking the chain."""


class Chain(Struct, frozen=True, gc=False):
    """Two keys or more: the last one added, and those before it. 32 bytes for each but the first.

    Not a tuple: Python's garbage collector visits every young tuple and its items, and a hundred thousand of
    them, whose keys were no longer in the processor's cache, stopped all timers for 60 ms. Every length is a
    class of its own, so the length is known from the object's header, the one cache line that linking to it
    touches anyway; to count by walking would be a cache miss for every key.
    """

    key: str
    rest: str | Chain
    length: ClassVar[int]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[str]:
        """The keys, the last one added first."""
        rest: str | Chain = self
        while isinstance(rest, Chain):
            yield rest.key
            rest = rest.rest
        yield rest


def _of(length: int) -> type[Chain]:
    namespace = {"length": length, "__doc__": f"A chain of {length}."}
    made = defstruct(f"Chain{length}", (), bases=(Chain,), namespace=namespace, frozen=True, gc=False)
    return cast("type[Chain]", made)


_CHAINS: Final = [_of(length) for length in range(2, CHAIN_KEYS_MAX + 1)]

LONGER: Final[dict[type, Callable[[str, Any], Chain]]] = dict(zip([str, *_CHAINS], _CHAINS, strict=False))
"""What a key, or a chain, becomes with one more key. The longest chain is not in it, nor is a dict."""


def chained(keys: list[str]) -> str | Chain:
    """A chain of ``keys``, at most `CHAIN_KEYS_MAX`, or the only one."""
    held: str | Chain = keys[0]
    for key in keys[1:]:
        held = LONGER[type(held)](key, held)
    return held


# -- the wheel ---------------------------------------------------------------------------------------------

Held = str | Chain | dict[str, None]


class HashedWheelTimer:
    """Keys by deadline, in buckets of one tick each; hands them over in deadline order, never early.

    A key due at tick ``t = deadline_ns // tick_ns`` sits in bucket ``t % wheel_size`` under its round
    ``t // wheel_size``: the key itself while it is alone there, a chain for 2 to `CHAIN_KEYS_MAX` keys, a
    dict for more. When the clock reaches a tick that holds keys, the tick is *due*: the lowest due tick is
    opened, that is its keys move into a heap by deadline and leave it each at its own time. So the length of
    a tick affects the cost and not the precision.

    With 4 buckets of 10 ns and a clock at 20 ns (tick 2)::

        key   deadline   tick   bucket   round
        "a"      34 ns      3        3       0
        "b"      30 ns      3        3       0    same bucket and round as "a": a chain
        "c"      71 ns      7        3       1    same bucket, one round later
        "d"      15 ns      1        1       0    overdue: its tick is due at once

    >>> deadlines_ns = {"a": 34, "b": 30, "c": 71, "d": 15}
    >>> wheel = HashedWheelTimer(10, 4, deadlines_ns.__getitem__, now_ns=20)
    >>> for key, deadline_ns in deadlines_ns.items():
    ...     wheel.schedule(key, deadline_ns)
    >>> wheel.expire(20, limit=10)
    ['d']
    >>> wheel.next_wake_ns(20, horizon_ns=1000)   # bucket 3 holds something for tick 3
    30
    >>> wheel.expire(30, limit=10)                # tick 3 is opened; "a" is in it, and not due
    ['b']
    >>> wheel.next_wake_ns(30, horizon_ns=1000)   # exact, because the tick is open
    34
    >>> wheel.cancel("c", 71)
    >>> wheel.expire(1_000_000, limit=10), len(wheel)
    (['a'], 0)

    The clock may be late by any span and may step: `expire` takes all ticks that have passed, and
    after a step back the cursor is at the earlier tick and keys that were due are no longer.

    Bounds: one entry per key (`check` finds a second one); any integer deadline. Memory: 25 to 50 bytes
    a key beside the key. `schedule` and `cancel`: O(1), 0.3 us, plus the cache misses of a large wheel.

    ``deadline_of`` returns the deadline in ns of a key that is in this wheel; it is called once for
    every key, when the key's tick is opened.
    """

    __slots__ = (
        "_buckets", "_cursor_tick", "_deadline_of", "_due", "_due_ticks", "_heap", "_len", "_mask", "_open",
        "_rounds", "_scan_bucket", "_scan_from_tick", "_shift", "_tick_ns",
    )  # fmt: skip

    def __init__(self, tick_ns: int, wheel_size: int, deadline_of: Callable[[str], int], now_ns: int) -> None:
        assert tick_ns > 0, "a tick has a length"
        assert wheel_size > 0, "a wheel has buckets"
        assert wheel_size & (wheel_size - 1) == 0, "wheel_size is a power of two"
        self._tick_ns = tick_ns
        self._mask = wheel_size - 1
        self._shift = wheel_size.bit_length() - 1
        self._deadline_of = deadline_of
        self._buckets: list[dict[int, Held]] = [{} for _ in range(wheel_size)]
        self._rounds: dict[int, int] = {}  # only saves memory: 32 bytes for every tick that holds keys
        self._len = 0
        self._cursor_tick = now_ns // tick_ns
        # Due ticks: reached by the clock, keys still in their bucket. The set decides, the heap is only the
        # order; ticks that a cancel emptied stay in the heap until they come first or are too many.
        self._due_ticks: set[int] = set()
        self._due: list[int] = []
        # Open: keys of opened ticks, by deadline. The dict decides, the heap is only the order.
        self._open: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        # A scan after a jump over the whole wheel: its next bucket (None: no scan), and the tick before it.
        self._scan_bucket: int | None = None
        self._scan_from_tick = 0

    def __len__(self) -> int:
        return self._len

    def schedule(self, key: str, deadline_ns: int) -> None:
        """Add ``key``, to expire at ``deadline_ns`` (if past, at the next `expire`). O(1)."""
        tick = deadline_ns // self._tick_ns
        round_ = tick >> self._shift
        bucket = self._buckets[tick & self._mask]
        held = bucket.get(round_)
        if held is None:
            bucket[self._rounds.setdefault(round_, round_)] = key
            if len(self._rounds) > SHARED_ROUNDS_MAX:
                self._rounds.clear()
        elif isinstance(held, dict):
            held[key] = None
        elif longer := LONGER.get(type(held)):
            bucket[round_] = longer(key, held)
        else:  # a dict, so that `cancel` is O(1) with any number of keys
            bucket[round_] = dict.fromkeys((*held, key))
        self._len += 1
        if tick <= self._cursor_tick:
            self._mark_due(tick)

    def schedule_many(self, keys: Sequence[str], deadlines_ns: Sequence[int]) -> None:
        """`schedule` for each, in about half the time."""
        tick_ns, shift, mask = self._tick_ns, self._shift, self._mask
        buckets, rounds, cursor_tick = self._buckets, self._rounds, self._cursor_tick
        simple = 0
        for key, deadline_ns in zip(keys, deadlines_ns, strict=True):
            tick = deadline_ns // tick_ns
            bucket, round_ = buckets[tick & mask], tick >> shift
            if tick <= cursor_tick:
                self.schedule(key, deadline_ns)
                continue
            held = bucket.setdefault(rounds.setdefault(round_, round_), key)
            if isinstance(held, dict):
                held[key] = None
            elif held is not key:
                longer = LONGER.get(type(held))
                if longer is None:
                    self.schedule(key, deadline_ns)
                    continue
                bucket[round_] = longer(key, held)
            simple += 1
        self._len += simple
        if len(rounds) > SHARED_ROUNDS_MAX:
            rounds.clear()

    def cancel(self, key: str, deadline_ns: int) -> None:
        """Remove ``key``. If it is not in the wheel with this deadline: a bug (KeyError, AssertionError).

        O(1), amortized: the heap of open keys is rebuilt, O(open), at most once in as many cancels.
        """
        if self._open and key in self._open:
            assert self._open[key] == deadline_ns, f"{key} has another deadline"
            del self._open[key]
            self._len -= 1
            if len(self._heap) > 2 * len(self._open) + STALE_MIN:
                self._heap = [(deadline_ns, key) for key, deadline_ns in self._open.items()]
                heapify(self._heap)
            return
        tick = deadline_ns // self._tick_ns
        bucket = self._buckets[tick & self._mask]
        held = bucket[tick >> self._shift]
        if isinstance(held, str):
            if held != key:
                raise KeyError(key)
            self._drop_round(bucket, tick)
        elif isinstance(held, Chain):
            rest = [other for other in held if other != key]
            if len(rest) == len(held):
                raise KeyError(key)
            self._put_rest(bucket, tick, rest)
        else:
            del held[key]
            if len(held) <= DICT_KEYS_MIN:
                self._put_rest(bucket, tick, list(held))
        self._len -= 1

    def expire(self, now_ns: int, limit: int) -> list[str]:
        """Hand over at most ``limit`` keys whose deadline is at or before ``now_ns``, earliest first.

        Keys of the same deadline are sorted. May return fewer than are due, even none: one call moves at most
        `OPEN_KEYS_MAX` keys out of buckets, and hands over no key while an earlier one may still be in a
        bucket. `next_wake_ns` then returns ``now_ns``. Cost: the keys handed over, the keys moved, and one
        look-up for every tick since the last call (at most ``wheel_size``).
        """
        if not self._move_cursor(now_ns // self._tick_ns):
            return []
        expired: list[str] = []
        moves_left = OPEN_KEYS_MAX
        while len(expired) < limit and moves_left > 0:
            first_tick = self._first_due_tick()
            if self._heap and (first_tick is None or self._heap[0][0] < first_tick * self._tick_ns):
                deadline_ns, key = self._heap[0]
                if deadline_ns > now_ns:
                    break
                heappop(self._heap)
                if self._open.get(key) == deadline_ns:
                    del self._open[key]
                    expired.append(key)
                else:
                    moves_left -= 1  # cancelled: to drop it takes time too
            elif first_tick is not None and first_tick <= self._cursor_tick:
                moves_left -= self._open_keys(first_tick, moves_left)
            else:
                break
        self._len -= len(expired)
        if not self._open:
            self._open.clear()  # a dict emptied by deletes keeps its memory, a cleared one does not
        return expired

    def next_wake_ns(self, now_ns: int, horizon_ns: int) -> int:
        """When `expire` has something to do: from ``now_ns`` (at once) to ``now_ns + horizon_ns``.

        Exact for keys of an opened tick, else the start of the next tick that holds keys. Cost: at most
        one look-up for every tick of the horizon.
        """
        if self._scan_bucket is not None or now_ns // self._tick_ns > self._cursor_tick:
            return now_ns
        while self._heap and self._open.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        wake_ns = now_ns + horizon_ns
        if self._heap:
            wake_ns = min(wake_ns, self._heap[0][0])
        first_tick = self._first_due_tick()
        if first_tick is not None:
            wake_ns = min(wake_ns, first_tick * self._tick_ns)
        for tick in range(self._cursor_tick + 1, wake_ns // self._tick_ns + 1):
            if tick >> self._shift in self._buckets[tick & self._mask]:
                wake_ns = min(wake_ns, tick * self._tick_ns)
                break
        return max(wake_ns, now_ns)

    # -- the cursor

    def _move_cursor(self, now_tick: int) -> bool:
        """Advance to ``now_tick`` and mark the due ticks; False while not all due ticks are known."""
        if self._scan_bucket is not None:
            if now_tick < self._cursor_tick:  # a step back during the scan: begin again from before the jump
                self._cursor_tick = min(now_tick, self._scan_from_tick)
                self._scan_bucket = None
            elif not self._scan():
                return False
        if now_tick - self._cursor_tick > self._mask + 1:
            # To check every tick of a night's suspend, or of a clock set from 1970, would take too long.
            self._scan_bucket = 0
            self._scan_from_tick = self._cursor_tick
            self._cursor_tick = now_tick
            return self._scan()
        for tick in range(self._cursor_tick + 1, now_tick + 1):
            if tick >> self._shift in self._buckets[tick & self._mask]:
                self._mark_due(tick)
        self._cursor_tick = now_tick
        return True

    def _scan(self) -> bool:
        """Check the next buckets for due ticks; True if all have been checked."""
        assert self._scan_bucket is not None
        looked = 0
        while self._scan_bucket <= self._mask and looked < SCAN_ROUNDS_MAX:
            bucket = self._buckets[self._scan_bucket]
            for round_ in bucket:
                tick = round_ << self._shift | self._scan_bucket
                if tick <= self._cursor_tick:
                    self._mark_due(tick)
            looked += 1 + len(bucket)
            self._scan_bucket += 1
        if self._scan_bucket <= self._mask:
            return False
        self._scan_bucket = None
        return True

    # -- due ticks and their keys

    def _mark_due(self, tick: int) -> None:
        if tick not in self._due_ticks:
            self._due_ticks.add(tick)
            heappush(self._due, tick)

    def _first_due_tick(self) -> int | None:
        while self._due and self._due[0] not in self._due_ticks:
            heappop(self._due)
        return self._due[0] if self._due else None

    def _open_keys(self, tick: int, keys_max: int) -> int:
        """Move about ``keys_max`` keys of a due tick into the heap; the others stay in the bucket."""
        bucket = self._buckets[tick & self._mask]
        held = bucket[tick >> self._shift]
        if isinstance(held, dict) and len(held) > keys_max:
            keys = [held.popitem()[0] for _ in range(keys_max)]
        else:
            keys = [held] if isinstance(held, str) else list(held)
            self._drop_round(bucket, tick)
        for key in keys:
            deadline_ns = self._deadline_of(key)
            assert deadline_ns // self._tick_ns == tick, f"{key} has another deadline"
            assert key not in self._open, f"{key} is in the wheel twice"
            self._open[key] = deadline_ns
            heappush(self._heap, (deadline_ns, key))
        return len(keys)

    def _put_rest(self, bucket: dict[int, Held], tick: int, rest: list[str]) -> None:
        if rest:
            bucket[tick >> self._shift] = chained(rest)
        else:
            self._drop_round(bucket, tick)

    def _drop_round(self, bucket: dict[int, Held], tick: int) -> None:
        del bucket[tick >> self._shift]
        if not bucket:
            bucket.clear()
        if tick in self._due_ticks:
            self._due_ticks.remove(tick)
            if len(self._due) > 2 * len(self._due_ticks) + STALE_MIN:
                self._due = sorted(self._due_ticks)
            if not self._due_ticks:
                self._due_ticks.clear()

    def check(self) -> None:
        """Derive ticks, containers and the count again; AssertionError names what is broken. O(keys)."""
        seen = set(self._open)
        count = len(self._open)
        for index, bucket in enumerate(self._buckets):
            for round_, held in bucket.items():
                tick = round_ << self._shift | index
                keys = (held,) if isinstance(held, str) else tuple(held)
                assert keys, f"tick {tick} is empty and was not dropped"
                if isinstance(held, Chain):
                    assert len(held) == len(keys) <= CHAIN_KEYS_MAX, f"tick {tick} is in the wrong container"
                for key in keys:
                    assert self._deadline_of(key) // self._tick_ns == tick, f"{key} is in the wrong tick"
                if tick <= self._cursor_tick and tick not in self._due_ticks:
                    assert self._scan_bucket is not None, f"tick {tick} has passed and is not due"
                    assert index >= self._scan_bucket, f"the scan has missed tick {tick}"
                    assert tick > self._scan_from_tick, f"tick {tick} passed before the scan and is not due"
                seen.update(keys)
                count += len(keys)
        assert count == len(seen), "a key is in the wheel twice"
        assert count == self._len, f"the count drifted: {self._len} for {count} keys"
        for tick in self._due_ticks:
            assert tick >> self._shift in self._buckets[tick & self._mask], f"due tick {tick} holds nothing"
        assert self._due_ticks.issubset(self._due), "a due tick has no place in the order"
        assert len(self._due) <= 2 * len(self._due_ticks) + STALE_MIN, "emptied ticks pile up"
        placed = set(self._heap)
        for key, deadline_ns in self._open.items():
            assert (deadline_ns, key) in placed, f"{key} has no place in the order"
            assert self._deadline_of(key) == deadline_ns, f"{key} has another deadline"
        assert len(self._heap) <= 2 * len(self._open) + STALE_MIN, "cancelled keys pile up"
