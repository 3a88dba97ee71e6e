"""A few keys of one tick, linked. When they become a chain, and when a dict, is the wheel's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final, cast

from msgspec import Struct, defstruct

CHAIN_KEYS_MAX: Final = 8
"""The longest chain: a key is taken out of one by walking it."""


class Chain(Struct, frozen=True, gc=False):
    """Two keys or more: the last that came, and those before it. 32 bytes for each but the first.

    Not a tuple: Python's collector looks at every young tuple and at what is in it, and a hundred thousand
    of them, whose keys are no longer in the processor's cache, stopped all timers for 60 ms. Every length
    is a class of its own: a chain's class stands in the one line of memory that linking to it touches
    anyway, while to walk it is a miss of the cache for every key.
    """

    key: str
    rest: str | Chain
    length: ClassVar[int]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[str]:
        """The keys, the last that came first."""
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
