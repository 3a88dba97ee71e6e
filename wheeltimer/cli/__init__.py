"""The ``wheeltimer`` command: its groups of commands, and the one place where an error becomes an exit code.

One file per group: ``serve.py`` (the daemon), ``tasks.py`` (one request about tasks each),
``queues.py``, ``tail.py`` (events), ``top.py`` (a live screen), ``import_tasks.py``, ``stats.py`` (with
``ping``), ``journal.py`` (the data folder), ``protocol.py`` (the schema), ``token.py``, ``receive.py`` (a
receiver that shows callbacks), ``bench.py`` and ``demo.py`` (with a receiver from ``receiver.py``).
``options.py`` reads options, ``output.py`` prints, ``session.py`` has the options of all client commands.
Trio and httpx are imported by the functions that need them, so that ``wheeltimer --help`` starts fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from wheeltimer import __version__
from wheeltimer.cli import (
    bench,
    demo,
    import_tasks,
    journal,
    output,
    protocol,
    queues,
    receive,
    serve,
    stats,
    tail,
    tasks,
    token,
    top,
)
from wheeltimer.errors import BadValue, Refused, WheeltimerError

_EXIT_REFUSED = 1
_EXIT_USAGE = 2
# The options that help after a refusal; the daemon's message names the fields of the protocol.
_HINTS = {
    "unauthorized": "; that is --token, or WHEELTIMER_TOKEN",
    "exists": "; that is --on-conflict keep, or --on-conflict replace",
}
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells


class _Main(click.Group):
    """The top group; every expected error becomes one line on standard error."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit; ``standalone_mode`` is click's own switch and always on."""
        assert standalone_mode
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(_EXIT_USAGE)
        except click.UsageError as error:
            if type(error) is click.BadParameter and isinstance(error.param, click.Option):
                _fail(f"{error.param.opts[0]}: {error.message}", _EXIT_USAGE)
            command = error.ctx.command_path if error.ctx else "wheeltimer"
            message = error.format_message().rstrip(".")
            stop = "" if message.endswith("?") else "."  # "Did you mean ...?"
            _fail(f"{message}{stop} Try `{command} --help`.", _EXIT_USAGE)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except click.Abort:
            sys.exit(_EXIT_INTERRUPTED)
        except BadValue as error:
            _fail(str(error), _EXIT_USAGE)
        except Refused as error:
            _fail(f"refused ({error.code}): {error.message}{_HINTS.get(error.code, '')}", _EXIT_REFUSED)
        except WheeltimerError as error:
            _fail(str(error), error.exit_code)
        sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"wheeltimer: {output.clean(' '.join(message.split()))}", err=True)
    sys.exit(exit_code)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wheeltimer", message="%(prog)s %(version)s")
def main() -> None:
    """Call me back at this URL in 30 minutes, for sure and on time.

    \b
    wheeltimer serve                                     run the daemon
    wheeltimer schedule https://example.org/hook --in 30m
    wheeltimer demo                                      see it work, in ten seconds
    """


for _command in (
    serve.serve,
    tasks.schedule,
    tasks.get,
    tasks.list_,
    tasks.cancel,
    tasks.reschedule,
    tasks.finish,
    tasks.redrive,
    queues.pause,
    queues.resume,
    queues.forecast,
    stats.ping,
    stats.stats,
    tail.tail,
    top.top,
    import_tasks.import_,
    journal.journal,
    protocol.protocol,
    protocol.completion,
    token.token,
    bench.bench,
    demo.demo,
    receive.receive,
):
    main.add_command(_command)
