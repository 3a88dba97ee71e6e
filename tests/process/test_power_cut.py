"""Power is lost under the real process, again and again, on a disk that keeps only what was synced.

The kill campaign of ``test_kill.py`` on another disk: with the process goes what it had not synced, any
blocks and any names of it. What must hold is the same, and was a promise all along.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import Daemon, Home
from tests.process.lossy_disk_fuse import ForgetfulDisk
from tests.process.receiver import Callback, Receiver
from tests.process.test_kill import Campaign, play
from tests.process.tools import missing, need

CUTS = 50
ROUND_MAX = 800  # acknowledgements between two cuts
NEVER = "http://127.0.0.1:9/never"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    need("fusermount3")
    if importlib.util.find_spec("pyfuse3") is None:
        missing("pyfuse3 is not installed (the extra fuse; it needs libfuse3-dev, pkg-config and a compiler)")
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        disk = ForgetfulDisk(folder)
    except OSError as error:
        missing(str(error))
    with disk:
        yield disk


class PowerCuts(Campaign):
    """Each kill takes along what was not synced."""

    def __init__(self, home: Home, receiver: Receiver, seed: int, disk: ForgetfulDisk) -> None:
        super().__init__(home, receiver, seed, ROUND_MAX)
        self.disk = disk
        self.forgotten: Counter[str] = Counter()

    def kill(self, daemon: Daemon) -> None:
        self.disk.power_off()
        daemon.signal(signal.SIGKILL)
        self.disk.let_go()
        daemon.kill()
        for part in self.disk.cut(self.chance.getrandbits(32)).split()[1:]:
            what, _, count = part.partition("=")
            self.forgotten[what] += int(count)
        super().kill(daemon)

    def report(self, seed: int, seen: dict[str, list[Callback]]) -> str:
        return f"{super().report(seed, seen)} forgotten={dict(self.forgotten)}"


def test_power_cuts_under_pipelining_writers(
    home: Home, receiver: Receiver, disk: ForgetfulDisk, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``ok`` means, when the machine goes and not only the process."""
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed={seed}; WT_SEED={seed} repeats it")
    home.data = disk.folder
    campaign = PowerCuts(home, receiver, seed, disk)
    play(campaign, "power cuts", seed, CUTS * (10 if thorough else 1), 0, capsys)
    assert campaign.forgotten["blocks"] > 0
    assert campaign.forgotten["steps"] > 0, "it never forgot a name: this tried nothing"


def test_what_a_failed_sync_lost_is_not_believed_though_it_can_still_be_read(
    home: Home, disk: ForgetfulDisk
) -> None:
    """After a sync that failed the pages are clean, readable, and nowhere on the disk. The next start
    finds them; before it says a word about them they are written once more, to a file that is synced."""
    home.data = disk.folder
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="stored", url=NEVER, delay="1h")
        disk.fail_next_sync()
        lost = {f"lost-{n}" for n in range(20)}
        client.send(*({"op": "schedule", "id": id, "url": NEVER, "delay": "1h"} for id in sorted(lost)))
        assert {reply["error"] for reply in client.rest()} == {"storage"}
    ended = daemon.wait()
    assert ended.code == 74, ended
    assert "fdatasync" in ended.log
    daemon = home.start()
    assert daemon.tasks > 1, "this disk showed nothing of what it lost, so nothing was tried"
    with daemon.connect() as client:
        known = {id for id in lost if client.ask("get", id=id)["ok"]}
        assert known, "what was read was said to be there"
    daemon.kill()
    disk.cut(1)
    daemon = home.start()
    with daemon.connect() as client:
        for id in ("stored", *sorted(known)):
            assert client.done("get", id=id)["task"]["state"] == "scheduled"
    daemon.stop()
