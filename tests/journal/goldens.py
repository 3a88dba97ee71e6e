"""Golden journals: small folders as a version of this package wrote them, each with what it means.

``golden/fN-NAME.zip`` is a data folder of format N, ``golden/fN-NAME.json`` the state that a start on it
finds. Every later version reads them all (``test_golden.py``). They are never written again: a format or a
record kind that is new gets a new story here, and then

    python -m tests.journal.goldens NAME

writes its two files, which are looked at and committed. The stories go through the daemon's own requests,
ticker, dispatcher and compaction, on a clock that stands still.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
import trio
import trio.testing

from tests.clocks import ManualClock
from tests.daemon.worlds import URL, World, settle, world
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import NS_PER_MS, Task, unpack
from wheeltimer.journal import Clocks, InlineWorker, Journal
from wheeltimer.journal.frame import Kind, encode, payload_of
from wheeltimer.journal.segment import FORMAT, SECTOR_BYTES, decode_header, encode_header, headers, walk
from wheeltimer.protocol.limits import Limits
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.shard.compactor import Compactor
from wheeltimer.shard.startup import recover

FOLDER: Final = Path(__file__).parent / "golden"
SEGMENT: Final = 64 << 10
LIMITS: Final = Limits(reply_bytes_max=100, history_reply_bytes_max=50, keep_done_ms=60_000, history_max=4)
FAR_MS: Final = 30 * 86_400_000
SECOND_BOOT: Final = b"the second boot."


def open_on(folder: Path, clock: ManualClock) -> Journal:
    def clocks() -> Clocks:
        now = clock.now()
        return Clocks(clock.boot_id, now.elapsed_ns, now.wall_ns // NS_PER_MS)

    return Journal.open(folder, clock=clocks, segment_bytes=SEGMENT, fsync=False, hand=InlineWorker())


def state_of(folder: Path, clock: ManualClock) -> dict[str, Any]:
    """All that a start finds, as JSON has it. Writes to the folder what a start writes."""
    with open_on(folder, clock) as journal:
        engine = Engine(LIMITS, clock.now(), 10 * NS_PER_MS, 64)
        found = recover(journal, engine, clock.boot_id, clock.now())
        check(engine)
        torn = journal.found.torn
        rows = sorted(engine.table.items())
        return {
            "next_lsn": journal.next_lsn,
            "torn": None if torn is None else [torn[0].name, *torn[1:]],
            "boots": [boot_id.decode() for boot_id in journal.boots],
            "tasks": {key: json.loads(msgspec.json.encode(unpack(row))) for key, row in rows},
            "ends": [list(engine.kept_done), list(engine.kept_dead)],
            "paused": sorted(name for name, queue in engine.queues.items() if queue.paused),
            "outcomes": engine.outcomes,
            "stopping": sorted(found.stopping),
        }


def kinds_of(folder: Path) -> tuple[set[str], set[int]]:
    """Which kinds of records and of frames, markers included, are in the segments of a folder."""
    records: set[str] = set()
    frames: set[int] = set()
    for path in sorted(folder.glob("*.segment")):
        data = path.read_bytes()
        head = decode_header(data)
        assert head is not None
        end = walk(data, head).end
        for offset, header in headers(data, end):
            frames.add(header.kind)
            payload = data[offset + 88 : offset + 88 + header.length]
            if header.kind == 1:
                records |= {record[0] for record in msgspec.msgpack.decode(payload)}
        for offset in range(SECTOR_BYTES, end, SECTOR_BYTES):
            slot = data[offset + SECTOR_BYTES - 88 : offset + SECTOR_BYTES]
            if slot[4:8] == b"WTfr" and slot[8:16] == head.salt:
                frames.add(slot[40])
    return records, frames


# -- stories -------------------------------------------------------------------------------------


async def every_kind(folder: Path, clock: ManualClock) -> None:
    """Every record that requests, timers and attempts bring about; killed in the middle of an attempt."""
    async with world(folder, clock, segment_bytes=SEGMENT, limits=LIMITS) as daemon:
        answers = {"fails": 500, "gone": 410, "polls": 202}

        async def send(key: str, task: Task) -> Answer:
            await trio.lowlevel.checkpoint()
            name = key.rpartition("/")[2].partition("-")[0]
            if name == "holds":
                await trio.sleep_forever()
            return Answer(task.next_ms, 0, 12, answers.get(name, 200), body=b'{"said":"\xc3\xa9"}')

        daemon.send = send  # type: ignore[method-assign]
        fixed = {"kind": "fixed", "every": "1s", "attempts": 2, "jitter": 0}
        for request in (
            {"id": "waits", "delay": FAR_MS, "meta": {"a": [1, None]}, "headers": {"x-a": "b"}, "group": "g"},
            {"id": "at", "at": "2030-01-01T00:00:00Z", "body_text": "f\u00fcr dich", "method": "PUT"},
            {"id": "binary", "delay": "2h", "body_base64": base64.b64encode(bytes(range(9))).decode()},
            {"id": "succeeds", "body": {"n": 1}, "on_done": URL, "meta": "m"},
            {"id": "fails-1", "retry": fixed, "on_dead": URL},
            {"id": "fails-2", "retry": "alipay"},
            {"id": "gone-1", "queue": "q:2", "group": "g"},
            {"id": "polls-1", "poll": {"every": "5s", "max": 9}, "success": {"status": [200], "text": "ok"}},
            {"id": "expires", "delay": "1h", "expires_in": "1s"},
            {"id": "redriven", "retry": "none", "expires_in": 1, "delay": 20},
            {"id": "holds-1", "timeout": "1m"},
            {"id": "holds-2"},
            {"id": "holds-3"},
        ):
            assert (await daemon.ask(op="schedule", url=URL, **request))["ok"], request
        await daemon.advance(50)
        for request in (
            {"op": "reschedule", "id": "waits", "delay": FAR_MS - 1, "body": {"changed": True}},
            {"op": "schedule", "id": "at", "url": URL, "delay": "3h", "on_conflict": "replace"},
            {"op": "cancel", "id": "holds-1"},
            {"op": "finish", "id": "holds-2", "reply": {"by": "hand"}},
            {"op": "reschedule", "id": "holds-3", "delay": "4h"},
            {"op": "schedule", "id": "forgotten", "url": URL},
            {"op": "pause", "queue": "paused"},
            {"op": "pause", "queue": "resumed"},
            {"op": "resume", "queue": "resumed"},
        ):
            assert (await daemon.ask(**request))["ok"], request
        await daemon.advance(1500)
        await daemon.advance(61_000)  # what is done is forgotten
        for request in (
            {"op": "schedule", "id": "finished", "url": URL, "delay": "1h", "group": "h"},
            {"op": "schedule", "id": "cancelled", "url": URL, "delay": "1h", "group": "h"},
            {"op": "finish", "id": "finished", "reply": [1, "two"]},
            {"op": "cancel", "group": "h"},
            {"op": "schedule", "id": "late", "url": URL, "delay": "1h", "queue": "paused"},
            {"op": "redrive", "id": "fails-1"},
        ):
            assert (await daemon.ask(**request))["ok"], request
        await daemon.advance(10)


async def torn(folder: Path, clock: ManualClock) -> None:
    """The power went while a frame was written: a part of it is there."""
    await every_kind(folder, clock)
    path = folder / "0000000001.segment"
    data = bytearray(path.read_bytes())
    head = decode_header(bytes(data))
    assert head is not None
    state, now = walk(bytes(data), head), clock.now()
    clocks = Clocks(clock.boot_id, now.elapsed_ns, now.wall_ns // NS_PER_MS)
    payload = payload_of([r.encode(r.Paused("never", 1, True, state.next_lsn))])
    frame, _ = encode(Kind.BATCH, head.salt, state.next_lsn, 1, clocks, state.crc, payload)
    data[state.end : state.end + len(frame) - 4] = frame[:-4]
    path.write_bytes(data)


async def sealed(folder: Path, clock: ManualClock) -> None:
    """Killed during a rotation: the last segment ends in a seal, and there is none after it."""
    await every_kind(folder, clock)
    journal = open_on(folder, clock)
    with patch("wheeltimer.journal.writer.begin", side_effect=InterruptedError), journal:
        try:
            journal._writer._rotate()
        except InterruptedError:
            return
    raise AssertionError("it went on")


async def stopped(folder: Path, clock: ManualClock) -> None:
    """A clean stop."""
    async with world(folder, clock, segment_bytes=SEGMENT, limits=LIMITS) as daemon:
        await daemon.ask(op="schedule", id="waits", url=URL, delay=FAR_MS)
        await daemon.journal.close()


async def two_boots(folder: Path, clock: ManualClock) -> None:
    """The clock is set in the first boot and again in the second: both are in markers."""
    async with world(folder, clock, segment_bytes=SEGMENT, limits=LIMITS) as daemon:
        await daemon.ask(op="schedule", id="first", url=URL, delay=FAR_MS, expires_in="1d")
        await _step(daemon, 3_600_000)
    clock.advance(5_000 * NS_PER_MS)
    clock.reboot(SECOND_BOOT)
    async with world(folder, clock, segment_bytes=SEGMENT, limits=LIMITS) as daemon:
        await daemon.ask(op="schedule", id="second", url=URL, delay=FAR_MS)
        await daemon.advance(1000)
        await _step(daemon, -60_000)
    clock.advance(7_000 * NS_PER_MS)
    clock.reboot(b"the third boot..")


async def _step(daemon: World, ms: int) -> None:
    daemon.clock.step_wall(ms * NS_PER_MS)
    await settle()


async def trimmed(folder: Path, clock: ManualClock) -> None:
    """Compacted: copies of tasks and of a paused queue, the counts, a trim; its unlink came to nothing."""
    async with world(folder, clock, segment_bytes=SEGMENT, limits=LIMITS, concurrency=4) as daemon:
        for request in (
            {"op": "schedule", "id": "old", "url": URL, "delay": FAR_MS, "body": {"n": 1}, "group": "g"},
            {"op": "schedule", "id": "done", "url": URL},
            {"op": "pause", "queue": "paused"},
        ):
            await daemon.ask(**request)
        while len(daemon.journal.sealed) < 2:
            await daemon.ask_all(
                [
                    {"op": "schedule", "id": f"c{n}", "url": URL, "delay": "1h", "on_conflict": "replace"}
                    for n in range(100)
                ]
            )
        daemon.journal._writer.drop = lambda below: None  # type: ignore[method-assign]
        with trio.move_on_after(60):  # it waits for the files to go
            await Compactor(daemon.ledger, TimeSlices()).work()
        await daemon.ask(op="cancel", id="c1")


async def newer(folder: Path, clock: ManualClock) -> None:
    """What a later version may write: nothing but the first sector's layout is known of it."""
    await stopped(folder, clock)
    path = folder / "0000000001.segment"
    data = path.read_bytes()
    head = decode_header(data)
    assert head is not None
    path.write_bytes(encode_header(head._replace(min_reader=FORMAT + 1))[0] + b"\xff" * SECTOR_BYTES)


