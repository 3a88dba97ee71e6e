"""``wheeltimer receive``: a receiver on this machine that prints callbacks.

It prints a line for each request and gives all of them the same answer. It is for trying things out: it keeps
no data, and one thread serves each connection.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import click

from wheeltimer.cli import options, output
from wheeltimer.cli.receiver import signals_unwind
from wheeltimer.errors import BadValue, ListenError
from wheeltimer.protocol.ids import sign
from wheeltimer.protocol.units import parse_duration_ms
from wheeltimer.settings.values import parse_secret

BODY_BYTES_MAX: Final = 1 << 20  # the most that limits.body_bytes_max can allow; its default is 64 KiB
LENGTH_CHARS_MAX: Final = 20  # of a content-length; int() raises an error for thousands of digits
BODY_CHARS_SHOWN: Final = 200
DELAY_MS_MAX: Final = 600_000  # the longest timeout that an attempt may have
CONNECTIONS_MAX: Final = 256  # at a time, each with a thread; a destination's window is 128 by default
IDLE_S: Final = 60  # a connection without a byte in that time is closed
TOLERANCE_S: Final = 300  # of webhook-timestamp, as in Standard Webhooks
_SHOWN: Final = ("queue", "attempt", "version", "late-ms")


class _Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], keys: Sequence[bytes], status: int, delay_ms: int, as_json: bool
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        self.keys = keys
        self.status = status
        self.delay_s = delay_ms / 1000
        self.as_json = as_json
        self._printing = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; one beyond `CONNECTIONS_MAX` is closed."""
        if threading.active_count() > CONNECTIONS_MAX:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback for a connection that ends within a request."""

    def show(self, request: dict[str, Any]) -> None:
        """Print one request, as one line."""
        line = json.dumps(request) if self.as_json else _line(request)
        with self._printing:
            click.echo(line)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: _Receiver

    def _receive(self) -> None:
        at_ms = time.time_ns() / 1e6
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or "transfer-encoding" in self.headers:
            return self._answer(411)
        if len(length) > LENGTH_CHARS_MAX or int(length) > BODY_BYTES_MAX:
            return self._answer(413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the connection ended within the body
            self.close_connection = True
            return None
        headers = {name.lower(): value for name, value in self.headers.items()}
        sound = _verified(self.server.keys, headers, body, at_ms / 1000) if self.server.keys else None
        status = self.server.status if sound is not False else 401
        request = {
            "at": int(at_ms), "method": self.command, "path": self.path, "status": status,
            "signature": {True: "good", False: "wrong", None: None}[sound], "headers": headers,
            "body": body.decode("utf-8", "backslashreplace"),
        }  # fmt: skip
        self.server.show(request)
        time.sleep(self.server.delay_s)
        return self._answer(status)

    # http.server looks for a method by these names.
    do_POST = do_GET = do_PUT = do_PATCH = do_DELETE = _receive  # noqa: N815

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if status >= 200 and status not in (204, 304):
            self.send_header("content-length", "0")
        if status in (411, 413):  # the next bytes on this connection are the body, which is not read
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """`_Receiver.show` prints the line of a request."""


def _verified(keys: Sequence[bytes], headers: dict[str, str], body: bytes, now_s: float) -> bool:
    """Whether a signature of ``webhook-signature`` was made with one of ``keys``, at about ``now_s``."""
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 15):
        return False
    if abs(int(timestamp) - now_s) > TOLERANCE_S:
        return False
    expected = sign(keys, headers.get("webhook-id", "").encode("latin-1"), int(timestamp), body).split()
    given = headers.get("webhook-signature", "").encode("latin-1").split()
    return any(hmac.compare_digest(one, other) for one in given for other in expected)


def _line(request: dict[str, Any]) -> str:
    headers, body = request["headers"], request["body"]
    known = [("id", headers.get("wheeltimer-id"))]
    known += [(name, headers.get(f"wheeltimer-{name}")) for name in _SHOWN]
    known += [("signature", request["signature"])]
    if request["status"] >= 300:
        known.append(("answered", request["status"]))
    if len(body) > BODY_CHARS_SHOWN:
        body = f"{body[:BODY_CHARS_SHOWN]}... ({len(body)} characters)"
    words = [output.instant(request["at"])[11:23], request["method"], request["path"]]
    words += [f"{name}={value}" for name, value in known if value is not None]
    return "  ".join(output.clean(word) for word in [*words, body] if word)


def _secret(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[bytes]:
    """The keys of ``whsec_...``."""
    try:
        return [parse_secret(text, Path()).key for text in texts]
    except BadValue as error:
        raise click.BadParameter(f"{error}.") from error


def _delay(context: click.Context, parameter: click.Parameter, text: str) -> int:
    try:
        given = options.duration(context, parameter, text)
        return parse_duration_ms(given, "", DELAY_MS_MAX)
    except BadValue as error:
        raise click.BadParameter(f"{error}.") from error


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0: any free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where it listens.")
@click.option(
    "--secret", "keys", multiple=True, callback=_secret, metavar="WHSEC",
    help="Check signatures with it, and answer 401 where none is right; repeatable.",
)  # fmt: skip
@click.option(
    "--status", type=click.IntRange(200, 599), default=204, show_default=True, help="What it answers."
)
@click.option(
    "--delay", "delay_ms", callback=_delay, default="0ms", show_default=True, metavar="DURATION",
    help="How long it waits before it answers.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print each request as one line of JSON.")
def receive(port: int, host: str, keys: list[bytes], status: int, delay_ms: int, as_json: bool) -> None:
    """Receive callbacks on this machine and print one line for each, until Ctrl-C.

    It answers every path and method, and keeps nothing.

    \b
    Examples:
      wheeltimer receive
      wheeltimer receive --port 9001 --status 503 --delay 2s
    """
    try:
        server = _Receiver((host, port), keys, status, delay_ms, as_json)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"{host}:{port} cannot be listened on ({reason}); give another --port or --host"
        raise ListenError(problem) from error
    shown = f"[{host}]" if ":" in host else host
    with signals_unwind(), server, contextlib.suppress(KeyboardInterrupt):
        click.echo(f"listening on http://{shown}:{server.server_address[1]}; Ctrl-C ends it", err=as_json)
        server.serve_forever(poll_interval=0.2)
