"""A disk at one moment, and what a power loss just then makes of it: any of what was not synced, in any
order."""

from __future__ import annotations

import random
from typing import NamedTuple

Image = dict[str, bytes]


class Still(NamedTuple):
    """A file as a power loss at that moment would find it."""

    size: int
    stable: bytes
    pending: tuple[tuple[int, bytes], ...]
    doubts: int


class Moment(NamedTuple):
    """A disk at one moment: all that a power loss may make of it is in here."""

    now: dict[str, Still]
    stable: dict[str, Still]
    steps: list[tuple[str | None, str | None, Still]]
    doubts: int

    def after_power_loss(self, chance: random.Random, keep: float | None = None) -> Image:
        """What is there when the power comes back: each doubtful thing with probability ``keep``."""
        names = dict(self.now if keep == 1.0 else self.stable)
        if keep is None:
            share = chance.random()
            steps = [step for step in self.steps if chance.random() < share]
            chance.shuffle(steps)
            for gone, come, file in steps:
                if gone is not None:
                    names.pop(gone, None)
                if come is not None:
                    names[come] = file
        return {name: _what_is_left(file, chance, keep) for name, file in names.items()}


def _what_is_left(file: Still, chance: random.Random, keep: float | None) -> bytes:
    if not file.doubts:
        return file.stable
    share = chance.choice((0.0, 0.5, 0.9, 1.0)) if keep is None else keep
    data = bytearray(file.stable)
    if chance.random() < share:
        data = data.ljust(file.size, b"\0")[: file.size]
    sectors = [each for each in file.pending if chance.random() < share]
    if keep is None and chance.random() < 0.2:
        chance.shuffle(sectors)
    for at, sector in sectors:
        if at + len(sector) <= len(data):
            data[at : at + len(sector)] = sector
    return bytes(data)
