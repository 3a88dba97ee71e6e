"""Elapsed deadlines of another boot, on this boot's time line; used by recovery only."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from wheeltimer.core.task import Task
from wheeltimer.core.units import parse_duration_ms

# (deadline in ns on the other boot's line, the longest the wait can have been in ms) -> ns on ours
Rebase = Callable[[int, int], int]


def rebased(task: Task, written_ms: int, rebase: Rebase) -> Task:
    """``task`` as written at ``written_ms`` (Unix ms), with its elapsed deadlines on this boot's line."""
    if task.deadline_ns is None and task.expiry_ns is None:
        return task
    task = replace(task)
    if task.deadline_ns is not None:
        task.deadline_ns = rebase(task.deadline_ns, max(0, task.next_ms - written_ms))
    if task.expiry_ns is not None:
        assert task.expires_in is not None
        after_due_ms = parse_duration_ms(task.expires_in, "expires_in")
        task.expiry_ns = rebase(task.expiry_ns, max(0, task.due_ms - written_ms) + after_due_ms)
    return task
