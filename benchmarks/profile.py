"""Where a daemon's processor time goes, by function: py-spy from outside, while something else loads it.

Needs ``py-spy`` (the bench extra) and leave to look into other processes of the same user; the figures of a
run that is profiled are a little slower than those of one that is not.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.harness import Figures

SAMPLES_PER_S: Final = 400
SHOWN_MAX: Final = 20
STOP_TIMEOUT_S: Final = 60
_OURS: Final = "wheeltimer/"


@contextlib.contextmanager
def profiled(pid: int, figures: Figures) -> Iterator[None]:
    """Profile the process while the body runs; what was found goes into ``figures``."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise RuntimeError("--profile needs py-spy: pip install 'wheeltimer[bench]'")
    with tempfile.TemporaryDirectory(prefix="wheeltimer-profile-") as folder:
        stacks = Path(folder) / "stacks"
        how = ["-r", str(SAMPLES_PER_S), "-f", "raw", "-o", str(stacks)]
        command = [program, "record", *how, "-p", str(pid)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as spy:
            try:
                yield
            finally:
                spy.send_signal(signal.SIGINT)
                _, said = spy.communicate(timeout=STOP_TIMEOUT_S)
        if not stacks.exists():
            raise RuntimeError(f"py-spy wrote no profile: {said.decode(errors='replace')[-500:]}")
        figures.update(read_stacks(stacks.read_text()))


def read_stacks(text: str) -> Figures:
    """Percent of all samples by function: in it alone, and with what it called (of our own code only)."""
    own, within, samples = Counter[str](), Counter[str](), 0
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [_function(frame) for frame in stack.split(";")]
        samples += int(count)
        own[functions[-1]] += int(count)
        for function in set(functions):
            if _OURS in function:
                within[function] += int(count)
    return {
        "samples": samples,
        "own_percent": _percent(own, samples),
        "within_percent": _percent(within, samples),
    }


def _function(frame: str) -> str:
    """``name (file.py:12)`` without the line."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame


def _percent(counts: Counter[str], samples: int) -> dict[str, float]:
    return {name: round(100 * count / samples, 1) for name, count in counts.most_common(SHOWN_MAX)}
