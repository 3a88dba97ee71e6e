"""Invariants of the engine: counts, indexes and timers derived again from the rows, for tests."""

from __future__ import annotations

from wheeltimer.core.engine import Engine
from wheeltimer.core.task import pack, unpack
from wheeltimer.protocol.task_view import State

STATES = len(State)


def check(engine: Engine) -> None:
    """Derive counts, indexes and timers again; AssertionError names what has drifted. O(tasks)."""
    counts, queues, groups = [0] * STATES, dict[str, list[int]](), dict[str, set[str]]()
    elapsed = wall = kept_timers = superseded = size = 0
    for key, row in engine.table.items():
        task = unpack(row)
        size += len(key) + len(row)
        # The map of a row that was added in a batch (schedule_batch.py) has the short header; nothing else
        # may differ.
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
