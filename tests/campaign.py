"""What the campaigns of a run have tried, in one table at its end.

A test that tries thousands of cases says how many with :func:`tried`; ``tests/conftest.py`` prints the table.
A campaign that ends in an error has said nothing: its test says what happened.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = (
    "damage cases",
    "simulated crash points",
    "random worlds",
    "strace cases",
    "power cuts",
    "kills",
    "soaked tasks",
)
"""Every campaign, in the order of the table."""

_counts: Final[dict[str, list[int]]] = {}


def tried(name: str, count: int, lost: int = 0) -> None:
    """Add ``count`` cases of the campaign ``name``, of which ``lost`` lost something acknowledged."""
    assert name in KINDS, f"{name} is no campaign; there are {', '.join(KINDS)}"
    sums = _counts.setdefault(name, [0, 0])
    sums[0] += count
    sums[1] += lost


def table() -> list[str]:
    """The lines to print; none where no campaign ran."""
    if not _counts:
        return []
    lines = [f"{'campaign':24}{'tried':>12}{'lost':>8}"]
    lines += [f"{name:24}{_counts[name][0]:>12,}{_counts[name][1]:>8,}" for name in KINDS if name in _counts]
    lost = sum(lost for _, lost in _counts.values())
    return [*lines, f"{'all':24}{sum(count for count, _ in _counts.values()):>12,}{lost:>8,}"]
