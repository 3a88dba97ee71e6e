"""A new journal of all that can be read of a damaged one; the old files are kept under another name.

A crash at any point leaves the old journal or the new one, as follows. New segments get numbers above the old
ones, with one number left out, and the last of them has a trim of all before. Until that last one has its
name, the hole in the numbers is damage and a start is refused as before; from then on all older segments are
trimmed. The old files get a second name in ``damaged-N`` before that.

Records keep their lsns: each lost one is replaced by a record that does nothing (``f`` without keys).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltimer.core import records as r
from wheeltimer.core.replay_filter import ReplayFilter
from wheeltimer.core.task import split_key
from wheeltimer.errors import JournalDamaged, JournalNewer, StorageFailed
from wheeltimer.journal.directory import LOCK, Directory, segment_name
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
    header_at,
    payload_of,
)  # fmt: skip  # fmt: skip
from wheeltimer.journal.segment import (
    FORMAT,
    READS,
    SegmentHeader,
    decode_header,
    decode_trim,
    encode_header,
    encode_trim,
    frame_bytes_max,
)  # fmt: skip

from .check import check
from .salvage import SalvagedFrame, salvage, shown_id

REPORT: Final = "report.ndjson"
_raws: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_NO_CLOCKS: Final = Clocks(bytes(16), 0, 0)


@dataclass(frozen=True, slots=True)
class Lost:
    """A part of the old journal that is lost. ``lsn_from`` to ``lsn_to``: its records; none if ``lsn_to`` is
    less. ``offset`` and ``size`` in ``file``."""

    file: str
    offset: int
    size: int
    why: str
    lsn_from: int
    lsn_to: int


@dataclass(slots=True)
class Repaired:
    """The result. ``lost`` in order; ``dropped``: lsn, key of records that can be read but not be kept,
    because a record on which they depend is lost; ``uncertain``: keys of tasks whose last known state may be
    outdated. ``aside``: the folder of the old files and the report."""

    why: str
    aside: Path
    journal_id: bytes = b""
    id_is_new: bool = False
    lost: list[Lost] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    kept: int = 0
    first_lsn: int = 0
    last_lsn: int = 0

    @property
    def records_lost(self) -> int:
        return sum(max(0, lost.lsn_to - lost.lsn_from + 1) for lost in self.lost)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The report: one object for each item that is lost, dropped or uncertain."""
        yield {"what": "damage", "why": self.why}
        for lost in self.lost:
            yield {"what": "lost"} | msgspec.to_builtins(lost)
        for lsn, key in self.dropped:
            queue, id = split_key(key)
            yield {"what": "dropped", "lsn": lsn, "queue": queue, "id": id}
        for key in self.uncertain:
            queue, id = split_key(key)
            yield {"what": "uncertain", "queue": queue, "id": id}


def repair(folder: Path, disk: Disk | None = None) -> Repaired | None:
    """Makes the journal in ``folder`` one with which a daemon starts; None if it is not damaged.

    Blocking; needs as much disk space as the journal takes. Raises :class:`JournalInUse` while a daemon runs,
    :class:`JournalNewer`, :class:`StorageFailed`, and :class:`BadValue` for a folder without a journal.
    """
    disk = Disk() if disk is None else disk
    try:
        disk.names(folder)  # fails if there is no folder: ``Directory.open`` would make it
        directory = Directory.open(folder, disk, clean=False)
    except OSError as exc:
        raise StorageFailed(f"{folder} cannot be read: {exc}") from exc
    try:
        check(folder, disk)
    except JournalDamaged as error:
        try:
            return _Repair(directory, str(error).split("; nothing was changed")[0]).run()
        except OSError as exc:
            raise StorageFailed(f"journal {folder} cannot be repaired: {exc}") from exc
    finally:
        directory.close()
    return None


