"""How many of the permits one destination may have: slow ones must not hold up all others."""

from __future__ import annotations

import math
from typing import Final

PARTS: Final = 4  # no destination has more than this part of all permits while others wait
FEW: Final = 5  # attempts of one destination that the reserve is for while it is whole; fewer as it goes


def most(concurrency: int) -> int:
    """So many attempts one destination may have in flight while anything for another waits."""
    return max(1, concurrency // PARTS)


def share(concurrency: int, in_flight: int, mine: int) -> float:
    """A destination with ``mine`` attempts among all ``in_flight`` may start one more while it has fewer
    than this.

    Never more than three times what stays free, so whoever comes next, to a destination that has none, finds
    a permit, however many slow ones there are (a dynamic threshold, Choudhury and Hahne 1998). Beside others
    an eighth is in reserve: for first attempts, and, by a threshold of its own, for the next few, so tasks of
    a fast destination that come due together need not wait for each other. Fewer than four permits are not
    worth saving.
    """
    if not mine or concurrency < PARTS:
        return math.inf
    free = concurrency - in_flight - 1
    if in_flight == mine:
        return (PARTS - 1) * free
    reserve = concurrency // (2 * PARTS)
    few = min(FEW, free * FEW // max(1, reserve))
    return max(few, (PARTS - 1) * (free - reserve))
