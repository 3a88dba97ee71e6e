"""Requests that change nothing: one task as clients see it, a page of a list, counts, a forecast.

Nothing here walks all tasks in one go: the caller feeds ``Listing`` and ``Forecast`` a slice of rows at a
time.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Raw, to_builtins

from wheeltimer.core.engine import Engine
from wheeltimer.core.row import timing
from wheeltimer.core.schedule import find
from wheeltimer.core.task import NS_PER_MS, Now, Task, key_of, split_key, unpack
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.replies import ForecastReply, ListReply, TaskReply
from wheeltimer.protocol.task_view import STATE_BY_WORD, STATE_WORDS, State
from wheeltimer.protocol.units import parse_duration_ms

_NEVER: Final = 1 << 62  # sorts ended tasks behind all that have a next attempt
LIST_MAX: Final = 1000
UNSORTED_MAX: Final = 128  # kept unsorted beside a sorted page: to sort two pages at once takes 0.8 ms
PAGE_BYTES_MAX: Final = 1 << 20  # bounds the reply to one short request; the cursor leads to the rest
_AS_GIVEN: Final = (
    "delay", "at", "url", "method", "headers", "retry", "timeout", "connect_timeout", "expires_in",
    "expires_at", "success", "poll", "group", "on_done", "on_dead",
)  # fmt: skip


def view(key: str, task: Task, *, whole: bool = True) -> dict[str, object]:
    """The task as ``get`` shows it; without ``whole``, as ``list`` does: no body, no history."""
    queue, id = split_key(key)
    shown: dict[str, object] = {"id": id, "queue": queue}
    for name in _AS_GIVEN:
        value = getattr(task, name)
        if value is not None:
            shown[name] = value
    if task.poll is not None:  # with its defaults, which are not stored
        poll = task.poll
        growth = {} if poll.factor == 1 else {"factor": poll.factor, "cap": poll.cap}
        shown["poll"] = {"every": poll.every, **growth, "max": poll.max}
    if whole and task.body is not None:
        if task.body_as == "text":
            shown["body_text"] = task.body.decode()
        elif task.body_as == "base64":
            shown["body_base64"] = b64encode(task.body).decode()
        else:
            shown["body"] = _on_one_line(task.body)
    if task.meta is not None:
        shown["meta"] = _on_one_line(task.meta)
    ended = task.state >= State.DONE
    shown |= {
        "version": task.version,
        "state": STATE_WORDS[task.state],
        "created": task.created_ms,
        "due": task.due_ms,
        "next": None if ended else task.next_ms,
        "ended": task.ended_ms,
        "attempts": task.attempts,
        "polls": task.polls,
    }
    if task.reason is not None:
        shown["error"] = task.reason
    if whole:
        # An absent status or error of an attempt is left out, as the row leaves it out.
        shown["history"] = to_builtins(task.history or [])
    return shown


def _on_one_line(json: bytes) -> Raw:
    """JSON as given, but each carriage return as a space: some clients take it for the end of a line."""
    return Raw(json.replace(b"\r", b" "))


def get(engine: Engine, command: c.Get) -> TaskReply:
    """The one task that ``id`` names."""
    key, task = find(engine, command.id, command.queue)
    return TaskReply(True, view(key, task), command.reply_seq)


def _sort_key(key: str, task: Task) -> tuple[int, str, str]:
    queue, _, id = key.partition("/")
    return (_NEVER if task.state >= State.DONE else task.next_ms, queue, id)


class Listing:
    """One page: the ``limit`` soonest tasks after ``cursor`` that pass the filters.

    Call ``feed`` with every slice of ``rows(engine)``, then ``show`` until it returns False, then ``reply``.
    Memory is O(limit), time O(rows).
    """

    def __init__(
        self, command: c.List, sees: Callable[[str], bool] | None = None,
        shown: Callable[[dict[str, object]], Any] = dict,
    ) -> None:  # fmt: skip
        """``shown`` makes the reply's form of one task; ``show`` calls it."""
        if not 1 <= command.limit <= LIST_MAX:
            raise BadValue(f"limit: 1 to {LIST_MAX} expected", "limit")
        self._command = command
        self._sees = sees  # which queues; None: all
        self._prefix = None if command.queue is None else key_of(c.check_name(command.queue, "queue"), "")
        self._group = None if command.group is None else c.check_name(command.group, "group")
        self._state = None if command.state is None else STATE_BY_WORD[command.state]
        self._after = None if command.cursor is None else _read_cursor(command.cursor)
        self._best: list[tuple[tuple[int, str, str], str, bytes]] = []
        self._beyond: tuple[int, str, str] = (_NEVER + 1, "", "")
        self._page: list[tuple[tuple[int, str, str], str, bytes]] | None = None  # with one more, if there is
        self._shown = shown
        self._tasks: list[Any] = []  # of the page, as they are shown
        self._size = 0

    def rows(self, engine: Engine, size: int = 256) -> Iterator[list[tuple[str, bytes]]]:
        """The rows to feed: those of the group if the request names one, else all."""
        if self._group is None:
            yield from engine.table.slices(size)
            return
        members = list(engine.groups.get(self._group, ()))
        for start in range(0, len(members), size):
            found = ((key, engine.table.get(key)) for key in members[start : start + size])
            yield [(key, row) for key, row in found if row is not None]

    def feed(self, rows: list[tuple[str, bytes]]) -> None:
        """Take one slice. Keeps one task more than the page holds: if it exists, the reply has a cursor."""
        for key, row in rows:
            if self._prefix is not None and not key.startswith(self._prefix):
                continue
            if self._sees is not None and not self._sees(key[: key.index("/")]):
                continue
            task = unpack(row)
            if (self._state is not None and task.state != self._state) or (
                self._group is not None and task.group != self._group
            ):
                continue
            order = _sort_key(key, task)
            if order < self._beyond and (self._after is None or order > self._after):
                self._best.append((order, key, row))
        wanted = self._command.limit + 1
        if len(self._best) >= wanted + UNSORTED_MAX:
            self._best.sort()
            del self._best[wanted:]
            self._beyond = self._best[-1][0]  # a task that sorts after it cannot be on this page

    def show(self, count: int) -> bool:
        """Once all is fed: make the reply's form of ``count`` tasks more; False if the page is complete."""
        if self._page is None:
            self._page = sorted(self._best)[: self._command.limit + 1]
        page, tasks = self._page, self._tasks
        for _, key, row in page[len(tasks) : min(len(tasks) + count, self._command.limit)]:
            task = unpack(row)
            self._size += len(row) - len(task.body or b"")
            if self._size > PAGE_BYTES_MAX and tasks:
                return False
            tasks.append(self._shown(view(key, task, whole=False)))
        return len(tasks) < min(len(page), self._command.limit)

    def reply(self) -> ListReply:
        """The page; completes it if ``show`` has not."""
        while self.show(LIST_MAX):
            pass
        page, tasks = self._page, self._tasks
        assert page is not None
        reply = ListReply(True, tasks, seq=self._command.reply_seq)
        if len(tasks) < len(page):
            reply.cursor = _write_cursor(page[len(tasks) - 1][0])
        return reply


