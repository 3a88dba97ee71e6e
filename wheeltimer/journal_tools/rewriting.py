"""The files that a repair writes: frames under their old lsns, in new segments that have no name yet.

What goes into them is decided in ``repair.py``; the live journal's writer is ``journal/writer.py``.
"""

from __future__ import annotations

from pathlib import Path

from wheeltimer.core import records as r
from wheeltimer.journal.directory import segment_name
from wheeltimer.journal.disk import Disk
from wheeltimer.journal.frame import (
    FRAME_OVERHEAD_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    Clocks,
    Header,
    Kind,
    array_header,
    encode,
    extent_bytes,
    payload_of,
)  # fmt: skip
from wheeltimer.journal.segment import FORMAT, SegmentHeader, encode_header, encode_trim, frame_bytes_max


class Rewritten:
    """The new segments, as temporary files, one after the other. Every method raises :class:`OSError`."""

    def __init__(
        self, disk: Disk, path: Path, number: int, first_lsn: int, size: int, journal_id: bytes
    ) -> None:
        self.disk, self.path, self.size, self.journal_id = disk, path, size, journal_id
        self.first_number = number
        self.next_lsn = first_lsn
        self.names: list[str] = []
        self._fd = -1
        self._open(number, 0)

    def _open(self, number: int, prev_crc: int) -> None:
        self._number, self._salt, self._offset = number, self.disk.random(8), SECTOR_BYTES
        head = SegmentHeader(FORMAT, self.journal_id, number, self.next_lsn, self.size, self._salt, prev_crc)
        data, self._crc = encode_header(head)
        self.names.append(segment_name(number))
        self._fd = self.disk.create(self.path / f"{self.names[-1]}.tmp")
        self.disk.zero(self._fd, 0, self.size)
        self.disk.write(self._fd, data, 0)

    def _close(self) -> None:
        self.disk.fdatasync(self._fd)
        self.disk.close(self._fd)

    def write(
        self, kind: Kind, payload: bytes, count: int, clocks: Clocks, marker: Header | None = None
    ) -> None:
        extent = extent_bytes(len(payload))
        if self._offset + extent + SECTOR_BYTES > self.size:
            seal, crc = encode(Kind.SEAL, self._salt, self.next_lsn, 0, clocks, self._crc)
            self.disk.write(self._fd, seal, self._offset)
            self._close()
            self._open(self._number + 1, crc)
        frame, self._crc = encode(kind, self._salt, self.next_lsn, count, clocks, self._crc, payload)
        self.disk.write(self._fd, frame, self._offset)
        self._offset += extent
        self.next_lsn += count
        if marker is not None:
            self._mark(Kind.MARKER, marker.clocks)

    def fill(self, count: int, clocks: Clocks) -> None:
        """Records that do nothing, for lsns that are lost."""
        filler = r.encode(r.Forgotten([], clocks.wall_ms))
        most = (frame_bytes_max(self.size) - FRAME_OVERHEAD_BYTES) // len(filler)
        while count > 0:
            some = min(count, most)
            self.write(Kind.BATCH, array_header(some) + filler * some, some, clocks)
            count -= some

    def trim(self, clocks: Clocks) -> None:
        """The last frame: what is older than these segments is needed no longer. A clean end."""
        self.write(Kind.TRIM, payload_of([encode_trim(self.first_number)]), 1, clocks)
        self._mark(Kind.STOP, clocks)

    def _mark(self, kind: Kind, clocks: Clocks) -> None:
        marker, _ = encode(kind, self._salt, self.next_lsn, 0, clocks, self._crc)
        self.disk.write(self._fd, marker, self._offset - HEADER_BYTES)

    def finish(self) -> list[str]:
        self._close()
        return self.names
