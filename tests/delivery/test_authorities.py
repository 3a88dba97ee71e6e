"""A system without certificates of authorities: said at the start, and only then."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.process.daemon import Home
from wheeltimer.delivery.authorities import no_authorities

NOWHERE = {"SSL_CERT_FILE": "/nonexistent.pem", "SSL_CERT_DIR": "/nonexistent"}


def test_none_anywhere_is_a_sentence_that_names_what_helps() -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    text = no_authorities(empty, NOWHERE)
    assert text is not None
    for word in ("/nonexistent.pem", "SSL_CERT_FILE", "ca-certificates"):
        assert word in text


def test_a_file_or_a_folder_with_hashed_names_will_do(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    assert no_authorities(context, NOWHERE) is None
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    environ = {**NOWHERE, "SSL_CERT_DIR": f"/nonexistent:{tmp_path}"}
    (tmp_path / "authority.pem").write_bytes(authority.cert_pem.bytes())
    assert no_authorities(empty, environ) is not None, "OpenSSL finds hashed names alone"
    (tmp_path / "0a1b2c3d.0").write_bytes(authority.cert_pem.bytes())
    assert no_authorities(empty, environ) is None


def test_folder_that_counts_is_one_that_openssl_reads(tmp_path: Path) -> None:
    """The hashed name is made by OpenSSL itself."""
    authority = trustme.CA()
    (tmp_path / "authority.pem").write_bytes(authority.cert_pem.bytes())
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    code = (
        "import os, ssl; from wheeltimer.delivery.authorities import no_authorities as none;"
        "print(none(ssl.create_default_context(), os.environ))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={**NOWHERE, "SSL_CERT_DIR": str(tmp_path)}, check=True,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert said.stdout == "None\n"


@pytest.mark.parametrize("there", [False, True])
def test_daemon_says_it_once_at_its_start(tmp_path: Path, there: bool) -> None:
    env = dict(NOWHERE)
    if there:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        env["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
    with Home(tmp_path) as home:
        daemon = home.start(env=env)
        daemon.stop()
        assert daemon.log.count("no certificate of an authority") == (0 if there else 1)
        assert daemon.log.count("WARNING") == (0 if there else 1)