Story = Callable[[Path, ManualClock], Awaitable[None]]
STORIES: Final[dict[str, Story]] = {
    "f1-every-kind": every_kind,
    "f1-torn": torn,
    "f1-sealed": sealed,
    "f1-stopped": stopped,
    "f1-two-boots": two_boots,
    "f1-trimmed": trimmed,
    "f2-newer": newer,
}

PAST: Final = ("f1-values",)
"""Those that no story makes any more, as what they hold is refused by now. What a daemon does with them is in
``tests/daemon/test_old_values.py``; the story of each is in the commit that added its two files."""


def write(name: str, into: Path = FOLDER) -> None:
    """Play a story and keep the folder that it leaves, with what a start finds there."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, clock = Path(scratch) / "data", ManualClock()
        trio.run(STORIES[name], folder, clock, clock=trio.testing.MockClock(autojump_threshold=0))
        with zipfile.ZipFile(into / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(folder.glob("*.segment")):
                archive.write(path, path.name)
        now = clock.now()
        meaning: dict[str, Any] = {
            "clock": [now.elapsed_ns, now.wall_ns, clock.boot_id.decode()],
            "state": None if name == "f2-newer" else state_of(folder, clock),
        }
        (into / f"{name}.json").write_text(json.dumps(meaning, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        write(chosen)
