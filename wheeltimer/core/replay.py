"""Elapsed deadlines of another boot, on this boot's time line; used by recovery only."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from wheeltimer.core.task import Task

Rebase = Callable[[int], int]
"""Maps a deadline in ns on the other boot's line to ns on this boot's; made for one record's time."""


def rebased(task: Task, rebase: Rebase) -> Task:
    """``task`` as it was written, with its elapsed deadlines on this boot's line."""
    if task.deadline_ns is None and task.expiry_ns is None:
        return task
    task = replace(task)
    if task.deadline_ns is not None:
        task.deadline_ns = rebase(task.deadline_ns)
    if task.expiry_ns is not None:
        task.expiry_ns = rebase(task.expiry_ns)
    return task
