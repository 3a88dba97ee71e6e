"""What became of each request, one byte in a file: counted even where the process was killed afterwards.

Every thread, greenlet and process appends to the same file. A program under test writes, the test reads.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from wheeltimer import Client

URL: Final = "http://127.0.0.1:9/"
REQUESTS: Final = 3  # of Tally.use
USES: Final = 5  # Tally.use, in a request to a web server
VARIABLE: Final = "SHARING_TALLY"  # the file's path, for programs
_RIGHT, _WRONG, _FAILED, _CUT = b".", b"W", b"F", b"c"
T = TypeVar("T")


class Cut(Exception):
    """Raised by a signal handler, or by a trace function, in the middle of a request."""


class Tally:
    """Counts requests in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def reply(self, asked: object, got: object) -> None:
        """A request was answered; ``got`` is what its reply is about."""
        os.write(self._file, _RIGHT if asked == got else _WRONG)
        if asked != got:
            print(f"asked {asked!r}, the reply is of {got!r}", file=sys.stderr)

    def failed(self) -> None:
        """A request ended with the exception that is handled now."""
        os.write(self._file, _FAILED)
        traceback.print_exc(limit=-3)

    def cut(self) -> None:
        """A request was interrupted, which was meant."""
        os.write(self._file, _CUT)

    def ask(self, asked: object, request: Callable[[], object]) -> None:
        """One request, until it is answered: it is made again after an interruption."""
        while True:
            try:
                got = request()
            except (Cut, KeyboardInterrupt):
                self.cut()
                continue
            except msgspec.ValidationError as error:  # a reply of another kind of request
                self.reply(asked, error)
            except Exception:  # noqa: BLE001 -- whatever a client raises is counted
                self.failed()
            else:
                self.reply(asked, got)
            return

    def use(self, client: Client, name: str) -> None:
        """Three requests (``REQUESTS``), each with a reply that says whose it is."""
        self.ask(name, lambda: client.schedule(URL, delay="1h", id=name, group=name).id)
        self.ask(name, lambda: client.get(name).id)
        self.ask([name], lambda: [task.id for task in client.list(group=name).tasks])

    def stream(self, client: Client, name: str, count: int) -> None:
        """Tasks that are scheduled in one pipeline, whose replies come in order."""
        names = [f"{name}-{number}" for number in range(count)]
        given = ({"id": each, "url": URL, "delay": "1h"} for each in names)
        try:
            for each, reply in zip(names, client.schedule_many(given), strict=True):
                self.reply(each, getattr(reply, "id", reply))
        except Exception:  # noqa: BLE001
            self.failed()


def limit_s(requests: int) -> float:
    """How long a program may take, on a machine that is busy."""
    return float(os.environ.get("SHARING_LIMIT_S", 40 + requests / 20))


def count(path: Path) -> dict[str, int]:
    """What was counted: ``right wrong failed cut``."""
    seen = Counter(path.read_bytes()) if path.exists() else Counter()
    names = {"right": _RIGHT, "wrong": _WRONG, "failed": _FAILED, "cut": _CUT}
    return {name: seen[byte[0]] for name, byte in names.items()}
