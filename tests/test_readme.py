"""What the README says is so: its commands are those CI runs, its ops and exit codes those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import home
from tests.process.daemon import Home
from wheeltimer import errors
from wheeltimer.core import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)

pytestmark = pytest.mark.quick
__all__ = ["home"]  # a fixture of the process tests


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    (command,) = [block.strip() for block in SHELL if "pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_both_commands_stand_on_one_line_each() -> None:
    install = [block.strip() for block in SHELL if "python3 -m venv" in block]
    assert len(install) == 2
    assert all("\n" not in command for command in install)


def test_every_op_is_in_the_table() -> None:
    ops = {struct.__struct_config__.tag for struct in commands.AnyCommand.__args__}
    rows = "".join(line.split("|")[1] for line in README.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z]+)`", rows)) == ops


def test_every_exit_code_is_named() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and hasattr(error, "exit_code")
    }
    listed = {int(code) for code in re.findall(r"\b(\d+)\b", README.split("Exit codes:")[1].split("\n\n")[0])}
    assert codes - {1, 69} <= listed, "1 and 69 are the client commands' own"


def test_files_that_it_names_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    assert (ROOT / "bench.sh").exists()


def test_the_python_that_it_shows_runs(home: Home) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    daemon = home.start()
    program = code.replace("127.0.0.1:8463", daemon.listen[0])
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with daemon.connect() as connection:
        assert connection.done("stats")["tasks"]["cancelled"] == 1


def test_the_journal_commands_that_it_shows_run(home: Home) -> None:
    (block,) = [block for block in SHELL if "journal dump" in block]
    daemon = home.start()
    with daemon.connect() as connection:
        connection.done("schedule", id="order-42", url="http://127.0.0.1:1/", delay="1h")
    for line in block.strip().splitlines():
        args = line.split()[1:]
        done = subprocess.run(
            [sys.executable, "-m", "wheeltimer", *args[:2], str(home.data), *args[3:]],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == (73 if "repair" in line else 0), done.stderr
