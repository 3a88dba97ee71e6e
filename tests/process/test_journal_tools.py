"""The journal's tools beside the real daemon: under load, after kill -9, and after damage."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.process.daemon import ROOT, Daemon, Home, until

IDS = 20_000


def tool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wheeltimer", "journal", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def schedule(daemon: Daemon, first: int, count: int, *, delay: str = "1h") -> None:
    """``count`` tasks, acknowledged when this returns; ids from ``first`` on, reused after IDS."""
    with daemon.connect() as connection:
        for start in range(first, first + count, 250):
            connection.send(
                *(
                    {
                        "op": "schedule", "id": f"t-{n % IDS}", "url": "http://127.0.0.1:1/", "delay": delay,
                        "on_conflict": "replace", "body": {"n": n, "pad": "x" * 300},
                    }
                    for n in range(start, start + 250)
                )
            )  # fmt: skip
            assert all(reply["ok"] for reply in connection.replies(250))


def test_check_and_dump_beside_a_daemon_that_writes_and_rotates(home: Home) -> None:
    """Segments of 1 MiB under full load: no false alarm, and the daemon loses nothing by it."""
    daemon = home.start()
    stop = threading.Event()
    failed: list[BaseException] = []
    written = 0

    def load() -> None:
        nonlocal written
        try:
            while not stop.is_set():
                schedule(daemon, written, 1000)
                written += 1000
        except BaseException as error:
            failed.append(error)
            raise

    writer = threading.Thread(target=load)
    writer.start()
    try:
        for _ in until():
            if len(home.segments()) > 3:
                break
        for _ in range(6):
            before = home.segments()[-1]
            checked = tool("check", home.data, "--json")
            assert checked.returncode == 0, checked.stderr
            assert json.loads(checked.stdout)["state"] == "open"
            dumped = tool("dump", home.data, "--kind", "scheduled", "--id", "t-7")
            assert dumped.returncode == 0, dumped.stderr
            assert dumped.stdout.count("\n") >= 1
        assert home.segments()[-1] > before, "it wrote meanwhile"
    finally:
        stop.set()
        writer.join()
    assert not failed
    daemon.kill()
    checked = tool("check", home.data, "--json")
    found = json.loads(checked.stdout)
    assert (checked.returncode, found["ok"]) == (0, True)
    assert found["last_lsn"] >= written
    again = home.start()
    assert again.tasks == min(written, IDS)
    assert tool("repair", home.data).returncode == 73
    again.stop()
    assert json.loads(tool("check", home.data, "--json").stdout)["state"] == "stopped"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5 * 512 + 100] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[300 * 512 : 308 * 512] = bytes(8 * 512)
    path.write_bytes(data)


def header(path: Path) -> None:
    path.write_bytes(bytes(512) + path.read_bytes()[512:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 1 << 19])


@pytest.mark.parametrize("damage", [flip, zero, header, cut, Path.unlink], ids=lambda each: each.__name__)
@pytest.mark.parametrize("which", [0, 1], ids=["first", "middle"])
def test_after_a_repair_the_daemon_starts_with_what_could_be_read(home: Home, damage, which) -> None:  # type: ignore[no-untyped-def]
    daemon = home.start()
    schedule(daemon, 0, 6000)
    daemon.kill()
    segment = home.segments()[which]
    damage(segment)
    refused = home.refuse()
    assert refused.code == 65
    assert f"wheeltimer journal repair {home.data}" in refused.log
    assert tool("check", home.data).returncode == 65

    old = {path.name: path.read_bytes() for path in home.segments()}
    done = tool("repair", home.data)
    assert done.returncode == 0, done.stderr
    assert "lost: " in done.stdout
    (aside,) = home.data.glob("damaged-*")
    assert {path.name: path.read_bytes() for path in aside.glob("*.segment")} == old
    report = [json.loads(line) for line in (aside / "report.ndjson").read_text().splitlines()]
    lost = sum(max(0, line["lsn_to"] - line["lsn_from"] + 1) for line in report if line["what"] == "lost")

    daemon = home.start()
    assert daemon.tasks >= 1000
    if damage is not Path.unlink or which:
        assert daemon.tasks == 6000 - lost
    schedule(daemon, 0, 1000)
    daemon.stop()
    assert tool("check", home.data).returncode == 0
    assert "nothing was changed" in tool("repair", home.data).stdout
