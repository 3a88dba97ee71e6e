"""The demo: a real daemon as its child; nothing of it stays behind, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wheeltimer.cli import demo as demo_module
from wheeltimer.cli import main
from wheeltimer.cli.receiver import Arrival, receiving

# A daemon of the tests: says that it is ready (or not), notes its pid, and waits to be stopped.
_FAKE_DAEMON = """
import json, os, pathlib, signal, sys, time
how = {how!r}
notes = {{"pid": os.getpid(), "args": sys.argv[1:], "env": dict(os.environ)}}
pathlib.Path({notes!r}).write_text(json.dumps(notes))
if how == "dies":
    sys.exit("wheeltimer: data folder is in use")
def stop(number, frame):
    if how != "deaf":
        pathlib.Path({notes!r} + ".stopped").touch()
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("wheeltimer 0 ready listen={address} tasks=0", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the demo makes its temporary folder."""
    where = tmp_path / "tmp"
    where.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(where))
    return where


class FakeDaemon:
    """Takes the place of ``python -m wheeltimer serve``; ``notes`` is what it wrote down."""

    def __init__(self, tmp_path: Path, how: str, address: str) -> None:
        self._notes = tmp_path / "notes"
        self.executable = tmp_path / "python"
        script = _FAKE_DAEMON.format(how=how, notes=str(self._notes), address=address)
        (tmp_path / "daemon.py").write_text(script)
        self.executable.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/daemon.py "$@"\n')
        self.executable.chmod(0o755)

    @property
    def notes(self) -> dict[str, object]:
        notes: dict[str, object] = json.loads(self._notes.read_text())
        return notes

    def assert_gone(self) -> None:
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(self.notes["pid"])), 0)


def _demo() -> Result:
    return CliRunner().invoke(main, ["demo"])


def test_ten_callbacks_arrive_from_a_real_daemon(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(demo_module, "_EVERY_MS", 50)
    result = _demo()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 12
    assert all(re.fullmatch(r"  demo-\d+ +due [0-9:.]{12} +\d+\.\d ms late", line) for line in lines[1:-1])
    assert lines[-1].startswith("10 of 10 arrived, none early, none twice, median ")
    assert list(folder.iterdir()) == []


def test_the_users_own_settings_do_not_reach_the_demos_daemon(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    fake = FakeDaemon(tmp_path, "ready", "127.0.0.1:1")
    monkeypatch.setattr(sys, "executable", str(fake.executable))
    for name in ("WHEELTIMER_LISTEN", "WHEELTIMER_CONFIG", "WHEELTIMER_TOKEN", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "the user's")
    result = _demo()
    assert result.exit_code == 69  # nothing listens on port 1
    assert "the user's" not in dict(fake.notes["env"]).values()  # type: ignore[call-overload]
    assert str(folder) in str(fake.notes["args"])
    fake.assert_gone()
    assert (tmp_path / "notes.stopped").exists(), "it was killed without being asked to stop"
    assert list(folder.iterdir()) == []


def test_a_daemon_that_does_not_start_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    fake = FakeDaemon(tmp_path, "dies", "")
    monkeypatch.setattr(sys, "executable", str(fake.executable))
    result = _demo()
    assert result.exit_code == 69
    assert result.stderr.count("\n") == 1
    assert "data folder is in use" in result.stderr
    fake.assert_gone()


def test_a_daemon_that_ignores_sigterm_is_killed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    fake = FakeDaemon(tmp_path, "deaf", "127.0.0.1:1")
    monkeypatch.setattr(sys, "executable", str(fake.executable))
    monkeypatch.setattr(demo_module, "_STOP_TIMEOUT_S", 0.2)
    assert _demo().exit_code == 69
    fake.assert_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_takes_its_daemon_with_it(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "wheeltimer", "demo"]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    children: list[int] = []
    # Whoever runs tests in the background of a shell has made SIGINT one to be ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, preexec_fn=heard
    ) as demo:
        try:
            assert demo.stdout is not None
            assert b"scheduling" in demo.stdout.readline()
            children = list(_children_of(demo.pid))
            assert len(children) == 1
            demo.send_signal(number)
            _, errors = demo.communicate(timeout=30)
            left_behind = [pid for pid in children if Path(f"/proc/{pid}").exists()]
        finally:
            demo.kill()
            for pid in children:  # what a broken demo left behind
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert errors.strip() == b""  # a Ctrl-C ends its line
    assert demo.returncode == 128 + number
    assert left_behind == []
    assert list(tmp_path.iterdir()) == []


def _children_of(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(stat.parent.name)


# --- the verdict -----------------------------------------------------------------------------------

MS = 1_000_000


@pytest.mark.parametrize(
    ("late_ns", "again", "exit_code", "text"),
    [
        (
            [MS, 3 * MS, 2 * MS],
            0,
            0,
            "3 of 3 arrived, none early, none twice, median 2.0 ms late, at most 3.0 ms",
        ),
        ([MS, 2 * MS], 0, 1, "2 of 3 arrived"),
        ([], 0, 1, "0 of 3 arrived, none early, none twice\n"),
        ([MS, -1, MS], 0, 1, "1 early"),
        ([0, 0, 0], 1, 1, "1 twice"),
        ([0, 0, 0], 0, 0, "none early"),
    ],
)
def test_only_all_in_time_and_once_is_a_success(
    capsys: pytest.CaptureFixture[str], late_ns: list[int], again: int, exit_code: int, text: str
) -> None:
    assert demo_module._summary(late_ns, 3, again) == exit_code
    assert text in capsys.readouterr().out


def test_a_connection_that_is_cut_is_not_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with receiving() as receiver:
        for _ in range(20):
            with socket.create_connection(receiver.server_address[:2]) as connection:
                connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n")
                # A reset instead of an orderly end, as from a process that is killed.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_a_callback_that_never_comes_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_module, "_GRACE_S", 0.05)
    with receiving() as receiver:
        due_ms = time.time_ns() // MS
        receiver.arrivals.put(Arrival("demo-1", (due_ms + 2) * MS))
        receiver.arrivals.put(Arrival("demo-1", (due_ms + 3) * MS))
        receiver.arrivals.put(Arrival("somebody else's", due_ms * MS))
        assert demo_module._watch(receiver, {"demo-1": due_ms, "demo-2": due_ms}) == 1
    assert "1 of 2 arrived, none early, 1 twice" in capsys.readouterr().out
