"""The table of tasks at rest: key to row, in shards.

One big dict would stop the loop for tens of milliseconds whenever it grows, and cannot be walked in
slices while it changes. A thousand small ones do neither. Nothing here knows what a row holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

SHARDS: Final = 1024
_MASK: Final = SHARDS - 1
_SHIFT: Final = 32  # a shard's own dict goes by the low bits of the hash: they must differ within it

Shard = dict[str, bytes]


class Table:
    """``key -> row`` (packed bytes). Every operation costs the same with 10 rows and 10 million."""

    def __init__(self) -> None:
        self.shards: list[Shard] = [{} for _ in range(SHARDS)]
        self._emptied = [0] * SHARDS

    def home(self, key: str) -> Shard:
        """The key's shard, until a key is removed. For those who look and then put in."""
        return self.shards[hash(key) >> _SHIFT & _MASK]

    def homes(self, keys: Iterable[str]) -> list[Shard]:
        """``home`` of each key, in half the time."""
        shards = self.shards
        return [shards[hash(key) >> _SHIFT & _MASK] for key in keys]

    def get(self, key: str) -> bytes | None:
        return self.shards[hash(key) >> _SHIFT & _MASK].get(key)

    def __getitem__(self, key: str) -> bytes:
        return self.shards[hash(key) >> _SHIFT & _MASK][key]

    def __setitem__(self, key: str, row: bytes) -> None:
        self.shards[hash(key) >> _SHIFT & _MASK][key] = row

    def pop(self, key: str) -> None:
        """Remove a key that is there; a shard that has lost most of its rows gives its room back."""
        number = hash(key) >> _SHIFT & _MASK
        shard = self.shards[number]
        del shard[key]
        self._emptied[number] += 1
        if self._emptied[number] > 64 + 2 * len(shard):
            self.shards[number] = dict(shard)
            self._emptied[number] = 0

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def slices(self, size: int = 256) -> Iterator[list[tuple[str, bytes]]]:
        """All rows, at most ``size`` at a time; the table may change between two slices.

        A row that is there from beginning to end comes exactly once. One that is added, changed or
        removed meanwhile comes once or not at all, as it was when its shard was reached.
        """
        for number in range(SHARDS):
            rows = list(self.shards[number].items())
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All rows; the table may not change meanwhile."""
        for shard in self.shards:
            yield from shard.items()
