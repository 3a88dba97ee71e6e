"""Spare segments: allocated before they are needed, zeroed in the background.

A file's space is usable as soon as it is allocated; zeros only make it fast (a sync into space that was
never written takes two to three times as long). So an allocated file counts at once, is zeroed piece by
piece, and only then gets a name that a restart keeps.

The aside thread and the committer's thread both use ``SpareSegments``, and no other object: a lock guards it.
"""

from __future__ import annotations

import errno
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wheeltimer.errors import StorageFailed

from .directory import Directory
from .disk import ZERO_CHUNK_BYTES, Disk
from .frame import only_zeros
from .segment import SEGMENT_BYTES_MIN
from .spare_descriptors import NO_DESCRIPTOR

SPARES_WANTED: Final = 3
"""One for the next rotation and two that only essential records may use."""
RESERVED: Final = 2

LACKS: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "disk space"),
    **dict.fromkeys(NO_DESCRIPTOR, "file descriptors"),
    errno.ENOMEM: "memory",
}
"""What the system lacks, by errno. Each may become available again."""
_FOLDER_SEGMENTS: Final = 6
"""A segment size fits a folder if this many fit: the open one, 3 spares, a rewritten tail, one in reserve."""
_log = logging.getLogger("wheeltimer.journal")


@dataclass(slots=True)
class Spare:
    """One spare file; zeros were written to its first ``zeroed`` bytes."""

    path: Path
    fd: int
    zeroed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    taken: bool = False


