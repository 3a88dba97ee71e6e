"""The clients in other languages of docs/clients, over kills of the daemon: nothing lost, nothing doubled.

They watch their own tasks by subscription and say what was wrong; the journal says the same from our side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import wheeltimer
from tests.process.daemon import Daemon, Home, until
from tests.process.test_events import in_journal
from wheeltimer.core import record_events

CLIENTS = Path(wheeltimer.__file__).parent / "docs" / "clients"
COUNT = 15_000
PROGRAMS = {
    "node": ["node", str(CLIENTS / "client.mjs")],
    # Compiled in memory as it starts; one JIT level is enough for seconds of work.
    "java": ["java", "-XX:TieredStopAtLevel=1", str(CLIENTS / "Client.java")],
}
CONFIG = "[journal]\nsegment_bytes = 33554432\n"


def _tool(name: str) -> None:
    if shutil.which(name) is None:
        assert not os.environ.get("CI"), f"{name} is missing: .ci/run installs it"
        pytest.skip(f"{name} is not installed")


def _count(daemon: Daemon, state: str) -> int:
    with daemon.connect() as connection:
        tasks = connection.done("stats")["tasks"]
    return int(tasks[state])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_in_another_language_survives_kills_of_the_daemon(name: str, home: Home) -> None:
    _tool(name)
    daemon = home.start(config=CONFIG)
    address = daemon.listen[0]
    host, _, port = address.rpartition(":")
    program = [*PROGRAMS[name], host, port, str(COUNT)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            for state, least in (("scheduled", COUNT // 4), ("scheduled", COUNT // 2), ("cancelled", 100)):
                for _ in until(every_s=0.005):
                    assert client.poll() is None, client.communicate()
                    if _count(daemon, state) >= least:
                        break
                daemon.kill()
                daemon = home.start(config=CONFIG, listen=(address,))
            out, error = client.communicate(timeout=120)
        finally:
            client.kill()
    assert client.returncode == 0, (out, error)
    said = json.loads(out)
    assert (said["tasks"], said["wrong"], said["rescheduled"]) == (COUNT, [], COUNT // 10)
    cancelled = -(-COUNT // 3)
    assert said["cancelled"] == cancelled
    assert said["lost"] >= 2, "it was there when the daemon was killed"
    with daemon.connect() as connection:
        tasks = connection.done("stats")["tasks"]
    assert (tasks["cancelled"], tasks["done"], tasks["scheduled"]) == (
        -(-COUNT // 3),
        COUNT - -(-COUNT // 3),
        0,
    )
    daemon.stop()
    seen = Counter()
    for line in in_journal(home.data, record_events.Writer(bytes(16))):
        event = json.loads(line)
        seen[event["event"], event["id"]] += 1
    assert set(seen.values()) == {1}, "no task was made, moved or ended twice"
    assert Counter(event for event, _ in seen) == {
        "task.scheduled": COUNT, "task.rescheduled": COUNT // 10, "task.cancelled": cancelled,
        "task.done": COUNT - cancelled,
    }  # fmt: skip


def test_they_need_nothing_but_their_standard_library() -> None:
    node = (CLIENTS / "client.mjs").read_text(encoding="utf-8")
    imported = [line for line in node.splitlines() if line.startswith("import ")]
    assert imported
    assert all('from "node:' in line for line in imported)
    java = (CLIENTS / "Client.java").read_text(encoding="utf-8")
    imported = [line for line in java.splitlines() if line.startswith("import ")]
    assert imported
    assert all(line.startswith("import java.") for line in imported)
