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
SERVERS: Final = (
    "threads",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor, fork",
    "os.fork",
    "os.fork among threads",
    "multiprocessing, spawn",
    "gunicorn --preload",
    "gunicorn --preload --threads 4",
    "gunicorn --preload -k gevent",
    "gevent",
    "gevent, os.fork",
    "gevent.Timeout",
    "alarm raises",
    "KeyboardInterrupt",
    "an exception after any call",
    "asyncio, cancelled",
    "trio, cancelled",
)
"""Every kind of program that shares one client, in the order of the table of replies."""


@dataclass
class _Tried:
    """``open``: a test that has counted for it is not over."""

    count: int = 0
    lost: int = 0
    seconds: float = 0
    open: bool = False

    def line(self, name: str, width: int) -> str:
        return f"{name:{width}}{self.count:>12,}{self.lost:>8,}{self.seconds:>10,.0f}"


_tried: Final[dict[str, _Tried]] = {}
_replied: Final[dict[str, _Tried]] = {}


def tried(name: str, count: int, lost: int = 0) -> None:
    """Add ``count`` cases of the campaign ``name``, of which ``lost`` lost something acknowledged."""
    assert name in KINDS, f"{name} is no campaign; there are {', '.join(KINDS)}"
    _add(_tried, name, count, lost)


def replied(server: str, count: int, wrong: int) -> None:
    """Add ``count`` replies that a client got in a kind of program; ``wrong``: another request's."""
    assert server in SERVERS, server
    _add(_replied, server, count, wrong)


def _add(table: dict[str, _Tried], name: str, count: int, lost: int) -> None:
    campaign = table.setdefault(name, _Tried())
    campaign.count += count
    campaign.lost += lost
    campaign.open = True


def took(seconds: float) -> None:
    """A test is over; what it counted for took so long."""
    for campaign in (*_tried.values(), *_replied.values()):
        if campaign.open:
            campaign.seconds += seconds
            campaign.open = False


def table() -> list[str]:
    """The lines to print; none where no campaign ran."""
    return _lines("campaign", "tried", "lost", KINDS, _tried) + _lines(
        "one client shared by", "replies", "wrong", SERVERS, _replied
    )


def _lines(title: str, counted: str, lost: str, names: tuple[str, ...], rows: dict[str, _Tried]) -> list[str]:
    if not rows:
        return []
    every = _Tried()
    for row in rows.values():
        every.count += row.count
        every.lost += row.lost
        every.seconds += row.seconds
    width = max(24, 2 + max(map(len, names)))
    lines = [rows[name].line(name, width) for name in names if name in rows]
    return [f"{title:{width}}{counted:>12}{lost:>8}{'seconds':>10}", *lines, every.line("all", width)]
