"""What every benchmark shares: processes that end on every path, a small client, percentiles.

No load and no figures are made here (``writers.py``, ``receiver.py``, one file per benchmark), and nothing is
said about the machine (``machine.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

READY_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 40  # the daemon gives attempts in flight 30 s
ROOT: Final = Path(__file__).resolve().parent.parent

Figures = dict[str, Any]
"""What a benchmark found: JSON values by name; names end in their unit."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for. ``out``: where plots go, None for nowhere. ``against``: another
    checkout, which `pairs` compares this one with."""

    seed: int = 1
    quick: bool = False
    strace: bool = False
    profile: bool = False
    out: Path | None = None
    against: Path | None = None


@dataclass(frozen=True)
class Bound:
    """A figure with what it must be: at most ``limit``, or at least."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Result:
    """What ``run`` of a benchmark gives."""

    figures: Figures
    bounds: list[Bound]


def percentile(values: Sequence[float], permille: int) -> float:
    """The value that ``permille`` of 1000 values do not exceed; ``values`` sorted, not empty."""
    return values[max(0, -(-len(values) * permille // 1000) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and max."""
    ordered = sorted(values)
    return {
        "p50": percentile(ordered, 500),
        "p99": percentile(ordered, 990),
        "p999": percentile(ordered, 999),
        "max": ordered[-1],
    }


class Process:
    """A child that says one line when it is ready. Ended by its own pid in ``stop``."""

    def __init__(
        self, command: Sequence[str], log: IO[bytes], env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=cwd, env=env
        )
        self.pid = self._child.pid
        self.first_line = ""

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """The first line it prints; RuntimeError when it ends or stays silent."""
        self.first_line = self.read_line(timeout_s)
        return self.first_line

    def read_line(self, timeout_s: float) -> str:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], timeout_s)
        line = self._child.stdout.readline().decode() if ready else ""
        if not line:
            ended = self._child.poll() is not None or bool(ready)
            raise RuntimeError(
                f"{self._child.args!r} {'ended' if ended else f'was silent for {timeout_s} s'}"
            )
        return line.strip()

    def ask(self, request: str, timeout_s: float = READY_TIMEOUT_S) -> Any:
        """Write a line to its standard input, read a line of JSON."""
        assert self._child.stdin is not None
        self._child.stdin.write(request.encode() + b"\n")
        self._child.stdin.flush()
        return json.loads(self.read_line(timeout_s))

    def pin(self, cpu: int) -> None:
        """Keep all its threads, and those they start, on one core; nothing on a machine with one core."""
        if cpu not in os.sched_getaffinity(0):
            return
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(thread), {cpu})

    def cpu_s(self) -> float:
        """Processor time so far, user and system, all threads; to the nanosecond, /proc has ticks of 10 ms.

        The clock's number is what clock_getcpuclockid(3) makes of a process id, which Python does not have.
        """
        return time.clock_gettime(~self.pid << 3 | 2)

    def starved_s(self) -> float:
        """Time its main thread was ready to run and had no processor: what other programs took from it."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def rss_bytes(self) -> int:
        """Resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS: the process has ended")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and wait; its exit code."""
        if self._child.poll() is None:
            self._child.send_signal(number)
        try:
            code = self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()
        return code


class Daemon:
    """``wheeltimer serve`` in a folder of its own; ``start`` and ``stop`` any number of times."""

    def __init__(
        self, folder: Path, flags: Sequence[str] = (), env: dict[str, str] | None = None,
        module: str = "wheeltimer", root: Path = ROOT,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.root = root  # the checkout that it is run from
        self.module = module
        self.data = folder / "data"
        self.flags = list(flags)
        self.extra_env = env or {}
        self.process: Process | None = None
        self.address = ("127.0.0.1", 0)
        self.recovered_ms = 0
        self.tasks = 0

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Run it until the ready line. What the machine's user has configured does not reach it."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("WHEELTIMER_") and name != "STATE_DIRECTORY"
        }
        command = [sys.executable, "-m", self.module, "serve", "--listen", "127.0.0.1:0", "--data-dir"]
        with (self.folder / "log").open("ab") as log:
            command += [str(self.data), *self.flags]
            self.process = Process(command, log, env | self.extra_env, self.root)
        try:
            ready = self.process.wait_ready(timeout_s)
        except RuntimeError as error:
            raise RuntimeError("the daemon did not start") from error
        words = dict(word.split("=", 1) for word in ready.split() if "=" in word)
        host, _, port = words["listen"].rpartition(":")
        self.address = (host, int(port))
        self.recovered_ms = int(words["recovered_ms"])
        self.tasks = int(words["tasks"])

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.stop(number)
            self.process = None

    def log_end(self) -> str:
        """The last of what it logged."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    @property
    def running(self) -> Process:
        assert self.process is not None, "not started"
        return self.process

    def ask(self, **request: object) -> dict[str, Any]:
        """One request on a connection of its own."""
        with Client(self.address) as client:
            return client.ask(**request)

    def stats(self) -> dict[str, Any]:
        return self.ask(op="stats")


@contextlib.contextmanager
def daemon(
    *flags: str, env: dict[str, str] | None = None, config: str = "", module: str = "wheeltimer",
    root: Path = ROOT,
) -> Iterator[Daemon]:  # fmt: skip
    """A running daemon in a temporary folder; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wheeltimer-bench-"))
    given = list(flags)
    if config:
        (folder / "config.toml").write_text(config)
        given += ["--config", str(folder / "config.toml")]
    instance = Daemon(folder, given, env, module, root)
    try:
        instance.start()
        yield instance
    except BaseException:
        print(f"the daemon's log ends:\n{instance.log_end()}", file=sys.stderr)
        raise
    finally:
        instance.stop(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def child(module: str, *arguments: str) -> Iterator[Process]:
    """``python -m benchmarks.MODULE``, ready; it ends with its standard input, or is ended."""
    process = Process([sys.executable, "-m", f"benchmarks.{module}", *arguments], sys.stderr.buffer)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


class Client:
    """One blocking connection: a request, its reply."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=READY_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def ask(self, **request: object) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self.ask_raw(json.dumps(request).encode() + b"\n"))
        if not reply["ok"]:
            raise RuntimeError(f"{request['op']} was refused: {reply}")
        return reply

    def ask_many(self, lines: Sequence[bytes]) -> None:
        """Send lines in one piece and read their replies, whatever they say."""
        self._socket.sendall(b"".join(lines))
        for _ in lines:
            self._replies.readline()

    def ask_all_raw(self, lines: Sequence[bytes]) -> list[bytes]:
        """A few hundred requests in one write, and their replies."""
        self._socket.sendall(b"".join(lines))
        return [self._replies.readline() for _ in lines]

    def ask_raw(self, line: bytes) -> bytes:
        self._socket.sendall(line)
        return self._replies.readline()


def progress(text: str) -> None:
    """One line to who waits for a long run."""
    print(f"... {text}", file=sys.stderr, flush=True)


def wall_ms() -> int:
    """Unix time now."""
    return time.time_ns() // 1_000_000


def sleep_until(instant_ms: int) -> None:
    """Until a Unix instant has come."""
    while (left_ms := instant_ms - wall_ms()) > 0:
        time.sleep(left_ms / 1000)
