"""Every damage that one fault can do to a small journal, and what recovery makes of it.

A journal of 4 KiB segments with more than 200 frames, and another whose bodies hold forged frames.
Every truncation (followed by nothing, zeros, noise), every single bit and every zeroed sector; of the
last segment in each state that a crash, a stop or a rotation leaves it in.

What comes out is *refused*, or *all* frames, or a *prefix*: exactly what stood before the damage. A
prefix is right only where

- the last segment was overwritten from one point to its end, or
- the last commit before a crash was damaged with nothing written after it, not even its marker.

These are the published exceptions. Zeros to the end must yield the prefix and be no refusal. A file that is
shorter than its header says is always refused.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import NamedTuple

import pytest
import trio

from tests.campaign import tried
from wheeltimer.errors import JournalDamaged
from wheeltimer.journal.file_log import Journal
from wheeltimer.journal.frame import HEADER_BYTES, SECTOR_BYTES, Clocks, Kind, encode, extent_bytes
from wheeltimer.journal.recovery import Verified, VerifiedSegment, Verifier, scan
from wheeltimer.journal.segment import headers

from .worlds import BOOT, FOLDER, SEGMENT, MemoryDisk, open_journal, raw, running

SEED = 20
THOROUGH_SEEDS = 3  # more journals that the long campaign damages,
THOROUGH_IMAGES = 56  # each in so many segments and states, 45,000 cases in each: about 1 s of one core
FRAMES_MIN = 200
SLOT_IN_SECTOR = SECTOR_BYTES - HEADER_BYTES
CUT = "cut, nothing follows"
NOISE = random.Random(SEED).randbytes(2 * SEGMENT)


class Piece(NamedTuple):
    """The header and payload of a batch, and its last lsn."""

    start: int
    end: int
    last_lsn: int


@dataclass(frozen=True)
class Image:
    """One segment of a sound journal, with what comes before and after it.

    ``after``: number and header sector of the next segment, None for the last one. ``bare``: nothing
    was written after its last commit. ``known_salt``: its bodies hold frames under its own salt.
    """

    state: str
    number: int
    data: bytes
    before: VerifiedSegment | None
    after: tuple[int, bytes] | None
    pieces: tuple[Piece, ...]
    bare: bool = False
    known_salt: bool = False
    seed: int = SEED


def forged_body(salt: bytes, lsn: int, prev_crc: int) -> bytes:
    """A record with a marker and a frame in it that verify under ``salt``, where a scan looks for them.

    It stands behind a frame's header and the head of an array of one.
    """
    clocks = Clocks(BOOT, 1, 1)
    mark, _ = encode(Kind.MARKER, salt, lsn, 0, clocks, prev_crc)
    fake, _ = encode(Kind.BATCH, salt, lsn, 1, clocks, prev_crc, b"\x91\xc0")
    body = (bytes(SLOT_IN_SECTOR - HEADER_BYTES - 4) + mark + fake).ljust(700, b"\x01")
    return b"\xc5" + len(body).to_bytes(2, "big") + body


def forge(journal: Journal, chance: random.Random, *, known_salt: bool) -> list[bytes]:
    """Bodies that claim to be the next frame, this very frame, or one far ahead."""
    segment = journal._writer.segment
    salt = segment.salt if known_salt else chance.randbytes(8)
    lsn = journal.next_lsn + chance.choice((0, 1, 10**6))
    return [forged_body(salt, lsn, segment.crc)]


async def build(seed: int, *, forged: bool, known_salt: bool) -> MemoryDisk:
    """A journal written by the real committer; half of its markers are taken out again.

    Back to back commits leave no marker, and a marker is in no chain: the journal is as sound as before.
    """
    disk, chance = MemoryDisk(seed), random.Random(seed)
    journal = open_journal(disk)
    async with running(journal, clean=False):
        while journal.commits < FRAMES_MIN + 10:
            if not journal.reserve(800):
                await trio.lowlevel.checkpoint()  # spares are on their way
            elif forged and chance.random() < 0.4:
                await journal.wait_durable(journal.append(forge(journal, chance, known_salt=known_salt), 800))
            else:
                records = [raw(chance.randrange(2, 120), 7) for _ in range(chance.choice((1, 2, 3, 5)))]
                await journal.wait_durable(journal.append(records, 800))
    return disk


def parts_of(disk: MemoryDisk) -> Verified:
    names = [(int(path.name[:10]), path.name) for path in sorted(disk.files) if path.suffix == ".segment"]
    return scan(FOLDER, names, lambda name: disk.read(FOLDER / name))


def images(disk: MemoryDisk, chance: random.Random, *, known_salt: bool, lasts: range) -> Iterator[Image]:
    """Every sealed segment in its place; those in ``lasts`` also as the last one, in every state."""
    parts = parts_of(disk).parts
    for index, part in enumerate(parts):
        data, pieces, slots = bytearray(disk.files[FOLDER / part.name]), [], []
        for offset, header in headers(bytes(data), part.walk.end):
            if header.kind == Kind.BATCH:
                pieces.append(Piece(offset, offset + HEADER_BYTES + header.length, header.last_lsn))
                slots.append(offset + extent_bytes(header.length) - HEADER_BYTES)
        for slot in slots[:-1]:
            if chance.random() < 0.5:
                data[slot : slot + HEADER_BYTES] = bytes(HEADER_BYTES)
        before = parts[index - 1] if index else None
        image = Image("sealed", part.number, bytes(data), before, None, tuple(pieces), known_salt=known_salt)
        if index < len(parts) - 1:
            successor = bytes(disk.files[FOLDER / parts[index + 1].name][:SECTOR_BYTES]).ljust(SEGMENT, b"\0")
            yield replace(image, after=(part.number + 1, successor))
        if index in lasts:
            yield from last_images(image, part, slots[-1])


def last_images(image: Image, part: VerifiedSegment, slot: int) -> Iterator[Image]:
    """A sealed segment as the last one: sealed; without its seal and marked, stopped, bare; only begun."""
    yield replace(image, state="last, sealed")
    data = bytearray(image.data)
    data[part.walk.end - SECTOR_BYTES :] = bytes(SEGMENT - part.walk.end + SECTOR_BYTES)
    yield replace(image, state="last, marked", data=bytes(data))
    assert part.head is not None
    lsn = image.pieces[-1].last_lsn + 1
    data[slot : slot + HEADER_BYTES] = encode(
        Kind.STOP,
        part.head.salt,
        lsn,
        0,
        Clocks(BOOT, 1, 1),
        int.from_bytes(data[image.pieces[-1].start :][:4], "little"),
    )[0]
    yield replace(image, state="last, stopped", data=bytes(data))
    data[slot : slot + HEADER_BYTES] = bytes(HEADER_BYTES)
    yield replace(image, state="last, bare", data=bytes(data), bare=True)
    if image.before is not None:
        data[SECTOR_BYTES:] = bytes(SEGMENT - SECTOR_BYTES)
        yield replace(image, state="last, begun", data=bytes(data), pieces=())


class Damage(NamedTuple):
    """What was done: ``to_end`` from one point to the end; ``zeroed`` if that left nothing but zeros."""

    what: str
    at: int
    data: bytes
    to_end: bool = False
    zeroed: bool = False


def cuts(image: Image) -> Iterator[Damage]:
    data = image.data
    for at in range(len(data)):
        head, rest = data[:at], len(data) - at
        yield Damage(CUT, at, head, to_end=True)
        yield Damage("cut, zeros follow", at, head + bytes(rest), to_end=True, zeroed=True)
        yield Damage("cut, noise follows", at, head + NOISE[at : at + rest], to_end=True)


def zeroed_sectors(image: Image) -> Iterator[Damage]:
    data = image.data
    for at in range(0, len(data), SECTOR_BYTES):
        rest = data[at + SECTOR_BYTES :]
        zeroed = not rest.strip(b"\0")
        yield Damage(
            "zeroed sector", at, data[:at] + bytes(SECTOR_BYTES) + rest, to_end=zeroed, zeroed=zeroed
        )


def flipped_bits(image: Image) -> Iterator[Damage]:
    data = bytearray(image.data)
    for at in range(len(data)):
        byte = data[at]
        for bit in range(8):
            data[at] = byte ^ (1 << bit)
            yield Damage("flipped bit", at, bytes(data))
        data[at] = byte


def recovered(image: Image, data: bytes) -> VerifiedSegment | None:
    """What recovery makes of the segment in its place; None when it refuses to start."""
    judge = Verifier(FOLDER)
    judge.before = image.before
    judge.result.trim_below = image.number
    judge.segment(image.number, "this.segment", data, last=image.after is None)
    if image.after is not None and not judge.faults:
        judge.segment(image.after[0], "next.segment", image.after[1], last=True)
    try:
        return judge.finish([]).parts[0]
    except JournalDamaged:
        return None


def verdict(image: Image, damage: Damage) -> str:
    """``refused``, ``all`` or ``prefix``; fails the test where that is wrong."""
    what = f"seed {image.seed}: {image.state} segment {image.number}: {damage.what} at {damage.at}"
    pieces, part = image.pieces, recovered(image, damage.data)
    if part is None:
        must_start = image.after is None and damage.zeroed and image.before is not None
        assert not must_start or image.known_salt, f"{what}: refused, though it looks like an earlier crash"
        return "refused"
    assert damage.what != CUT, f"{what}: no crash leaves a file that is too short, and it was taken"
    got = sum(piece.last_lsn < part.walk.next_lsn for piece in pieces)
    whole = 0
    for piece in pieces:
        if damage.data[piece.start : piece.end] != image.data[piece.start : piece.end]:
            break
        whole += 1
    assert part.walk.frames == got, f"{what}: frames came out that never were written"
    assert got == whole, f"{what}: {got} frames came out and {whole} were whole"
    if got == len(pieces):
        same = damage.data.rstrip(b"\0") == image.data.rstrip(b"\0")
        only_a_marker = damage.what == "zeroed sector"  # which need not have been written at all
        assert image.after is None or same or only_a_marker, f"{what}: damage in the middle went unseen"
        return "all"
    assert image.after is None, f"{what}: frames lost in silence from the middle"
    last_of_crash = image.bare and got == len(pieces) - 1
    assert damage.to_end or last_of_crash, f"{what}: frames lost in silence"
    return "prefix"


def try_all(image: Image) -> Counter[tuple[str, str, str]]:
    """Every damage to one segment; counts by place, damage and verdict."""
    tally: Counter[tuple[str, str, str]] = Counter()
    place = "sealed" if image.after else image.state
    for kind in (cuts, zeroed_sectors, flipped_bits):
        for damage in kind(image):
            tally[place, damage.what, verdict(image, damage)] += 1
    return tally


def report(title: str, tally: Counter[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title}: {tally.total():,} cases (seeds from {SEED})")
        for (place, what, outcome), cases in sorted(tally.items()):
            print(f"  {place:15} {what:22} {outcome:8} {cases:>9,}")


@pytest.mark.parametrize(
    ("title", "forged", "known_salt"),
    [
        ("plain", False, False),
        ("bodies with forged frames", True, False),
        ("forged under the right salt", True, True),
    ],
)
def test_no_acknowledged_record_is_lost_in_silence(
    title: str, forged: bool, known_salt: bool, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = damaged(SEED, forged=forged, known_salt=known_salt)
    for seed in range(SEED + 1, SEED + 1 + THOROUGH_SEEDS) if thorough else ():
        tally += damaged(seed, forged=forged, known_salt=known_salt, drawn=THOROUGH_IMAGES)
    report(title, tally, capsys)
    tried("damage cases", tally.total())


def damaged(seed: int, *, forged: bool, known_salt: bool, drawn: int = 0) -> Counter[tuple[str, str, str]]:
    """Every damage to the journal of one seed: to all its segments in their places (where they may hold
    forged frames, to none), and to one or two as the last; or to so many ``drawn`` of all there are.
    """
    disk, chance = trio.run(lambda: build(seed, forged=forged, known_salt=known_salt)), random.Random(seed)
    found = parts_of(disk)
    assert len(found.parts) >= 3
    assert sum(part.walk.frames for part in found.parts) >= FRAMES_MIN
    middle = len(found.parts) // 2
    lasts = range(len(found.parts) - 1) if drawn else range(middle if forged else 0, middle + 1, middle)
    wanted = []
    for image in images(disk, chance, known_salt=known_salt, lasts=lasts):
        part = recovered(image, image.data)
        assert part is not None, image.state
        assert part.walk.frames == len(image.pieces)
        if image.after is None or not forged or drawn:
            wanted.append(replace(image, seed=seed))
    if drawn:
        wanted = chance.sample(wanted, drawn)
    tally: Counter[tuple[str, str, str]] = Counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        for counts in processes.map(try_all, wanted):
            tally += counts
    return tally
