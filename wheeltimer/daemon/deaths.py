"""One log line for each task that ends ``dead``: its id, attempts, reason and destination.

Clients decide how many tasks die, so the lines for each pair of queue and destination are limited, and so is
the number of pairs; lines that are left out are counted. No body, header, meta or path of a URL is written.
"""

from __future__ import annotations

import json
import logging
from typing import Final

import trio

from wheeltimer.core.engine import Engine
from wheeltimer.core.records import Ended
from wheeltimer.core.task import Task, split_key
from wheeltimer.protocol.success import OTHER_END
from wheeltimer.protocol.task_view import State

PERIOD_S: Final = 60
LINES_MAX: Final = 10  # in a period, for each pair of queue and destination
PAIRS_MAX: Final = 100  # pairs in a period with a limit of their own; the rest share one
LAST_CHARS_MAX: Final = 200  # of the last attempt's error
_DEAD: Final = int(State.DEAD)
_OTHERS: Final = ("*", "*")
_log = logging.getLogger("wheeltimer")


class Deaths:
    """The durable engine calls `ended` for every end of a task; `run` is a nursery task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[tuple[str, str], int] = {}  # dead tasks of this period, by queue and destination

    def ended(self, record: Ended) -> None:
        """Call after the record was applied. Takes 0.1 us if the task is not dead."""
        if record.state != _DEAD:
            return
        task = self._engine.get(record.key)
        assert task is not None, "a dead task is kept whole"
        queue, id = split_key(record.key)
        destination = "/".join(task.url.partition("?")[0].split("/", 3)[:3]).lower()
        pair = queue, destination
        if pair not in self._seen and len(self._seen) >= PAIRS_MAX:
            pair = _OTHERS
        count = self._seen[pair] = self._seen.get(pair, 0) + 1
        if count <= LINES_MAX:
            _log.warning(
                "dead queue=%s id=%s attempts=%d error=%s last=%s destination=%s",
                queue, _word(id), record.attempts, record.reason, _word(_last(task)), destination,
            )  # fmt: skip

    async def run(self) -> None:
        """Begin a new period every `PERIOD_S`, until cancelled."""
        try:
            while True:
                await trio.sleep(PERIOD_S)
                self._tell_rest()
        finally:
            self._tell_rest()

    def _tell_rest(self) -> None:
        for (queue, destination), count in self._seen.items():
            if count > LINES_MAX:
                _log.warning(
                    "dead unsaid=%d queue=%s destination=%s; said at most %d times in %d s",
                    count - LINES_MAX, queue, destination, LINES_MAX, PERIOD_S,
                )  # fmt: skip
        self._seen.clear()


def _last(task: Task) -> str:
    """The status or error of the last attempt; "none" if there was no attempt."""
    if not task.history:
        return "none"
    attempt = task.history[-1]
    if not attempt.error:
        return f"{attempt.status}"
    if attempt.error.startswith("success: ") and attempt.error.endswith(OTHER_END):
        return attempt.error.partition(" is ")[0]  # the rest is from the reply's body
    return attempt.error[:LAST_CHARS_MAX]


def _word(text: str) -> str:
    """``text``, quoted unless it is one plain word: a space in an id must not look like the next field."""
    plain = text.isprintable() and text and not any(c in ' "=\\' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
