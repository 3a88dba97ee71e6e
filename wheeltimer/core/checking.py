"""The engine's invariants, derived again from the rows; for tests and for whoever doubts a count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheeltimer.core.task import State, pack, timers, unpack

if TYPE_CHECKING:
    from wheeltimer.core.engine import Engine

STATES = len(State)


def check(engine: Engine) -> None:
    """Derive counts, indexes and timers again; AssertionError names what has drifted. O(tasks)."""
    counts, queues, groups = [0] * STATES, dict[str, list[int]](), dict[str, set[str]]()
    elapsed = wall = superseded = 0
    for key, row in engine.table.items():
        task = unpack(row)
        assert pack(task) == row, f"row of {key}"
        counts[task.state] += 1
        queues.setdefault(key.partition("/")[0], [0] * STATES)[task.state] += 1
        if task.group is not None:
            groups.setdefault(task.group, set()).add(key)
        elapsed_ns, wall_ms = timers(task)
        elapsed += elapsed_ns is not None
        wall += wall_ms is not None
        kept = task.state >= State.DONE and key in engine.kept(task.state)
        assert kept == (task.state >= State.DONE), f"retention of {key}"
        assert (task.flight != 0) == (task.state == State.RUNNING), f"flight of {key}"
        assert (key in engine.superseded) == (task.flight not in (0, task.version)), f"superseded {key}"
        superseded += key in engine.superseded
    assert counts == engine.counts, f"counts {engine.counts}, derived {counts}"
    assert {name: q.counts for name, q in engine.queues.items() if any(q.counts)} == queues
    assert {name: set(members) for name, members in engine.groups.items()} == groups
    assert len(engine.elapsed) == elapsed, f"{len(engine.elapsed)} elapsed timers, derived {elapsed}"
    assert len(engine.wall) == wall, f"{len(engine.wall)} wall timers, derived {wall}"
    assert len(engine.kept_done) == counts[State.DONE] + counts[State.CANCELLED]
    assert len(engine.kept_dead) == counts[State.DEAD] + counts[State.EXPIRED]
    assert len(engine.superseded) == superseded
    engine.elapsed.check()
    engine.wall.check()
