"""How a cell is played, and how what was seen is told in one line.

A line has three parts. The *reply*: ``ok``, the counts of a cancel, finish or redrive, ``duplicate``, or the
error code; empty where nobody asked. The *state* and version that ``get`` shows just after the input or the
restart; where the input is only that time passes or how an attempt is answered, at the end. The *story*: what
happens from then on, each instant with its seconds after the input; ``as ever`` where that is the same as if
nothing had been asked, which is the cell of ``get``:

``called 1.2``    the receiver saw the request of version 1, attempt 2 (``at other``: under the other URL)
``succeeded``     the event of that attempt's outcome; ``failed``, ``not_yet``
``done 1``        the event of the end, with the version; ``dead``, ``expired``, ``cancelled``; also
                  ``scheduled 2`` and ``rescheduled 2``, which begin a version
``hook done 1``   what the hook's URL saw, with the reply or the error that its body has
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from .checks import check_reply, check_seen
from .inputs import INPUTS
from .rows import RELEASE_S, RESUME_S, ROWS, Row
from .world import Cell, play

_RANKS: Final = ("scheduled", "rescheduled", "called", "outcome", "end", "hook")  # the order at one instant
_COUNTS: Final = ("cancelled", "finished", "redriven", "running")


def tell(state: str, what: str) -> str:
    """The line of one cell, from a world of its own; AssertionError where what was seen does not agree."""
    row, given = ROWS[state], INPUTS[what]
    said: list[str] = []

    async def story(cell: Cell) -> None:
        cell.short = given.short

        async def first() -> None:
            asked = row.request(given.fields(cell, row))
            await row.setup(cell, row, asked)
            cell.zero_ms = cell.now_ms()
            cell.answers[:] = given.answers
            assert cell.outside is not None
            cell.outside.start_soon(_aftermath, cell, row)
            if given.ask is None:
                said.append("")
            else:
                before = await cell.task(row.queue)
                reply = await cell.put(given.ask(cell, row, asked))
                said.append(_short(reply))
                await cell.settle()
                check_reply(reply, before, await cell.task(row.queue), cell.events)
                said.append(_state(await cell.task(row.queue)))
            if given.restart is not None:
                await given.restart()
                return
            await rest()

        async def rest() -> None:
            if len(said) == 1 and given.restart is not None:
                await cell.settle()
                said.append(_state(await cell.task(row.queue)))
            await cell.until(given.end_s)
            if len(said) == 1:
                said.append(_state(await cell.task(row.queue)))

        code = await cell.serve(first)
        if given.restart is not None:
            assert code == given.exit_code
            await cell.serve(rest)

    cell = play(story)
    check_seen(cell)
    return "; ".join((*said, _story(cell)))


async def _aftermath(cell: Cell, row: Row) -> None:
    """What comes to all: see ``rows.py``."""
    await cell.until(RELEASE_S)
    cell.down = False
    cell.held.set()
    await cell.until(RESUME_S)
    await cell.put({"op": "resume", "queue": row.queue})


def _short(reply: dict[str, Any]) -> str:
    if not reply["ok"]:
        return str(reply["error"])
    if "duplicate" in reply:
        return "duplicate" if reply["duplicate"] else "ok"
    if "tasks" in reply:
        return f"{sum(task['id'] == 't' for task in reply['tasks'])} listed"
    if "paused" in reply:
        return "paused" if reply["paused"] else "not paused"
    return " ".join(str(reply[name]) for name in _COUNTS if name in reply) or "ok"


def _state(task: dict[str, Any] | None) -> str:
    return "unknown" if task is None else f"{task['state']} {task['version']}"


def _story(cell: Cell) -> str:
    seen = sorted([*_told(cell), *_called(cell)])
    parts, before = [], None
    for at_ms, _, _, what in seen:
        if at_ms < cell.zero_ms:
            continue
        at = f"+{round((at_ms - cell.zero_ms) / 1000):d}"
        parts.append(what if at == before else f"{at} {what}")
        before = at
    return ", ".join(parts)


def _told(cell: Cell) -> Iterator[tuple[int, int, int, str]]:
    """(wall ms, version, rank, text) of each event of ``t``."""
    for event in cell.events:
        if event["id"] != "t":
            continue
        room, _, word = event["event"].partition(".")
        version = event["version"]
        if word == "started":
            continue
        if room == "attempt":
            yield event["time"], version, _RANKS.index("outcome"), word
        else:
            rank = word if word in _RANKS else "end"
            yield event["time"], version, _RANKS.index(rank), f"{word} {version}"


def _called(cell: Cell) -> Iterator[tuple[int, int, int, str]]:
    """(wall ms, version, rank, text) of each request that a receiver saw of ``t`` and its hooks."""
    for now, path, headers, body in cell.calls:
        id, at_ms = headers["wheeltimer-id"], now.wall_ms
        if id == "t":
            version = int(headers["wheeltimer-version"])
            where = {"/t": "", "/other": " at other"}[path]
            text = f"called {version}.{headers['wheeltimer-attempt']}{where}"
            yield at_ms, version, _RANKS.index("called"), text
        elif id.startswith("t/"):
            _, word, version_text = id.split("/")
            what = body["error"] or "null" if body["reply"] is None else body["reply"]
            text = f"hook {word} {version_text} {what if isinstance(what, str) else json.dumps(what)}"
            yield at_ms, int(version_text), _RANKS.index("hook"), text


def show(state: str) -> str:
    """A row of the table as it stands in the files, made of what the daemon does: to be read, not trusted."""
    lines = [f'    "{state}": {{']
    undisturbed = tell(state, "get").split("; ")[2]
    for what in INPUTS:
        line = tell(state, what)
        if what != "get" and line.endswith(f"; {undisturbed}"):
            line = line.removesuffix(undisturbed) + "as ever"
        lines.append(_quoted(what, line))
    return "\n".join([*lines, "    },"])


def _quoted(what: str, line: str) -> str:
    mark = "'" if '"' in line else '"'
    if len(what) + len(line) <= 94:
        return f'        "{what}": {mark}{line}{mark},'
    if len(line) > 95:
        head, _, tail = line.rpartition(", +")
        line = f"{head}, {mark}\n            {mark}+{tail}"
    return f'        "{what}":\n            {mark}{line}{mark},'


if __name__ == "__main__":
    for state in sys.argv[1:] or ROWS:
        print(show(state))
