"""The plan, held against the code: rooms and arrows, what is pure, how long a file is, plain words."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "wheeltimer"

# A room and the arrows that leave it; an arrow allows what can be reached by arrows.
MAY_IMPORT: dict[str, set[str]] = {
    "cli": {"web", "client", "journal_tools", "settings"},
    "web": {"daemon"},
    "daemon": {"cluster", "server", "settings"},
    "cluster": {"server", "shard", "journal"},
    "server": {"shard", "delivery", "settings"},
    "shard": {"runtime", "journal"},
    "delivery": {"runtime"},
    "testing": {"client", "shard", "core"},
    "journal_tools": {"journal", "core"},
    "runtime": {"core"},
    "core": {"protocol"},
    "journal": {"errors"},
    "client": {"protocol"},
    "settings": {"protocol"},
    "protocol": {"errors"},
    "errors": set(),
    "__init__": {"client"},
    "__main__": {"cli"},
}
# What core must not touch: I/O, clocks, chance, logging.
IMPURE = {
    "trio", "httpx", "anyio", "os", "io", "time", "random", "logging", "socket", "select", "pathlib",
    "threading", "subprocess", "asyncio", "secrets", "tempfile", "shutil", "signal", "sys",
}  # fmt: skip
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 50
FOLDER_ENTRIES_MAX = 28
BANNED = re.compile(r"\b(whoever|those who|is told|are told|so many|for so long)\b", re.IGNORECASE)

pytestmark = pytest.mark.quick


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def reached(room: str) -> set[str]:
    """The room itself and all that arrows from it reach."""
    found: set[str] = set()
    todo = [room]
    while todo:
        each = todo.pop()
        if each not in found:
            found.add(each)
            todo += MAY_IMPORT[each]
    return found


def imports_of(path: Path) -> set[str]:
    """Absolute names of what a file imports, relative imports resolved."""
    found: set[str] = set()
    package = ("wheeltimer", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path: Path) -> None:
    room = room_of(path)
    rooms = {
        name.split(".")[1]
        for name in imports_of(path)
        if name.startswith("wheeltimer.") and name.split(".")[1] in MAY_IMPORT
    }
    allowed = reached(room)
    assert rooms <= allowed, f"{path} knows {rooms - allowed}"


@pytest.mark.parametrize(
    "path",
    sorted(path for room in ("protocol", "core") for path in (PACKAGE / room).glob("*.py")),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_core_imports_nothing_impure(path: Path) -> None:
    touched = {name.split(".")[0] for name in imports_of(path)} & IMPURE
    assert not touched, f"{path.name} imports {touched}"


def test_core_alone_loads_no_runtime() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import msgspec\n"
        "import pkgutil, importlib, wheeltimer.core as core, wheeltimer.protocol as protocol\n"
        "for room in (core, protocol):\n"
        "    for found in pkgutil.iter_modules(room.__path__):\n"
        "        importlib.import_module(room.__name__ + '.' + found.name)\n"
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = set(loaded.stdout.split())
    assert "wheeltimer.core.engine" in names
    assert not names & {"trio", "httpx", "asyncio", "logging", "random", "socket", "selectors", "subprocess"}


def test_importing_the_package_is_cheap() -> None:
    script = "import sys, wheeltimer; print('trio' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES_MAX
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not tree.body, f"{path} does not say what lives there"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_the_top_level_is_what_the_plan_names() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tops = {name.split("/")[0] for name in listed.stdout.split("\n") if name and not name.startswith(".")}
    assert tops == {"pyproject.toml", "README.md", "wheeltimer", "tests", "benchmarks", "bench.sh"}


def test_no_file_is_in_a_circle_of_imports() -> None:
    """Imports under ``TYPE_CHECKING`` and inside functions count too."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    left = {
        name: {other for other in imports_of(path) if other in files and other != name}
        for name, path in files.items()
        if path.name != "__init__.py"
    }
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"one of these imports another that leads back: {sorted(left)}"


def test_file_names_are_unique_outside_of_the_command_line() -> None:
    names = [path.name for path in modules() if path.name not in ("__init__.py", "__main__.py", "ports.py")]
    # The command `wheeltimer journal` and the like are named after what they show.
    rooms = [path for path in modules() if room_of(path) != "cli"]
    twice = {name for name in names if [path.name for path in rooms].count(name) > 1}
    assert not twice, f"two files are called {sorted(twice)}"


def test_the_listing_of_a_folder_fits_one_screen() -> None:
    for folder in {path.parent for path in modules()}:
        entries = [path for path in folder.iterdir() if path.name != "__pycache__"]
        assert len(entries) <= FOLDER_ENTRIES_MAX, f"{folder} has {len(entries)} entries"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_comments_and_docstrings_are_in_plain_words(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    said = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            said.append(ast.get_docstring(node) or "")
    found = [match[0] for words in said for match in re.finditer(BANNED, " ".join(words.split()))]
    assert not found, f"{path}: {found}"
