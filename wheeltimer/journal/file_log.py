"""The open journal: how it is opened, read once from the start, and closed.

``Journal`` inherits ``append`` and all else that it does while it runs from ``Committer``, so that a record
passes through no extra layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from wheeltimer.errors import StorageFailed

from .capacity import UNSYNCED_BYTES_MAX
from .committer import Committer
from .directory import Directory
from .disk import Disk
from .follower import Follower, SegmentIndex
from .frame import Clocks, Frame
from .preallocation import SPARES_WANTED, SpareSegments, fitting_segment_bytes
from .recovery import Progress, Verified, scan
from .segment import Boot, frames
from .trim_policy import Sealed
from .worker import Worker, WorkerThread
from .writer import OpenSegment, SyncTimes, Writer, restore

SEGMENT_BYTES: Final = 64 << 20
SEGMENT_BYTES_LEAST: Final = 1 << 20
"""The smallest segment size in a folder with little space."""


class Journal(Committer):
    """An open journal; create with :meth:`open`. The package docstring shows its whole life."""

    def __init__(
        self, directory: Directory, spares: SpareSegments, writer: Writer, found: Verified, hand: Worker,
        unsynced_bytes_max: int,
    ) -> None:  # fmt: skip
        super().__init__(writer, spares, hand, self.abandon, unsynced_bytes_max)
        self.journal_id: Final[bytes] = found.journal_id
        """16 random bytes, for the life of the journal; a repair keeps them."""
        self.found: Final = found
        """What :meth:`open` found: ``found.torn`` is to be reported."""
        self.shelf: Final = SegmentIndex(directory.disk, directory.path, hand.aside)
        """Finds and reads durable batches, for :class:`Follower`."""
        self._directory = directory
        self._open = True

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], Clocks],
        segment_bytes: int = SEGMENT_BYTES,
        segment_bytes_least: int = SEGMENT_BYTES_LEAST,
        unsynced_bytes_max: int = UNSYNCED_BYTES_MAX,
        fsync: bool = True,
        progress: Progress | None = None,
        disk: Disk | None = None,
        hand: Worker | None = None,
    ) -> Self:
        """Locks the folder, verifies all of it, makes the tail writable. Blocking: about 0.5 s a GiB.

        ``clock`` is called in the worker's thread too. ``segment_bytes`` is halved, down to
        ``segment_bytes_least``, if the folder has no space for a few segments of that size. Raises
        :class:`JournalInUse`, :class:`JournalDamaged`, :class:`JournalNewer` (then nothing was
        changed) and :class:`StorageFailed`.
        """
        disk = Disk() if disk is None else disk
        directory = Directory.open(path, disk)
        spares: SpareSegments | None = None
        segment: OpenSegment | None = None
        try:
            disk.hold(path)
            names = directory.segments()
            total = sum(disk.size(path / name) for _, name in names)
            found = scan(path, names, lambda name: disk.read(path / name), progress, total)
            least = min(segment_bytes, segment_bytes_least)
            free = disk.free_bytes(path) + directory.spare_bytes()
            spares = SpareSegments(directory, fitting_segment_bytes(segment_bytes, least, free))
            spares.adopt()
            segment = restore(directory, spares, found)
            while spares.count < SPARES_WANTED and spares.allocate():
                pass
            writer = Writer(directory, spares, segment, found, clock, fsync)
        except BaseException as exc:
            if segment is not None:
                disk.close(segment.fd)
            if spares is not None:
                spares.close()
            directory.close()
            disk.let_go()
            if isinstance(exc, OSError):
                raise StorageFailed(f"journal {path} cannot be opened: {exc}") from exc
            raise
        return cls(
            directory, spares, writer, found, WorkerThread() if hand is None else hand, unsynced_bytes_max
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Closes every file and releases the lock without a clean stop; does nothing the second time."""
        if self._open:
            self._open = False
            self._writer.close()
            self._spares.close()
            self._directory.close()
            self._directory.disk.let_go()

    def replay(self, progress: Progress | None = None) -> Iterator[Frame]:
        """Every batch in order, as of :meth:`open`. Blocking, for a worker thread; before any append.

        One segment in memory at a time. Raises :class:`StorageFailed`.
        """
        total = sum(part.walk.end for part in self.found.parts)
        done = 0
        for part in self.found.parts:
            try:
                data = self._directory.disk.read(self._directory.path / part.name)
            except OSError as exc:
                raise StorageFailed(f"{part.name} cannot be read: {exc}") from exc
            for frame in frames(data, part.walk.end):
                yield frame
                if progress is not None:
                    progress(done + frame.offset, total)
            done += part.walk.end
        if progress is not None:
            progress(total, total)

    @property
    def boots(self) -> dict[bytes, Boot]:
        """The clocks of every boot that wrote here, in the order of the boots, as found by :meth:`open`."""
        return self.found.boots

    @property
    def lacks_this_boot(self) -> bool:
        """Whether :meth:`mark` has no effect yet, because the last frame and its slot are of another boot."""
        return bool(self.found.boots) and self._writer.lacks_boot

    def follow(self) -> Follower:
        """A reader of what is appended from now on."""
        segment = self._writer.segment  # its offset is the beginning of a frame, also while one is written
        return Follower(self.shelf, segment.number, segment.offset, self.next_lsn)

    @property
    def sealed(self) -> list[Sealed]:
        """The sealed segments, oldest first. O(segments)."""
        numbers = sorted(self._writer.sizes)
        firsts = self._writer.first_lsns
        return [
            Sealed(number, self._writer.sizes[number], firsts[after] - 1)
            for number, after in itertools.pairwise(numbers)
        ]

    @property
    def pace(self) -> SyncTimes:
        """How long syncs took."""
        return self._writer.pace

    @property
    def full(self) -> bool:
        """Whether no more segments can be made at present."""
        return self._spares.full

    @property
    def lacks(self) -> str:
        """What the system lacked at the last try to make a segment; empty if it was made."""
        return self._spares.lacks

    @property
    def room(self) -> int:
        """Bytes that essential decisions may still take, including those of the reserved segments."""
        return self._room_essential - self._taken

    @property
    def bytes(self) -> int:
        """Bytes that the journal takes on disk: segments and spares."""
        return sum(self._writer.sizes.values()) + self._spares.count * self.segment_bytes
