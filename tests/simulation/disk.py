"""A disk in memory that forgets: what is durable, what is only in the cache, and everything a disk may do
wrong.

A file has what its readers see (``data``, the page cache), what is on the platter (``stable``), and
between the two the 512-byte sectors written since the last sync. A folder has durable names and the steps
since its last sync. Power loss keeps any of those sectors and steps, in any order; a kill keeps all of
them. Whatever the journal asks of :class:`wheeltimer.journal.Disk` is answered in the loop, without a
thread.

``ops`` counts the calls that change something: faults are set by that number, so a seed fixes them.
Writing what stands there already changes nothing that a crash could leave, and is not remembered.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wheeltimer.journal import Disk

from .crash_images import Image, Moment, Still

SECTOR: Final = 512
FOLDER: Final = Path("/world")
KEEPS, REVERTS, LATER = "keeps", "reverts", "later"
"""What a failed fdatasync leaves: the new bytes in the cache only; the old bytes; or no error before the
next one (Rebello et al., ATC 2020)."""


@dataclass(slots=True, eq=False)
class File:
    """``stable`` is as long as the platter knows the file to be."""

    data: bytearray
    stable: bytearray
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    betrays: bool = False  # the sync before said it was well and was not
    frozen: bytes | None = None  # ``stable``, for those who keep it

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def doubts(self) -> int:
        """How many things a crash may keep or lose."""
        return len(self.pending) + (len(self.data) != len(self.stable))

    def kept(self) -> bytes:
        """What is on the platter, copied once."""
        if self.frozen is None:
            self.frozen = bytes(self.stable)
        return self.frozen

    def still(self) -> Still:
        return Still(self.size, self.kept(), tuple(self.pending), self.doubts)


Step = tuple[str | None, str | None, File]  # (name gone, name come, file)


@dataclass
class Faults:
    """What goes wrong, by number of the changing call (or of the read)."""

    sync: dict[int, str] = field(default_factory=dict)  # the first fdatasync from this call on fails so
    short: set[int] = field(default_factory=set)
    write: dict[int, int] = field(default_factory=dict)  # the first write from this call on: errno
    read: dict[int, int] = field(default_factory=dict)
    full: tuple[int, int] | None = None  # no new space from this call to that
    no_descriptors: tuple[int, int] | None = None  # no file can be opened from this call to that


class SimDisk(Disk):
    """``halt`` is called before each changing call; it may call :meth:`lose_power`."""

    def __init__(self, seed: int, image: Image | None = None) -> None:
        self.names_now = {
            name: File(bytearray(data), bytearray(data)) for name, data in (image or {}).items()
        }
        self.names_stable = dict(self.names_now)
        self.steps: list[Step] = []
        self.chance = random.Random(seed)
        self.faults = Faults()
        self.ops = self.reads = 0
        self.halt: Callable[[str], None] | None = None
        self.dead = False
        self._fds: dict[int, tuple[str, File]] = {}
        self._last_fd = 2
        self._locked = -1

    # -- between lives --------------------------------------------------------------------------

    def restarted(self) -> SimDisk:
        """The same disk under another process: descriptors and locks are gone, the cache is not."""
        other = SimDisk(self.chance.getrandbits(32))
        other.names_now, other.names_stable, other.steps = self.names_now, self.names_stable, self.steps
        for file in other.names_now.values():
            file.betrays = False  # the error was told, or went with the process
        return other

    def moment(self) -> Moment:
        """What a power loss just now may keep or lose."""
        files = {id(f): f for f in (*self.names_now.values(), *self.names_stable.values())}
        files |= {id(file): file for _, _, file in self.steps}
        still = {number: file.still() for number, file in files.items()}
        return Moment(
            {name: still[id(file)] for name, file in self.names_now.items()},
            {name: still[id(file)] for name, file in self.names_stable.items()},
            [(gone, come, still[id(file)]) for gone, come, file in self.steps],
            len(self.steps) + sum(file.doubts for file in still.values()),
        )

    def flip(self, name: str, bit: int) -> None:
        """One bit at rest turns over, in the cache and on the platter."""
        file = self.names_now[name]
        file.data[bit >> 3] ^= 1 << (bit & 7)
        file.stable[bit >> 3] ^= 1 << (bit & 7)
        file.frozen = None

    def lose_power(self) -> None:
        """From here on every call fails, whoever makes it."""
        self.dead = True

    # -- what the journal calls -----------------------------------------------------------------

    def _change(self, what: str) -> None:
        self._alive()
        self.ops += 1
        if self.halt is not None:
            self.halt(what)
            self._alive()

    def _alive(self) -> None:
        if self.dead:
            raise OSError(errno.EIO, "no power")

    def _read(self) -> None:
        self._alive()
        self.reads += 1
        if code := self.faults.read.get(self.reads, 0):
            raise OSError(code, "told to fail a read")

    def _space(self) -> None:
        full = self.faults.full
        if full is not None and full[0] <= self.ops < full[1]:
            raise OSError(errno.ENOSPC, "no space")

    def _descriptor(self) -> None:
        none = self.faults.no_descriptors
        if none is not None and none[0] <= self.ops < none[1]:
            raise OSError(errno.EMFILE, "no descriptor")

    def _opened(self, name: str, file: File) -> int:
        self._last_fd += 1
        self._fds[self._last_fd] = (name, file)
        return self._last_fd

    def _file(self, path: Path) -> File:
        file = self.names_now.get(path.name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return file

    def hold(self, folder: Path) -> None:
        self._alive()

    def let_go(self) -> None:
        """Nothing is held: a process without descriptors fails at once."""

    def make_folder(self, path: Path) -> None:
        self._alive()

    def names(self, folder: Path) -> list[str]:
        self._read()
        self._descriptor()
        return sorted(self.names_now)

    def size(self, path: Path) -> int:
        return len(self._file(path).data)

    def free_bytes(self, folder: Path) -> int:
        return 1 << 40

    def read(self, path: Path, limit: int = -1) -> bytes:
        self._read()
        data = bytes(self._file(path).data)
        return data if limit < 0 else data[:limit]

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._read()
        self._descriptor()
        return bytes(self._file(path).data[offset : offset + size])

    def open(self, path: Path) -> int:
        self._alive()
        return self._opened(path.name, self._file(path))

    def create(self, path: Path) -> int:
        self._change("create")
        self._descriptor()
        self._space()
        file = self.names_now[path.name] = File(bytearray(), bytearray())
        self.steps.append((None, path.name, file))
        return self._opened(path.name, file)

    def close(self, fd: int) -> None:
        self._fds.pop(fd)
        if self._locked == fd:
            self._locked = -1

    def allocate(self, fd: int, size: int) -> None:
        self._change("allocate")
        self._space()
        data = self._fds[fd][1].data
        data.extend(bytes(max(0, size - len(data))))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._change("pwrite")
        if code := _due(self.faults.write, self.ops):
            raise OSError(code, "told to fail a write")
        file = self._fds[fd][1]
        if self.ops in self.faults.short and len(data) > 1:
            data = data[: self.chance.randrange(1, len(data))]
        end = offset + len(data)
        if file.data[offset:end] == data:
            return len(data)
        before = len(file.data)
        file.data.extend(bytes(max(0, end - before)))
        first = offset // SECTOR * SECTOR
        old = bytes(file.data[first : end + -end % SECTOR])
        file.data[offset:end] = data
        for at in range(first, end, SECTOR):
            new = bytes(file.data[at : at + SECTOR])
            if new != old[at - first : at - first + SECTOR] or at + SECTOR > before:
                file.pending.append((at, new))
        return len(data)

    def fdatasync(self, fd: int) -> None:
        self._change("fdatasync")
        file = self._fds[fd][1]
        kind = _due(self.faults.sync, self.ops)
        if file.betrays:
            raise OSError(errno.EIO, "told to fail a sync that was made before")
        if kind == LATER:
            file.betrays = True
            return
        if kind == REVERTS:
            file.data[: len(file.stable)] = file.stable
            file.data[len(file.stable) :] = bytes(len(file.data) - len(file.stable))
        if kind:
            file.pending.clear()  # clean in the cache, and never on the platter
            raise OSError(errno.EIO, "told to fail a sync")
        if file.doubts:
            file.frozen = None
            file.stable.extend(bytes(max(0, len(file.data) - len(file.stable))))
            for at, sector in file.pending:
                file.stable[at : at + len(sector)] = sector
            file.pending.clear()

    def rename(self, source: Path, target: Path) -> None:
        self._change("rename")
        file = self._file(source)
        del self.names_now[source.name]
        self.names_now[target.name] = file
        self.steps.append((source.name, target.name, file))

    def unlink(self, path: Path) -> None:
        self._change("unlink")
        file = self._file(path)
        del self.names_now[path.name]
        self.steps.append((path.name, None, file))

    def sync_folder(self, folder: Path) -> None:
        self._change("sync_folder")
        self.names_stable = dict(self.names_now)
        self.steps.clear()

    def lock(self, path: Path) -> int:
        self._alive()
        if self._locked >= 0:
            raise BlockingIOError(errno.EAGAIN, "held")
        self._locked = self._opened("lock", File(bytearray(), bytearray()))
        return self._locked

    def lock_folder(self, path: Path) -> list[int]:
        return []

    def need_name(self, fd: int) -> None:
        self._alive()

    def need_at(self, fd: int, path: Path) -> None:
        self._alive()

    def replace_text(self, fd: int, text: bytes) -> None:
        self._alive()

    def pid(self) -> int:
        return 4711

    def random(self, size: int) -> bytes:
        return self.chance.randbytes(size)


def _due(planned: dict[int, Any], number: int) -> Any:
    """What was planned for this call or an earlier one and has not come about; it does now."""
    for at in planned:
        if at <= number:
            return planned.pop(at)
    return None
