"""The journal's folder: the lock, the names in it, and how a file gets its name.

The content of the files is in ``segment.py``; the order in which they are read, in ``recovery.py``.

===========================  =========================================================================
``lock``                     held with ``flock`` while a process has the journal open; holds its pid
``0000000001.segment``       segments, numbered from 1 without a hole (a trim removes the lowest)
``spare-3.zeros``            a spare segment: zeros, synced
``torn-0000000007-1234``     what a crash left of a write: segment number and offset; never read again
``damaged-0000000009``       folder: the files that a repair replaced by segment 9 and up, and its report
``*.tmp``                    not finished; removed at the next start
===========================  =========================================================================
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wheeltimer.errors import JournalInUse, StorageFailed

from .disk import Disk

LOCK: Final = "lock"
_SEGMENT: Final = re.compile(r"(\d{10})\.segment")
_SPARE: Final = re.compile(r"spare-(\d+)\.zeros")
_NO_PATH: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG})  # /proc/nope, a loop of links
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, *_NO_PATH})


def segment_name(number: int) -> str:
    return f"{number:010d}.segment"


def segments_in(disk: Disk, folder: Path) -> list[tuple[int, str]]:
    """Numbers and names of the segments, lowest first. Raises :class:`OSError`."""
    return _matching(disk.names(folder), _SEGMENT)


def spares_in(disk: Disk, folder: Path) -> list[tuple[int, str]]:
    """Numbers and names of the spare segments. Raises :class:`OSError`."""
    return _matching(disk.names(folder), _SPARE)


def _matching(names: list[str], pattern: re.Pattern[str]) -> list[tuple[int, str]]:
    return sorted((int(found[1]), name) for name in names if (found := pattern.fullmatch(name)))


class Directory:
    """A locked journal folder. Create with :meth:`open`; :meth:`close` releases the lock.

    Its other methods raise :class:`OSError`, which their callers translate. Two threads change names, the
    writer's and the one that makes spares: one at a time, and none once a sync of the folder failed. The
    failed sync may have lost the changes of either thread, and the next sync would succeed nevertheless.
    """

    def __init__(self, path: Path, disk: Disk, lock_fd: int, held: list[int]) -> None:
        self.path = path
        self.disk = disk
        self._lock_fd: int | None = lock_fd
        self._held = held
        self._changing = threading.Lock()
        self._failure: OSError | None = None

    @classmethod
    def open(cls, path: Path, disk: Disk, *, clean: bool = True) -> Directory:
        """Makes the folder if there is none (0700), locks it, and if ``clean`` removes unfinished files.

        Raises :class:`JournalInUse` if another process holds it or it cannot be written, and
        :class:`StorageFailed` for any other failure.
        """
        try:
            disk.make_folder(path)
            lock_fd, held = _lock(path, disk)
        except OSError as exc:
            if exc.errno in _REFUSED:
                what = "made" if exc.errno in _NO_PATH else "written"
                raise JournalInUse(f"data folder {path} cannot be {what}: {exc.strerror}") from exc
            raise StorageFailed(f"data folder {path} cannot be opened: {exc}") from exc
        directory = cls(path, disk, lock_fd, held)
        try:
            for name in disk.names(path):
                if clean and name.endswith(".tmp"):
                    disk.unlink(path / name)
            disk.sync_folder(path)  # an earlier process's renames may not be durable yet
        except OSError as exc:
            directory.close()
            raise StorageFailed(f"data folder {path} cannot be cleaned: {exc}") from exc
        return directory

    def close(self) -> None:
        """Releases the lock; further calls do nothing."""
        if self._lock_fd is not None:
            for fd in (self._lock_fd, *self._held):
                self.disk.close(fd)
            self._lock_fd = None

    def need_here(self) -> None:
        """Raises :class:`OSError` if the folder, or the lock file in it, was deleted or replaced."""
        if self._lock_fd is not None:
            self.disk.need_at(self._lock_fd, self.path / LOCK)

    def segments(self) -> list[tuple[int, str]]:
        return segments_in(self.disk, self.path)

    def spares(self) -> list[tuple[int, str]]:
        """Numbers and names of the spare segments."""
        return spares_in(self.disk, self.path)

    def spare_bytes(self) -> int:
        """Bytes that :meth:`spares` take on disk."""
        return sum(self.disk.size(self.path / name) for _, name in self.spares())

    def publish(self, temporary: Path, name: str) -> Path:
        """Gives a synced file its name, durably; a file of that name is replaced atomically."""
        target = self.path / name
        with self._change():
            self.disk.rename(temporary, target)
        return target

    def set_aside(self, number: int, offset: int, data: bytes) -> Path:
        """Keeps the bytes of a torn write under a name of their own."""
        name = f"torn-{number:010d}-{offset}"
        temporary = self.path / f"{name}.tmp"
        fd = self.disk.create(temporary)
        try:
            self.disk.write(fd, data, 0)
            self.disk.fdatasync(fd)
        finally:
            self.disk.close(fd)
        return self.publish(temporary, name)

    def remove(self, names: list[str]) -> None:
        with self._change():
            for name in names:
                self.disk.unlink(self.path / name)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Changes of names inside this context are durable when it ends."""
        with self._changing:
            if self._failure is not None:
                raise OSError(*self._failure.args) from self._failure
            yield
            try:
                self.disk.sync_folder(self.path)
            except OSError as exc:
                self._failure = exc
                raise


def _lock(path: Path, disk: Disk) -> tuple[int, list[int]]:
    """The lock file's descriptor, with our pid in it for a second process to read; and the other locks."""
    file = path / LOCK
    fds: list[int] = []
    try:
        fds += disk.lock_folder(path)
        fds.append(disk.lock(file))
        disk.replace_text(fds[-1], f"{disk.pid()}\n".encode())
    except OSError as exc:
        for fd in fds:
            disk.close(fd)
        if isinstance(exc, BlockingIOError):
            raise JournalInUse(f"data folder {path} is in use by process {_holder(file, disk)}") from exc
        raise
    return fds.pop(), fds


def _holder(file: Path, disk: Disk) -> str:
    """The process id in the lock file, as its holder wrote it."""
    try:
        text = disk.read(file, 64)
    except OSError:  # deleted under its holder
        return "unknown"
    return text.decode("ascii", "replace").strip() or "unknown"
