"""A byte order mark in front of a file of JSON or TOML, as some editors write it, is skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_main import run
from tests.client.scripted import ScriptedServer
from tests.settings.files import SECRET, load_toml
from wheeltimer.settings import load

BOM = b"\xef\xbb\xbf"
URL = "http://x/"
OK = {"ok": True, "id": "a", "queue": "q", "version": 1, "due": 5, "state": "scheduled", "duplicate": False}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("source", ["file", "standard input"])
def test_a_bom_before_an_imported_file_is_skipped(tmp_path: Path, source: str, end: str) -> None:
    """Also before a later line, as after ``cat a.ndjson b.ndjson``; inside of a line it is content."""
    path = tmp_path / "tasks.ndjson"
    body = "\ufeffx"
    second = json.dumps({"id": "b", "url": URL, "body": body}, ensure_ascii=False)
    text = f'\ufeff{{"id":"a","url":"{URL}"}}{end}\ufeff{second}{end}'
    path.write_bytes(text.encode())
    with ScriptedServer(lambda _: OK) as server:
        args = (str(path), None) if source == "file" else ("-", text)
        result = run("import", args[0], server=server, stdin=args[1])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "scheduled: 2\n", "")
    assert [request["id"] for request in server.requests] == ["a", "b"]
    assert server.requests[1]["body"] == body


def test_a_file_of_a_bom_alone_holds_no_task(tmp_path: Path) -> None:
    path = tmp_path / "tasks.ndjson"
    path.write_bytes(BOM)
    with ScriptedServer([]) as server:
        result = run("import", str(path), server=server)
    assert (result.exit_code, result.stdout) == (0, "scheduled: 0\n")


@pytest.mark.parametrize("option", ["--body", "--meta"])
def test_a_bom_before_json_of_a_file_is_skipped(tmp_path: Path, option: str) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(BOM + b'{"a": 1.50}\r\n')
    for value, stdin in ((f"@{file}", None), ("-", '\ufeff{"a": 1.50}\n')):
        with ScriptedServer([OK]) as server:
            assert run("schedule", URL, option, value, server=server, stdin=stdin).exit_code == 0
        assert b'{"a": 1.50}' in server.raw[0], "but for the BOM its own bytes"
        assert BOM not in server.raw[0]


def test_a_bom_in_a_text_is_the_users() -> None:
    with ScriptedServer([OK]) as server:
        assert run("schedule", URL, "--body-text", "\ufeffa", server=server).exit_code == 0
    assert server.requests[0]["body_text"] == "\ufeffa"


def test_a_bom_before_the_configuration_file_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "wheeltimer.toml"
    file.write_bytes(BOM + b'tick = "7ms"\r\n')
    assert load({"config": str(file)}, {}).tick_ms == 7


def test_a_bom_before_a_secret_in_a_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(BOM + SECRET.encode() + b"\r\n")
    plain = load_toml(tmp_path, f'[queues.a]\nsecrets = ["{SECRET}"]\n')
    named = load_toml(tmp_path, '[queues.a]\nsecret_files = ["key"]\n')
    assert named.queues["a"].signing_keys == plain.queues["a"].signing_keys
