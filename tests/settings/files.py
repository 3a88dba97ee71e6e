"""A configuration file for one test, and what becomes of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from wheeltimer.errors import SettingsError
from wheeltimer.settings import (
    Settings,
    load,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SHA256 = hashlib.sha256(b"token").hexdigest()
TOKEN = f'[[tokens]]\nname = "a"\nsha256 = "{SHA256}"\nscopes = ["read"]\n'


def load_toml(tmp_path: Path, text: str, **flags: object) -> Settings:
    file = tmp_path / "wheeltimer.toml"
    file.write_text(text)
    return load({"config": str(file), **flags}, {})


def refused(tmp_path: Path, text: str) -> str:
    """The error of a file: exit code 78, and it names the file."""
    with pytest.raises(SettingsError) as caught:
        load_toml(tmp_path, text)
    assert caught.value.exit_code == 78
    return str(caught.value)
