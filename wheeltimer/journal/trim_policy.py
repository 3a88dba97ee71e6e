"""Which segments to give up next: the bound on the journal's size, in numbers.

Segments go from the oldest on, each when what is still needed of it was appended again. What that is, and
who copies it, is not known here (``core/copies.py``, ``shard/compactor.py``): only sizes are.

The promise is that the folder takes at most twice what is live and four segments more: the open one,
one spare and two reserved ones. So the sealed ones must not exceed twice what is live. Work begins at
one and a half: then at least a third of all that is looked at is free again, and copies cost two bytes for
each new one at the worst. It hurries from one and three quarters on. Several segments at once make one walk
over the tasks serve for all of them, but few enough that their copies stay well within the half that is
between.

Events that a subscriber may come back for stand in sealed segments too. Where segments are small, four of
them are far from the 256 MiB that the promise is given with: what is left of that is history, kept although
nobody needs it for a start, as long as the disk has room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

SEALED_HURRIED: Final = (7, 4)
"""Sealed bytes for each live one, as a fraction, from which compaction hurries; the promise is two."""
SEALED_WANTED: Final = (3, 2)
"""Above this it works."""
FIXED_BYTES: Final = 256 << 20
"""What the folder may take beside twice what is live."""
_FIXED_SEGMENTS: Final = 5
"""Open, spare, two reserved, and one that is sealed before anybody looks: no room for history."""
SHARE: Final = 8
"""It takes an eighth of the sealed segments at once, one at least."""
PADDING: Final = 32
"""Frames and segments end in unused room: one part in so many of what is live, at most."""


class Sealed(NamedTuple):
    """A segment that is not written any more: its number, its size, the lsn of its last record."""

    number: int
    size: int
    last_lsn: int


def history_bytes(segment_bytes: int, wanted: int) -> int:
    """How much may be kept for those who read behind the writer: what the promise leaves, or ``wanted``."""
    return max(0, min(wanted, FIXED_BYTES - _FIXED_SEGMENTS * segment_bytes))


def is_urgent(sealed: Sequence[Sealed], live_bytes: int, history: int = 0) -> bool:
    """Whether the promise is about to be broken."""
    most, of = SEALED_HURRIED
    return (sum(segment.size for segment in sealed) - history) * of > live_bytes * most


def segments_to_drop(
    sealed: Sequence[Sealed], live_bytes: int, history: int = 0, *, full: bool
) -> Sequence[Sealed]:
    """The oldest segments that should go now; none where the journal is small enough.

    ``history``: so many bytes are kept beyond what is needed, unless the file system is ``full``. Then it
    also works for the last segment's worth that can be had, one at a time: their copies must fit the room
    that is reserved.
    """
    total = sum(segment.size for segment in sealed)
    most, of = SEALED_WANTED
    if (total - (0 if full else history)) * of <= live_bytes * most:
        spare_bytes = total - live_bytes - live_bytes // PADDING
        return sealed[:1] if full and sealed and spare_bytes >= sealed[0].size else ()
    if full:
        return sealed[:1]
    return sealed[: max(1, len(sealed) // SHARE)]
