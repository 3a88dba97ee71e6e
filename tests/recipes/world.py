"""What a recipe runs in: its page, a daemon on a clock that is moved, and a receiver that answers as told.

The commands are taken out of the page and run by a shell, as they stand; the address of the example's
receiver (``127.0.0.1:9000``) alone is another here. The daemon is a process and can be killed. All that waits
in it (timers, time-outs, kept connections) counts by the clock of ``clocked.py``, so hours take milliseconds,
with the commands of the page and a real kill -9. A daemon in the test's own process could not be killed,
shorter delays would be other commands, and libfaketime leaves elapsed time alone, by which a delay counts.
Receiver and test read the same clock, so an early callback is seen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import wheeltimer
from tests.process.daemon import ROOT, SMALL, START_S, Connection, Home, until
from tests.recipes.clocked import FILE, MovedClock, make

FOLDER = Path(wheeltimer.__file__).parent / "docs" / "recipes"
NS_PER_MS = 1_000_000
JUST_BEFORE_MS = 3  # the clock is moved to here, the rest passes by itself: who is early is seen
SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
EXAMPLE = "127.0.0.1:9000"  # the receiver in the pages


def instant_ms(text: str) -> int:
    """Unix ms of an RFC 3339 text."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


class Page:
    """One recipe: its blocks, by kind, in order."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / name
        self.text = self.path.read_text(encoding="utf-8")
        found = re.findall(r"^```(\w+)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        self.blocks = [(kind, body) for kind, body in found]

    def of(self, kind: str) -> list[str]:
        return [body for each, body in self.blocks if each == kind]

    def sh(self, word: str) -> str:
        """The one block of commands that has this word."""
        return self._one("sh", word)

    def json(self, word: str) -> str:
        """The one line of JSON that has this word."""
        line = self._one("json", word).strip()
        assert "\n" not in line
        return line

    def shown(self, word: str) -> str:
        """The one block of output that has this word."""
        return self._one("text", word)

    @property
    def config(self) -> str:
        return "".join(self.of("toml"))

    def _one(self, kind: str, word: str) -> str:
        (block,) = [block for block in self.of(kind) if re.search(rf"\b{re.escape(word)}\b", block)]
        return block


# --- the receiver ------------------------------------------------------------------------------------


@dataclass
class Call:
    """One request as it came. ``at_ms``: the moved wall clock when its first line was there, rounded down."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_ms: int

    @property
    def id(self) -> str:
        return unquote(self.headers["wheeltimer-id"])

    @property
    def queue(self) -> str:
        return self.headers["wheeltimer-queue"]

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def attempt(self) -> int:
        return int(self.headers["wheeltimer-attempt"])

    @property
    def version(self) -> int:
        return int(self.headers["wheeltimer-version"])

    @property
    def due(self) -> int:
        return int(self.headers["wheeltimer-due"])


