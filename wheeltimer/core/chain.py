"""A few keys of one tick, linked. When they become a chain, and when a dict, is the wheel's."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class Chain(Struct, frozen=True, gc=False):
    """Two keys or more: the last that came, and those before it. 32 bytes for each but the first.

    Not a tuple: Python's collector looks at every young tuple and at what is in it, and a hundred thousand
    of them, whose keys are no longer in the processor's cache, stopped all timers for 60 ms.
    """

    key: str
    rest: str | Chain

    def __len__(self) -> int:
        """O(keys)."""
        length, rest = 2, self.rest
        while isinstance(rest, Chain):
            length, rest = length + 1, rest.rest
        return length

    def __iter__(self) -> Iterator[str]:
        """The keys, the last that came first."""
        rest: str | Chain = self
        while isinstance(rest, Chain):
            yield rest.key
            rest = rest.rest
        yield rest


def chained(keys: list[str]) -> str | Chain:
    """A chain of ``keys``, or the only one."""
    held: str | Chain = keys[0]
    for key in keys[1:]:
        held = Chain(key, held)
    return held
