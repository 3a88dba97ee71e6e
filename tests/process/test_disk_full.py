"""A file system that is full for real: a small tmpfs, segments of 1 MiB, the daemon as users run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.daemon import Connection, Home, until
from tests.process.tools import missing, need

NOWHERE = "http://127.0.0.1:9/"
DISK_MIB = 12
CONFIG = "[journal]\nsegment_bytes = 1048576\nhistory_bytes = 0\n[limits]\nkeep_done_max = 100\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a tmpfs of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [need("mount"), "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        missing(f"a tmpfs cannot be mounted here: {tried.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([need("umount"), "-l", str(folder)], check=True)


def ask_all(client: Connection, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    client.send(*requests)
    return client.replies(len(requests))


def fill(client: Connection) -> list[str]:
    """Schedule until the daemon says ``full``, also when asked again; the ids that it took."""
    stored: list[str] = []
    full = 0
    for number, _ in enumerate(until()):
        task = {"op": "schedule", "url": NOWHERE, "delay": "1d", "body": "x" * 500}
        replies = ask_all(client, [task | {"id": f"t{number}-{part}"} for part in range(50)])
        stored += [reply["id"] for reply in replies if reply["ok"]]
        refused = [reply for reply in replies if not reply["ok"]]
        if refused:
            assert {reply["error"] for reply in refused} == {"full"}
            assert all(reply["retry_after_ms"] > 0 for reply in refused)
        full = full + 1 if len(refused) == len(replies) else 0
        if full == 20:  # for 0.4 s: what was under way is on disk, and there is still no room
            break
    return stored


def test_a_full_disk_refuses_new_work_takes_cancels_and_makes_room_by_itself(
    home: Home, small_disk: Path
) -> None:
    """Nothing that was refused is stored, nothing that was stored is lost, nobody has to help."""
    home.data = small_disk / "data"
    daemon = home.start(config=CONFIG)
    with daemon.connect() as client:
        stored = fill(client)
        assert client.done("stats")["tasks"]["scheduled"] == len(stored)
        gone = stored[::2]
        for at in range(0, len(gone), 50):
            ended = ask_all(client, [{"op": "cancel", "id": id} for id in gone[at : at + 50]])
            assert all(reply["ok"] for reply in ended), "a cancel uses the reserved segments"
        for _ in until():
            again = client.ask("schedule", id="again", url=NOWHERE, delay="1d")
            if again["ok"]:
                break
        about = client.done("stats")
        assert about["journal"]["compactions"] > 0
        assert about["journal"]["bytes"] <= DISK_MIB << 20
        assert about["tasks"]["scheduled"] == len(stored) - len(gone) + 1
    daemon.kill()
    daemon = home.start(config=CONFIG)
    with daemon.connect() as client:
        found = client.done("stats")["tasks"]  # but for the cancelled ones, which are still being forgotten
        assert {**found, "cancelled": 0} == {**about["tasks"], "cancelled": 0}
        assert client.done("get", id=stored[1])["task"]["body"] == "x" * 500
    daemon.stop()


def test_space_that_comes_back_is_used_without_a_restart(home: Home, small_disk: Path) -> None:
    """Somebody else's file filled the disk; all that is stored is live, so nothing can be given up."""
    home.data = small_disk / "data"
    other = small_disk / "other"
    daemon = home.start(config=CONFIG)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    other.write_bytes(bytes(free - (64 << 10)))
    with daemon.connect() as client:
        stored = fill(client)
        later = {"id": "later", "url": NOWHERE, "delay": "1d", "body": "x" * 2000}
        assert client.refused("schedule", **later)["error"] == "full"
        other.unlink()
        for _ in until():
            if client.ask("schedule", **later)["ok"]:
                break
        assert client.done("stats")["tasks"]["scheduled"] == len(stored) + 1
    daemon.stop()


def test_a_paused_queue_is_resumed_on_a_full_disk(home: Home, small_disk: Path) -> None:
    home.data = small_disk / "data"
    daemon = home.start(config=CONFIG)
    with daemon.connect() as client:
        client.done("pause", queue="default")
        fill(client)
        client.done("resume", queue="default")
    daemon.stop()