@dataclass
class Answer:
    """What the receiver says to a call; with ``hold``, not before that is set."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


class Receiver(ThreadingHTTPServer):
    """``answers`` says by path what is answered, one after the other, the last one for ever; else 200."""

    daemon_threads = True

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.now_ms = now_ms
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, list[Answer]] = {}
        self.calls: list[Call] = []
        self.in_flight = self.in_flight_max = 0
        self.changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for answers in self.answers.values():
            for answer in answers:
                if answer.hold is not None:
                    answer.hold.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A daemon that is killed, or gives up an attempt, cuts its connections."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def of(self, path: str) -> list[Call]:
        with self.changed:
            return [call for call in self.calls if call.path == path]

    def wait(self, path: str, count: int) -> list[Call]:
        """The calls of a path, as soon as there are so many."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.of(path)) >= count, START_S)
            assert came, f"{len(self.of(path))} of {count} calls of {path}; all: {self.calls}"
            return self.of(path)

    def take(self, call: Call) -> Answer:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
            answers = self.answers.get(call.path) or [Answer()]
            return answers.pop(0) if len(answers) > 1 else answers[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver
    _at_ms = 0

    def parse_request(self) -> bool:
        self._at_ms = self.server.now_ms()
        return super().parse_request()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.take(Call(self.command, self.path, headers, body, self._at_ms))
        self._count(1)
        try:
            if answer.hold is not None:
                assert answer.hold.wait(START_S), "held to the end"
        finally:
            self._count(-1)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST  # noqa: N815 -- http.server's own name

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _count(self, by: int) -> None:
        server = self.server
        with server.changed:
            server.in_flight += by
            server.in_flight_max = max(server.in_flight_max, server.in_flight)
            server.changed.notify_all()


# --- the world ---------------------------------------------------------------------------------------


class World:
    """A page, its daemon, its receiver, and a clock that starts at ``began`` and goes where the test says."""

    def __init__(self, page: Page, home: Home, began: str, *, killed: bool) -> None:
        self.page, self.home, self.killed = page, home, killed
        clock_path = home.folder / "clock"
        make(clock_path, instant_ms(began) * NS_PER_MS)
        self._clock = MovedClock(clock_path)
        self.env = {FILE: str(clock_path), "TZ": "UTC"}
        self.receiver = Receiver(lambda: self.now_ms)
        self._planned: dict[tuple[str, str, int, int], int] = {}
        self._listen = f"unix:{home.folder / 'socket'}"  # a port could be somebody else's after a kill
        self._write_command()

    def _write_command(self) -> None:
        """``wheeltimer`` on the shell's path: this installation's, under the moved clock."""
        folder = self.home.folder / "bin"
        folder.mkdir()
        (folder / "wheeltimer").write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.recipes.clocked "$@"\n'
        )
        (folder / "wheeltimer").chmod(0o755)

    @property
    def now_ms(self) -> int:
        """The moved wall clock, rounded down."""
        return self._clock.now().wall_ns // NS_PER_MS

    # -- the daemon ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A daemon as the page configures it, at the address of the one before."""
        self.daemon = self.home.start(
            module="tests.recipes.clocked", env=self.env, config=SMALL + self.page.config,
            listen=(self._listen,),
        )  # fmt: skip
        self.client = self.daemon.connect()

    def kill(self) -> None:
        """kill -9."""
        self.client.close()
        self.daemon.kill()

    def accident(self, down_ms: int = 0) -> None:
        """In the half of the tests with a kill: kill -9, so much time without a daemon, and a new one."""
        if self.killed:
            self.kill()
            self.move(down_ms)
            self.start()

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.client.done(op, **fields)

    def task(self, id: str, queue: str) -> dict[str, Any]:
        task = self.ask("get", id=id, queue=queue)["task"]
        assert isinstance(task, dict)
        return task

    def await_state(self, id: str, queue: str, state: str) -> dict[str, Any]:
        for _ in until():
            task = self.task(id, queue)
            if task["state"] == state:
                break
        return task

    def count(self, state: str) -> int:
        number: int = self.ask("stats")["tasks"][state]
        return number

    # -- the page's commands -------------------------------------------------------------------------

    def local(self, text: str, at: str | None = None) -> str:
        """A text of the page for the receiver that is here, or for ``at``."""
        return text.replace(EXAMPLE, at or self.receiver.address)

    def shell(self, block: str, *, code: int = 0, at: str | None = None) -> str:
        """Run a block of the page; what it printed, in the page's words."""
        done = subprocess.run(
            ["sh", "-eu", "-c", self.local(block, at)], cwd=self.home.folder, env=self._environment(),
            capture_output=True, text=True, timeout=START_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return (done.stdout + done.stderr).replace(at or self.receiver.address, EXAMPLE)

    @contextmanager
    def beside(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """A command of the page that runs until it is told to stop."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {self.local(command)}"], cwd=self.home.folder, env=self._environment(),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait(START_S)
            assert process.stdout is not None
            process.stdout.close()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WHEELTIMER_")}
        path = f"{self.home.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return kept | self.env | {"PATH": path, "WHEELTIMER_SERVER": self._listen, "PYTHONWARNINGS": "error"}

    def send(self, line: str) -> dict[str, Any]:
        """One line of JSON of the page, as another language would send it."""
        self.client.send_bytes(self.local(line).encode() + b"\n")
        return self.client.reply()

    def subscribe(self, line: str) -> Connection:
        """A connection of its own on which a ``subscribe`` of the page was sent and answered."""
        connection = self.daemon.connect()
        connection.send_bytes(line.encode() + b"\n")
        assert connection.reply()["ok"]
        return connection

    # -- time ---------------------------------------------------------------------------------------

    def move(self, ms: int) -> None:
        """So much time passes at once, whatever is under way."""
        self._clock.move(ms * NS_PER_MS)

    def move_to(self, at_ms: int) -> None:
        if at_ms > self.now_ms:
            self.move(at_ms - self.now_ms)

    def settle(self) -> None:
        """Until nothing is due or will be at once, waits for a permit, or is in flight, and nothing ended
        while we looked.

        A new task is due at the next whole millisecond, which takes ten here: a look before that finds
        nothing overdue, and the next look may find the task running, which :meth:`plan` does not list.
        """
        near = {"op": "forecast", "horizon": f"{JUST_BEFORE_MS}ms", "slices": 1}
        for _ in until(every_s=0.005):
            self.client.send({"op": "stats"}, near, {"op": "stats"})
            before, upcoming, after = self.client.replies(3)
            still = before["tasks"] == after["tasks"] and before["attempts"] == after["attempts"]
            soon = upcoming["overdue"] + upcoming["counts"][0]
            if still and not after["tasks"]["running"] and not soon:
                return

    def pass_until(self, at_ms: int) -> None:
        """Let time pass up to an instant, with everything that happens on the way."""
        while True:
            self.settle()
            upcoming = self.plan()
            if not upcoming or upcoming[0]["next"] > at_ms:
                break
            self.move_to(upcoming[0]["next"] - JUST_BEFORE_MS)
            self._await_other(upcoming[0])
        self.move_to(at_ms)
        self.settle()

    def pass_all(self) -> None:
        """Let time pass until every task has ended."""
        self.settle()
        while upcoming := self.plan():
            self.move_to(upcoming[0]["next"] - JUST_BEFORE_MS)
            self._await_other(upcoming[0])
            self.settle()

    def plan(self) -> list[dict[str, Any]]:
        """Tasks that wait, soonest first; when each is to be called is kept for :meth:`check`."""
        tasks: list[dict[str, Any]] = self.ask("list", state="scheduled")["tasks"]
        for task in tasks:
            key = task["queue"], task["id"], task["version"], task["attempts"] + 1
            self._planned[key] = task["next"]
        return tasks

    def _await_other(self, before: dict[str, Any]) -> None:
        """Until what was to happen with this task has begun."""
        for _ in until(every_s=0.005):
            now = self.task(before["id"], before["queue"])
            if (now["state"], now["attempts"]) != ("scheduled", before["attempts"]):
                return

    def check(self) -> None:
        """Nothing came early: no call before its due, no later attempt before the instant planned for it."""
        for call in self.receiver.calls:
            assert call.at_ms >= call.due, f"early by {call.due - call.at_ms} ms: {call}"
            planned = self._planned.get((call.queue, call.id, call.version, call.attempt), 0)
            assert call.at_ms >= planned, f"early by {planned - call.at_ms} ms: {call}"


# --- the page's outputs --------------------------------------------------------------------------------

_MASKS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \([^)]*\)", "WHEN"),
    (r"\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "MOMENT"),
    (r"\b\d{13}\b", "INSTANT"),
    (r"\bwt_[0-9a-z]{26}\b", "WEBHOOK-ID"),
    (r'"cursor":"[^"]*"', '"cursor":"CURSOR"'),
    (r'"(ms|late_ms)":\d+', r'"\1":N'),
    (r"\d+ ms late, took \d+ ms", "N ms late, took N ms"),
    (r"MOMENT +\d+ +\d+ ", "MOMENT N N "),
    (r" due (in [\dhms. ]+|now|[\dhms. ]+ ago)$", " due SOON"),
    (r" +", " "),
)


def masked(text: str) -> str:
    """An output without what differs from run to run: instants, lateness, widths of columns."""
    for pattern, word in _MASKS:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text.strip()


def came_as_shown(call: Call, block: str) -> None:
    """A request in a block of text: first line, some of its headers, an empty line, its body."""
    head, _, body = block.strip().partition("\n\n")
    first, *lines = head.splitlines()
    assert f"{call.method} {call.path}" == first
    for name, value in (line.split(": ", 1) for line in lines):
        assert masked(call.headers[name]) == masked(value), name
    assert call.body.decode() == body


def hook_as_shown(call: Call, line: str) -> None:
    """What a hook was told, but for instants: the page's line, byte for byte."""
    assert call.headers["content-type"] == "application/json"
    assert masked(call.body.decode()) == masked(line)
