"""The options of every client command: ``--server``, ``--token``, ``--json`` and the certificates.

Commands get a :class:`Session` as their first argument and send one request with it. ``output.py`` prints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from wheeltimer.client import Client
from wheeltimer.client.pipeline import refused
from wheeltimer.client.place import CA_FILE, CERT_FILE, SERVER, SERVER_DEFAULT, TOKEN, Place, reached
from wheeltimer.errors import BadValue
from wheeltimer.protocol.limits import Limits

T = TypeVar("T")
_LARGE_BYTES: Final = Limits().body_bytes_max


class Session(msgspec.Struct, frozen=True):
    """The daemon's address, credentials, and the form of the output."""

    server: str
    token: str | None
    as_json: bool
    ca_file: str | None = None
    cert_file: str | None = None

    @property
    def place(self) -> Place:
        """The daemon's address and credentials, for the clients."""
        return reached(self.server, self.token, self.ca_file, self.cert_file)

    def connect(self, reconnect_s: float = 0) -> Client:
        """A client, for commands with more than one request."""
        place = self.place
        return Client(place.server, token=place.token, tls=place.tls, reconnect=reconnect_s)

    def ask(self, op: str, **fields: Any) -> dict[str, Any] | None:
        """Send one request. With ``--json`` print the reply byte for byte and return None."""
        line = self.ask_line(op, **fields)
        return None if line is None else msgspec.json.decode(line, type=dict[str, Any])

    def ask_line(self, op: str, **fields: Any) -> bytes | None:
        """The same, but return the reply's line."""
        line = self.exchange(op, **fields)[1]
        return None if self.as_json else line

    def exchange(self, op: str, **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Send one request; return the reply and its line, which ``--json`` prints."""
        with self.connect() as client:
            _check_body(client, fields)
            reply, line = client.exchange(op, **fields)
        if self.as_json:
            click.echo(line)
        if not reply["ok"]:
            raise refused(reply, op)
        return reply, line


def _check_body(client: Client, fields: dict[str, Any]) -> None:
    """Check a large body against the daemon's limit first: after a line that is too long the daemon
    closes."""
    for option in ("body", "body_text"):
        value = fields.get(option)
        size = 0 if value is None else len(value.encode() if isinstance(value, str) else bytes(value))
        if size > _LARGE_BYTES:
            limit = client.request("hello")["limits"]["body_bytes_max"]
            if size > limit:
                raise BadValue(f"--{option.replace('_', '-')}: at most {limit} bytes; these are {size}")


def with_session(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command these options, as a ``Session``."""

    @click.option(
        "--server",
        envvar=SERVER,
        default=SERVER_DEFAULT,
        show_default=True,
        show_envvar=True,
        metavar="ADDRESS",
        help="The daemon: HOST:PORT, tls:HOST:PORT or unix:PATH.",
    )
    @click.option("--token", envvar=TOKEN, show_envvar=True, help="Shown to the daemon first.")
    @click.option(
        "--ca-file", envvar=CA_FILE, show_envvar=True, metavar="FILE",
        help="PEM of whom to trust behind tls:.  [default: the system's]",
    )  # fmt: skip
    @click.option(
        "--cert-file", envvar=CERT_FILE, show_envvar=True, metavar="FILE",
        help="PEM of our certificate and key, where the daemon asks for one.",
    )  # fmt: skip
    @click.option("--json", "as_json", is_flag=True, help="Print the daemon's reply as one line of JSON.")
    @functools.wraps(command)
    def run(
        server: str,
        token: str | None,
        ca_file: str | None,
        cert_file: str | None,
        as_json: bool,
        **arguments: Any,
    ) -> T:
        return command(Session(server, token, as_json, ca_file, cert_file), **arguments)

    return run
