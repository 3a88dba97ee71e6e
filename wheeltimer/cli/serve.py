"""``wheeltimer serve``: reads flags into settings and runs the daemon (``daemon/run.py``) with them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import Final

import click

from wheeltimer.cli import options, output
from wheeltimer.errors import SettingsError
from wheeltimer.runtime import log_writer
from wheeltimer.settings import Settings, load

_M_ARENA_MAX: Final = -8  # malloc.h


@click.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to speak the protocol; port 0: any free one;"
    " also tls:HOST:PORT, unix:PATH; repeatable.  [default: 127.0.0.1:8463]",
)
@click.option("--http", metavar="HOST:PORT", hidden=True, help="Not served by this version.")
@click.option(
    "--data-dir",
    metavar="DIR",
    help="The journal's folder, made when missing.  [default: $STATE_DIRECTORY,"
    " else the user's state folder]",
)
@click.option("--config", metavar="FILE", help="TOML; flags beat WHEELTIMER_* variables beat the file.")
@click.option(
    "--tick", callback=options.duration, metavar="DURATION", help="Length of one tick.  [default: 10ms]"
)
@click.option("--wheel-size", metavar="N", help="Buckets, a power of two.  [default: 4096]")
@click.option(
    "--allow-net",
    multiple=True,
    metavar="CIDR",
    help="A private network that callbacks may reach where a listener is open; repeatable.",
)
@click.option(
    "--fsync",
    metavar="group|off",
    help="off loses acknowledged tasks at a power cut: for tests.  [default: group]",
)
@click.option("--concurrency", metavar="N", help="Attempts in flight, all destinations.  [default: 512]")
@click.option("--max-tasks", metavar="N", help="Live tasks; more are refused.  [default: 10000000]")
@click.option("--insecure", is_flag=True, help="A listener that other machines reach is meant.")
@click.option("--check", is_flag=True, help="Read all settings, print what is wrong, and end: 0, or 78.")
def serve(check: bool, **flags: object) -> int:
    """Run the daemon, until SIGTERM or Ctrl-C.

    It prints one line to standard output when it accepts connections; logs go to standard error.

    \b
    Examples:
      wheeltimer serve
      wheeltimer serve --listen unix:/run/wheeltimer.sock --data-dir /var/lib/wheeltimer
      WHEELTIMER_TICK=1ms wheeltimer serve --config wheeltimer.toml
      wheeltimer serve --config wheeltimer.toml --check
    """
    if check:
        return _check(load(flags, os.environ))
    if sys.platform != "linux":  # before imports that exist only on Linux
        raise SettingsError(
            f"serve: the daemon runs on Linux, and this is {sys.platform}; clients run anywhere: name a"
            " daemon with --server"
        )
    _hold_standard()
    _limit_arenas()
    log_writer.begin()
    settings = load(flags, os.environ)
    from wheeltimer.daemon.run import main  # not at the top: Trio and httpx take a second

    with output.reading_bar() as progress:
        return main(settings, progress, lambda: load(flags, os.environ))


def _check(settings: Settings) -> int:
    """Print that the settings have no error. Ports and the data folder are tested only by a start."""
    from wheeltimer.daemon.build import check_served, tls_of

    check_served(settings)
    tls_of(settings)  # reads certificate and key, and checks that they belong together
    listen, config = ",".join(map(str, settings.listen)), settings.config_file or "none"
    click.echo(f"settings: no error; listen={listen} data={settings.data_dir} config={config}")
    return 0


def _limit_arenas() -> None:
    """Let all threads allocate from two arenas; call before any thread is started.

    Each thread would get an arena of its own, with 64 MiB of address space: 420 MiB instead of 158 for a
    daemon that has just started. That would gain nothing, as one thread runs Python at a time. See
    mallopt(3).
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _hold_standard() -> None:
    """Open /dev/null for those of standard input, output and error that are closed.

    Otherwise a segment of the journal would get such a descriptor, and a last message of the interpreter
    would overwrite stored data.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "the lowest number that is free is taken"
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
