"""docs/operations.md: its unit file is one, its commands run, and what it lists is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

from tests.process.conftest import home
from tests.process.daemon import Home
from tests.process.tools import missing, need
from wheeltimer import errors
from wheeltimer.daemon.process import LEAST, OWN, share
from wheeltimer.protocol import requests
from wheeltimer.protocol.units import format_duration
from wheeltimer.settings.definitions import (
    Destination,
    Journal,
    Knob,
    Limits,
    Queue,
    Settings,
    Tls,
    Token,
    knobs,
)

TEXT = (Path(requests.__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
(UNIT,) = re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
__all__ = ["home"]  # a fixture of the process tests


def table(title: str) -> dict[str, list[str]]:
    """The rows under a heading, by their first cell."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_every_exit_code_has_a_row_that_says_what_to_do() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.WheeltimerError)
    }
    rows = table("Exit codes")
    assert {int(code) for code in rows if code.isdigit()} == codes | {0, 2}
    assert all(row[-1] for row in rows.values())


def test_the_unit_restarts_what_the_table_says() -> None:
    (prevented,) = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT, re.MULTILINE)
    stays = {code for code, row in table("Exit codes").items() if code.isdigit() and row[1] == "no"}
    assert set(prevented.split()) == stays - {"0"}


def test_every_field_that_is_watched_is_in_stats(home: Home) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", url="http://127.0.0.1:9/", delay="1h", queue="NAME")
        stats = client.done("stats")
    for name in re.findall(r"`([\w.]+)`", " ".join(row for row in table("Alerts"))):
        value = stats
        for part in name.split("."):
            if name != "ping":
                value = value[part]


TABLES = {
    "The top of the file": Settings, "`[limits]`": Limits, "`[journal]`": Journal, "`[queues.NAME]`": Queue,
    '`[destinations."https://HOST"]`': Destination, "`[[tokens]]`": Token, "`[tls]`": Tls,
}  # fmt: skip


def rows_of(struct: type[Struct]) -> list[str]:
    """A row for each knob: its key, default, bounds and reason, as the page has them."""
    rows = []
    for knob in knobs(struct):
        if knob.key == "http":
            continue  # not served by this version

        def cell(value: object, knob: Knob = knob) -> str:
            if isinstance(value, bool):
                return f"`{str(value).lower()}`"
            if isinstance(value, tuple):
                return ", ".join(f"`{item}`" for item in value) or "none"
            if isinstance(value, int):
                text = format_duration(value) if knob.unit == "ms" else f"{value:,}"
                return f"`{text}`" if knob.unit == "ms" else text
            return "" if value is None else f"`{value}`"

        default = "needed" if knob.required else cell(knob.default) or "none"
        if knob.key == "data_dir":
            default = "`$STATE_DIRECTORY`, else the user's state folder"
        choices = f"; {', '.join(f'`{choice}`' for choice in knob.choices)}" if knob.choices else ""
        rows.append(
            f"| `{knob.key}` | {default} | {cell(knob.low)} | {cell(knob.high)} | {knob.reason}{choices} |"
        )
    return rows


