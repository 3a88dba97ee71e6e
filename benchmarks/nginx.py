"""nginx as the receiver of callbacks: many destinations on loopback, plain and TLS, all answered 200."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

START_TIMEOUT_S: Final = 10
_CONFIG: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ {plain} return 200; }}
    {secure}
}}
"""
_SECURE: Final = """
    server {{ {listen} ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; return 200; }}
"""


class Nginx(NamedTuple):
    """A running nginx; ``cert`` is what a client must trust, None where there is no openssl to make it."""

    port: int
    tls_port: int
    cert: Path | None
    pid: int


@contextlib.contextmanager
def nginx(hosts: list[str], tls_hosts: list[str], cpu: int | None) -> Iterator[Nginx | None]:
    """One process with a listener per host; None where nginx is not installed. Ended by its pid."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    # A descriptor for each listener and connection. A user's soft limit is 1,024, and nginx without a master
    # process does not apply worker_rlimit_nofile.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="wheeltimer-nginx-"))
    child = None
    try:
        port, tls_port = _free_port(), _free_port()
        cert = _certificate(folder, tls_hosts)
        secure = _SECURE.format(listen=_listen(tls_hosts, tls_port, " ssl"), folder=folder) if cert else ""
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, plain=_listen(hosts, port, ""), secure=secure))
        child = subprocess.Popen([program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error")])
        if cpu is not None:
            os.sched_setaffinity(child.pid, {cpu})
        _wait(child, hosts[0], port, folder)
        yield Nginx(port, tls_port, cert, child.pid)
    finally:
        if child is not None:
            child.terminate()
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listen(hosts: list[str], port: int, options: str) -> str:
    return " ".join(f"listen {host}:{port}{options} backlog=4096;" for host in hosts)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _certificate(folder: Path, hosts: list[str]) -> Path | None:
    """A certificate for all hosts that vouches for itself, next to its key."""
    if shutil.which("openssl") is None:
        return None
    names = ",".join(f"IP:{host}" for host in hosts)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=wheeltimer benchmark", "-addext", f"subjectAltName={names}",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder / "cert.pem"


def _wait(child: subprocess.Popen[bytes], host: str, port: int, folder: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and child.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nginx did not start: {(folder / 'error').read_text()[-1000:]}")
