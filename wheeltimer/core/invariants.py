"""Invariants of the engine and the wheel, derived again; for tests and for whoever doubts a count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheeltimer.core.task import pack, unpack
from wheeltimer.core.wheel import CHAIN_KEYS_MAX, Chain
from wheeltimer.protocol.task_view import State

if TYPE_CHECKING:
    from wheeltimer.core.engine import Engine
    from wheeltimer.core.wheel import HashedWheelTimer

STATES = len(State)


def check(engine: Engine) -> None:
    """Derive counts, indexes and timers again; AssertionError names what has drifted. O(tasks)."""
    counts, queues, groups = [0] * STATES, dict[str, list[int]](), dict[str, set[str]]()
    elapsed = wall = kept_timers = superseded = size = 0
    for key, row in engine.table.items():
        task = unpack(row)
        size += len(key) + len(row)
        # The map of a row that came by the run (schedule_batch.py) has the short header; nothing else may
        # differ.
        assert pack(task) in (row, b"\xde\x00" + bytes([row[0] & 15]) + row[1:]), f"row of {key}"
        counts[task.state] += 1
        queues.setdefault(key.partition("/")[0], [0] * STATES)[task.state] += 1
        if task.group is not None:
            groups.setdefault(task.group, set()).add(key)
        elapsed_ns, wall_ms = engine.timers(task)
        elapsed += elapsed_ns is not None
        wall += wall_ms is not None
        kept_timers += task.state >= State.DONE
        kept = task.state >= State.DONE and key in engine.kept(task.state)
        assert kept == (task.state >= State.DONE), f"retention of {key}"
        assert (task.flight != 0) == (task.state == State.RUNNING), f"flight of {key}"
        assert (key in engine.superseded) == (task.flight not in (0, task.version)), f"superseded {key}"
        superseded += key in engine.superseded
    assert size == engine.table.size, f"{engine.table.size} bytes of keys and rows, derived {size}"
    assert counts == engine.counts, f"counts {engine.counts}, derived {counts}"
    assert {name: q.counts for name, q in engine.queues.items() if any(q.counts)} == queues
    assert {name: set(members) for name, members in engine.groups.items()} == groups
    standing = len(engine.elapsed) + len(engine._handed_elapsed), len(engine.wall) + len(engine._handed_wall)
    assert standing == (elapsed, wall), f"{standing} elapsed and wall timers, derived {elapsed, wall}"
    standing_kept = len(engine.kept_wheel) + len(engine._handed_kept)
    assert standing_kept == kept_timers, f"{standing_kept} timers of ended tasks, derived {kept_timers}"
    assert len(engine.kept_done) == counts[State.DONE] + counts[State.CANCELLED]
    assert len(engine.kept_dead) == counts[State.DEAD] + counts[State.EXPIRED]
    assert len(engine.superseded) == superseded
    engine.elapsed.check()
    engine.wall.check()
    engine.kept_wheel.check()


def check_wheel(wheel: HashedWheelTimer) -> None:
    """Derive a wheel's ticks, containers and count again; AssertionError names what is broken. O(keys)."""
    from wheeltimer.core.wheel import STALE_MIN

    seen = set(wheel._open)
    count = len(wheel._open)
    for index, bucket in enumerate(wheel._buckets):
        for round_, held in bucket.items():
            tick = round_ << wheel._shift | index
            keys = (held,) if isinstance(held, str) else tuple(held)
            assert keys, f"tick {tick} is empty and was not dropped"
            if isinstance(held, Chain):
                assert len(held) == len(keys) <= CHAIN_KEYS_MAX, f"tick {tick} is in the wrong container"
            for key in keys:
                assert wheel._deadline_of(key) // wheel._tick_ns == tick, f"{key} is in the wrong tick"
            if tick <= wheel._cursor_tick and tick not in wheel._due_ticks:
                assert wheel._scan_bucket is not None, f"tick {tick} has passed and is not due"
                assert index >= wheel._scan_bucket, f"the scan has missed tick {tick}"
                assert tick > wheel._scan_from_tick, f"tick {tick} passed before the scan and is not due"
            seen.update(keys)
            count += len(keys)
    assert count == len(seen), "a key is in the wheel twice"
    assert count == wheel._len, f"the count drifted: {wheel._len} for {count} keys"
    for tick in wheel._due_ticks:
        assert tick >> wheel._shift in wheel._buckets[tick & wheel._mask], f"due tick {tick} holds nothing"
    assert wheel._due_ticks.issubset(wheel._due), "a due tick has no place in the order"
    assert len(wheel._due) <= 2 * len(wheel._due_ticks) + STALE_MIN, "emptied ticks pile up"
    placed = set(wheel._heap)
    for key, deadline_ns in wheel._open.items():
        assert (deadline_ns, key) in placed, f"{key} has no place in the order"
        assert wheel._deadline_of(key) == deadline_ns, f"{key} has another deadline"
    assert len(wheel._heap) <= 2 * len(wheel._open) + STALE_MIN, "cancelled keys pile up"
