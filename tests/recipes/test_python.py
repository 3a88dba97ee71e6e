"""recipes/python.md: its programs as they stand there, under the servers that it names; a real daemon."""

from __future__ import annotations

import ast
import base64
import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.process.conftest import home
from tests.process.daemon import ROOT, SMALL, START_S, Connection, Daemon, Home, until
from tests.process.tools import missing
from tests.recipes.world import EXAMPLE, Page, instant_ms
from wheeltimer import Client, Exists

__all__ = ["home"]  # a fixture of the process tests
PAGE = Page("python.md")
COMMANDS = [line for block in PAGE.of("sh") for line in block.splitlines()]
HERE = {"reconnect=5": "reconnect=0.2", "countdown=5": "countdown=0.1"}  # what is waited for, shorter
MINUTE_MS = 60_000
NOT_INHERITED = ("WHEELTIMER_", "SECRET_KEY", "WEBHOOK_SECRETS")
SECRET: str = PAGE.config.split('"')[1]


def need_module(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            missing(f"{name} is not installed (extra recipes)")


def parsed(line: str) -> tuple[dict[str, str], list[str]]:
    """A line of the page as a shell takes it: variables, then a program and its words."""
    words = shlex.split(line)
    variables = list(itertools.takewhile(re.compile(r"[A-Z_]+=").match, words))
    return dict(each.split("=", 1) for each in variables), words[len(variables) :]


class Place:
    """A folder with the page's programs, their processes, and a daemon that they find by its variable."""

    def __init__(self, home: Home) -> None:
        self.folder = home.folder
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)  # a server can be asked at once
        self.port: int = self.listener.getsockname()[1]
        self.daemon: Daemon = home.start("--fsync", "off", config=SMALL + PAGE.config)
        for program in PAGE.of("python"):
            name = program.splitlines()[0].removeprefix("# ")
            (self.folder / name).write_text(self._here(program))
        self.started: list[subprocess.Popen[bytes]] = []
        # What else a program needs stands in the page's command.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        self.env = kept | {
            "WHEELTIMER_SERVER": self.daemon.listen[0], "HOME": str(self.folder),
            "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}",
        }  # fmt: skip

    def _here(self, program: str) -> str:
        """A program of the page that calls our receiver, and gives up sooner what fails."""
        for shown, here in HERE.items():
            program = program.replace(shown, here)
        return program.replace(EXAMPLE, f"127.0.0.1:{self.port}")

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(START_S)
        self.listener.close()

    def command(self, word: str) -> tuple[dict[str, str], list[str]]:
        """Variables and words of the page's line that has this word; its program is of this installation."""
        (line,) = [line for line in COMMANDS if re.search(rf"\b{re.escape(word)}\b", line)]
        variables, (program, *words) = parsed(line)
        if program == "python":
            return variables, [sys.executable, *words]
        if importlib.util.find_spec(program) is None:  # of the system
            return variables, [program, *words]
        return variables, [sys.executable, "-m", program, *words]

    def run(self, word: str) -> None:
        """A command of the page, to its end."""
        variables, words = self.command(word)
        self.finished(words, variables)

    def python(self, *words: str) -> None:
        """A program to its end; it says nothing on standard error."""
        self.finished([sys.executable, *words], {})

    def finished(self, words: list[str], variables: dict[str, str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env=self.env | variables, capture_output=True, timeout=START_S,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()

    def start(
        self, word: str, listen: str = "", listener: socket.socket | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        """A server of the page. ``listen``: its flag for a socket that it inherits, ``{}`` for the number."""
        variables, words = self.command(word)
        inherited = (listener or self.listener).fileno()
        if EXAMPLE in words:  # what it listens at is on the page
            at = words.index(EXAMPLE)
            del words[at - 1 : at + 1]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*words, *listen.format(inherited).split()], cwd=self.folder, env=self.env | variables | env,
                stdout=log, stderr=log, process_group=0, pass_fds=[inherited],
            )  # fmt: skip
        self.started.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.folder / "servers.log"

    def said(self, words: str) -> None:
        """Wait until a server has logged this."""
        for _ in until():
            if words in self.log.read_text(errors="replace"):
                return

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, and a clean end."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) in (0, -signal.SIGTERM), self.log.read_text()

    @contextlib.contextmanager
    def asks(self) -> Iterator[Connection]:
        with self.daemon.connect() as connection:
            yield connection

    def task(self, id: str) -> dict[str, Any]:
        """A task of the page's queue, or the refusal."""
        with self.asks() as connection:
            return connection.ask("get", id=id, queue="orders").get("task", {})  # type: ignore[no-any-return]

    def finish(self, id: str) -> None:
        """As if its callback had been made."""
        with self.asks() as connection:
            connection.done("finish", id=id, queue="orders")

    def connected(self, count: int) -> None:
        """Wait until there are so many connections."""
        with self.asks() as connection:
            for _ in until():
                if connection.done("stats")["connections"] == count:
                    return

    def count(self, state: str) -> int:
        with self.asks() as connection:
            return int(connection.done("stats")["tasks"][state])

    def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, port: int = 0
    ) -> tuple[int, bytes]:
        """One request of a visitor; ``port``: of another server than the one that has the place's."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=START_S)
        ) as visitor:
            visitor.request(method, path, body, headers or {})
            reply = visitor.getresponse()
            return reply.status, reply.read()


@pytest.fixture
def place(home: Home) -> Iterator[Place]:
    with Place(home) as place:
        yield place


# --- the page -------------------------------------------------------------------------------------


def test_what_a_program_and_its_commands_need_is_installed_first() -> None:
    own = {program.splitlines()[0][2:].removesuffix(".py") for program in PAGE.of("python")}
    imported: set[str] = set()
    for kind, block in PAGE.blocks:
        if kind == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom):
                    imported.add(str(node.module).partition(".")[0])
                elif isinstance(node, ast.Import):
                    imported |= {each.name.partition(".")[0] for each in node.names}
        elif kind == "sh":
            first, *lines = [parsed(line)[1] for line in block.splitlines()]
            assert first[:2] == ["pip", "install"]
            needed = imported | {words[0] for words in lines} - {"python", "mkdir"}
            assert set(first[2:]) == needed - own - sys.stdlib_module_names - {"wheeltimer"}
            imported = set()


def test_a_duration_is_compared_as_it_was_written(place: Place) -> None:
    with Client(place.daemon.listen[0]) as client:
        client.schedule(f"http://{EXAMPLE}/", id="mix", delay="30m")
        assert client.schedule(f"http://{EXAMPLE}/", id="mix", delay="30m").duplicate
        with pytest.raises(Exists):
            client.schedule(f"http://{EXAMPLE}/", id="mix", delay=timedelta(minutes=30))


# --- Django ----------------------------------------------------------------------------------------


def test_django_schedules_after_the_commit_once_and_never_after_a_rollback(place: Place, home: Home) -> None:
    need_module("django", "gunicorn")
    form = {"content-type": "application/x-www-form-urlencoded"}
    place.run("create_tables")
    shop = place.start("shop:application", "--bind fd://{}")
    for number in (1, 2, 3, 4):  # as many as come to every worker
        began_ms = time.time_ns() // 1_000_000
        status, said = place.call("POST", "/orders", b"quantity=3", form)
        assert (status, json.loads(said)) == (200, {"order": number}), place.log.read_text()
        task = place.task(f"order-{number}")
        assert began_ms + 30 * MINUTE_MS <= task["due"] <= time.time_ns() // 1_000_000 + 30 * MINUTE_MS
        assert task["body"] == {"order": number}
    assert place.call("POST", "/orders", b"quantity=11", form)[0] == 400
    assert place.count("scheduled") == 4, "what was rolled back was scheduled"
    for _ in range(2):
        assert place.call("POST", "/orders/1/pay")[0] == 200
        assert place.task("order-1")["state"] == "cancelled"
    place.finish("order-2")
    assert place.call("POST", "/orders/2/pay")[0] == 200
    assert "Error calling" not in place.log.read_text()
    place.run("sweep")
    assert (place.count("scheduled"), place.count("cancelled"), place.count("done")) == (2, 1, 1)

    place.daemon.kill()
    assert place.call("POST", "/orders", b"quantity=1", form) == (200, b'{"order": 5}')
    place.daemon = home.start("--fsync", "off", config=SMALL + PAGE.config, listen=place.daemon.listen)
    assert place.task("order-5") == {}
    place.run("sweep")
    assert place.task("order-5")["version"] == 1
    assert place.count("scheduled") == 3
    assert "Error calling" in place.log.read_text()
    place.stop(shop)


# --- FastAPI ---------------------------------------------------------------------------------------


def test_fastapi_has_one_client_from_its_start_to_its_end(place: Place) -> None:
    need_module("fastapi", "uvicorn")
    api = place.start("api:app", "--fd {}")
    with ThreadPoolExecutor(8) as visitors:
        replies = list(visitors.map(lambda n: place.call("POST", f"/reminders/{n}"), range(40)))
    for number, (status, said) in enumerate(replies):
        assert status == 200, said
        assert instant_ms(json.loads(said)["due"]) == place.task(f"reminder-{number}")["due"]
    place.connected(2)  # the application's one, and that of the question
    status, said = place.call("PUT", "/reminders/7")
    assert (status, instant_ms(json.loads(said)["due"])) == (200, place.task("reminder-7")["due"])
    assert place.task("reminder-7")["version"] == 2
    assert place.call("PUT", "/reminders/1000")[0] == 404
    for _ in range(2):
        assert place.call("DELETE", "/reminders/7")[0] == 200
    assert place.task("reminder-7")["state"] == "cancelled"
    place.finish("reminder-8")
    assert place.call("DELETE", "/reminders/8")[0] == 409
    for number in (7, 8):  # cancelled, sent
        assert place.call("PUT", f"/reminders/{number}")[0] == 409
        status, said = place.call("POST", f"/reminders/{number}")
        task = place.task(f"reminder-{number}")
        assert (status, task["state"]) == (200, "scheduled"), "nobody would be called"
        assert instant_ms(json.loads(said)["due"]) == task["due"]
    place.stop(api)
    assert "Application shutdown complete" in place.log.read_text()
    place.connected(1)


def test_fastapis_reminders_are_taken_by_the_receiver_of_the_page(place: Place) -> None:
    need_module("fastapi", "uvicorn", "gunicorn")
    place.start("receiver:application", "--bind fd://{}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api = place.start("api:app", "--fd {}", listener)
        port = listener.getsockname()[1]
        assert place.call("POST", "/reminders/9", port=port)[0] == 200
        with place.asks() as connection:
            connection.done("reschedule", id="reminder-9", queue="orders", delay=0)
        for _ in until():
            if place.task("reminder-9")["state"] == "done":
                break
        assert place.task("reminder-9")["attempts"] == 1, place.log.read_text()
        assert closed(place) == [9]
        assert place.call("PUT", "/reminders/9", port=port)[0] == 409
        assert place.call("DELETE", "/reminders/9", port=port)[0] == 409
        place.stop(api)


# --- Celery ----------------------------------------------------------------------------------------


def test_a_celery_task_that_its_soft_time_limit_interrupts_in_a_request_is_run_again(place: Place) -> None:
    """The daemon is stopped (SIGSTOP), so the limit comes while the client waits for a reply."""
    need_module("celery")
    place.run("mkdir")
    worker = place.start("celery -A")

    def send(call: str) -> None:
        place.python("-c", f"import jobs; {call}")

    def scheduled(count: int) -> None:
        for _ in until():
            if place.count("scheduled") == count:
                return

    send("[jobs.shipped.delay(n) for n in range(20)]")
    scheduled(20)
    place.daemon.signal(signal.SIGSTOP)
    send("jobs.shipped.apply_async((20,), soft_time_limit=0.5)")
    place.said("Soft time limit (0.5s) exceeded")
    place.daemon.signal(signal.SIGCONT)
    scheduled(21)
    send("[jobs.shipped.delay(n) for n in range(15, 40)]")
    scheduled(40)
    for number in range(40):
        task = place.task(f"shipped-{number}")
        assert (task["body"], task["version"]) == ({"order": number}, 1)
    place.run("shipped.delay")
    scheduled(41)
    assert place.task("shipped-42")["body"] == {"order": 42}
    place.stop(worker)


# --- the receiver ----------------------------------------------------------------------------------


def signed(body: bytes, *, id: str, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    """Headers as the scheme's own library makes them."""
    at = datetime.fromtimestamp(int(time.time()) - age_s, UTC)
    signature = Webhook(secret).sign(id, at, body.decode())
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return dict(zip(names, (id, str(int(at.timestamp())), signature), strict=True))