@pytest.mark.parametrize("title", TABLES)
def test_every_setting_has_a_row_with_its_default_bounds_and_reason(title: str) -> None:
    (shown,) = re.findall(rf"^\*\*{re.escape(title)}\*\*\n\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert shown.splitlines()[2:] == rows_of(TABLES[title])


def test_every_limit_that_it_names_is_a_setting() -> None:
    names = {knob.key for struct in TABLES.values() for knob in knobs(struct)}
    for name in re.findall(r"`(\w+_max)`", TEXT):
        assert name in names, name
    assert f"attempts in flight twice over (kept connections), and {OWN}" in UNIT


def test_the_table_of_descriptors_is_what_the_defaults_get(tmp_path: Path) -> None:
    """And where it says that all fits, nothing is lowered."""
    (shown,) = re.findall(r"^  \| `LimitNOFILE` .*\n  \|[-|]+\n((?:  \|.*\n)+)", TEXT, re.MULTILINE)
    rows = [
        [int(cell.replace(",", "")) for cell in line.strip(" |").split("|")] for line in shown.splitlines()
    ]
    assert rows[0][0] == LEAST
    given = Settings(data_dir=tmp_path)
    for limit, *cells in rows:
        assert cells == list(share(limit, given)[:3]), limit
    assert share(rows[-1][0], given)[:3:2] == (given.concurrency, given.limits.connections_max)


def test_the_unit_is_valid_and_shut_tight(tmp_path: Path) -> None:
    """As systemd itself judges it: no unknown key, and an exposure that it calls OK."""
    tool = need("systemd-analyze")
    program = shutil.which("true")
    assert program
    path = tmp_path / "wheeltimer.service"
    path.write_text(UNIT.replace("/opt/wheeltimer/bin/wheeltimer", program))
    done = subprocess.run([tool, "verify", path], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "wheeltimer" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    judged = subprocess.run(
        [tool, "security", "--offline=true", "--threshold=20", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Unknown" in judged.stderr or "unrecognized" in judged.stderr:
        missing(f"systemd-analyze is too old: {judged.stderr.strip()}")
    assert judged.returncode == 0, judged.stdout[-3000:] + judged.stderr


def test_a_copy_of_a_running_daemons_folder_by_the_pages_own_command_has_all_that_was_acknowledged(
    home: Home, tmp_path: Path
) -> None:
    (copy,) = [block for block in SHELL if "until" in block]
    (restore,) = [block for block in SHELL if ".before" in block]
    daemon = home.start()
    backup = tmp_path / "backup"
    backup.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "wheeltimer").write_text(f'#!/bin/sh\nexec {sys.executable} -m wheeltimer "$@"\n')
    (programs / "wheeltimer").chmod(0o755)

    def run(script: str) -> None:
        script = script.replace("/var/lib/wheeltimer", str(home.data)).replace("/backup", str(backup))
        environ = {"PATH": f"{programs}:/usr/bin:/bin"}
        subprocess.run(["sh", "-ec", script], check=True, timeout=120, env=environ, capture_output=True)

    task = {"op": "schedule", "url": "http://127.0.0.1:9/", "delay": "1h"}
    with daemon.connect() as before, daemon.connect() as meanwhile:
        before.send(*(task | {"id": f"before-{n}"} for n in range(2000)))
        assert all(reply["ok"] for reply in before.replies(2000))
        meanwhile.send(*(task | {"id": f"meanwhile-{n}"} for n in range(20_000)))
        run(copy)
        meanwhile.replies(20_000)
    daemon.stop()
    run(restore)
    again = home.start()
    with again.connect() as client:
        client.send(*({"op": "get", "id": f"before-{n}"} for n in range(2000)))
        assert all(reply["ok"] for reply in client.replies(2000))
    assert 2000 <= again.tasks <= 22_000


def test_every_wheeltimer_command_that_it_shows_is_one() -> None:
    from wheeltimer.cli import main

    for words in re.findall(r"`wheeltimer ([a-z]+(?: [a-z]+)?)", TEXT) + re.findall(
        r"^wheeltimer ([a-z]+)", TEXT, re.M
    ):
        name, _, sub = words.partition(" ")
        command = main.commands[name]
        assert not (sub and hasattr(command, "commands")) or sub in command.commands, words


@pytest.mark.parametrize("prctl", [65])
def test_the_daemon_runs_without_memory_that_is_writable_and_executable(home: Home, prctl: int) -> None:
    """MemoryDenyWriteExecute of the unit: ctypes makes such memory for some calls, and must not for ours."""
    program = (
        "import ctypes, os, sys\n"
        f"if ctypes.CDLL(None, use_errno=True).prctl({prctl}, 1, 0, 0, 0): sys.exit(99)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    daemon = home.launch(wrap=(sys.executable, "-c", program))
    try:
        daemon.await_ready()
    except AssertionError:
        if daemon.wait().code == 99:
            missing("this kernel has no PR_SET_MDWE (Linux 6.3)")
        raise
    with daemon.connect() as client:
        client.done("schedule", url="http://127.0.0.1:9/")
    assert "Traceback" not in daemon.stop().log
