"""``wheeltimer ping``: whether a daemon answers, for people and for scripts that wait until it does."""

from __future__ import annotations

import time
from typing import Final

import click

from wheeltimer.cli import output
from wheeltimer.cli.session import Session, with_session
from wheeltimer.errors import Refused

_EXIT_NOT_READY: Final = 75  # EX_TEMPFAIL of sysexits.h


@click.command()
@with_session
def ping(session: Session) -> int:
    """Ask the daemon whether it answers.

    Exit code 0 when it does, 69 when nothing answers, 75 when a daemon answers that is not ready yet.

    \b
    Examples:
      wheeltimer ping
      until wheeltimer ping; do sleep 1; done
    """
    began_ns = time.monotonic_ns()
    try:
        reply = session.ask("ping")
    except Refused as error:
        if error.code != "unavailable":
            raise
        click.echo(f"wheeltimer: not ready: {output.clean(error.message)}", err=True)
        return _EXIT_NOT_READY
    if reply is not None:
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        clock = output.instant(reply["now"])
        click.echo(f"{output.clean(session.server)} answers after {took_ms:.1f} ms; its clock: {clock}")
    return 0
