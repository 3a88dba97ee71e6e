"""Journals that earlier versions wrote: this one reads every one of them, and finds what was there."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.clocks import ManualClock
from wheeltimer.core import records as r
from wheeltimer.errors import JournalNewer
from wheeltimer.journal.frame import Kind
from wheeltimer.journal.segment import FORMAT

from . import goldens

NAMES = sorted(path.stem for path in goldens.FOLDER.glob("*.zip"))


def unpacked(name: str, into: Path) -> tuple[Path, ManualClock, dict[str, Any]]:
    """The folder, the clocks of the start, and what it is to find."""
    with zipfile.ZipFile(goldens.FOLDER / f"{name}.zip") as archive:
        archive.extractall(into / "data")
    told = json.loads((goldens.FOLDER / f"{name}.json").read_text())
    elapsed_ns, wall_ns, boot_id = told["clock"]
    return into / "data", ManualClock(elapsed_ns, wall_ns, boot_id.encode()), told["state"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("f2-")])
def test_a_journal_of_an_earlier_version_means_what_it_meant(tmp_path: Path, name: str) -> None:
    """And still does after that start has written what a start writes."""
    folder, clock, expected = unpacked(name, tmp_path)
    found = goldens.state_of(folder, clock)
    assert found == expected
    again = goldens.state_of(folder, clock)
    assert again == expected | {"torn": None}


def test_a_journal_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    folder, clock, _ = unpacked("f2-newer", tmp_path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.segment")}
    with pytest.raises(JournalNewer, match=r"later version.*needs a reader of format 2"):
        goldens.state_of(folder, clock)
    assert {path.name: path.read_bytes() for path in folder.glob("*.segment")} == before


def test_every_kind_of_record_and_frame_is_in_a_golden_journal(tmp_path: Path) -> None:
    """A kind that is new, or a format, needs a golden journal of its own: a story in ``goldens.py``, then
    ``python -m tests.journal.goldens NAME``. Those that are there are never written again."""
    records: set[str] = set()
    frames: set[int] = set()
    for name in NAMES:
        if name.startswith(f"f{FORMAT}-"):
            folder, _, _ = unpacked(name, tmp_path / name)
            some_records, some_frames = goldens.kinds_of(folder)
            records |= some_records
            frames |= some_frames
    tags = {kind.__struct_config__.tag: kind.__name__ for kind in get_args(r.Written)}
    missing = [tags[tag] for tag in sorted(set(tags) - records)]
    missing += [kind.name for kind in Kind if kind not in frames]
    assert not missing, f"in no golden journal: {', '.join(missing)}; see tests/journal/goldens.py"


def test_every_story_has_its_journal_and_none_is_large() -> None:
    assert {*goldens.STORIES, *goldens.PAST} == set(NAMES)
    for name in NAMES:
        assert (goldens.FOLDER / f"{name}.zip").stat().st_size < 40_000, name


@pytest.mark.parametrize("name", [name for name in goldens.STORIES if name.startswith(f"f{FORMAT}-")])
def test_a_golden_journal_can_be_made_by_its_story(tmp_path: Path, name: str) -> None:
    """The way in which the next one is added works, and means today what it meant when it was written."""
    goldens.write(name, tmp_path)
    made = json.loads((tmp_path / f"{name}.json").read_text())
    kept = json.loads((goldens.FOLDER / f"{name}.json").read_text())
    assert made.keys() == kept.keys()
    assert set(made["state"]["tasks"]) == set(kept["state"]["tasks"])
