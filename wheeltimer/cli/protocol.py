"""``protocol schema``, ``completion``: output for tools. Neither calls a daemon."""

from __future__ import annotations

from typing import Final

import click
import msgspec
from click.shell_completion import get_completion_class

from wheeltimer.protocol.schema import schema as protocol_schema

SHELLS: Final = ("bash", "zsh", "fish")


@click.group()
def protocol() -> None:
    """The protocol, for machines.

    \b
    Example:
      wheeltimer protocol schema > wheeltimer.schema.json
    """


@protocol.command()
def schema() -> None:
    """Print the JSON Schema of every request, reply and event.

    It is made from the definitions that the daemon itself reads lines with.

    \b
    Example:
      wheeltimer protocol schema > wheeltimer.schema.json
    """
    click.echo(msgspec.json.format(msgspec.json.encode(protocol_schema()), indent=2))


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
    Examples:
      eval "$(wheeltimer completion bash)"       # in ~/.bashrc; zsh alike
      wheeltimer completion fish > ~/.config/fish/completions/wheeltimer.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "wheeltimer", "_WHEELTIMER_COMPLETE").source())
