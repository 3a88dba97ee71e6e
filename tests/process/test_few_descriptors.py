"""A hard limit of descriptors that is too low for the settings: all is slower, and nothing fails or ends."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, until
from tests.process.tools import need

FILLS, FILL = 40, "x" * 60_000  # 2.4 MB: three segments more
URL = "http://127.0.0.1:9/never"


class Crowd:
    """A receiver at every address of 127.7.0.0/16, which keeps connections; ``came`` counts by path."""

    def __init__(self, answer_after_s: float | None) -> None:
        self.came: Counter[str] = Counter()
        self._after_s = answer_after_s  # None: never
        self._loop = asyncio.new_event_loop()
        serving = asyncio.start_server(self._serve, "0.0.0.0", 0, backlog=4096)
        self._server = self._loop.run_until_complete(serving)
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def url(self, number: int) -> str:
        return f"http://127.7.{number // 250}.{1 + number % 250}:{self.port}/{number}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.came[head.split()[1].decode()[1:]] += 1
                await asyncio.sleep(1e6 if self._after_s is None else self._after_s)
                writer.write(b"HTTP/1.1 204 x\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()


@pytest.fixture(autouse=True)
def many() -> Iterator[None]:
    """The test is the other end of every connection."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def start(home: Home, limit: int, config: str = SMALL) -> Daemon:
    return home.start(config=config, wrap=(need("prlimit"), f"--nofile={limit}:{limit}"))


def store(client: Connection, tasks: Sequence[dict[str, Any]]) -> None:
    """Schedules them; what is refused, as ``full``, is asked again until it is taken."""
    left = list(tasks)
    for _ in until():
        client.send(*({"op": "schedule", **task} for task in left))
        replies = client.replies(len(left))
        assert {reply["error"] for reply in replies if not reply["ok"]} <= {"full"}, replies
        left = [task for task, reply in zip(left, replies, strict=True) if not reply["ok"]]
        if not left:
            break


def fill(client: Connection, prefix: str) -> None:
    """New tasks that need new segments."""
    for number in range(FILLS):
        store(client, [{"id": f"{prefix}{number}", "url": URL, "delay": "1h", "body_text": FILL}])


def alive_and_clean(daemon: Daemon) -> None:
    """A clean end, and no line of the log that an operator has to fear."""
    log = daemon.stop().log
    assert "Traceback" not in log, log[-3000:]
    assert "CRITICAL" not in log, log[-3000:]


@pytest.mark.parametrize(("limit", "tasks"), [(1024, 1200), (300, 500), (256, 400), (64, 120)])
def test_more_destinations_than_descriptors_are_all_called_once(home: Home, limit: int, tasks: int) -> None:
    """Each keeps its connection, and segments change meanwhile."""
    daemon = start(home, limit)
    with Crowd(answer_after_s=0.1) as crowd, daemon.connect() as client:
        at = time.time_ns() // 1_000_000 + 500
        store(client, [{"id": f"t{n}", "at": at, "url": crowd.url(n)} for n in range(tasks)])
        fill(client, "f")
        for _ in until():
            stats = client.done("stats")
            if stats["tasks"]["done"] == tasks:
                break
        assert stats["attempts"]["failed"] == 0
        assert stats["journal"]["bytes"] > 4 << 20, "hardly a segment changed"
        assert f"descriptors={limit} are too few for the settings" in daemon.log
        alive_and_clean(daemon)
        assert len(crowd.came) == sum(crowd.came.values()) == tasks


def test_receivers_that_never_answer_take_no_descriptor_of_the_journal_nor_of_clients(home: Home) -> None:
    """Killed in the middle: every start meets the same crowd."""
    with Crowd(answer_after_s=None) as crowd:
        for life in range(2):
            daemon = start(home, 300, "[journal]\nsegment_bytes = 4194304\n")  # room for a hundred outcomes
            with daemon.connect() as client:
                if not life:
                    store(
                        client, [{"url": crowd.url(n), "id": f"t{n}", "timeout": "60s"} for n in range(450)]
                    )
                for _ in until():
                    if client.done("stats")["tasks"]["running"] > 90:
                        break
                fill(client, f"life{life}-")
                with daemon.connect() as second:
                    second.done("ping")
                assert client.done("stats")["attempts"]["failed"] == 0
            daemon.kill()
            assert "CRITICAL" not in daemon.log


def test_a_limit_lowered_under_a_running_daemon_is_outlasted(home: Home) -> None:
    """No call that opens anything succeeds any more, not even with descriptors in hand."""
    daemon = start(home, 400, "concurrency = 8\n" + SMALL)

    def limit(soft: int) -> None:
        subprocess.run([need("prlimit"), "--pid", str(daemon.pid), f"--nofile={soft}:400"], check=True)

    with Crowd(answer_after_s=0) as crowd, daemon.connect() as client:
        client.done("schedule", id="before", url=crowd.url(0))
        for _ in until():
            if client.done("stats")["tasks"]["done"] == 1:
                break
        limit(4)
        client.done("schedule", id="during", url=crowd.url(1))
        later = daemon.connect()  # it stays in the listener's queue
        later.send({"op": "ping"})
        for number, _ in enumerate(until()):
            reply = client.ask("schedule", id=f"f{number}", url=URL, delay="1h", body_text=FILL)
            if not reply["ok"] and "descriptors" in reply["message"]:
                break
        assert reply["error"] == "full"
        assert "LimitNOFILE" in reply["message"]
        daemon.signal(signal.SIGHUP)
        for _ in until():
            if "settings not reloaded, the old ones stay" in daemon.log:
                break
        limit(400)
        daemon.signal(signal.SIGHUP)
        fill(client, "after")
        assert later.reply()["ok"], "it was let in when there were some again"
        later.close()
        for _ in until():
            if crowd.came["1"] and "settings reloaded" in daemon.log:
                break
        assert client.done("stats")["attempts"]["failed"] == 0
        alive_and_clean(daemon)


def test_more_clients_than_descriptors_are_told_and_those_before_are_served(home: Home) -> None:
    """By the sum of the settings there is room, and then half of the descriptors are not there."""
    daemon = start(home, 400, "concurrency = 8\n" + SMALL)
    with daemon.connect() as client, contextlib.ExitStack() as crowd:
        client.done("ping")
        subprocess.run([need("prlimit"), "--pid", str(daemon.pid), "--nofile=100:400"], check=True)
        clients = [crowd.enter_context(daemon.connect()) for _ in range(150)]
        served = told = 0
        for each in clients:
            with contextlib.suppress(ConnectionError):
                each.send({"op": "ping"})
                line = each.line() or b""
                served += b'"ok":true' in line
                told += b'"full"' in line
        assert served > 20
        assert told > 20
        fill(client, "f")
        assert daemon.log.count("a client cannot be taken in") == 1
        crowd.close()
        for _ in until():
            with daemon.connect() as again, contextlib.suppress(ConnectionError, AssertionError):
                if again.ask("ping")["ok"]:
                    break
    alive_and_clean(daemon)
