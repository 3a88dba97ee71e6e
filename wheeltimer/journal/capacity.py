"""Space on disk, reserved before a decision is made, and the bound on bytes that wait for the disk.

A decision is charged for a frame of its own (``charge``), though decisions share frames: so the bytes written
never exceed the bytes charged. A segment counts only for what it certainly holds: a frame that does not fit
its rest goes to the next segment and is at most ``frame_bytes_max`` long, so that much is left out.
"""

from __future__ import annotations

from typing import Final

from .frame import FRAME_OVERHEAD_BYTES, SECTOR_BYTES
from .preallocation import RESERVED, SpareSegments
from .segment import frame_bytes_max
from .writer import Writer

UNSYNCED_BYTES_MAX: Final = 8 << 20
"""A disk writes this much in 50 ms; if it hangs, unsynced records must not fill the memory."""
_CHARGE: Final = FRAME_OVERHEAD_BYTES + SECTOR_BYTES - 1


def charge(size: int) -> int:
    """Bytes that a decision of ``size`` bytes takes in a frame of its own: whole sectors."""
    return size + _CHARGE & -SECTOR_BYTES


class Capacity:
    """The space left in the open segment and the spares. Used in the loop; every method is O(1)."""

    def __init__(self, writer: Writer, spares: SpareSegments, unsynced_bytes_max: int) -> None:
        self.segment_bytes: Final = spares.segment_bytes
        self.decision_bytes_max: Final = frame_bytes_max(self.segment_bytes) - FRAME_OVERHEAD_BYTES
        """Largest ``reserve`` and largest sum of one ``append``."""
        self.unsynced_bytes_max: Final = min(unsynced_bytes_max, self.segment_bytes // 8)
        """While more than this is not on disk, the server makes clients' requests wait for a commit.

        Part of a segment, so that a slow disk does not look like a full one."""
        self._writer, self._spares = writer, spares
        self._taken = 0
        self._room = self._room_essential = 0
        self._measure()

    def reserve(self, size: int, *, essential: bool = False) -> bool:
        """Reserves space for one decision of at most ``size`` bytes; False if there is none. O(1).

        ``essential`` decisions may use the two segments that are reserved for them. The caller passes the
        same ``size`` to :meth:`append`, or gives it back with :meth:`release`.
        """
        assert 0 <= size <= self.decision_bytes_max, size
        taken = self._taken + charge(size)
        if taken > (self._room_essential if essential else self._room):
            return False
        self._taken = taken
        return True

    def release(self, size: int) -> None:
        """Gives back reserved space that is not needed."""
        self._taken -= charge(size)
        assert self._taken >= 0, "more room given back than was reserved"

    def _measure(self) -> None:
        """Computes the space left, from the writer's offset; called while the writer writes nothing."""
        unsure = frame_bytes_max(self.segment_bytes) + SECTOR_BYTES
        segment = self._writer.segment
        whole = self.segment_bytes - SECTOR_BYTES - unsure
        self._room_essential = max(0, segment.size - segment.offset - unsure) + self._spares.count * whole
        self._room = self._room_essential - RESERVED * whole
