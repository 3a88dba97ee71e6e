"""A disk in memory and small journals on it, for every test of this folder.

The disk counts its calls and can be told to fail; it keeps no difference between written and synced.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from wheeltimer.journal import Clocks, Disk, InlineWorker, Journal

FOLDER = Path("/journal")
BOOT = b"boot-of-the-test"
SEGMENT = 4096


class Clock:
    """Clocks that a test moves; every look takes a microsecond, so that no two frames are alike."""

    def __init__(self, boot_id: bytes = BOOT) -> None:
        self.boot_id = boot_id
        self.boottime_ns = 1_000_000_000
        self.step_ms = 1_700_000_000_000

    def __call__(self) -> Clocks:
        self.boottime_ns += 1000
        return Clocks(self.boot_id, self.boottime_ns, self.step_ms + self.boottime_ns // 1_000_000)


class MemoryDisk(Disk):
    """Files by path. ``calls`` counts by name; ``log`` keeps (name, path) in order.

    ``fail[name]`` is asked before each call of that name and returns the errno to fail with, or 0.
    ``short`` cuts the next write to so many bytes.
    """

    def __init__(self, seed: int = 1) -> None:
        self.files: dict[Path, bytearray] = {}
        self.open_files: dict[int, tuple[Path, bytearray]] = {}
        self.locks: dict[Path, int] = {}
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        self.fail: dict[str, Callable[[Path], int]] = {}
        self.short: int | None = None
        self.free = 1 << 40
        self.chance = random.Random(seed)
        self.last_fd = 2

    def _call(self, name: str, path: Path) -> None:
        self.calls[name] += 1
        self.log.append((name, path.name))
        if (code := self.fail.get(name, lambda _: 0)(path)) != 0:
            raise OSError(code, f"told to fail {name}")

    def _file(self, path: Path) -> bytearray:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self.files[path]

    def _opened(self, path: Path) -> int:
        self.last_fd += 1
        self.open_files[self.last_fd] = (path, self.files[path])
        return self.last_fd

    def hold(self, folder: Path) -> None:
        self._call("hold", folder)

    def let_go(self) -> None:
        """Nothing is held: what is told to fail fails at once."""

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", path)

    def names(self, folder: Path) -> list[str]:
        self._call("names", folder)
        return sorted(path.name for path in self.files if path.parent == folder)

    def size(self, path: Path) -> int:
        return len(self._file(path))

    def free_bytes(self, folder: Path) -> int:
        return self.free

    def read(self, path: Path, limit: int = -1) -> bytes:
        self._call("read", path)
        data = bytes(self._file(path))
        return data if limit < 0 else data[:limit]

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._call("read_at", path)
        return bytes(self._file(path)[offset : offset + size])

    def open(self, path: Path) -> int:
        self._call("open", path)
        self._file(path)
        return self._opened(path)

    def create(self, path: Path) -> int:
        self._call("create", path)
        self.files[path] = bytearray()
        return self._opened(path)

    def give(self, path: Path, folder: Path) -> None:
        """There is one user here."""

    def close(self, fd: int) -> None:
        path, _ = self.open_files.pop(fd)
        if self.locks.get(path) == fd:
            del self.locks[path]

    def allocate(self, fd: int, size: int) -> None:
        path, file = self.open_files[fd]
        self._call("allocate", path)
        file.extend(bytes(max(0, size - len(file))))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        path, file = self.open_files[fd]
        self._call("pwrite", path)
        if self.short is not None:
            data, self.short = data[: self.short], None
        file.extend(bytes(max(0, offset + len(data) - len(file))))
        file[offset : offset + len(data)] = data
        return len(data)

    def fdatasync(self, fd: int) -> None:
        self._call("fdatasync", self.open_files[fd][0])

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename", source)
        file = self.files[target] = self.files.pop(source)
        for fd, (_, opened) in self.open_files.items():
            if opened is file:
                self.open_files[fd] = (target, file)

    def link(self, source: Path, target: Path) -> None:
        self._call("link", target)
        self.files[target] = self._file(source)

    def unlink(self, path: Path) -> None:
        self._call("unlink", path)
        self._file(path)
        del self.files[path]

    def sync_folder(self, folder: Path) -> None:
        self._call("sync_folder", folder)

    def lock(self, path: Path) -> int:
        self._call("lock", path)
        if path in self.locks:
            raise BlockingIOError(errno.EAGAIN, "held")
        self.files.setdefault(path, bytearray())
        self.locks[path] = self._opened(path)
        return self.locks[path]

    def lock_folder(self, path: Path) -> list[int]:
        return []

    def need_name(self, fd: int) -> None:
        path, file = self.open_files[fd]
        if self.files.get(path) is not file:
            raise OSError(errno.ESTALE, "removed", str(path))

    def need_at(self, fd: int, path: Path) -> None:
        if self.files.get(path) is not self.open_files[fd][1]:
            raise OSError(errno.ESTALE, "removed or replaced", str(path))

    def replace_text(self, fd: int, text: bytes) -> None:
        self.open_files[fd][1][:] = text

    def pid(self) -> int:
        return 4711

    def random(self, size: int) -> bytes:
        return self.chance.randbytes(size)


def open_journal(disk: Disk, clock: Clock | None = None, **options: Any) -> Journal:
    """A journal of small segments, without threads unless a hand is given."""
    options = {"segment_bytes": SEGMENT, "hand": InlineWorker()} | options
    return Journal.open(options.pop("path", FOLDER), disk=disk, clock=clock or Clock(), **options)


@asynccontextmanager
async def running(journal: Journal, *, clean: bool = True) -> Any:
    """Runs a journal for the block; stops it cleanly at the end, or drops it where it stands."""
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        yield journal
        if clean:
            await journal.close()
        else:
            nursery.cancel_scope.cancel()


def raw(size: int, fill: int = 7) -> bytes:
    """A record of ``size`` bytes: a msgpack bin of which every byte but the head is ``fill``."""
    assert 2 <= size < 258
    return b"\xc4" + bytes((size - 2,)) + bytes((fill,)) * (size - 2)


def put(journal: Journal, *records: bytes, hold: bool = False) -> int:
    """Reserves and appends one decision."""
    size = sum(map(len, records))
    assert journal.reserve(size)
    return journal.append(list(records), size, hold=hold)


def contents(journal: Journal) -> list[tuple[int, int, bytes]]:
    """First lsn, count and payload of every batch."""
    return [(frame.first_lsn, frame.records, bytes(frame.payload)) for frame in journal.replay()]


def reopened(disk: Disk, clock: Clock | None = None, **options: Any) -> list[tuple[int, int, bytes]]:
    """What a fresh start on this disk finds; lets go of it again."""
    with open_journal(disk, clock, **options) as journal:
        return contents(journal)


@contextmanager
def failing(
    disk: MemoryDisk, name: str, code: int, when: Callable[[Path], bool] = lambda _: True
) -> Iterator[None]:
    """The calls of this name fail with ``code`` for paths that ``when`` picks."""
    disk.fail[name] = lambda path: code if when(path) else 0
    try:
        yield
    finally:
        del disk.fail[name]
