"""The table of tasks at rest: key to row, in shards.

One big dict would stop the loop for tens of milliseconds whenever it grows, and cannot be walked in
slices while it changes. A thousand small ones do neither. Nothing here knows what a row holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
        self.size = 0  # bytes of all keys and rows

    def homes(self, keys: Iterable[str]) -> list[Shard]:
        """The shard of each key, until a key is removed. For those who look and then put in."""
        shards = self.shards
        return [shards[hash(key) >> _SHIFT & _MASK] for key in keys]

    def get(self, key: str) -> bytes | None:
        return self.shards[hash(key) >> _SHIFT & _MASK].get(key)

    def __getitem__(self, key: str) -> bytes:
        return self.shards[hash(key) >> _SHIFT & _MASK][key]

    def __setitem__(self, key: str, row: bytes) -> None:
        shard = self.shards[hash(key) >> _SHIFT & _MASK]
        old = shard.get(key)
        self.size += len(key) + len(row) if old is None else len(row) - len(old)
        shard[key] = row

    def put_new(self, key: str, row: bytes) -> bool:
        """Put in a key that is not there; False where it is, and nothing changed."""
        shard = self.shards[hash(key) >> _SHIFT & _MASK]
        if key in shard:
            return False
        shard[key] = row
        self.size += len(key) + len(row)
        return True

    def put_run(self, homes: Sequence[Shard], keys: Sequence[str], rows: Sequence[bytes]) -> None:
        """Put in keys that are not there; ``homes`` found since a key was last removed."""
        for home, key, row in zip(homes, keys, rows, strict=True):
            home[key] = row
        self.size += sum(map(len, keys)) + sum(map(len, rows))

    def pop(self, key: str) -> None:
        """Remove a key that is there; a shard that has lost most of its rows gives its room back."""
        number = hash(key) >> _SHIFT & _MASK
        shard = self.shards[number]
        self.size -= len(key) + len(shard.pop(key))
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
