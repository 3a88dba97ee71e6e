"""A start with limits that the journal cannot hold: it ends with a sentence, and leaves the folder alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from tests.clocks import ManualClock
from tests.daemon.worlds import URL, world
from wheeltimer.core.outcome import decision_bytes_needed
from wheeltimer.daemon.run import Daemon
from wheeltimer.errors import SettingsError
from wheeltimer.journal.disk import Disk
from wheeltimer.settings import Journal, Limits, Settings

LEAST = 1 << 20  # the smallest segments


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """A start tunes the collector; the tests after this one want theirs."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


def settings(folder: Path, segment_bytes: int = LEAST, **limits: int) -> Settings:
    return Settings(
        data_dir=folder, fsync="off", limits=Limits(**limits), journal=Journal(segment_bytes=segment_bytes)
    )


def start(given: Settings) -> int:
    """Recover; how many tasks there are."""
    daemon = Daemon(given, ManualClock())
    daemon.recover()
    daemon.journal.abandon()
    return daemon.engine.live


def refused(given: Settings) -> str:
    """The one line that a start ends with."""
    with pytest.raises(SettingsError) as caught:
        Daemon(given, ManualClock()).recover()
    assert caught.value.exit_code == 78
    text = str(caught.value)
    assert "\n" not in text
    return text


def decision_bytes_max(folder: Path) -> int:
    daemon = Daemon(settings(folder), ManualClock())
    daemon.recover()
    daemon.journal.abandon()
    return daemon.journal.decision_bytes_max


@trio_test
async def test_limits_that_fit_no_segment_end_the_start_and_leave_the_journal_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as daemon:
        for id in ("a", "b", "c"):
            await daemon.ask(op="schedule", id=id, url=URL, delay="1h")
    text = refused(settings(tmp_path, line_bytes_max=LEAST // 4))
    assert text.startswith("journal.segment_bytes: ")
    needed = decision_bytes_needed(Limits(line_bytes_max=LEAST // 4))  # type: ignore[arg-type]
    for told in (f"{needed} bytes", f"segments of {LEAST} bytes", "line_bytes_max"):
        assert told in text
    for _ in range(2):  # the lock was given back, so the same process may open it again
        assert start(settings(tmp_path)) == 3
    async with world(tmp_path) as daemon:
        assert (await daemon.ask(op="cancel", id="a"))["cancelled"] == 1


def test_the_largest_limits_that_fit_start_and_one_byte_more_does_not(tmp_path: Path) -> None:
    most = decision_bytes_max(tmp_path)
    line_bytes = most - (decision_bytes_needed(Limits(line_bytes_max=LEAST)) - LEAST)  # type: ignore[arg-type]
    assert 131_072 < line_bytes < most
    assert start(settings(tmp_path, line_bytes_max=line_bytes)) == 0
    assert "journal.segment_bytes" in refused(settings(tmp_path, line_bytes_max=line_bytes + 1))
    assert start(settings(tmp_path, 2 * LEAST, line_bytes_max=line_bytes + 1)) == 0


@pytest.mark.parametrize(
    "limits",
    [
        {"history_max": 100, "history_reply_bytes_max": 65_536},
        {"history_reply_bytes_max": 65_536, "meta_bytes_max": 65_536},
        {"line_bytes_max": LEAST // 4},
    ],
)
def test_every_limit_that_makes_decisions_large_is_seen(tmp_path: Path, limits: dict[str, int]) -> None:
    assert "journal.segment_bytes" in refused(settings(tmp_path, **limits))
    assert start(settings(tmp_path, 16 * LEAST, **limits)) == 0


def test_a_small_disk_that_takes_small_segments_only_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments asked for would do, and those that there is room for do not."""
    monkeypatch.setattr(Disk, "free_bytes", lambda disk, folder: 8 * LEAST)
    large = settings(tmp_path, 16 * LEAST, line_bytes_max=LEAST // 4)
    assert f"segments of {LEAST} bytes" in refused(large)
    assert start(settings(tmp_path, 16 * LEAST)) == 0, "the limits that nobody changed fit any disk"
    monkeypatch.undo()
    assert start(large) == 0


def test_a_start_that_was_refused_holds_no_descriptor(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    given = settings(tmp_path, line_bytes_max=LEAST // 4)
    refused(given)
    before = descriptors()
    for _ in range(5):
        refused(given)
    assert descriptors() == before


@trio_test
async def test_a_daemon_that_was_refused_serves_once_its_limits_are_right(tmp_path: Path) -> None:
    refused(settings(tmp_path, line_bytes_max=LEAST // 4))
    with trio.fail_after(10):
        async with world(tmp_path) as daemon:
            assert (await daemon.ask(op="schedule", id="a", url=URL, delay=100))["ok"]
            await daemon.advance(100)
            assert daemon.attempts == ["a"]
