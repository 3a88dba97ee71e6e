"""The plan, held against the code: which room may know which, what core may touch, how long a file is."""

from __future__ import annotations

import ast
import subprocess
import sys
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