def _write_cursor(order: tuple[int, str, str]) -> str:
    next_ms, queue, id = order
    return f"{next_ms}/{queue}/{id}"


def _read_cursor(cursor: str) -> tuple[int, str, str]:
    next_text, _, rest = cursor.partition("/")
    queue, _, id = rest.partition("/")
    if not (next_text.isascii() and next_text.isdigit() and len(next_text) < 20 and queue and id):
        raise BadValue("cursor: a cursor from an earlier reply of list expected", "cursor")
    return int(next_text), queue, id


def counts(engine: Engine) -> dict[str, int]:
    """Tasks by state."""
    return dict(zip(STATE_WORDS, engine.counts, strict=True))


def queues(
    engine: Engine, sees: Callable[[str], bool] | None = None, names: Sequence[str] | None = None
) -> dict[str, dict[str, object]]:
    """Each queue's tasks by state (without zeros) and whether it is paused; or only of those in ``names``."""
    found = (
        engine.queues.items()
        if names is None
        else [(n, engine.queues[n]) for n in names if n in engine.queues]
    )
    return {
        name: {"paused": queue.paused} | {w: n for w, n in zip(STATE_WORDS, queue.counts, strict=True) if n}
        for name, queue in found
        if sees is None or sees(name)
    }


def counts_of(engine: Engine, sees: Callable[[str], bool]) -> dict[str, int]:
    """Tasks by state in the queues for which ``sees`` is true."""
    seen = [queue.counts for name, queue in engine.queues.items() if sees(name)]
    return {word: sum(counts[state] for counts in seen) for state, word in enumerate(STATE_WORDS)}