class _Repair:
    """One repair: surveys the old segments, then writes new ones, then publishes them."""

    def __init__(self, directory: Directory, why: str) -> None:
        self.directory, self.disk, self.path = directory, directory.disk, directory.path
        self.segments, self.unfinished = self._survey()
        self.number = self.segments[-1][0] + 2
        aside = self.path / f"damaged-{self.number:010d}"
        self.report = Repaired(why, aside, self.journal_id, self.id_is_new)
        self.known = ReplayFilter()
        self.out: SegmentRewriter | None = None
        # lsn of the next record; 0: not known yet
        self.expected = 1 if self.segments[0][0] == 1 and self.trim_below == 1 else 0
        self.clocks = _NO_CLOCKS

    def _survey(self) -> tuple[list[tuple[int, str]], list[str]]:
        """Sets id, size and trim; returns the journal's segments, and those that a killed repair left."""
        self.journal_id, self.size, self.trim_below, shown = b"", 0, 1, b""
        segments = self.directory.segments()
        trims: dict[int, int] = {}
        starts = []
        for index, (number, name) in enumerate(segments):
            data = self.disk.read(self.path / name)
            head = decode_header(data)
            if head is not None:
                if head.min_reader > READS:
                    raise JournalNewer(f"{self.path / name} was written by a later version")
                self.journal_id = self.journal_id or head.journal_id
                self.size = max(self.size, head.size)
                if index and head.prev_crc == 0 and number > segments[index - 1][0] + 1:
                    starts.append(index)
            shown = shown or shown_id(data)
            self.size = max(self.size, len(data) & -SECTOR_BYTES)
            for found in salvage(data, head):
                if isinstance(found, SalvagedFrame) and found.header.kind == Kind.TRIM:
                    trims[number] = decode_trim(data, found.offset + HEADER_BYTES)
        cut = len(segments)
        for index in reversed(starts):
            if max(trims.values(), default=0) < segments[index][0]:
                cut = index
        kept = segments[:cut]
        self.trim_below = max((trims.get(number, 1) for number, _ in kept), default=1)
        self.id_is_new = not (self.journal_id or shown)
        self.journal_id = self.journal_id or shown or self.disk.random(16)
        return kept, [name for _, name in segments[cut:]]

    def run(self) -> Repaired:
        before: int | None = None
        for index, (number, name) in enumerate(self.segments):
            if number < self.trim_below:
                continue
            data = self.disk.read(self.path / name)
            head = decode_header(data)
            if before is None and number > self.trim_below and number > 1:
                self._lose(segment_name(number - 1), 0, 0, "this segment and those before are missing", 0)
            if before is not None and number > before + 1:
                lsn = head.first_lsn - 1 if head else 0
                self._lose(segment_name(before + 1), 0, 0, "the segment is missing", lsn)
            elif head is not None and self.expected and head.first_lsn > self.expected:
                self._lose(segment_name(number - 1), 0, 0, "its end is missing", head.first_lsn - 1)
            self._segment(name, data, head, last=index == len(self.segments) - 1)
            before = number
        out = self.out or self._begin(max(1, self.expected))
        self.report.last_lsn = out.next_lsn - 1
        lost = [(each.lsn_from, each.lsn_to) for each in self.report.lost if each.lsn_to >= each.lsn_from]
        self.report.uncertain = sorted(set(self.known.uncertain(lost)))
        out.trim(self.clocks)
        self._publish(out)
        return self.report

    def _segment(self, name: str, data: bytes, head: SegmentHeader | None, *, last: bool) -> None:
        if head is not None and not self.expected:
            self.expected = head.first_lsn
        for found in salvage(data, head):
            if isinstance(found, SalvagedFrame):
                header = found.header
                if header.first_lsn < self.expected:
                    self._lose(name, found.offset, header.length, "older than what is before", 0)
                    continue
                if self.expected and header.first_lsn > self.expected:
                    self._lose(name, found.offset, 0, "records before this frame", header.first_lsn - 1)
                self._keep(name, data, found)
            else:
                broken = None if found.offset == 0 else _own_lsn(data, found.offset, head)
                known = max(found.lsn_known, broken or 0) if found.lsn_known or not last else 0
                self._lose(name, found.offset, found.size, found.why, known)

    def _lose(self, name: str, offset: int, size: int, why: str, lsn_to: int) -> None:
        """Notes a loss; for lsns that are known to be lost, writes records that do nothing."""
        first = self.expected
        self.report.lost.append(Lost(name, offset, size, why, first, max(first - 1, lsn_to)))
        if first and lsn_to >= first:
            out = self.out or self._begin(first)
            out.fill(lsn_to - first + 1, self.clocks)
            self.expected = lsn_to + 1

    def _keep(self, name: str, data: bytes, found: SalvagedFrame) -> None:
        header = found.header
        self.clocks = header.clocks
        if header.kind == Kind.SEAL:
            self.expected = header.first_lsn
            return
        out = self.out or self._begin(header.first_lsn)
        start = found.offset + HEADER_BYTES
        payload = data[start : start + header.length]
        if header.kind == Kind.BATCH:
            try:
                payload = self._fitting(payload, header)
            except msgspec.MsgspecError as error:
                self._lose(name, found.offset, header.length, f"holds no records: {error}", header.last_lsn)
                return
        out.write(Kind(header.kind), payload, header.records, header.clocks, found.marker)
        self.report.kept += header.records
        self.expected = header.last_lsn + 1

    def _fitting(self, payload: bytes, header: Header) -> bytes:
        raws: list[bytes] = []
        changed = False
        for lsn, (raw, record) in enumerate(
            zip(_raws(payload), r.decode_all(payload), strict=True), header.first_lsn
        ):
            fit = self.known.fit(lsn, record)
            if fit is None:
                self.report.dropped.append((lsn, record.key))  # type: ignore[union-attr]
                fit = r.Forgotten([], record.time_ms)
            same = fit is record or fit == record
            changed = changed or not same
            raws.append(bytes(raw) if same else r.encode(fit))
        return payload_of(raws) if changed else payload

    def _begin(self, first_lsn: int) -> SegmentRewriter:
        self.expected = self.expected or first_lsn
        self.report.first_lsn = first_lsn
        self.out = SegmentRewriter(self.disk, self.path, self.number, first_lsn, self.size, self.journal_id)
        return self.out

    def _publish(self, out: SegmentRewriter) -> None:
        disk, aside = self.disk, self.report.aside
        names = out.finish()
        disk.make_folder(aside)
        for _, name in self.directory.segments():
            if name not in self.unfinished and name not in disk.names(aside):
                disk.link(self.path / name, aside / name)
        fd = disk.create(aside / REPORT)
        try:
            text = b"".join(msgspec.json.encode(line) + b"\n" for line in self.report.lines())
            disk.write(fd, text, 0)
            disk.fdatasync(fd)
        finally:
            disk.close(fd)
        made = [self.path / LOCK, *(self.path / f"{name}.tmp" for name in names), aside, aside / REPORT]
        for path in made:
            disk.give(path, self.path)
        disk.sync_folder(aside)
        self.directory.remove(self.unfinished)  # copies that never became valid; syncs the folder too
        for name in names:
            if name is names[-1]:
                disk.sync_folder(self.path)
            disk.rename(self.path / f"{name}.tmp", self.path / name)
        disk.sync_folder(self.path)
        self.directory.remove([name for _, name in self.segments])


