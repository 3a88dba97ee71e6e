"""The few system calls that the journal makes, behind one object that can be replaced.

Every call is blocking and raises :class:`OSError`; its caller translates the error once. Another object with
these methods (for example a disk in memory that loses power) replaces the disk of the whole journal. Nothing
here depends on what a segment or a frame is.

An error has the name of the call and of the file: for a call on a descriptor the system reports neither.

Between :meth:`Disk.hold` and :meth:`Disk.let_go` no call fails for lack of a descriptor, unless other threads
take those that ``spare_descriptors.py`` keeps. A sync of the folder needs none.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .holding import NO_LOCKS, hold_path
from .spare_descriptors import SpareDescriptors

ZERO_CHUNK_BYTES = 1 << 20
"""Zeros are written in pieces of this size, so that no commit's sync waits behind a whole segment."""

_ZEROS = bytes(ZERO_CHUNK_BYTES)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _named(call: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Adds the call's name and the file's to its errors; the first argument is a path or a descriptor."""

    def wrap(function: Callable[_P, _T]) -> Callable[_P, _T]:
        def called(*given: _P.args, **more: _P.kwargs) -> _T:
            try:
                return function(*given, **more)
            except OSError as exc:
                raise OSError(exc.errno, f"{call}: {exc.strerror}", _path_of(given[0])) from exc

        return called

    return wrap


def _path_of(target: Any) -> str:
    """The name of the file of a path or an open descriptor."""
    if isinstance(target, int):
        with suppress(OSError):
            return os.readlink(f"/proc/self/fd/{target}")
    return str(target)


_open = _named("open")(os.open)
_read = _named("read")(os.read)
_pread = _named("read")(os.pread)
_pwrite = _named("write")(os.pwrite)
_fallocate = _named("fallocate")(os.posix_fallocate)
_ftruncate = _named("ftruncate")(os.ftruncate)
_fdatasync = _named("fdatasync")(os.fdatasync)
_fsync = _named("fsync")(os.fsync)
_flock = _named("flock")(fcntl.flock)
_rename = _named("rename")(os.rename)
_link = _named("link")(os.link)
_unlink = _named("unlink")(os.unlink)
_listdir = _named("list")(os.listdir)


class Disk:
    """The real disk: file descriptors and paths of the operating system."""

    _spare_descriptors: SpareDescriptors | None = None
    _folder: tuple[Path, int] | None = None

    def hold(self, folder: Path) -> None:
        """Opens ``folder`` and keeps spare descriptors for later calls, until :meth:`let_go`."""
        self._folder = folder, _open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._spare_descriptors = SpareDescriptors()

    def let_go(self) -> None:
        """Closes the descriptors of :meth:`hold`; without it, and the second time, does nothing."""
        if self._spare_descriptors is not None:
            self._spare_descriptors.let_go()
            self._spare_descriptors = None
        if self._folder is not None:
            os.close(self._folder[1])
            self._folder = None

    def _opened(self, call: Callable[_P, _T], *given: _P.args, **more: _P.kwargs) -> _T:
        spare = self._spare_descriptors  # read once: another thread may call let_go
        return call(*given, **more) if spare is None else spare.call(call, *given, **more)

    def make_folder(self, path: Path) -> None:
        """Creates ``path`` and its missing parents, for this user only; no error if it exists."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        while True:  # the one call that Python does not repeat after a signal
            with suppress(InterruptedError):
                return sorted(self._opened(_listdir, folder))

    def size(self, path: Path) -> int:
        return os.stat(path).st_size

    def free_bytes(self, folder: Path) -> int:
        """Bytes that an unprivileged process can still allocate on the file system of ``folder``."""
        stat = os.statvfs(folder)
        return stat.f_bavail * stat.f_frsize

    def read(self, path: Path, limit: int = -1) -> bytes:
        """The file's bytes, at most ``limit`` of them if it is not negative.

        Read and not mapped, so that a sector that cannot be read causes an error and not a signal.
        """
        fd = self._opened(_open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = os.fstat(fd).st_size if limit < 0 else limit
            parts = []
            while left > 0 and (part := _read(fd, left)):
                parts.append(part)
                left -= len(part)
        finally:
            self.close(fd)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """At most ``size`` of the file's bytes from ``offset`` on; fewer only at its end."""
        fd = self._opened(_open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = _pread(fd, size, offset)
            while len(data) < size and (more := _pread(fd, size - len(data), offset + len(data))):
                data += more
        finally:
            self.close(fd)
        return data

    def open(self, path: Path) -> int:
        """A descriptor for writing in place."""
        return self._opened(_open, path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file for this user only; a file of that name is emptied.

        A link is refused: otherwise the folder's owner could make a repair by root empty any file.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return self._opened(_open, path, flags, 0o600)

    def give(self, path: Path, folder: Path) -> None:
        """Gives ``path`` the owner of ``folder``: a daemon must be able to open a file that root made."""
        made, owner = os.lstat(path), os.stat(folder)
        if (made.st_uid, made.st_gid) != (owner.st_uid, owner.st_gid):
            os.lchown(path, owner.st_uid, owner.st_gid)

    def close(self, fd: int) -> None:
        spare = self._spare_descriptors
        if spare is None:
            os.close(fd)
        else:
            spare.close(fd)

    def allocate(self, fd: int, size: int) -> None:
        """Allocates ``size`` bytes for this file, so that later writes do not lack space."""
        _fallocate(fd, 0, size)

    def zero(self, fd: int, offset: int, size: int) -> None:
        """Writes zeros: a sync into space that was written before takes a third of the time."""
        while size > 0:
            piece = min(size, ZERO_CHUNK_BYTES)
            self.write(fd, _ZEROS[:piece], offset)
            offset += piece
            size -= piece

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Writes all of ``data`` at ``offset``; one system call unless the system writes only a part."""
        written = self.pwrite(fd, data, offset)
        while written < len(data):
            if written == 0:
                raise OSError("the system wrote nothing and gave no reason")
            data = data[written:]
            offset += written
            written = self.pwrite(fd, data, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return _pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        _fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        _rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name; its bytes are not copied."""
        _link(source, target)

    def unlink(self, path: Path) -> None:
        _unlink(path)

    def sync_folder(self, folder: Path) -> None:
        """Makes creations, renames and removals in ``folder`` durable."""
        if self._folder is not None and self._folder[0] == folder:
            fd = self._folder[1]
            if not os.path.samestat(os.fstat(fd), os.stat(folder)):
                raise OSError(errno.ESTALE, "another folder is in its place", str(folder))
            _fsync(fd)
            return
        fd = _open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path) -> int:
        """A descriptor that locks ``path`` against every other process until it is closed.

        ``flock``: a POSIX lock would be dropped by closing any other descriptor of the file. Raises
        :class:`BlockingIOError` if another process holds the lock.
        """
        fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def lock_folder(self, path: Path) -> list[int]:
        """Descriptors that lock the folder, and its path, against every other process until they are closed.

        Fewer if the system has no such locks. Raises :class:`BlockingIOError` like :meth:`lock`.
        """
        held: list[int] = []
        try:
            held.append(_open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                _flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno not in NO_LOCKS:
                    raise
                os.close(held.pop())
            if (name := hold_path(path)) is not None:
                held.append(name)
        except OSError:
            for fd in held:
                os.close(fd)
            raise
        return held

    def need_name(self, fd: int) -> None:
        """Raises :class:`OSError` if the open file was deleted. 1 us."""
        if os.fstat(fd).st_nlink == 0:
            raise OSError(errno.ESTALE, "the file was removed while it was in use", _path_of(fd))

    def need_at(self, fd: int, path: Path) -> None:
        """Raises :class:`OSError` if ``path`` is not the path of this open file or folder any more."""
        try:
            there = os.path.samestat(os.fstat(fd), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise OSError(errno.ESTALE, "removed or replaced while it was in use", str(path))

    def replace_text(self, fd: int, text: bytes) -> None:
        """Replaces the content of the small file of ``fd`` by ``text``; not synced."""
        _ftruncate(fd, 0)
        _pwrite(fd, text, 0)

    def pid(self) -> int:
        return os.getpid()

    def random(self, size: int) -> bytes:
        """Bytes that cannot be guessed: salts and ids."""
        return os.urandom(size)
