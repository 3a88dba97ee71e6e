"""A disk that forgets what was not synced: a small file system of one folder, in memory, behind FUSE.

The kernel keeps no page and no name of it, so that what a program sees is what is here. Each file has what
it shows, what is durable, and the writes in between; the folder has names that show, names that are
durable, and the steps in between. ``power_off`` is the instant after which nothing becomes durable, often in
the middle of a sync; ``cut`` decides what that instant left: of the writes since a file's last sync any
512-byte blocks, of the steps since the folder's last sync any steps. ``fail_next_sync`` makes the next sync
of a segment fail as Linux lets it fail: the pages are clean from then on, still show, and are lost.

Run as a process of its own (``python -m tests.process.lossy_disk_fuse FOLDER``), driven by ``ForgetfulDisk``.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

BLOCK_BYTES = 512
SIZE_BYTES = 1 << 30
SYNC_S_MAX = 0.005  # a sync takes up to so long, so that power is often lost in the middle of one


class ForgetfulDisk:
    """The test's end of the process; the folder is mounted while the context is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.lossy_disk_fuse", str(folder)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = self._said()
        if said != "mounted":
            raise OSError(f"FUSE cannot mount here: {said or 'see standard error'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        # Lazily, for a daemon that a failed test left behind may still have files open.
        subprocess.run(["fusermount3", "-u", "-z", "-q", str(self.folder)], check=False)
        self.process.wait(30)
        self.process.stdout.close()

    def power_off(self) -> None:
        """From now on nothing becomes durable and no change is answered, a sync under way neither."""
        self._ask("off 0")

    def let_go(self) -> None:
        """Ends the calls that were never answered: who made them is being killed and will not see it."""
        self._ask("release 0")

    def cut(self, seed: int) -> str:
        """Power is back; nobody has a file open. What was forgotten, in words."""
        return self._ask(f"cut {seed}")

    def fail_next_sync(self) -> None:
        """The next sync of a segment is EIO, and what it should have written is lost."""
        self._ask("fail 0")

    def _ask(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._said()

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@dataclass
class _File:
    """``shown``: what a read gives; ``stable``: what is durable; ``writes``: since then, in order."""

    number: int
    shown: bytearray = field(default_factory=bytearray)
    stable: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.shown, offset, data)
        self.writes.append((offset, data))

    def resize(self, size: int) -> None:
        """Sizes are kept at once: whoever depends on them here syncs before."""
        for data in (self.shown, self.stable):
            del data[size:]
            data.extend(bytes(size - len(data)))
        self.writes = [(offset, data[: size - offset]) for offset, data in self.writes if offset < size]

    def sync(self) -> None:
        for offset, data in self.writes:
            _put(self.stable, offset, data)
        self.writes.clear()

    def forget(self, chance: random.Random) -> int:
        """Keep some of the blocks, in any order; how many were lost."""
        blocks = []
        for offset, data in self.writes:
            at = 0
            while at < len(data):
                size = min(BLOCK_BYTES - (offset + at) % BLOCK_BYTES, len(data) - at)
                blocks.append((offset + at, data[at : at + size]))
                at += size
        kept = chance.choice((0.0, 0.5, 0.9, 1.0))
        stay = [block for block in blocks if chance.random() < kept]
        chance.shuffle(stay)
        for at, block in stay:
            _put(self.stable, at, block)
        self.writes.clear()
        self.shown = bytearray(self.stable)
        return len(blocks) - len(stay)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class Disk:
    """All files and names. A step is (the name that went, the name that came, the file)."""

    def __init__(self) -> None:
        self.files: dict[int, _File] = {}
        self.names: dict[str, int] = {}
        self.stable_names: dict[str, int] = {}
        self.steps: list[tuple[str | None, str | None, int]] = []
        self.fails = self.off = False
        self.chance = random.Random(0)
        self._last = 1  # the folder

    def create(self, name: str) -> _File:
        self._last += 1
        file = self.files[self._last] = _File(self._last)
        self._step(None, name, file.number)
        return file

    def rename(self, source: str, target: str) -> None:
        self._step(source, target, self.names[source])

    def unlink(self, name: str) -> None:
        self._step(name, None, self.names[name])

    def _step(self, gone: str | None, come: str | None, number: int) -> None:
        _take(self.names, gone, come, number)
        self.steps.append((gone, come, number))

    def sync_names(self) -> None:
        self.stable_names = dict(self.names)
        self.steps.clear()

    def sync(self, file: _File) -> bool:
        """Whether it went well."""
        name = next((name for name, number in self.names.items() if number == file.number), "")
        if self.fails and name.endswith(".segment"):
            self.fails = False
            file.writes.clear()  # clean, shown, and nowhere else
            return False
        file.sync()
        return True

    def cut(self, seed: int) -> str:
        chance = random.Random(seed)
        lost_steps = 0
        for gone, come, number in self.steps:
            if chance.random() < 0.5:
                _take(self.stable_names, gone, come, number)
            else:
                lost_steps += 1
        self.steps.clear()
        self.off = False
        lost_blocks = 0
        files: dict[int, _File] = {}
        names: dict[str, int] = {}
        for name, number in self.stable_names.items():
            file = self.files[number]
            lost_blocks += file.forget(chance)
            self._last += 1  # another number, so that nothing that the kernel knew of it counts
            names[name] = self._last
            files[self._last] = _File(self._last, bytearray(file.shown), bytearray(file.stable))
        self.files, self.names, self.stable_names = files, names, dict(names)
        return f"forgot blocks={lost_blocks} steps={lost_steps}"


def _take(names: dict[str, int], gone: str | None, come: str | None, number: int) -> None:
    if gone is not None and names.get(gone) == number:
        del names[gone]
    if come is not None:
        names[come] = number


def _operations(disk: Disk, released: list[Any]) -> Any:
    """FUSE's calls, on ``disk``. Made in a function: only this process has pyfuse3."""
    import pyfuse3
    import trio

    root = pyfuse3.ROOT_INODE

    async def power() -> None:
        """Before any change: there is power, or no answer, and in the end an error that nobody sees."""
        if disk.off:
            await released[0].wait()
            raise pyfuse3.FUSEError(errno.EIO)

    class Operations(pyfuse3.Operations):  # type: ignore[misc]
        def _file(self, parent: int, name: bytes) -> _File:
            if parent != root or name.decode() not in disk.names:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return disk.files[disk.names[name.decode()]]

        def _about(self, number: int) -> Any:
            about = pyfuse3.EntryAttributes()
            about.st_ino = number
            about.entry_timeout = about.attr_timeout = 0
            about.st_uid, about.st_gid = os.getuid(), os.getgid()
            about.st_blksize = 4096
            if number == root:
                about.st_mode, about.st_nlink = stat.S_IFDIR | 0o700, 2
            elif number in disk.files:
                about.st_mode, about.st_nlink = stat.S_IFREG | 0o600, 1
                about.st_size = len(disk.files[number].shown)
                about.st_blocks = about.st_size // 512
            else:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return about

        async def getattr(self, inode: int, ctx: Any = None) -> Any:
            return self._about(inode)

        async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
            await power()
            if fields.update_size:
                disk.files[inode].resize(attr.st_size)
            return self._about(inode)

        async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
            return self._about(self._file(parent_inode, name).number)

        async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
            await power()
            file = disk.create(name.decode())
            return pyfuse3.FileInfo(fh=file.number, direct_io=True), self._about(file.number)

        async def open(self, inode: int, flags: int, ctx: Any) -> Any:
            if flags & os.O_TRUNC:
                await power()
                disk.files[inode].resize(0)
            return pyfuse3.FileInfo(fh=inode, direct_io=True)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            return bytes(disk.files[fh].shown[off : off + size])

        async def write(self, fh: int, off: int, buf: bytes) -> int:
            await power()
            disk.files[fh].write(off, bytes(buf))
            return len(buf)

        async def fsync(self, fh: int, datasync: bool) -> None:
            await trio.sleep(disk.chance.uniform(0, SYNC_S_MAX))
            await power()
            if not disk.sync(disk.files[fh]):
                raise pyfuse3.FUSEError(errno.EIO)

        async def fsyncdir(self, fh: int, datasync: bool) -> None:
            await trio.sleep(disk.chance.uniform(0, SYNC_S_MAX))
            await power()
            disk.sync_names()

        async def opendir(self, inode: int, ctx: Any) -> int:
            return inode

        async def readdir(self, fh: int, start_id: int, token: Any) -> None:
            for position, (name, number) in enumerate(sorted(disk.names.items()), 1):
                if position > start_id:
                    about = self._about(number)
                    if not pyfuse3.readdir_reply(token, name.encode(), about, position):
                        return

        async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
            await power()
            self._file(parent_inode, name)
            disk.unlink(name.decode())

        async def rename(
            self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes,
            flags: int, ctx: Any,
        ) -> None:  # fmt: skip
            await power()
            self._file(parent_inode_old, name_old)
            disk.rename(name_old.decode(), name_new.decode())

        async def statfs(self, ctx: Any) -> Any:
            about = pyfuse3.StatvfsData()
            about.f_bsize = about.f_frsize = 4096
            about.f_blocks = about.f_bfree = about.f_bavail = SIZE_BYTES // 4096
            about.f_files = about.f_ffree = about.f_favail = 10_000
            about.f_namemax = 255
            return about

    return Operations()


def main(folder: str) -> None:
    """Mount, do what standard input says, unmount at its end."""
    import pyfuse3
    import trio

    disk = Disk()
    released = [trio.Event()]

    async def obey(nursery: Any) -> None:
        async with trio.lowlevel.FdStream(os.dup(0)) as asked:
            data = b""
            async for part in asked:
                data += part
                while b"\n" in data:
                    line, _, data = data.partition(b"\n")
                    what, _, value = line.decode().partition(" ")
                    if what == "cut":
                        print(disk.cut(int(value)), flush=True)
                        continue
                    if what == "off":
                        disk.off, released[0] = True, trio.Event()
                    elif what == "release":
                        released[0].set()
                    else:
                        disk.fails = True
                    print("done", flush=True)
        nursery.cancel_scope.cancel()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            nursery.start_soon(obey, nursery)
            print("mounted", flush=True)

    try:
        pyfuse3.init(_operations(disk, released), folder, {*pyfuse3.default_options, "fsname=forgetful"})
    except RuntimeError as error:
        print(f"{error}", flush=True)
        return
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1])
