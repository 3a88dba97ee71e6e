"""The examples of every help text are typed into a shell, beside a daemon that has what they name.

A command without an example fails in ``test_main.py``; an example that nobody runs fails here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.shell import Shell
from tests.cli.test_main import COMMANDS, run
from tests.process.daemon import START_S, Daemon, Home, until

NOT_RUN: Final = {
    "wheeltimer demo": "takes ten seconds; test_demo.py runs it faster",
    "wheeltimer top": "needs a terminal; test_top.py gives it one",
}
UNTIL_STOPPED: Final = (
    "wheeltimer serve", "wheeltimer tail", "wheeltimer receive", "WHEELTIMER_TICK=1ms wheeltimer serve",
)  # fmt: skip
# What an example names that is not here: put in its place, so that nothing leaves this machine.
INSTEAD: Final = {
    "https://example.org": "http://127.0.0.1:9",
    "--every 10s": "--every 100ms",
    "--port 9001": "--port 0",
    "--tasks 1000 ": "--tasks 50 --round-trips 5 ",
}


def examples() -> list[str]:
    """Each line below "Example", of the command itself and of all others."""
    lines = []
    for command in ((), *COMMANDS):
        text = run(*command, "--help").stdout
        text = text.partition("Example" if command else "wheeltimer serve")[2] if command else text
        for line in text.partition("\nOptions:")[0].splitlines():
            if re.match(r" +(\S+ \| |\w+=\S+ |eval \"\$\()?wheeltimer ", line):
                lines.append(re.split(r"  +(?=run|see|#)", line.strip())[0])
    return list(dict.fromkeys(lines))


EXAMPLES: Final = examples()


def test_there_are_as_many_as_commands() -> None:
    assert len(EXAMPLES) >= len(COMMANDS)
    assert set(NOT_RUN) <= set(EXAMPLES), "an example is gone: take it out of the table"


class World:
    """A daemon with the tasks that examples name, and a shell in a home with the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = Shell(folder)
        self.shell.program("generate", """echo '{"id":"g-1","url":"http://127.0.0.1:9/","delay":"1h"}'""")
        self.shell.program("jq", "exec cat")
        (folder / ".config" / "fish" / "completions").mkdir(parents=True)
        (folder / "tasks.ndjson").write_text('{"id":"t-1","url":"http://127.0.0.1:9/","delay":"1h"}\n')
        (folder / "wheeltimer.toml").write_text("tick = '5ms'\n")
        self.home = Home(folder)
        self.daemon: Daemon = self.home.start()
        self.version = 0

    def prepare(self) -> None:
        """Tasks as before any example was run."""
        with self.daemon.connect() as client:
            task = {"url": "http://127.0.0.1:9/", "on_conflict": "replace"}
            for id, queue in (("payment-1", "default"), ("order-42", "orders"), ("order-42", "default")):
                version = client.done("schedule", id=id, queue=queue, delay="1h", **task)["version"]
            self.version = version
            if client.ask("get", id="report-1").get("task", {}).get("state") == "dead":
                return  # nobody listens there: after ten more of them the destination would be held
            client.done("schedule", id="report-1", retry="none", **task)
            for _ in until():
                if client.done("get", id="report-1")["task"]["state"] == "dead":
                    break

    def type(self, line: str) -> subprocess.Popen[str]:
        for shown, here in INSTEAD.items():
            line = line.replace(shown, here)
        line = line.replace("/run/wheeltimer.sock", f"{self.folder}/socket")
        data = self.home.data if "journal" in line else self.folder / "own"
        line = line.replace("/var/lib/wheeltimer", str(data))
        line = line.replace("--if-version 3", f"--if-version {self.version}")
        if line == "wheeltimer receive":
            line += " --port 0"
        if line == "wheeltimer bench":
            line += " --tasks 50 --round-trips 5 --callbacks 5"
        if "serve" in line:
            return self.shell.type(line, WHEELTIMER_LISTEN="127.0.0.1:0")
        return self.shell.type(line, WHEELTIMER_SERVER=self.daemon.listen[0])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("examples"))
    with made.home:
        yield made


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line not in NOT_RUN])
def test_an_example_does_what_it_says(world: World, line: str) -> None:
    world.prepare()
    until_stopped = line.startswith(UNTIL_STOPPED) and not line.endswith(" --check")
    with world.type(line) as child:
        if until_stopped:
            task = {"queue": "orders", "delay": "1h", "url": "http://127.0.0.1:9/"}
            with world.daemon.connect() as client:
                assert world.shell.first_line(child, lambda: client.done("schedule", **task)).strip()
            os.killpg(child.pid, signal.SIGINT)
        out, errors = child.communicate(timeout=START_S)
    assert "Traceback" not in errors
    if until_stopped:
        assert child.returncode in (0, -signal.SIGINT, 128 + signal.SIGINT), errors
    elif line.startswith("wheeltimer journal repair"):
        assert child.returncode == 73, "the daemon runs on that folder"
        assert "in use" in errors
    else:
        assert (child.returncode, errors) == (0, ""), out
