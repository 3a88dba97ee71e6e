"""A daemon in a thread of its own, for tests that talk to it over blocking sockets and look inside between.

Real: the server, its sockets, everything that ``tests/daemon/worlds.py`` has. Its clock stands still, and
attempts that begin do not end: what changes is what clients ask for, and a test can say what that must be.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

import trio

from tests.daemon.worlds import World, settle, world
from tests.process.daemon import START_S, Connection
from wheeltimer.core.addresses import AddressRule
from wheeltimer.core.invariants import check
from wheeltimer.core.policy import Policy
from wheeltimer.core.task import STOP_FINISH, unpack
from wheeltimer.protocol.task_view import STATE_WORDS, State
from wheeltimer.server.server import Server
from wheeltimer.settings import Limits

T = TypeVar("T")
LINE_BYTES_MAX = 4096  # short, so that a line over it is soon made
LIMITS = Limits(line_bytes_max=LINE_BYTES_MAX)
Reply = dict[str, Any]


def _world(folder: Path) -> AbstractAsyncContextManager[World]:
    return world(folder, segment_bytes=1 << 22, limits=LIMITS, hold=trio.Event())


class Complaints(logging.Handler):
    """Every record that carries a traceback, or is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.seen.append(self.format(record))


class Threaded:
    """A context manager: a daemon that listens on ``address`` as long as it is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._run), daemon=True)
        self._failed: BaseException | None = None
        self.complaints = Complaints()

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self.complaints)
        self._thread.start()
        assert self._up.wait(START_S)
        return self

    def __exit__(self, *error: object) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(START_S)
        logging.getLogger().removeHandler(self.complaints)
        assert not self._thread.is_alive()
        if self._failed is not None:
            raise self._failed

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            async with _world(self._folder) as self.daemon:
                self.daemon.ledger.policy = Policy(check_host=AddressRule(True).check_host)
                async with trio.open_nursery() as nursery:
                    daemon = self.daemon
                    self.server = Server(daemon.requests, daemon.subscriptions, daemon.memory, LIMITS)
                    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                    self.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
                    nursery.start_soon(trio.serve_listeners, self.server.serve, [listener])
                    self._up.set()
                    await self._stop.wait()
                    nursery.cancel_scope.cancel()
        except BaseException as error:
            self._failed = error
            raise

    def call(self, what: Callable[[World], T]) -> T:
        """Do something on the daemon's loop."""
        return trio.from_thread.run_sync(what, self.daemon, trio_token=self._token)

    def exchange(self, pieces: list[bytes]) -> list[Reply]:
        """Send these bytes on a connection of their own, say that this was all, and read to the end."""
        with Connection(self.address) as client:
            for piece in pieces:
                client.send_bytes(piece)
            client.half_close()
            return client.rest()

    def written(self) -> int:
        """How many records there are."""
        self._settle()
        return self.call(lambda daemon: daemon.journal.next_lsn)

    def _settle(self) -> None:
        """Until what follows from the last request by itself, as an expiry that is due, is done."""
        trio.from_thread.run(settle, trio_token=self._token)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """Version and state of every task; those that live are alike, as after a restart.

        What a restart does by itself is done here too: it ends a task whose cancel or finish waits for an
        attempt, and finish's end makes the hook that the task names.
        """
        self._settle()
        return self.call(_tasks)


def _tasks(daemon: World) -> dict[str, tuple[int, str]]:
    check(daemon.engine)
    found, hooks = {}, {}
    for key, row in daemon.engine.table.items():
        task = unpack(row)
        ended = (None, "cancelled", "done")[task.stop]  # at recovery at the latest
        if task.state >= State.DONE:
            ended = STATE_WORDS[task.state]
        found[key] = task.version, ended or "live"
        if task.stop == STOP_FINISH and task.state < State.DONE and task.on_done is not None:
            hook = f"{key}/done/{task.version}"
            known = daemon.engine.get(hook)  # a task of that name that somebody scheduled is replaced
            hooks[hook] = 1 if known is None else known.version + 1, "live"
    return found | hooks


def recovered(folder: Path) -> dict[str, tuple[int, str]]:
    """The same of what a new daemon finds in the folder."""

    async def look() -> dict[str, tuple[int, str]]:
        async with _world(folder) as daemon:
            return _tasks(daemon)

    return trio.run(look)


def as_object(line: bytes) -> Reply | None:
    """What an independent parser makes of a line: its object, or None where it holds none.

    Stricter than Python's own in what it takes for a number or a text, as the JSON specification is.
    """

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        value = json.loads(line.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