@pytest.fixture
def receiver(place: Place) -> Place:
    need_module("gunicorn")
    place.start("receiver:application", "--bind fd://{}", WEBHOOK_SECRETS=f"{OTHER} {SECRET}")
    return place


def closed(place: Place) -> list[int]:
    """What the receiver has done."""
    with contextlib.closing(sqlite3.connect(place.folder / "receiver.sqlite3")) as database:
        return sorted(number for (number,) in database.execute("SELECT number FROM closed"))


OTHER = "whsec_" + base64.b64encode(b"another secret, 24 bytes").decode()


def test_the_receiver_takes_callbacks_and_does_a_repeated_one_once(receiver: Place) -> None:
    """The second task is called three times: its ``success`` is never said. The receiver sees one message."""
    url = f"http://127.0.0.1:{receiver.port}/unpaid"
    retry = {"kind": "list", "delays": ["10ms", "10ms"]}
    with receiver.asks() as connection:
        for number in (1, 2):
            more = {"success": {"text": "never"}, "retry": retry} if number == 2 else {}
            connection.done(
                "schedule", id=f"order-{number}", queue="orders", url=url, body={"order": number}, **more
            )
        for _ in until():
            if receiver.task("order-2")["state"] == "dead" and receiver.task("order-1")["state"] == "done":
                break
    assert receiver.task("order-2")["attempts"] == 3
    assert closed(receiver) == [1, 2]