class SpareSegments:
    """The spare segments of one journal, all of ``segment_bytes``."""

    def __init__(self, directory: Directory, segment_bytes: int) -> None:
        self.directory = directory
        self.disk = directory.disk
        self.segment_bytes = segment_bytes
        self._all: list[Spare] = []
        self._lock = threading.Lock()
        self._last_number = 0
        self.lacks = ""
        """What the system lacked at the last try to make a segment: a value of ``LACKS``; else empty."""

    @property
    def full(self) -> bool:
        """Whether the last try to make a segment failed."""
        return bool(self.lacks)

    @property
    def count(self) -> int:
        """How many segments can be taken."""
        return len(self._all)

    def adopt(self) -> None:
        """Takes over the files that an earlier run left; a file of another size, or one that cannot be read,
        is removed.

        They are read, 20 ms for 64 MiB, and zeroed from the first byte that is not zero: when the segment is
        read again, all bytes that no frame has overwritten must be zeros.
        """
        wrong = []
        for number, name in self.directory.spares():
            path = self.directory.path / name
            self._last_number = max(self._last_number, number)
            fits = self.disk.size(path) == self.segment_bytes and self.count < SPARES_WANTED
            if not (fits and self._adopted(path)):
                wrong.append(name)
        if wrong:
            self.directory.remove(wrong)

    def _adopted(self, path: Path) -> bool:
        """False for a file that cannot be read: it holds no data, so another one can replace it."""
        fd = -1
        try:
            fd = self.disk.open(path)
            found = first_nonzero(self.disk, path, self.segment_bytes)
            if found >= 0:
                self.disk.zero(fd, found, self.segment_bytes - found)
                self.disk.fdatasync(fd)
                _log.warning(
                    "a spare segment was not zero and was zeroed file=%s offset=%d", path.name, found
                )
        except OSError as exc:
            if fd >= 0:
                self.disk.close(fd)
            if exc.errno != errno.EIO:
                raise
            _log.warning("a spare segment cannot be read and is replaced file=%s: %s", path.name, exc)
            return False
        self._all.append(Spare(path, fd, zeroed=self.segment_bytes))
        return True

    def allocate(self) -> bool:
        """Makes one more file, not zeroed yet; False if that failed, and :attr:`lacks` has the reason.

        Raises :class:`StorageFailed` for any other failure.
        """
        self._last_number += 1
        path = self.directory.path / f"spare-{self._last_number}.tmp"
        fd = -1
        try:
            fd = self.disk.create(path)
            self.disk.allocate(fd, self.segment_bytes)
            self.disk.fdatasync(fd)
        except OSError as exc:
            if fd >= 0:
                self.disk.close(fd)
            if exc.errno not in LACKS:
                raise StorageFailed(f"{path} cannot be allocated: {exc}") from exc
            self._forget(path)
            lacks = LACKS[exc.errno]
            if self.lacks != lacks:
                _log.warning("no %s for one more segment, tried again until there is: %s", lacks, exc)
            self.lacks = lacks
            return False
        with self._lock:
            self._all.append(Spare(path, fd))
        if self.lacks:
            _log.info("%s for one more segment again", self.lacks)
        self.lacks = ""
        return True

    def zero_some(self) -> bool:
        """Zeroes one piece of a file that needs it and syncs it; False if none does."""
        with self._lock:
            raw = next((spare for spare in self._all if spare.zeroed < self.segment_bytes), None)
        if raw is None:
            return False
        with raw.lock:
            if raw.taken:
                return True
            try:
                piece = min(ZERO_CHUNK_BYTES, self.segment_bytes - raw.zeroed)
                self.disk.zero(raw.fd, raw.zeroed, piece)
                self.disk.fdatasync(raw.fd)
                raw.zeroed += piece
                if raw.zeroed == self.segment_bytes:
                    raw.path = self.directory.publish(raw.path, f"{raw.path.stem}.zeros")
            except OSError as exc:
                raise StorageFailed(f"{raw.path} cannot be zeroed: {exc}") from exc
        return True

    def take(self) -> Spare | None:
        """A file for the next segment, the one with the most zeros; None if there is none.

        Waits for at most one piece that is being zeroed in it.
        """
        with self._lock:
            if not self._all:
                return None
            spare = max(self._all, key=lambda each: each.zeroed)
            self._all.remove(spare)
        with spare.lock:
            spare.taken = True
        return spare

    def make(self, size: int) -> Spare:
        """A zeroed file, at once: a spare one, else a new one. Raises :class:`OSError`."""
        spare = self.take() if size == self.segment_bytes else None
        if spare is None:
            self._last_number += 1
            path = self.directory.path / f"spare-{self._last_number}.tmp"
            spare = Spare(path, self.disk.create(path))
        try:
            self.disk.allocate(spare.fd, size)
            self.disk.zero(spare.fd, spare.zeroed, size - spare.zeroed)
        except OSError:
            self.disk.close(spare.fd)
            raise
        return spare

    def close(self) -> None:
        """Closes the files; the next start removes those that are not completely zeroed."""
        with self._lock:
            for spare in self._all:
                self.disk.close(spare.fd)
            self._all.clear()

    def _forget(self, path: Path) -> None:
        """Removes the file of a failed allocation."""
        try:
            self.disk.unlink(path)
        except FileNotFoundError:
            pass  # there was no space for the name itself
        except OSError as exc:
            raise StorageFailed(f"{path} cannot be removed: {exc}") from exc


def first_nonzero(disk: Disk, path: Path, size: int) -> int:
    """Offset of the first of the file's ``size`` bytes that is not zero; -1 if all are. Raises OSError."""
    start = 0
    while start < size and (data := disk.read_at(path, start, min(ZERO_CHUNK_BYTES, size - start))):
        if not only_zeros(data, 0):
            return start + len(data) - len(data.lstrip(b"\0"))
        start += len(data)
    return -1


def fitting_segment_bytes(wanted: int, least: int, free: int) -> int:
    """``wanted``, halved until `_FOLDER_SEGMENTS` of them fit into ``free`` bytes; never below ``least``."""
    assert SEGMENT_BYTES_MIN <= least <= wanted
    assert wanted % SEGMENT_BYTES_MIN == 0
    assert least % SEGMENT_BYTES_MIN == 0
    size = wanted
    while size > least and size * _FOLDER_SEGMENTS > free:
        size = max(least, size // 2 & -SEGMENT_BYTES_MIN)
    return size
