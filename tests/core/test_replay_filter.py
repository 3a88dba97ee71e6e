"""What is left of real histories after any loss can be applied by a start: nothing asserts."""

from __future__ import annotations

import random

import msgspec

from tests.core.driver import MemoryFrame
from tests.core.side_by_side import STEPS, Play
from wheeltimer.core import records as r
from wheeltimer.core.invariants import check
from wheeltimer.core.replay_filter import ReplayFilter

SEED = 4


def fitted(frames: list[MemoryFrame], lost: range) -> tuple[list[MemoryFrame], ReplayFilter]:
    known, out = ReplayFilter(), []
    for number, frame in enumerate(frames):
        if number in lost:
            continue
        records = []
        for lsn, record in enumerate(r.decode_all(frame.payload), frame.first_lsn):
            fit = known.fit(lsn, record)
            records.append(r.Forgotten([], record.time_ms) if fit is None else fit)
        out.append(frame._replace(payload=r.encode(records)))
    return out, known


def test_what_is_left_after_a_loss_can_be_started_on(thorough: bool) -> None:
    chance = random.Random(SEED)
    changed = orphans = 0
    for number in range(2000 if thorough else 200):
        game = Play()
        for _ in range(STEPS):
            game.step(*(chance.randrange(size) for size in (36, 12, 60, 60)))
        frames = list(game.driver.journal.frames)
        whole, known = fitted(frames, range(0))
        assert [frame.payload for frame in whole] == [
            r.encode(r.decode_all(frame.payload)) for frame in frames
        ], "where nothing is lost nothing is changed"
        assert not known.orphans
        for _ in range(5):
            start = chance.randrange(len(frames))
            lost = range(start, start + chance.randrange(1, 6))
            left, known = fitted(frames, lost)
            game.driver.journal.frames = left
            if not left:
                continue
            try:
                engine, _ = game.driver.replayed()
                check(engine)
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"seed {SEED}, play {number}, lost {lost}") from error
            assert known.tasks.keys() == {key for shard in engine.table.shards for key in shard}, (
                f"seed {SEED}, play {number}, lost {lost}"
            )
            changed += left != [frame for at, frame in enumerate(frames) if at not in lost]
            orphans += bool(known.orphans)
        game.driver.journal.frames = frames
    assert changed > 50
    assert orphans > 20


def test_a_task_whose_last_record_is_before_the_loss_is_uncertain() -> None:
    known = ReplayFilter()
    for lsn, queue in ((1, "a"), (9, "b")):
        known.fit(lsn, msgspec.msgpack.decode(r.encode(r.Paused(queue, 1, True)), type=r.Replayed))
    known.tasks = {"q/old": (1, 0, 3), "q/new": (1, 0, 8)}
    known.orphans = {"q/unknown": 9}
    assert list(known.uncertain([(4, 6)])) == ["q/old", "q/unknown"]
    assert list(known.uncertain([])) == ["q/unknown"]