# -- what fires when: live tasks counted by the instant of their next attempt ------------------------------

SLICES_MAX: Final = 1000


class Forecast:
    """One count. Call ``feed`` with every slice of ``rows``, then ``reply``. Time O(rows), 0.5 us each.

    A task that waits for elapsed time is counted at the end of that wait, whatever the wall clock was when
    it was scheduled. A ``ready`` task is overdue; a ``running`` task has begun and is not counted.
    """

    def __init__(
        self, command: c.Forecast, now: Now, horizon_max_ms: int, sees: Callable[[str], bool] | None = None
    ) -> None:
        horizon_ms = parse_duration_ms(command.horizon, "horizon", min_ms=1, max_ms=horizon_max_ms)
        if not 1 <= command.slices <= SLICES_MAX:
            raise BadValue(f"slices: 1 to {SLICES_MAX} expected", "slices")
        if command.slices > horizon_ms:
            raise BadValue("slices: at most one for each millisecond of the horizon expected", "slices")
        self._prefix = None if command.queue is None else key_of(c.check_name(command.queue, "queue"), "")
        self._sees = sees  # which queues; None: all
        self._now = now
        slice_ms = -(-horizon_ms // command.slices)
        self._reply = ForecastReply(
            True, now.wall_ms, slice_ms, [0] * command.slices, 0, 0, command.reply_seq
        )

    def rows(self, engine: Engine, size: int = 256) -> Iterator[list[tuple[str, bytes]]]:
        """The rows to feed."""
        return engine.table.slices(size)

    def feed(self, rows: list[tuple[str, bytes]]) -> None:
        """Count one slice of rows."""
        prefix, elapsed_ns, wall_ns = self._prefix, self._now.elapsed_ns, self._now.wall_ns
        reply = self._reply
        sees = self._sees
        counts, slice_ns = reply.counts, reply.slice_ms * NS_PER_MS
        for key, row in rows:
            if prefix is not None and not key.startswith(prefix):
                continue
            if sees is not None and not sees(key[: key.index("/")]):
                continue
            task = timing(row)
            if task.state == State.SCHEDULED:
                if task.deadline_ns is not None:
                    ahead_ns = task.deadline_ns - elapsed_ns
                elif task.due_given_ms is not None:
                    ahead_ns = task.due_given_ms * NS_PER_MS - wall_ns
                else:
                    assert isinstance(task.delay, int)
                    ahead_ns = (task.created_ms + task.delay) * NS_PER_MS - wall_ns
                if ahead_ns <= 0:
                    reply.overdue += 1
                elif (at := ahead_ns // slice_ns) < len(counts):
                    counts[at] += 1
                else:
                    reply.later += 1
            elif task.state == State.READY:
                reply.overdue += 1

    def reply(self) -> ForecastReply:
        return self._reply
