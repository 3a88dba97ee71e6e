"""The journal's folder: names that are durable, and what is believed of them after an error."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.journal.worlds import MemoryDisk
from wheeltimer.journal.directory import Directory

FOLDER = Path("/j")


def test_after_a_failed_sync_of_the_folder_no_later_one_is_believed() -> None:
    """Two threads change names. Where the sync of one fails, what is lost may be the other's: the next sync
    would succeed, and a commit would be acknowledged in a segment whose name is not on the disk."""
    disk = MemoryDisk()
    directory = Directory.open(FOLDER, disk)
    for name in ("spare-1.tmp", "spare-2.tmp", "spare-3.tmp"):
        disk.close(disk.create(FOLDER / name))
    directory.publish(FOLDER / "spare-1.tmp", "spare-1.zeros")
    failing = [errno.EIO]
    disk.fail["sync_folder"] = lambda _: failing.pop() if failing else 0
    with pytest.raises(OSError, match="told to fail sync_folder"):
        directory.publish(FOLDER / "spare-2.tmp", "spare-2.zeros")
    before = list(disk.log)
    with pytest.raises(OSError, match="told to fail sync_folder"):
        directory.publish(FOLDER / "spare-3.tmp", "0000000001.segment")
    with pytest.raises(OSError, match="told to fail sync_folder"):
        directory.remove(["spare-1.zeros"])
    assert disk.log == before, "nothing is done to names any more"
