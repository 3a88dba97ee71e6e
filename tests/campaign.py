"""What the campaigns of a run have tried, in one table at its end.

A test that tries thousands of cases says how many with :func:`tried`; ``tests/conftest.py`` prints the table.
A campaign that ends in an error has said nothing: its test says what happened. How long a campaign took is
how long the tests took that counted for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KINDS: Final = (
    "damage cases",
    "simulated crash points",
    "random worlds",
    "strace cases",
    "power cuts",
    "kills",
    "soaked tasks",
    "reply heads",
)
"""Every campaign, in the order of the table."""


@dataclass
class _Tried:
    """``open``: a test that has counted for it is not over."""

    count: int = 0
    lost: int = 0
    seconds: float = 0
    open: bool = False

    def line(self, name: str) -> str:
        return f"{name:24}{self.count:>12,}{self.lost:>8,}{self.seconds:>10,.0f}"


_tried: Final[dict[str, _Tried]] = {}


def tried(name: str, count: int, lost: int = 0) -> None:
    """Add ``count`` cases of the campaign ``name``, of which ``lost`` lost something acknowledged."""
    assert name in KINDS, f"{name} is no campaign; there are {', '.join(KINDS)}"
    campaign = _tried.setdefault(name, _Tried())
    campaign.count += count
    campaign.lost += lost
    campaign.open = True


def took(seconds: float) -> None:
    """A test is over; what it counted for took so long."""
    for campaign in _tried.values():
        if campaign.open:
            campaign.seconds += seconds
            campaign.open = False


def table() -> list[str]:
    """The lines to print; none where no campaign ran."""
    if not _tried:
        return []
    every = _Tried()
    for campaign in _tried.values():
        every.count += campaign.count
        every.lost += campaign.lost
        every.seconds += campaign.seconds
    lines = [_tried[name].line(name) for name in KINDS if name in _tried]
    return [f"{'campaign':24}{'tried':>12}{'lost':>8}{'seconds':>10}", *lines, every.line("all")]
