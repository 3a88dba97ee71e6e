"""``token new``: makes a token, and prints it with its entry for the daemon's configuration file."""

from __future__ import annotations

import secrets
from typing import Final

import click
import msgspec

from wheeltimer.core.access import SCOPES, digest_of
from wheeltimer.errors import BadValue
from wheeltimer.settings.values import parse_name, parse_queue_pattern

TOKEN_BYTES: Final = 32


@click.group()
def token() -> None:
    """Tokens for daemons that ask for one.

    \b
    Example:
      wheeltimer token new --name billing --scope produce --queue "billing-*"
    """


@token.command()
@click.option("--name", default="client", show_default=True, help="What logs and refusals call its holder.")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, default=("produce", "read"),
    help="What it allows; repeatable.  [default: produce, read]",
)  # fmt: skip
@click.option(
    "--queue", "queues", multiple=True, default=("*",), metavar="PATTERN",
    help="A queue it is for, or the start of one and *; repeatable.  [default: *]",
)  # fmt: skip
@click.option("--tasks-max", type=click.IntRange(1, 1_000_000_000), help="Live tasks in its queues.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def new(
    name: str, scopes: tuple[str, ...], queues: tuple[str, ...], tasks_max: int | None, as_json: bool
) -> None:
    """Make a token. It is shown once: the daemon keeps its hash only.

    \b
    Examples:
      wheeltimer token new
      wheeltimer token new --name billing --scope produce --queue orders --queue "billing-*"
    """
    try:
        option = "--name"
        parse_name(name)
        option = "--queue"
        for queue in queues:
            parse_queue_pattern(queue)
    except BadValue as error:
        raise BadValue(f"{option}: {error}") from error
    made = secrets.token_urlsafe(TOKEN_BYTES)
    table: dict[str, object] = {
        "name": name, "sha256": digest_of(made).hex(), "scopes": list(dict.fromkeys(scopes)),
        "queues": list(dict.fromkeys(queues)),
    }  # fmt: skip
    if tasks_max is not None:
        table["tasks_max"] = tasks_max
    if as_json:
        click.echo(msgspec.json.encode({"token": made, **table}))
        return
    click.echo(made)
    click.echo("\n# The line above is the token: give it to its holder, it is shown this once.")
    click.echo(
        "# The daemon's configuration file takes what follows; then send the daemon SIGHUP.\n[[tokens]]"
    )
    for key, value in table.items():  # JSON of texts, numbers and lists is TOML too
        click.echo(f"{key} = {msgspec.json.encode(value).decode()}")