def _own_lsn(data: bytes, offset: int, head: SegmentHeader | None) -> int | None:
    """The last lsn of a frame whose header verifies though its payload does not."""
    header = header_at(data, offset, head.salt) if head else None
    return header.last_lsn if header else None


# -- the files that a repair writes ------------------------------------------------------------------------
# Frames with their old lsns, in new segments that still have temporary names. The live journal's writer is
# ``journal/writer.py``.


class SegmentRewriter:
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
        """Writes records that do nothing, for lsns that are lost."""
        filler = r.encode(r.Forgotten([], clocks.wall_ms))
        most = (frame_bytes_max(self.size) - FRAME_OVERHEAD_BYTES) // len(filler)
        while count > 0:
            some = min(count, most)
            self.write(Kind.BATCH, array_header(some) + filler * some, some, clocks)
            count -= some

    def trim(self, clocks: Clocks) -> None:
        """Writes the last frame, which trims all older segments, and the marker of a clean stop."""
        self.write(Kind.TRIM, payload_of([encode_trim(self.first_number)]), 1, clocks)
        self._mark(Kind.STOP, clocks)

    def _mark(self, kind: Kind, clocks: Clocks) -> None:
        marker, _ = encode(kind, self._salt, self.next_lsn, 0, clocks, self._crc)
        self.disk.write(self._fd, marker, self._offset - HEADER_BYTES)

    def finish(self) -> list[str]:
        self._close()
        return self.names
