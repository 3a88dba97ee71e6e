"""What every client command has: ``--server``, ``--token`` and ``--json``.

Commands get a :class:`Session` as their first argument and ask it once. What they print is in
``show.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from wheeltimer.client import Client

_TIMEOUT_MS: Final = 30_000


class Session(msgspec.Struct, frozen=True):
    """Where the daemon is, and how the user wants to read its answer."""

    server: str
    token: str | None
    as_json: bool

    def ask(self, op: str, **fields: Any) -> dict[str, Any] | None:
        """One request. With ``--json`` the reply is printed as it came, and None is returned."""
        with Client(self.server, token=self.token, timeout_ms=_TIMEOUT_MS) as client:
            reply = client.request(op, **fields)
        if not self.as_json:
            return reply
        click.echo(msgspec.json.encode({key: value for key, value in reply.items() if key != "ok"}))
        return None


def with_session(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the three options, as a ``Session``."""

    @click.option(
        "--server",
        envvar="WHEELTIMER_SERVER",
        default="127.0.0.1:8463",
        show_default=True,
        show_envvar=True,
        metavar="ADDRESS",
        help="The daemon: HOST:PORT or unix:PATH.",
    )
    @click.option("--token", envvar="WHEELTIMER_TOKEN", show_envvar=True, help="Shown to the daemon first.")
    @click.option("--json", "as_json", is_flag=True, help="Print the daemon's reply as one line of JSON.")
    @functools.wraps(command)
    def run(server: str, token: str | None, as_json: bool, **arguments: Any) -> None:
        command(Session(server, token, as_json), **arguments)

    return run
