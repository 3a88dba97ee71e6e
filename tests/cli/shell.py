"""A shell in a home of its own with ``wheeltimer`` in its path: for lines that pages and help texts show."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.process.daemon import START_S, until
from tests.process.tools import need


class Shell:
    """``folder`` is its home and where it stands; a ``.venv`` there has the command too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bash = need("bash")
        for where in ("bin", ".venv/bin"):
            (folder / where).mkdir(parents=True)
            self.program("wheeltimer", f'exec {sys.executable} -m wheeltimer "$@"', where)

    def program(self, name: str, script: str, where: str = "bin") -> None:
        """One more command."""
        path = self.folder / where / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def type(self, line: str, **variables: str) -> subprocess.Popen[str]:
        """Start ``line``, in a process group of its own and with a Ctrl-C that is heard, as in a terminal."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WHEELTIMER_", "XDG_")) and name != "STATE_DIRECTORY"
        }
        environ |= {"HOME": str(self.folder), "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        if "serve" in line:  # the least, for a disk that many tests share
            environ["WHEELTIMER_JOURNAL_SEGMENT_BYTES"] = "1048576"
        return subprocess.Popen(
            [self._bash, "-c", line], cwd=self.folder, env=environ | variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    @staticmethod
    def first_line(child: subprocess.Popen[str], poke: Callable[[], object]) -> str:
        """What it prints first; ``poke`` is called again and again until then."""
        assert child.stdout is not None
        for _ in until(every_s=0.1):
            poke()
            if select.select([child.stdout], [], [], 0)[0]:
                return child.stdout.readline()
        raise AssertionError  # until() has raised

    def run(self, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        with self.type(line, **variables) as child:
            out, errors = child.communicate(timeout=START_S)
        assert "Traceback" not in errors, errors
        return subprocess.CompletedProcess(line, child.returncode, out, errors)
