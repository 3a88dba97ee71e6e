"""``.ci/run`` itself: which Python it takes, and what it says where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
CI: Final = ROOT / ".ci" / "run"
BASH: Final = shutil.which("bash") or "/bin/bash"
# Says what it was asked to do, and fails; of what version it is it tells the truth.
FAKE: Final = """#!{bash}
if [ "$1" = -c ]; then case "$2" in *"'{version}'"*) exit 0;; *) exit 1;; esac; fi
echo "{name} $*"
exit 9
"""
pytestmark = pytest.mark.skipif(not CI.exists(), reason="not a checkout")


def run(folder: Path, **versions: str) -> tuple[int, str, list[str]]:
    """A copy of it, where only these interpreters are: exit code, what was run, lines of standard error."""
    (folder / ".ci").mkdir()
    shutil.copy(CI, folder / ".ci" / "run")
    programs = folder / "bin"
    programs.mkdir()
    dirname = shutil.which("dirname")
    assert dirname is not None
    (programs / "dirname").symlink_to(dirname)
    fakes = {name: FAKE.format(bash=BASH, version=version, name=name) for name, version in versions.items()}
    for name, text in ({"id": f"#!{BASH}\necho 1000\n"} | fakes).items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    env = {"PATH": str(programs), "HOME": str(folder), "LC_ALL": "C"}
    done = subprocess.run(
        [BASH, str(folder / ".ci" / "run")], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    ran = [line for line in done.stdout.splitlines() if line.startswith("python")]
    return done.returncode, "".join(ran[:1]), done.stderr.splitlines()


OTHERS: Final = {"python3.12": "3.12", "python3.13": "3.13"}


def test_it_takes_python_3_11_whatever_python3_is(tmp_path: Path) -> None:
    code, ran, _ = run(tmp_path, python3="3.13", **{"python3.11": "3.11"}, **OTHERS)
    assert (code, ran) == (9, "python3.11 -m venv .venv")


def test_a_python3_that_is_3_11_will_do(tmp_path: Path) -> None:
    code, ran, _ = run(tmp_path, python3="3.11", **OTHERS)
    assert (code, ran) == (9, "python3 -m venv .venv")


@pytest.mark.parametrize("missing", ["3.11", "3.12", "3.13"])
def test_without_one_of_its_pythons_it_says_which_in_one_line_and_does_nothing(
    tmp_path: Path, missing: str
) -> None:
    there = {f"python{version}": version for version in ("3.11", "3.12", "3.13") if version != missing}
    code, ran, said = run(tmp_path, python3="3.14", **there)
    assert (code, ran) == (1, "")
    assert said == [f"Python {missing} is missing: neither python{missing} nor python3 is one"]
