"""``Place``: the daemon's address, the client's token and certificates, and its time limits."""

from __future__ import annotations

import math
import os
import ssl
import warnings
from datetime import timedelta
from typing import Final

from msgspec import Struct

from wheeltimer.client.pipeline import Caller, NoReply, Pipeline
from wheeltimer.client.sync_stream import LineConnection, split_host_port, tls_context
from wheeltimer.errors import BadValue, ServerUnreachable

Seconds = float | timedelta
"""A setting of a client: seconds, or a ``timedelta``."""

SERVER_DEFAULT: Final = "127.0.0.1:8463"
SERVER: Final = "WHEELTIMER_SERVER"
TOKEN: Final = "WHEELTIMER_TOKEN"
CA_FILE: Final = "WHEELTIMER_CA_FILE"
CERT_FILE: Final = "WHEELTIMER_CERT_FILE"
"""The variables that the command line and ``Client.from_env`` read."""

WAIT_S: Final = 30.0  # timeout and reconnect, unless given
_WAIT_MAX_S: Final = 365 * 86_400.0


class Place(Struct, frozen=True):
    """The daemon's address, with credentials and time limits."""

    server: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    timeout_s: float = WAIT_S
    reconnect_s: float = WAIT_S

    def connect(self) -> LineConnection:
        """A connection on which the token was shown. Raises ServerUnreachable, Refused, BadValue."""
        connection = LineConnection(self.server, self.timeout_s, self.tls)
        if self.token is None:
            return connection
        hello, line = Pipeline(self.server), b""
        call = hello.make("hello", {"token": self.token}, Caller())
        hello.fresh.append(call)
        try:
            connection.put(hello.outgoing())
            line = connection.read_line()
            hello.take(line)
            call.check()
        except (OSError, NoReply) as error:
            connection.close()
            raise hello.no_daemon(line) or ServerUnreachable(f"hello: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def over(self) -> ServerUnreachable:
        """The error of every request after the client was closed or gave up."""
        return ServerUnreachable(f"the connection to {self.server} is closed; make a new client")


def reached(server: str, token: str | None, ca_file: str | None, cert_file: str | None) -> Place:
    """A place with certificates from files. Raises BadValue."""
    tls = tls_context(ca_file, cert_file) if server.startswith("tls:") else None
    return Place(server, token, tls)


def from_environment() -> Place:
    """The place that the environment variables give; an empty one counts as not set. Raises BadValue."""
    given = {name: os.environ.get(name) or None for name in (SERVER, TOKEN, CA_FILE, CERT_FILE)}
    return reached(given[SERVER] or SERVER_DEFAULT, given[TOKEN], given[CA_FILE], given[CERT_FILE])


def place(
    server: str,
    token: str | None,
    tls: ssl.SSLContext | None,
    timeout: Seconds | None,
    reconnect: Seconds | None,
    timeout_ms: int | None,
    reconnect_ms: int | None,
) -> Place:
    """The arguments of a client, checked. Raises BadValue; does no I/O."""
    if not server.startswith("unix:"):
        split_host_port(server.removeprefix("tls:"))
    timeout_s = _seconds("timeout", timeout, timeout_ms)
    if not timeout_s:
        raise BadValue("timeout: more than 0 s expected", "timeout")
    return Place(server, token, tls, timeout_s, _seconds("reconnect", reconnect, reconnect_ms))


def _seconds(name: str, value: Seconds | None, value_ms: int | None) -> float:
    if value_ms is not None:
        if value is not None:
            raise BadValue(f"{name}: either {name} or {name}_ms expected, not both", name)
        warnings.warn(
            f"{name}_ms is deprecated; write {name}=SECONDS or {name}=timedelta(...)", DeprecationWarning, 4
        )
        seconds = _number(f"{name}_ms", value_ms) / 1000
    elif value is None:
        return WAIT_S
    else:
        seconds = value.total_seconds() if isinstance(value, timedelta) else _number(name, value)
    if not 0 <= seconds <= _WAIT_MAX_S:  # also refuses NaN
        raise BadValue(f"{name}: {seconds:g} s is not in 0 to {_WAIT_MAX_S:.0f} s; {_instead(name)}", name)
    return seconds


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, bool | str | bytes | bytearray):  # float() would accept these
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError) as error:
        unit = "milliseconds" if name.endswith("_ms") else "seconds"
        problem = f"{name}: {value!r:.60} is no number of {unit}; {_instead(name.removesuffix('_ms'))}"
        raise BadValue(problem, name) from error


def _instead(name: str) -> str:
    return f"write {name}=5 for 5 seconds, or timedelta(seconds=5)"
