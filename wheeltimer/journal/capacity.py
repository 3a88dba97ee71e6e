"""Room on disk, taken before a decision: what may be appended, and how much of it waits for the disk.

A decision is charged for a frame of its own (``charge``), though decisions share frames: so what is
written never exceeds what was charged. A segment counts for what it surely holds: a frame that does not
fit its rest goes to the next one, and is at most ``frame_bytes_max``, so that much is left out.
"""

from __future__ import annotations

from typing import Final

from .frame import FRAME_OVERHEAD_BYTES, SECTOR_BYTES
from .preallocation import RESERVED, SpareSegments
from .segment import frame_bytes_max
from .writer import Writer

UNSYNCED_BYTES_MAX: Final = 8 << 20
"""A disk writes as much in a twentieth of a second; a stuck one shall not fill the memory."""
_CHARGE: Final = FRAME_OVERHEAD_BYTES + SECTOR_BYTES - 1


def charge(size: int) -> int:
    """What a decision of ``size`` bytes takes in a frame of its own: whole sectors."""
    return size + _CHARGE & -SECTOR_BYTES


class Capacity:
    """What the committer may take of the open segment and the spares. In the loop; O(1) throughout."""

    def __init__(self, writer: Writer, spares: SpareSegments, unsynced_bytes_max: int) -> None:
        self.segment_bytes: Final = spares.segment_bytes
        self.decision_bytes_max: Final = frame_bytes_max(self.segment_bytes) - FRAME_OVERHEAD_BYTES
        """Largest ``reserve`` and largest sum of one ``append``."""
        self.unsynced_bytes_max: Final = min(unsynced_bytes_max, self.segment_bytes // 8)
        """Past this much that is not on disk, who brings work from outside waits for a commit.

        Part of a segment: a disk that is slow shall not look like one that is full."""
        self._writer, self._spares = writer, spares
        self._taken = 0
        self._room = self._room_essential = 0
        self._measure()

    def reserve(self, size: int, *, essential: bool = False) -> bool:
        """Takes room for one decision of at most ``size`` bytes, or says that there is none. O(1).

        ``essential`` decisions may use the two segments that are kept for them. What was reserved is
        given to :meth:`append` with the same ``size``, or back with :meth:`release`.
        """
        assert 0 <= size <= self.decision_bytes_max, size
        taken = self._taken + charge(size)
        if taken > (self._room_essential if essential else self._room):
            return False
        self._taken = taken
        return True

    def release(self, size: int) -> None:
        """Gives back what was reserved and is not needed."""
        self._taken -= charge(size)
        assert self._taken >= 0, "more room given back than was reserved"

    def _measure(self) -> None:
        """What may be taken, from where the writer stands; called while it writes nothing."""
        unsure = frame_bytes_max(self.segment_bytes) + SECTOR_BYTES
        segment = self._writer.segment
        whole = self.segment_bytes - SECTOR_BYTES - unsure
        self._room_essential = max(0, segment.size - segment.offset - unsure) + self._spares.count * whole
        self._room = self._room_essential - RESERVED * whole
