"""Which segments to remove next: the bound on the journal's size, in numbers.

Segments are removed from the oldest on, each after all that is still needed of it was appended again. This
file knows only sizes: ``core/copies.py`` defines what is needed, ``shard/compactor.py`` copies it.

The promise: the folder takes at most twice the live bytes and four segments more: the open one, one spare
and two reserved ones. So the sealed segments must not exceed twice the live bytes. Compaction begins at 1.5
times: then at least a third of the bytes of the segments is freed, and at most two bytes are copied for each
new one. It hurries from 1.75 times on. It removes several segments at once, so that one walk over the tasks
serves for all of them, but few enough that their copies stay well within the half between 1.5 and 2.

Sealed segments also have events that a reconnecting subscriber may ask for. If segments are small, four of
them are far less than the 256 MiB of the promise: the difference is history, kept while the disk has space,
although a start does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

SEALED_HURRIED: Final = (7, 4)
"""Sealed bytes for each live one, as a fraction, from which compaction hurries; the promise is two."""
SEALED_WANTED: Final = (3, 2)
"""Sealed bytes for each live one, as a fraction, above which compaction works."""
FIXED_BYTES: Final = 256 << 20
"""Bytes that the folder may take in addition to twice the live bytes."""
_FIXED_SEGMENTS: Final = 5
"""Segments within these bytes: open, spare, two reserved, one sealed since the compactor last looked."""
SHARE: Final = 8
"""Compaction removes 1/SHARE of the sealed segments at once, at least one."""
PADDING: Final = 32
"""Unused space at the end of frames and segments is at most 1/PADDING of the live bytes."""


class Sealed(NamedTuple):
    """A sealed segment: its number, its size in bytes, the lsn of its last record."""

    number: int
    size: int
    last_lsn: int


def history_bytes(segment_bytes: int, wanted: int) -> int:
    """Bytes that may be kept for reconnecting subscribers: ``wanted``, or less if the promise leaves less."""
    return max(0, min(wanted, FIXED_BYTES - _FIXED_SEGMENTS * segment_bytes))


def is_urgent(sealed: Sequence[Sealed], live_bytes: int, history: int = 0) -> bool:
    """Whether the sealed segments exceed `SEALED_HURRIED`, so that the promise is in danger."""
    most, of = SEALED_HURRIED
    return (sum(segment.size for segment in sealed) - history) * of > live_bytes * most


def segments_to_drop(
    sealed: Sequence[Sealed], live_bytes: int, history: int = 0, *, full: bool
) -> Sequence[Sealed]:
    """The oldest segments that should be removed now; none if the journal is small enough.

    ``history``: bytes kept beyond those needed, unless the file system is ``full``. If it is full, one
    segment at a time is removed, whenever that frees a segment's size: its copies must fit the reserved
    segments.
    """
    total = sum(segment.size for segment in sealed)
    most, of = SEALED_WANTED
    if (total - (0 if full else history)) * of <= live_bytes * most:
        spare_bytes = total - live_bytes - live_bytes // PADDING
        return sealed[:1] if full and sealed and spare_bytes >= sealed[0].size else ()
    if full:
        return sealed[:1]
    return sealed[: max(1, len(sealed) // SHARE)]
