"""What names the elapsed clock: boots, time namespaces, and systems that do not tell."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from wheeltimer.runtime.clock import read_boot_id

BOOT = "4b1f3a52-9a52-4d0b-8f9f-2f8f31a4a1c3"
FIRST, OTHER, THIRD = "time:[4026531834]", "time:[4026532441]", "time:[4026532442]"
ZERO = "monotonic           0         0\nboottime            0         0\n"


def proc(
    folder: Path, boot: str | None, offsets: str | None = None, ns: str | None = FIRST, children: str = ""
) -> Path:
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "self/ns").mkdir(parents=True)
    if boot is not None:
        (folder / "sys/kernel/random/boot_id").write_text(boot)
    if offsets is not None:
        (folder / "self/timens_offsets").write_text(offsets)
    if ns is not None:
        (folder / "self/ns/time").symlink_to(ns)
        (folder / "self/ns/time_for_children").symlink_to(children or ns)
    return folder


def offset(seconds: int, ns: int = 0) -> str:
    return f"monotonic           0         0\nboottime  {seconds:>10} {ns:>9}\n"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"{n}" for n in range(20)]


def test_the_first_namespace_and_a_kernel_without_any_have_the_boot_id(folders: list[Path]) -> None:
    """As every version before wrote it: an ordinary machine keeps its elapsed time over an upgrade."""
    boot = uuid.UUID(BOOT).bytes
    assert read_boot_id(proc(folders[0], BOOT + "\n", ZERO)) == boot
    assert read_boot_id(proc(folders[1], BOOT, None, None)) == boot
    assert read_boot_id(proc(folders[2], BOOT, ZERO, OTHER)) == boot, "a namespace with the machine's clock"
    assert read_boot_id(proc(folders[3], BOOT, offset(9), FIRST, OTHER)) == boot, "its children's is another"


def test_each_clock_of_a_time_namespace_is_another_boot(folders: list[Path]) -> None:
    ids = [
        read_boot_id(proc(folder, BOOT, offset(*ahead), OTHER))
        for folder, ahead in zip(folders, ((1_000_000,), (-3337,), (0, 1), (-1, 999_999_999)), strict=False)
    ]
    assert len({uuid.UUID(BOOT).bytes, *ids}) == 5
    assert all(len(each) == 16 for each in ids)
    again = read_boot_id(proc(folders[10], BOOT, offset(1_000_000), THIRD))
    assert again == ids[0], "a container that is made anew with the same clock"


@pytest.mark.parametrize("boot", [None, "", "\n", "4b1f3a52", BOOT + BOOT, "\xff", "none"])
def test_a_missing_empty_or_malformed_boot_id_makes_each_process_its_own_boot(
    boot: str | None, folders: list[Path]
) -> None:
    ids = [read_boot_id(proc(folder, boot, ZERO)) for folder in folders[:2]]
    assert ids[0] != ids[1]
    assert len(ids[0]) == 16


@pytest.mark.parametrize(
    ("offsets", "ns", "children"),
    [("", OTHER, OTHER), ("boottime x y\n", OTHER, OTHER), (offset(7), OTHER, THIRD)],
)
def test_a_namespace_whose_offset_is_not_known_is_never_taken_for_another(
    offsets: str, ns: str, children: str, folders: list[Path]
) -> None:
    ids = [read_boot_id(proc(folder, BOOT, offsets, ns, children)) for folder in folders[:2]]
    assert ids[0] != ids[1]


def test_the_real_one_is_the_same_in_one_process() -> None:
    assert read_boot_id() == read_boot_id()
