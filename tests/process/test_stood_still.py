"""The real daemon is stopped for a while, as by SIGSTOP or a virtual machine that is moved, and goes on."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Iterator

import trustme

from tests.process.daemon import SMALL, Home, until

TIMEOUT_MS = 1500
PAUSE_S = 2.2
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 65000\r\n\r\n" + b"x" * 65_000  # several reads


@contextlib.contextmanager
def receiver(
    answer: bytes, go: threading.Event, context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, threading.Semaphore]]:
    """(its port, released for every request that came); answers are held until ``go``."""
    came, ends = threading.Semaphore(0), threading.Event()

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(sock):
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            with sock:
                while sock.recv(65536):
                    came.release()
                    go.wait()
                    sock.sendall(answer)

    def accept() -> None:
        while not ends.is_set():
            with contextlib.suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1], came
        ends.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_replies_and_lines_that_came_while_it_stood_still_count(home: Home) -> None:
    """Each attempt's limit passes in the pause, and so does that of a line that a client had begun."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(home.folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    daemon = home.start(
        config=SMALL + '[limits]\npartial_line = "2s"\n', env={"SSL_CERT_FILE": str(home.folder / "ca.pem")}
    )
    go = threading.Event()
    with contextlib.ExitStack() as stack:
        ports = {
            "plain": stack.enter_context(receiver(OK, go)),
            "long": stack.enter_context(receiver(LONG, go)),
            "tls": stack.enter_context(receiver(LONG, go, context)),
        }
        client = stack.enter_context(daemon.connect())
        slow = stack.enter_context(daemon.connect())
        for name, (port, _) in ports.items():
            scheme = "https" if name == "tls" else "http"
            for number in range(4):
                client.done(
                    "schedule", id=f"{name}-{number}", url=f"{scheme}://127.0.0.1:{port}/", retry="none",
                    timeout=TIMEOUT_MS,
                )  # fmt: skip
        slow.send_bytes(b'{"op":"ping",')
        for _, came in ports.values():
            for _ in range(4):
                assert came.acquire(timeout=30)
        daemon.signal(signal.SIGSTOP)
        slow.send_bytes(b'"seq":7}\n')
        go.set()
        threading.Event().wait(PAUSE_S)
        daemon.signal(signal.SIGCONT)
        assert slow.reply()["seq"] == 7
        for _ in until():
            tasks = client.done("stats")["tasks"]
            if tasks["running"] == tasks["ready"] == 0:
                break
        shown = [client.done("get", id=f"{name}-{n}")["task"]["history"] for name in ports for n in range(4)]
        assert [attempt.get("error") for (attempt,) in shown] == [None] * 12
        assert tasks["done"] == 12
