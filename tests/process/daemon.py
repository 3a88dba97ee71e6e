"""The real daemon as a child process: started, talked to over a plain socket, stopped, killed.

``Home`` is a data folder with a configuration file; ``Home.start`` runs a daemon on it, again and again.
The protocol is spoken here with ``json`` and a socket, on purpose without the project's own client.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import wheeltimer

ROOT = Path(wheeltimer.__file__).parents[1]
START_S = 60.0  # how long a start, an end or a reply may take on a machine that is busy
SMALL = "[journal]\nsegment_bytes = 1048576\n"  # the least: four files of 1 MiB instead of 64
Reply = dict[str, Any]

_READY = re.compile(
    r"wheeltimer (?P<version>\S+) ready listen=(?P<listen>\S+)(?: http=(?P<http>\S+))?"
    r" tasks=(?P<tasks>\d+) recovered_ms=(?P<recovered_ms>\d+) data=(?P<data>.+)\n"
)


@dataclass
class Ended:
    """How a process ended, and all it said."""

    code: int
    out: str
    log: str


class Connection:
    """A client's socket. What it sends may be pipelined; replies come back in order."""

    def __init__(self, address: str, timeout_s: float = START_S) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout_s)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._replies.close()
        self.socket.close()

    def send(self, *requests: Reply) -> None:
        """Requests in one write, without waiting for anything."""
        self.socket.sendall(lines(requests))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent; replies are still read."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go away with a RST, as a client that crashed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def line(self) -> bytes | None:
        """The next line without its end; None where the daemon closed."""
        line = self._replies.readline()
        assert not line or line.endswith(b"\n"), f"half a reply: {line!r}"
        return line[:-1] if line else None

    def reply(self) -> Reply:
        line = self.line()
        assert line is not None, "the daemon closed the connection"
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def replies(self, count: int) -> list[Reply]:
        return [self.reply() for _ in range(count)]

    def rest(self) -> list[Reply]:
        """All replies up to the end of the stream."""
        return [json.loads(line) for line in iter(self.line, None)]

    def ask(self, op: str, **fields: Any) -> Reply:
        """One request, one reply, whatever it says."""
        self.send({"op": op, **fields})
        return self.reply()

    def done(self, op: str, **fields: Any) -> Reply:
        """One request that is not refused."""
        reply = self.ask(op, **fields)
        assert reply["ok"], reply
        return reply

    def refused(self, op: str, **fields: Any) -> Reply:
        """One request that is refused."""
        reply = self.ask(op, **fields)
        assert not reply["ok"], reply
        return reply


def lines(requests: Iterable[Reply]) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


class Daemon:
    """A daemon that runs. ``process.pid`` is its own, also under a tool."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.listen: list[str] = []
        self.tasks = self.recovered_ms = -1
        self._log_path = log_path
        self._out = ""

    def await_ready(self, within_s: float = START_S) -> None:
        """Read the ready line; AssertionError with the log where the process ends or says something else."""
        line = self._first_line(time.monotonic() + within_s)
        found = _READY.fullmatch(line)
        assert found, f"{line!r} is no ready line; log:\n{self.log}"
        self.listen = found["listen"].split(",")
        self.tasks, self.recovered_ms = int(found["tasks"]), int(found["recovered_ms"])

    def _first_line(self, until_s: float) -> str:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        data = b""
        while not data.endswith(b"\n"):
            readable, _, _ = select.select([fd], [], [], max(0.0, until_s - time.monotonic()))
            assert readable, f"no ready line in time; log:\n{self.log}"
            part = os.read(fd, 4096)
            if not part:
                break
            data += part
        self._out += data.decode()
        return self._out

    def await_log(self, text: str) -> None:
        """Until ``text`` is in the log, which a thread of the daemon's writes."""
        for _ in until():
            if text in self.log:
                break

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self._log_path.read_text(errors="replace")

    def connect(self, number: int = 0, timeout_s: float = START_S) -> Connection:
        return Connection(self.listen[number], timeout_s)

    def kill(self) -> None:
        """kill -9, and wait until it is gone: its sockets and its lock with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_S)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = START_S) -> Ended:
        """How it ends by itself."""
        code = self.process.wait(within_s)
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed by an earlier wait
            self._out += self.process.stdout.read().decode()
            self.process.stdout.close()
        return Ended(code, self._out, self.log)

    def stop(self) -> Ended:
        """SIGTERM and the clean end that follows."""
        self.signal()
        ended = self.wait()
        assert ended.code == 0, ended
        return ended

    def cpu_ns(self) -> int:
        """CPU time of all its threads, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


class Home:
    """A data folder, its configuration file, and the daemons that were started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._daemons: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for daemon in self._daemons:
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGCONT)
                daemon.kill()
            if daemon.process.stdout is not None:
                daemon.process.stdout.close()

    def launch(
        self, *flags: str, config: str = SMALL, env: dict[str, str] | None = None, wrap: Sequence[str] = (),
        module: str = "wheeltimer", listen: Sequence[str] = ("127.0.0.1:0",),
    ) -> Daemon:  # fmt: skip
        """Start a process and wait for nothing. ``wrap``: a tool that execs it under the same pid."""
        config_path = self.folder / "wheeltimer.toml"
        config_path.write_text(config)
        command = [*wrap, sys.executable, "-m", module, "serve", "--data-dir", str(self.data)]
        command += [f"--listen={address}" for address in listen]
        command += ["--config", str(config_path), *flags]
        log_path = self.folder / f"log-{len(self._daemons)}"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=_environment(env or {}),
            )  # fmt: skip
        daemon = Daemon(process, log_path)
        self._daemons.append(daemon)
        return daemon

    def start(self, *flags: str, **how: Any) -> Daemon:
        """A daemon that accepts connections."""
        daemon = self.launch(*flags, **how)
        daemon.await_ready()
        return daemon

    def refuse(self, *flags: str, **how: Any) -> Ended:
        """A start that ends by itself, without a ready line."""
        daemon = self.launch(*flags, **how)
        try:
            ended = daemon.wait()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it started and should not have:\n{daemon.log}") from None
        assert ended.out == "", "a refused start says nothing on standard output"
        assert "Traceback" not in ended.log, ended.log
        return ended

    def segments(self) -> list[Path]:
        return sorted(self.data.glob("*.segment"))


def _environment(more: dict[str, str]) -> dict[str, str]:
    """Ours without what would configure the daemon."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WHEELTIMER_") and name != "STATE_DIRECTORY"
    }
    return kept | {"PYTHONWARNINGS": "error"} | more


def until(within_s: float = START_S, every_s: float = 0.02) -> Iterator[None]:
    """``for _ in until(): if condition: break``: polls, and fails when time is up."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        yield
        select.select([], [], [], every_s)
    raise AssertionError(f"not within {within_s} s")