def test_a_wrong_signature_is_401_and_leaves_nothing_behind(receiver: Place) -> None:
    body = b'{"order":5}'
    right = signed(body, id="wt_1")
    wrong = [
        {}, {**right, "webhook-signature": ""}, {**right, "webhook-id": "wt_2"},
        {**right, "webhook-signature": right["webhook-signature"].replace("v1,", "v2,")},
        {**right, "webhook-signature": "v1,\u00e9"}, {**right, "webhook-timestamp": "9" * 4000},
        {**right, "webhook-timestamp": "-1"}, {**right, "webhook-timestamp": "\u00b2"},
        signed(body, id="wt_1", secret="whsec_" + base64.b64encode(b"x" * 24).decode()),
        signed(body, id="wt_1", age_s=400), signed(body, id="wt_1", age_s=-400),
        signed(body + b" ", id="wt_1"),
    ]  # fmt: skip
    for headers in wrong:
        assert receiver.call("POST", "/unpaid", body, headers)[0] == 401, (headers, receiver.log.read_text())
    assert receiver.call("POST", "/unpaid", b"", signed(body, id="wt_1"))[0] == 401
    assert receiver.call("POST", "/unpaid", body, right)[0] == 204, receiver.log.read_text()
    assert closed(receiver) == [5]


def test_a_message_whose_work_failed_is_not_remembered_and_one_that_came_twice_at_once_is_done_once(
    receiver: Place,
) -> None:
    no_number = b'{"order":{}}'
    assert receiver.call("POST", "/unpaid", no_number, signed(no_number, id="wt_1"))[0] == 500
    body = b'{"order":6}'
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(receiver.call, "POST", "/unpaid", body, signed(body, id="wt_1", secret=secret))
            for secret in (SECRET, OTHER) * 4
        ]
    assert [each.result()[0] for each in calls] == [204] * 8
    assert closed(receiver) == [6]
