"""Standard error and standard output that nobody reads, and a terminal with a progress bar on it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.daemon import ROOT, START_S, Connection, Daemon, Home, until
from tests.process.receiver import Receiver


def stuck_pipe(folder: Path) -> tuple[Path, int]:
    """A named pipe that is full, and the descriptor that could read it."""
    path = folder / "stuck"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4095 + b"\n")
    return path, fd


def launch(home: Home, redirection: str) -> Daemon:
    listen = [f"unix:{home.folder}/socket"]
    return home.launch(listen=listen, wrap=["bash", "-c", f'exec "$@" {redirection}', "bash"])


def connect(home: Home) -> Connection:
    path = home.folder / "socket"
    for _ in until():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                break
    return Connection(f"unix:{path}")


@pytest.mark.parametrize("number", [1, 2])
def test_output_that_nobody_reads_holds_neither_callbacks_nor_replies_nor_the_end(
    home: Home, receiver: Receiver, number: int
) -> None:
    """And once somebody reads, what waited is there."""
    path, fd = stuck_pipe(home.folder)
    daemon = launch(home, f"{number}>>{path}")
    with connect(home) as client:
        for turn in range(20):
            daemon.signal(signal.SIGHUP)
            client.done("schedule", id=f"{turn}", url=receiver.url())
            receiver.wait_for(f"{turn}")
        came = b""
        for _ in until():
            with contextlib.suppress(BlockingIOError):
                while True:
                    came += os.read(fd, 65_536)
            if {1: b" ready ", 2: b" settings reloaded"}[number] in came:
                break
    daemon.stop()
    os.close(fd)


def test_a_start_that_fails_ends_though_nobody_reads_why(home: Home) -> None:
    path, fd = stuck_pipe(home.folder)
    home.start().kill()
    (segment,) = home.segments()
    with segment.open("r+b") as file:
        file.write(b"damage")
    daemon = launch(home, f"2>>{path}")
    assert daemon.wait().code == 65
    os.close(fd)


def test_a_log_line_stands_on_a_line_of_its_own_beside_a_progress_bar(home: Home) -> None:
    """A torn tail is told while the journal is read, which a terminal shows as a bar."""
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="a", url="http://127.0.0.1:9/", delay="1h")
    daemon.kill()
    (segment,) = home.segments()
    data = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(-(-len(data.rstrip(b"\0")) // 512) * 512)
        file.write(b"half a frame")
    terminal, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "wheeltimer",
        "serve",
        "--data-dir",
        str(home.data),
        "--listen=127.0.0.1:0",
    ]
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "400", "WHEELTIMER_JOURNAL_SEGMENT_BYTES": "1048576"},
    )  # fmt: skip
    os.close(theirs)
    try:
        assert child.stdout is not None
        assert b" ready " in child.stdout.readline()
        child.terminate()
        child.wait(START_S)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal that nobody has open any more
            while select.select([terminal], [], [], 5)[0] and (part := os.read(terminal, 65_536)):
                shown += part
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
        os.close(terminal)
    assert b"reading the journal" in shown
    (line,) = [line for line in shown.split(b"\n") if b"torn tail" in line]
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", line.rpartition(b"\x1b[2K")[2]).strip(b"\r")
    assert re.match(rb"\d{4}-\d\d-\d\dT\S+Z WARNING wheeltimer torn tail", text), shown
