"""Power is lost at any call, also while the start after the last loss is still at it.

The disk honours flushes and nothing else: of what was written since a file's last sync any sectors are
kept, of what was done in the folder since its last sync any steps. Whatever was acknowledged comes back,
nothing comes back that was not appended, and the start is never refused: a crash is no damage.

A seed fixes a world but for the order in which Trio runs the tasks of one turn.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from wheeltimer.errors import StorageFailed
from wheeltimer.journal import Journal
from wheeltimer.journal.frame import SECTOR_BYTES

from .worlds import Clock, MemoryDisk, contents, open_journal, raw, running

WORLDS = 300
LOSSES = 4


class PowerDisk(MemoryDisk):
    """Knows what would survive. ``calls_left``: so many changing calls until the power goes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.calls_left = 1 << 60
        self.stable: dict[int, bytes] = {}  # by id of the file's bytearray
        self.pending: dict[int, list[tuple[int, bytes]]] = {}
        self.stable_names: dict[Path, bytearray] = {}
        self.steps: list[tuple[Path | None, Path | None, bytearray]] = []  # (name gone, name come, file)
        self.kept_alive: list[bytearray] = []

    def _call(self, name: str, path: Path) -> None:
        super()._call(name, path)
        if name not in ("names", "read", "lock", "open", "make_folder"):
            self.calls_left -= 1
            if self.calls_left < 0:
                raise OSError(errno.EIO, "no power")

    def create(self, path: Path) -> int:
        fd = super().create(path)
        file = self.files[path]
        self.kept_alive.append(file)
        self.stable[id(file)], self.pending[id(file)] = b"", []
        self.steps.append((None, path, file))
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        file = self.open_files[fd][1]
        for at in range(offset // SECTOR_BYTES * SECTOR_BYTES, offset + written, SECTOR_BYTES):
            self.pending[id(file)].append((at, bytes(file[at : at + SECTOR_BYTES])))
        return written

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        file = self.open_files[fd][1]
        self.stable[id(file)], self.pending[id(file)] = bytes(file), []

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.steps.append((source, target, self.files[target]))

    def unlink(self, path: Path) -> None:
        file = self.files.get(path, bytearray())
        super().unlink(path)
        self.steps.append((path, None, file))

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.stable_names = {path: file for path, file in self.files.items() if path.name != "lock"}
        self.steps.clear()

    def after_power_loss(self, chance: random.Random) -> PowerDisk:
        """Another disk with what survived."""
        names = dict(self.stable_names)
        for gone, come, file in self.steps:
            if chance.random() < 0.5:
                names.pop(gone, None)  # type: ignore[arg-type]
                if come is not None:
                    names[come] = file
        disk = PowerDisk(chance.getrandbits(32))
        for path, file in names.items():
            data = bytearray(self.stable[id(file)].ljust(len(file), b"\0"))
            keep = chance.choice((0.0, 0.5, 0.9, 1.0))
            for at, sector in self.pending[id(file)]:
                if chance.random() < keep:
                    data[at : at + len(sector)] = sector
            disk.files[path] = data
            disk.kept_alive.append(data)
            disk.stable[id(data)], disk.pending[id(data)] = bytes(data), []
        disk.stable_names = dict(disk.files)
        return disk


@dataclass
class World:
    """What was appended under each lsn (trims take one too), acknowledged, and given up by a trim."""

    chance: random.Random
    clock: Clock = field(default_factory=Clock)
    appended: dict[int, bytes] = field(default_factory=dict)
    acknowledged: int = 0
    trimmed: int = 0

    async def use(self, disk: PowerDisk) -> None:
        """A run of the journal, until the power goes or it is enough."""
        try:
            journal = open_journal(disk, self.clock)
        except StorageFailed:
            return
        try:
            async with running(journal, clean=self.chance.random() < 0.5):
                for _ in range(self.chance.randrange(60)):
                    await self.append(journal)
        except* StorageFailed:  # the power went
            pass
        self.acknowledged = max(self.acknowledged, journal.durable_lsn)

    async def append(self, journal: Journal) -> None:
        chance = self.chance
        size, number = chance.choice((2, 20, 250)), chance.choice((1, 1, 1, 3))
        if not journal.reserve(size * number):
            await trio.lowlevel.checkpoint()
            return
        records = [raw(size, chance.randrange(1, 256)) for _ in range(number)]
        for index, record in enumerate(records):
            self.appended[journal.next_lsn + index] = record
        lsn = journal.append(records, size * number)
        if chance.random() < 0.7:
            await journal.wait_durable(lsn)
            self.acknowledged = lsn
        elif chance.random() < 0.2:
            self.clock.step_ms += 1000
            journal.mark()
        elif chance.random() < 0.1:
            self.appended[journal.next_lsn] = b""
            self.trimmed = lsn
            journal.trim(journal._writer.segment.number)


async def one_world(seed: int) -> int:
    """Some losses of power in one world; how many there were."""
    chance = random.Random(seed)
    world, disk, losses = World(chance), PowerDisk(seed), 0
    for _ in range(LOSSES):
        disk.calls_left = int(chance.choice((10, 30, 100, 300)) * chance.random())
        await world.use(disk)
        losses += disk.calls_left < 0
        disk = disk.after_power_loss(chance)
        copy = disk.after_power_loss(chance)  # a look that changes nothing
        with open_journal(copy, world.clock) as journal:
            got = contents(journal)
            assert journal.next_lsn > world.acknowledged
            first = got[0][0] if got else journal.next_lsn
            assert first <= world.trimmed + 1
            want = [world.appended.get(lsn, b"") for lsn in range(first, journal.next_lsn)]
            assert b"".join(payload[1:] for _, _, payload in got) == b"".join(want)
    return losses


def test_power_loss_at_any_moment_loses_nothing(thorough: bool, capsys: pytest.CaptureFixture[str]) -> None:
    losses = 0
    worlds = WORLDS * (10 if thorough else 1)
    for seed in range(worlds):
        try:
            losses += trio.run(one_world, seed)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise
    with capsys.disabled():
        print(f"\npower lost {losses:,} times in {worlds:,} worlds, every start went on, nothing lost")
    assert losses > worlds
