"""A WSGI application that shares one client; gunicorn loads it before it forks workers (``--preload``).

A request for ``/NAME`` makes requests of the daemon for ids that begin so, and is answered ``ok`` with the
worker's pid; what each reply said is in the tally.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from tests.sharing.tally import USES, VARIABLE, Tally
from wheeltimer import Client

CLIENT: Final = Client(os.environ["WHEELTIMER_SERVER"])
CLIENT.ping()  # what is forked is a connection that is open
TALLY: Final = Tally(Path(os.environ[VARIABLE]))


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/")
    for number in range(USES):
        TALLY.use(CLIENT, f"{name}-{number}")
    said = f"ok {os.getpid()}\n".encode()
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(said)))])
    return [said]
