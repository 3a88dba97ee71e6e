"""Whether there is any certificate of an authority to trust; without one every https callback fails."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def no_authorities(context: ssl.SSLContext, environ: Mapping[str, str]) -> str | None:
    """A sentence for the log if ``context``, made with the system's defaults, trusts no authority; else None.

    OpenSSL reads a file when the context is made, but folders only in a handshake
    (``X509_LOOKUP_hash_dir``): here a folder counts if it has a file with a hashed name.
    """
    if context.cert_store_stats()["x509"]:
        return None
    paths = ssl.get_default_verify_paths()
    file = environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
    folders = environ.get(paths.openssl_capath_env, paths.openssl_capath)
    if any(map(_has_hashed, folders.split(os.pathsep))):
        return None
    return (
        f"no certificate of an authority in {file} or {folders}: every https callback will fail;"
        f" install the package ca-certificates, or name a file in {paths.openssl_cafile_env}"
    )


def _has_hashed(folder: str) -> bool:
    try:
        return any(map(_HASHED.fullmatch, os.listdir(folder)))
    except OSError:
        return False
