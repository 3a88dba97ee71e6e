"""TLS on the real daemon: both clients, mutual TLS, bad handshakes, and certificates that are reloaded."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trio
import trustme

from tests.process.daemon import SMALL, Daemon, Home, until
from wheeltimer.client import AsyncClient, Client
from wheeltimer.client.sync_stream import tls_context
from wheeltimer.errors import ServerUnreachable
from wheeltimer.server.tls import server_context
from wheeltimer.settings import Tls

CA = trustme.CA()
OTHER = trustme.CA()
LISTEN = ("127.0.0.1:0", "tls:127.0.0.1:0")
URL = "http://127.0.0.1:9/"


def write(folder: Path, ca: trustme.CA = CA) -> str:
    cert = ca.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(str(folder / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    OTHER.cert_pem.write_to_path(str(folder / "other.pem"))
    ca.issue_cert("me").private_key_and_cert_chain_pem.write_to_path(str(folder / "me.pem"))
    OTHER.issue_cert("you").private_key_and_cert_chain_pem.write_to_path(str(folder / "you.pem"))
    return SMALL + '[tls]\ncert = "cert.pem"\nkey = "key.pem"\n'


def client(daemon: Daemon, folder: Path, ca: str = "ca.pem", cert: str | None = None) -> Client:
    own = None if cert is None else str(folder / cert)
    return Client(daemon.listen[1], tls=tls_context(str(folder / ca), own), reconnect=0, timeout=5)


def test_both_clients_speak_through_tls(home: Home) -> None:
    daemon = home.start(config=write(home.folder), listen=LISTEN)
    with client(daemon, home.folder) as asks:
        done = list(asks.schedule_many({"id": str(n), "url": URL, "delay": "1000s"} for n in range(3000)))
        assert len(done) == 3000
        assert len(asks.list(limit=1000).tasks) == 1000
        body = "x" * 60_000
        asks.schedule(URL, delay_ms=10**6, id="large", body=body)
        assert asks.get("large").id == "large"

    async def ask() -> None:
        tls = tls_context(str(home.folder / "ca.pem"))
        async with AsyncClient(daemon.listen[1], tls=tls) as asks:
            assert (await asks.get("7")).id == "7"

    trio.run(ask)
    with pytest.raises(ServerUnreachable, match="is not trusted"):
        client(daemon, home.folder, "other.pem").ping()
    daemon.stop()


def test_mutual_tls_lets_in_who_has_a_certificate_of_the_right_authority(home: Home) -> None:
    config = write(home.folder) + 'client_ca = "ca.pem"\n'
    daemon = home.start(config=config, listen=LISTEN)
    with client(daemon, home.folder, cert="me.pem") as asks:
        asks.ping()
    for cert in (None, "you.pem"):
        with pytest.raises(ServerUnreachable), client(daemon, home.folder, cert=cert) as asks:
            asks.ping()
    assert "Traceback" not in daemon.stop().log


def test_who_speaks_no_tls_is_closed_and_others_go_on(home: Home) -> None:
    config = "".join(("[limits]\nhello = '300ms'\n", write(home.folder)))
    daemon = home.start(config=config, listen=LISTEN)
    port = int(daemon.listen[1].rpartition(":")[2])
    for data in (b'{"op":"ping"}\n', b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\x00" * 10, b"", b"\x16\x03"):
        with socket.create_connection(("127.0.0.1", port), 10) as garbage:
            garbage.sendall(data)
            try:
                while garbage.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        with client(daemon, home.folder) as asks:
            asks.ping()
    for _ in until():
        with client(daemon, home.folder) as asks:
            if asks.stats().connections == 1:
                break
    assert "Traceback" not in daemon.stop().log


def test_a_certificate_is_reloaded_and_no_connection_dropped(home: Home) -> None:
    daemon = home.start(config=write(home.folder), listen=LISTEN)
    with client(daemon, home.folder) as before:
        before.ping()
        write(home.folder, OTHER)
        daemon.signal(signal.SIGHUP)
        for _ in until():
            if "settings reloaded" in daemon.log:
                break
        before.ping()
        with client(daemon, home.folder, "other.pem") as after:
            after.ping()
        (home.folder / "key.pem").write_text("no key")
        daemon.signal(signal.SIGHUP)
        for _ in until():
            if "settings not reloaded" in daemon.log:
                break
        assert "tls.key" in daemon.log
        with client(daemon, home.folder, "other.pem") as after:
            after.ping()
    daemon.stop()


@pytest.mark.parametrize(
    ("name", "says"), [("cert.pem", "tls.cert"), ("key.pem", "tls.key"), ("ca.pem", "tls.client_ca")]
)
def test_a_bad_file_is_78_and_the_setting_is_named(home: Home, name: str, says: str) -> None:
    config = write(home.folder) + 'client_ca = "ca.pem"\n'
    (home.folder / name).write_text("nothing")
    ended = home.refuse(config=config, listen=LISTEN)
    assert ended.code == 78, ended
    assert says in ended.log


def test_tls_before_1_2_is_refused(home: Home) -> None:
    config = write(home.folder)
    assert config
    tls = Tls(cert=home.folder / "cert.pem", key=home.folder / "key.pem")
    assert server_context(tls).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_failure_behind_a_handshake_ends_that_connection_only(home: Home) -> None:
    """No descriptor is left for the pair: clients beyond are closed, the daemon and its others go on."""
    limits = ["prlimit", "--nofile=400:400"]
    config = "concurrency = 8\n" + write(home.folder)
    daemon = home.start(config=config, listen=LISTEN, wrap=limits)
    with client(daemon, home.folder) as first:
        first.ping()
        subprocess.run(["prlimit", "--pid", str(daemon.pid), "--nofile=30:400"], check=True)
        refused = 0
        many = []
        for _ in range(20):
            try:
                many.append(client(daemon, home.folder))
                many[-1].ping()
            except ServerUnreachable:
                refused += 1
        assert refused
        first.ping()
        for asks in many:
            asks.close()
        subprocess.run(["prlimit", "--pid", str(daemon.pid), "--nofile=400:400"], check=True)
        for _ in until():
            try:
                with client(daemon, home.folder) as again:
                    again.ping()
                    break
            except ServerUnreachable:
                continue
        first.ping()
    log = daemon.stop().log
    assert "Traceback" not in log, log
    assert log.count("a client cannot be taken in") == 1, log


def test_failed_handshakes_do_not_fill_the_log(home: Home) -> None:
    daemon = home.start(config=write(home.folder), listen=LISTEN)
    port = int(daemon.listen[1].rpartition(":")[2])
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", port), 10) as garbage:
            garbage.sendall(b"GET / HTTP/1.1\r\n\r\n")
            garbage.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while garbage.recv(4096):
                    pass
    with client(daemon, home.folder) as asks:
        asks.ping()
    log = daemon.stop().log
    assert log.count("no TLS handshake") == 1, log
