"""Reads batches from an lsn on, as they become durable, for subscribers.

``Worker.aside`` reads the files in pieces, in a thread; the pieces are parsed in the loop, so that a reader
never competes with the loop for the interpreter. Only durable frames are read, and this process verified or
wrote them: a frame that does not verify here is a fault of the storage. ``journal_tools/reader.py`` reads a
journal at rest, or beside another process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from wheeltimer.errors import StorageFailed

from .directory import segment_name, segments_in
from .disk import Disk
from .frame import HEADER_BYTES, SECTOR_BYTES, Frame, Header, Kind, extent_bytes, header_at, payload_fault
from .segment import SegmentHeader, decode_header
from .spare_descriptors import NO_DESCRIPTOR

PIECE_BYTES: Final = 1 << 18  # read at once; a longer frame is read whole
PLACE_EVERY_BYTES: Final = 1 << 20  # distance between places where later readers can begin
RETRY_S: Final = 0.1  # until the next try to open a file, if there was no descriptor
TRIES: Final = 50  # 5 s in all

Aside = Callable[[Callable[[], bool]], Awaitable[bool]]


class Trimmed(Exception):
    """The next record was trimmed from the journal."""


class SegmentIndex:
    """Finds and reads a journal's segments. ``aside`` does blocking work in a thread."""

    def __init__(self, disk: Disk, folder: Path, aside: Aside) -> None:
        self._disk = disk
        self._folder = folder
        self._aside = aside
        self._heads: dict[int, SegmentHeader] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}  # by segment: (first lsn, offset) of some frames

    async def oldest_lsn(self) -> int:
        """lsn of the first record that is kept. Raises StorageFailed."""
        numbers = await self._numbers()
        return (await self.head(numbers[0])).first_lsn

    async def find(self, lsn: int) -> Follower:
        """A reader of the records from ``lsn`` on. Raises Trimmed, StorageFailed."""
        for number in reversed(await self._numbers()):
            head = await self.head(number)
            if head.first_lsn <= lsn:
                places = self._places.get(number, [])
                at = bisect_right(places, (lsn, 1 << 62))
                offset = places[at - 1][1] if at else SECTOR_BYTES
                return Follower(self, number, offset, lsn)
        raise Trimmed

    async def head(self, number: int) -> SegmentHeader:
        """A segment's header. Raises Trimmed, StorageFailed."""
        if number not in self._heads:
            head = decode_header(await self.read_range(number, 0, SECTOR_BYTES))
            if head is None:
                raise StorageFailed(f"{segment_name(number)}: the header does not verify")
            self._heads[number] = head
        return self._heads[number]

    async def read_range(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of a segment, fewer at its end. Raises Trimmed if it is gone, StorageFailed."""
        found = [b""]

        def work() -> bool:
            found[0] = self._disk.read_at(self._folder / segment_name(number), offset, size)
            return True

        try:
            await self._patiently(work)
        except FileNotFoundError as exc:
            raise Trimmed from exc
        except OSError as exc:
            raise StorageFailed(f"{segment_name(number)} cannot be read: {exc}") from exc
        return found[0]

    async def _patiently(self, work: Callable[[], bool]) -> None:
        """Does ``work`` aside; retries while the process has no descriptor left. Raises the last
        :class:`OSError`."""
        for tried in range(1, TRIES + 1):
            try:
                await self._aside(work)
            except OSError as exc:
                if exc.errno not in NO_DESCRIPTOR or tried == TRIES:
                    raise
            else:
                return
            await trio.sleep(RETRY_S)

    def note_frame(self, number: int, lsn: int, offset: int) -> None:
        """Remembers a place where later readers may begin: the frame at ``offset`` begins with ``lsn``."""
        places = self._places.setdefault(number, [])
        at = bisect_right(places, (lsn, offset))
        before = places[at - 1][1] if at else 0
        after = places[at][1] if at < len(places) else offset + PLACE_EVERY_BYTES
        if offset - before >= PLACE_EVERY_BYTES <= after - offset:
            places.insert(at, (lsn, offset))

    async def _numbers(self) -> list[int]:
        """Numbers of the segments in the folder, lowest first. Drops headers and places of trimmed ones."""
        numbers: list[int] = []

        def work() -> bool:
            numbers.extend(number for number, _ in segments_in(self._disk, self._folder))
            return True

        try:
            await self._patiently(work)
        except OSError as exc:
            raise StorageFailed(f"journal {self._folder} cannot be read: {exc}") from exc
        for known in (self._heads, self._places):
            for number in [number for number in known if number < numbers[0]]:
                known.pop(number)
        return numbers


class Follower:
    """One reader: ``next_lsn`` is that of the next record that `read` has not returned."""

    def __init__(self, shelf: SegmentIndex, number: int, offset: int, lsn: int) -> None:
        self.next_lsn = lsn
        self._shelf = shelf
        self._number = number  # of the segment
        self._offset = offset  # of the next frame
        self._sealed = False  # the segment is read to its end
        self._chained_lsn: int | None = None  # the next frame's first; None: at the first frame
        self._data = b""  # of the segment, from ``_data_at`` on
        self._data_at = 0
        self._data_lsn = 0  # durable when ``_data`` was read: after it there may be half a frame

    async def read(self, upto_lsn: int) -> list[Frame]:
        """The next batches that begin at or before ``upto_lsn``, which is durable; none if all are read.

        At most those of one piece, or one longer batch. The first may hold records before ``next_lsn``.
        Raises Trimmed, StorageFailed.
        """
        while self.next_lsn <= upto_lsn:
            head = await self._shelf.head(self._number)
            if found := self._take(head, min(upto_lsn, self._data_lsn)):
                return found
            if self._sealed:
                self._number += 1
                self._offset, self._sealed, self._data = SECTOR_BYTES, False, b""
            elif self.next_lsn <= upto_lsn:
                await self._fetch(head)
                self._data_lsn = upto_lsn
        return []

    async def _fetch(self, head: SegmentHeader) -> None:
        """Read a piece from the next frame on, with at least all of that frame."""
        size = PIECE_BYTES
        while True:
            data = await self._shelf.read_range(self._number, self._offset, size)
            header = header_at(data, 0, head.salt)
            if header is None:
                raise StorageFailed(f"{self._where()}: a durable frame does not verify")
            needed = extent_bytes(header.length)
            if needed <= len(data):
                break
            if size >= needed:
                raise StorageFailed(f"{self._where()}: the file ends inside a durable frame")
            size = needed
        self._data, self._data_at = data, self._offset

    def _take(self, head: SegmentHeader, upto_lsn: int) -> list[Frame]:
        """The batches of the present piece."""
        found: list[Frame] = []
        view = memoryview(self._data)
        while self.next_lsn <= upto_lsn and not self._sealed:
            at = self._offset - self._data_at
            header = header_at(self._data, at, head.salt) if 0 <= at < len(self._data) else None
            if header is None or at + extent_bytes(header.length) > len(self._data):
                break  # the frame was written after the piece was read, or is longer than it
            self._check(header, at, view)
            if header.kind == Kind.BATCH and header.last_lsn >= self.next_lsn:
                start = at + HEADER_BYTES
                payload = view[start : start + header.length]
                found.append(Frame(header.first_lsn, header.records, header.clocks, payload, self._offset))
            self._shelf.note_frame(self._number, header.first_lsn, self._offset)
            self.next_lsn = max(self.next_lsn, header.last_lsn + 1)
            self._offset += extent_bytes(header.length)
            self._chained_lsn = header.last_lsn + 1
            self._sealed = header.kind == Kind.SEAL
        return found

    def _check(self, header: Header, at: int, view: memoryview) -> None:
        fault = payload_fault(self._data, view, at, header)
        if self._chained_lsn is not None and header.first_lsn != self._chained_lsn:
            fault = f"lsn {self._chained_lsn} was expected and {header.first_lsn} stands there"
        if fault is not None:
            raise StorageFailed(f"{self._where()}: {fault}")

    def _where(self) -> str:
        return f"{segment_name(self._number)} at offset {self._offset}"
