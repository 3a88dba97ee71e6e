"""One client that the parts of a server share: no reply is of another request. Prints a table at the end."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests import campaign
from tests.process.conftest import home
from tests.process.daemon import ROOT, SMALL, START_S, Daemon, Home, until
from tests.process.tools import missing
from tests.sharing.relay import Relay
from tests.sharing.tally import REQUESTS, USES, VARIABLE, count, limit_s

__all__ = ["home"]  # a fixture of the process tests
IN_ALL, IN_ALL_THOROUGH = 5_000, 100_000
SEED = 20_260
GUNICORN = {  # kind: its worker's options; WORKERS of them
    "gunicorn --preload": ("-w", "3"),
    "gunicorn --preload --threads 4": ("-w", "2", "--threads", "4"),
    "gunicorn --preload -k gevent": ("-w", "2", "-k", "gevent"),
}
GEVENT = {  # programs of which all is patched before anything else
    "gevent": "threads", "gevent, os.fork": "os.fork", "gevent.Timeout": "gevent.Timeout",
}  # fmt: skip
PROGRAMS = [name for name in campaign.SERVERS if name not in GUNICORN and name not in GEVENT]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all kinds: names of one kind do not meet those of another."""
    with Home(tmp_path_factory.mktemp("sharing")) as home:
        yield home.start("--fsync", "off")


@pytest.fixture
def requests(thorough: bool) -> int:
    """How many a kind makes."""
    return (IN_ALL_THOROUGH if thorough else IN_ALL) // len(campaign.SERVERS) + 10 * REQUESTS


def environment(daemon: Daemon, tally: Path) -> dict[str, str]:
    """Of a program: ours, without what would configure a client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WHEELTIMER_")}
    return kept | {"WHEELTIMER_SERVER": daemon.listen[0], VARIABLE: str(tally), "HOME": str(tally.parent)}


def judge(kind: str, tally: Path, requests: int, said: str) -> None:
    """Enough replies, none of another request; what was interrupted was answered when it was asked again."""
    counted = count(tally)
    campaign.replied(kind, counted["right"] + counted["wrong"], counted["wrong"])
    assert (counted["wrong"], counted["failed"]) == (0, 0), said[-2000:]
    assert counted["right"] >= 0.8 * requests, said[-2000:]


def play(command: list[str], kind: str, daemon: Daemon, tally: Path, requests: int) -> None:
    """A program of ``kinds.py``, to its end."""
    with ended(
        [sys.executable, *command, str(requests), str(SEED)], environment(daemon, tally), limit_s(requests)
    ) as (process, log):
        process.wait()
        said = log.read_text(errors="replace")
        judge(kind, tally, requests, said)
        assert process.poll() == 0, said[-2000:]


@contextlib.contextmanager
def ended(
    command: list[str], env: dict[str, str], within_s: float, **how: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process and all it started, in a group of its own that is killed at the end, or when time is up."""
    log = Path(env["HOME"]) / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=file, process_group=0, **how)

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    limit = threading.Timer(within_s, kill)
    limit.start()
    try:
        yield process, log
    finally:
        limit.cancel()
        kill()
        process.wait(START_S)


def need_module(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            missing(f"{name} is not installed (extra recipes)")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_no_reply_is_of_another_request(kind: str, daemon: Daemon, tmp_path: Path, requests: int) -> None:
    play(["-m", "tests.sharing.kinds", kind], kind, daemon, tmp_path / "tally", requests)


@pytest.mark.parametrize("kind", GEVENT)
def test_no_reply_is_of_another_greenlets_request(
    kind: str, daemon: Daemon, tmp_path: Path, requests: int
) -> None:
    need_module("gevent")
    command = ["-m", "gevent.monkey", "--module", "tests.sharing.kinds", GEVENT[kind]]
    play(command, kind, daemon, tmp_path / "tally", requests)


@pytest.mark.parametrize("kind", GUNICORN)
def test_no_reply_is_of_another_workers_request(
    kind: str, daemon: Daemon, tmp_path: Path, requests: int
) -> None:
    """The application is loaded, and its client used, before the workers are forked."""
    need_module("gunicorn", *(["gevent"] if "gevent" in kind else []))
    tally, workers = tmp_path / "tally", int(GUNICORN[kind][1])
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        *GUNICORN[kind],
        "--bind",
        f"fd://{listener.fileno()}",
    ]
    command.append("tests.sharing.web:application")
    with (
        ended(command, environment(daemon, tally), limit_s(requests), pass_fds=[listener.fileno()]) as (
            process,
            log,
        ),
        ThreadPoolExecutor(8) as pool,
    ):
        listener.close()
        calls = [pool.submit(get, port, f"/call-{n}") for n in range(-(-requests // (USES * REQUESTS)))]
        with contextlib.suppress(OSError):
            said = [call.result() for call in calls]
            for more, _ in enumerate(until()):  # which worker takes a call is the kernel's choice
                if len(set(said)) == workers:
                    break
                said += pool.map(partial(get, port), [f"/more-{more}-{n}" for n in range(8)])
        judge(kind, tally, requests, log.read_text(errors="replace"))
        assert len(said) >= len(calls)
        assert len(set(said)) == workers, "not every worker was asked"
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0


def get(port: int, path: str) -> bytes:
    """What a server answers."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection:
        connection.request("GET", path)
        reply = connection.getresponse()
        said = reply.read()
        assert (reply.status, said[:2]) == (200, b"ok"), said
        return said


# --- a child and its parent's connection -----------------------------------------------------------


@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_a_forked_child_sends_nothing_on_its_parents_connection_and_does_not_end_it(
    over: str, home: Home, tmp_path: Path
) -> None:
    """Not a byte while the parent waits, nor the end of TLS; then the parent uses the same connection."""
    listen = ("127.0.0.1:0", "tls:127.0.0.1:0")
    daemon = home.start("--fsync", "off", config=certified(tmp_path), listen=listen)
    tally = tmp_path / "tally"
    env = environment(daemon, tally) | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    command = [sys.executable, "-m", "tests.sharing.kinds", "fork, parent idle", "60", "0"]
    with Relay(daemon.listen[over == "tls"]) as relay:
        env["WHEELTIMER_SERVER"] = f"tls:{relay.address}" if over == "tls" else relay.address
        with ended(command, env, START_S, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as (process, log):
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin, process.stdout:
                lengths = []
                for phase in (b"before\n", b"after\n"):
                    assert process.stdout.readline() == phase, log.read_text()
                    lengths.append(len(relay.sent[0]))
                    assert 0 not in relay.ended
                    process.stdin.write(phase)
                    process.stdin.flush()
                assert process.wait(START_S) == 0, log.read_text()
        counted = count(tally)
        assert (counted["wrong"], counted["failed"]) == (0, 0), log.read_text()
        assert lengths[0] == lengths[1] < len(relay.sent[0])
        assert len(relay.sent) == 1 + CHILDREN, "a connection for each process, kept"
        if over == "tcp":
            for number, sent in enumerate(relay.sent):
                asked = [json.loads(line) for line in sent.splitlines()]
                names = {each.get("id") or each.get("group") or each["op"] for each in asked}
                whose = {name.split("-")[0] for name in names}
                assert whose in ({"parent", "ping"}, {"child"}, {"grandchild"})
                assert ("parent" in whose) == (number == 0)


CHILDREN = 3  # two, and one of theirs


def certified(folder: Path) -> str:
    """A configuration with a certificate of an authority in ``ca.pem``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "own.pem"))
    return SMALL + f'[tls]\ncert = "{folder / "own.pem"}"\nkey = "{folder / "own.pem"}"\n'
