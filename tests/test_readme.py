"""Every command that the pages show is run: README.md, wheeltimer/docs/*.md and the clients.

A test says with ``@plays`` which commands of a page it runs; ``ELSEWHERE`` names those that another test
runs, ``NOT_RUN`` those that cannot run here, with the reason and what is checked instead. A command in none
of the three fails ``test_every_command_is_run_by_somebody``. What the README says beside its commands is
checked at the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tests.cli.shell import Shell
from tests.cli.test_main import COMMANDS
from tests.pages import PAGES, RECIPES, ROOT, blocks, commands
from tests.process.conftest import home
from tests.process.daemon import START_S, Connection, Home, until
from tests.process.tools import need
from tests.test_protocol_document import SESSION, masked
from wheeltimer import errors
from wheeltimer.protocol import requests as ops

README: Final = PAGES["README.md"]
CI: Final = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
pytestmark = pytest.mark.quick
__all__ = ["home"]  # a fixture of the process tests

F = TypeVar("F", bound=Callable[..., None])
PLAYED: Final[set[tuple[str, str]]] = set()

INSTALL: Final = "python3 -m venv .venv && .venv/bin/pip install -q . && "
SERVE: Final = f"{INSTALL}.venv/bin/wheeltimer serve"
TESTS: Final = "python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/pytest"

BACKUP: Final = (
    "test_a_copy_of_a_running_daemons_folder_by_the_pages_own_command_has_all_that_was_acknowledged"
)
ELSEWHERE: Final = {  # (page, command or what it begins with): (file, what stands in it)
    ("operations.md", "until rm -rf /backup"): ("tests/test_operations_document.py", BACKUP),
    ("operations.md", "folder=$(realpath"): ("tests/test_operations_document.py", BACKUP),
    ("operations.md", 'mv "$folder"'): ("tests/test_operations_document.py", BACKUP),
    ("operations.md", "cp -a /backup/wheeltimer"): ("tests/test_operations_document.py", BACKUP),
    ("protocol.md", "nc 127.0.0.1 8463"): ("tests/test_protocol_document.py", "EXAMPLES"),
    ("client.mjs", "node client.mjs HOST PORT COUNT"): ("tests/process/test_clients.py", "client.mjs"),
    ("CHANGELOG.md", "wheeltimer receive"): ("tests/cli/test_receive.py", '"receive"'),
    ("CHANGELOG.md", "wheeltimer ping"): ("tests/test_readme.py", '"wheeltimer ping"'),
    ("CHANGELOG.md", "wheeltimer serve --check"): ("tests/test_readme.py", '"wheeltimer serve --check"'),
    ("Client.java", "java Client.java HOST PORT COUNT"): ("tests/process/test_clients.py", "Client.java"),
}
NOT_RUN: Final = {  # (page, command): why, and what is checked instead
    ("README.md", TESTS): "is what runs this: it stands in .ci/run, on a fresh clone, as below",
    ("README.md", ".venv/bin/pytest -q -m quick"): "is a part of that one; .ci/run calls it, as below",
    ("README.md", "python -m benchmarks pairs --against DIR"): "takes minutes; test_benchmarks.py runs it",
    ("README.md", "./bench.sh"): "takes hours; tests/test_benchmarks.py runs its parts in small",
    ("operations.md", "./bench.sh"): "the same",
    ("operations.md", "python -m benchmarks memory"): "takes minutes; that it exists is checked below",
    ("operations.md", "python -m benchmarks idle_clients"): "the same",
    ("operations.md", "python -m benchmarks endurance"): "the same",
    ("operations.md", "python -m benchmarks delivery"): "the same",
    ("operations.md", "python3 -m venv /opt/wheeltimer"): "writes to the system; README's install, elsewhere",
    ("operations.md", "/opt/wheeltimer/bin/pip install ."): "the same",
    ("operations.md", "touch /etc/wheeltimer.toml"): "the same",
    ("operations.md", "/opt/wheeltimer/bin/pip install --upgrade ."): "the same",
    ("operations.md", "systemctl enable --now wheeltimer"):
        "no systemd in a test; systemd-analyze looks at the unit in tests/test_operations_document.py",
    ("operations.md", "systemctl reload wheeltimer"): "the same; it is SIGHUP: tests/process/test_reload.py",
    ("operations.md", "chronyc waitsync"): "would wait for the clock of this machine to be set",
}  # fmt: skip


def plays(page: str, *lines: str) -> Callable[[F], F]:
    """Mark a test as the one that runs these commands of a page."""

    def mark(test: F) -> F:
        PLAYED.update((page, line) for line in lines)
        return test

    return mark


# --- nobody is left out ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_somebody(page: str) -> None:
    told = {command for where, command in PLAYED | set(NOT_RUN) if where == page}
    begun = tuple(command for where, command in ELSEWHERE if where == page)
    shown = commands(page)
    assert [line for line in shown if line not in told and not line.startswith(begun)] == []
    assert told <= set(shown), "a command that is told here is not on the page any more"
    assert all(any(line.startswith(one) for line in shown) for one in begun)


def test_what_is_run_elsewhere_is_there() -> None:
    for file, text in ELSEWHERE.values():
        assert text in (ROOT / file).read_text(encoding="utf-8"), (file, text)


def test_every_recipe_has_a_test_of_its_own() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "recipes").glob("*.py"))
    assert [path.name for path in RECIPES if path.name not in tests and path.stem not in tests] == []


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    assert TESTS in CI
    assert '"$venv/bin/pytest" -q -m quick' in CI
    assert INSTALL.removesuffix(" && ") == TESTS.replace("'.[test]'", ".").rpartition(" && ")[0]


def test_the_benchmarks_that_it_names_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`python -m benchmarks (\w+)`", PAGES[page]):
            assert (ROOT / "benchmarks" / f"{name}.py").exists(), name
    assert os.access(ROOT / "bench.sh", os.X_OK)
    subprocess.run([need("bash"), "-n", "bench.sh"], cwd=ROOT, check=True)


# --- the README, from its first line to its last ---------------------------------------------------


class Reader:
    """Somebody who types what the page says, in an empty home, with a daemon that the page started."""

    def __init__(self, folder: Path) -> None:
        self.shell = Shell(folder)
        self.folder = folder
        self.data = folder / ".local" / "state" / "wheeltimer"
        self.daemons: list[subprocess.Popen[str]] = []
        self.variables: dict[str, str] = {}

    def serve(self, line: str, **variables: str) -> str:
        """A daemon as the page starts it, and its first line."""
        child = self.shell.type(line, **variables)
        self.daemons.append(child)
        assert child.stdout is not None
        ready = child.stdout.readline()
        assert " ready listen=" in ready, child.stderr and child.stderr.read()
        return ready

    def stop(self) -> None:
        for child in self.daemons:
            os.killpg(child.pid, signal.SIGTERM)
            child.communicate(timeout=START_S)
        self.daemons.clear()

    def run(self, line: str) -> str:
        """What a command prints; it must not fail, and say nothing on standard error."""
        done = self.shell.run(line, **self.variables)
        assert (done.returncode, done.stderr) == (0, ""), (line, done)
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The README's first command was typed, but for the installation, and its daemon runs."""
    reader = Reader(tmp_path_factory.mktemp("readme"))
    ready = reader.serve(SERVE.removeprefix(INSTALL), WHEELTIMER_LISTEN="127.0.0.1:0")
    reader.variables["WHEELTIMER_SERVER"] = re.findall(r"listen=(\S+)", ready)[0]
    reader.ready = ready  # type: ignore[attr-defined]
    yield reader
    reader.stop()


@plays("README.md", SERVE)
def test_it_is_ready_when_it_prints_the_line_that_is_shown(reader: Any) -> None:
    (shown,) = [block for block in blocks("README.md", "text") if " ready " in block]
    port = reader.variables["WHEELTIMER_SERVER"].rpartition(":")[2]

    def plain(line: str) -> str:
        return re.sub(r"recovered_ms=\d+", "recovered_ms=N", line)

    here = reader.ready.replace(f":{port} ", ":8463 ").replace(str(reader.folder), "/home/you")
    assert plain(here) == plain(shown)


RECEIVE = ".venv/bin/wheeltimer receive --port 9000"
FIRST = '.venv/bin/wheeltimer schedule http://127.0.0.1:9000/hook --in 5s --body \'{"hello": "world"}\''


@plays("README.md", RECEIVE, FIRST)
def test_the_first_schedule_has_a_receiver_and_its_callback_is_seen(reader: Reader) -> None:
    child = reader.shell.type(RECEIVE.replace("9000", "0"))
    try:
        assert child.stdout is not None
        url = re.findall(r"http://\S+\d", child.stdout.readline())[0]
        assert reader.run(FIRST.replace("http://127.0.0.1:9000", url).replace("5s", "1ms"))
        line = child.stdout.readline()
    finally:
        os.killpg(child.pid, signal.SIGINT)
        child.communicate(timeout=START_S)
    assert "POST  /hook  id=" in line
    assert "attempt=1" in line
    assert line.endswith('{"hello": "world"}\n')


ORDER = (
    ".venv/bin/wheeltimer schedule http://127.0.0.1:9000/hook --in 30m --id order-42"
    " --body '{\"order\": 42}'",
    ".venv/bin/wheeltimer get order-42",
    ".venv/bin/wheeltimer reschedule order-42 --in 2h",
    ".venv/bin/wheeltimer cancel order-42",
)


@plays("README.md", *ORDER)
def test_a_task_is_scheduled_looked_at_and_taken_back(reader: Reader) -> None:
    said = [reader.run(line) for line in ORDER]
    for text, words in zip(
        said, ("scheduled: order-42", 'body      {"order": 42}', "rescheduled: order-42", "cancelled: 1"),
        strict=True,
    ):  # fmt: skip
        assert words in text


@plays("README.md", ".venv/bin/wheeltimer demo")
def test_ten_callbacks_arrive(reader: Reader) -> None:
    assert "10 of 10 arrived, none early, none twice" in reader.run(".venv/bin/wheeltimer demo")


@plays("README.md", "nc 127.0.0.1 8463")
def test_the_session_by_hand_is_played_with_nc(reader: Reader) -> None:
    """Typed line by line, as a person does; the journal is another, so only instants may differ."""
    host, _, port = reader.variables["WHEELTIMER_SERVER"].rpartition(":")
    assert len(SESSION) >= 10
    with subprocess.Popen(
        [need("nc"), host, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nc:
        assert nc.stdin is not None
        assert nc.stdout is not None
        try:
            for request, shown in zip(SESSION[::2], SESSION[1::2], strict=True):
                nc.stdin.write(f"{request}\n")
                nc.stdin.flush()
                op = json.loads(request)["op"]
                assert masked(nc.stdout.readline().rstrip("\n"), op) == masked(shown, op)
        finally:
            nc.kill()


@plays("README.md", "wheeltimer import FILE.ndjson", "wheeltimer bench", "wheeltimer protocol schema",
       "wheeltimer serve --help", "wheeltimer serve --check", "wheeltimer ping",
       'eval "$(wheeltimer completion bash)"')  # fmt: skip
def test_the_commands_that_it_names_run(reader: Reader) -> None:
    (reader.folder / "FILE.ndjson").write_text('{"id":"one","url":"http://127.0.0.1:9000/","delay":"1h"}\n')
    assert reader.run("wheeltimer import FILE.ndjson") == "scheduled: 1\n"
    assert "lateness" in reader.run("wheeltimer bench --tasks 50 --round-trips 5 --callbacks 5")
    assert "$defs" in json.loads(reader.run("wheeltimer protocol schema"))
    assert "--listen" in reader.run("wheeltimer serve --help")
    assert "no error" in reader.run("wheeltimer serve --check")
    assert "answers after" in reader.run("wheeltimer ping")
    completed = reader.run('eval "$(wheeltimer completion bash)"; complete -p wheeltimer')
    assert "wheeltimer" in completed


@plays("README.md", ". .venv/bin/activate")
def test_a_virtual_environment_that_is_activated_puts_the_command_in_the_path(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    done = shell.run(". .venv/bin/activate; command -v wheeltimer")
    assert (done.stdout.strip(), done.stderr) == (str(tmp_path / ".venv" / "bin" / "wheeltimer"), "")


@plays("README.md", "wheeltimer tail")
def test_tail_shows_what_happens(reader: Reader) -> None:
    child = reader.shell.type("wheeltimer tail", **reader.variables)
    task = {"id": "seen", "delay": "1h", "url": "http://127.0.0.1:9000/", "on_conflict": "replace"}
    with Connection(reader.variables["WHEELTIMER_SERVER"]) as client:
        line = reader.shell.first_line(child, lambda: client.done("schedule", **task))
    assert "default/seen  v" in line
    os.killpg(child.pid, signal.SIGINT)
    assert "go on with: --from" in child.communicate(timeout=START_S)[1]


@plays("README.md", "wheeltimer top")
def test_top_draws_a_screen(reader: Reader) -> None:
    """On a terminal, which ``script`` makes; what it draws and how it ends is in cli/test_top.py."""
    shown = reader.run(f"{need('script')} -qec 'wheeltimer top --count 1' /dev/null")
    assert "lateness" in shown
    assert "default" in shown


JOURNAL = tuple(
    f".venv/bin/wheeltimer journal {words}"
    for words in (
        "dump ~/.local/state/wheeltimer --id order-42", "check ~/.local/state/wheeltimer",
        "repair ~/.local/state/wheeltimer",
    )
)  # fmt: skip


@plays("README.md", *JOURNAL)
def test_why_did_it_fire_and_is_the_disk_what_it_was(reader: Reader) -> None:
    dump, check, repair = JOURNAL
    kinds = [json.loads(line)["kind"] for line in reader.run(dump).splitlines()]
    assert {"scheduled", "rescheduled", "ended"} <= set(kinds)
    assert "sound" in reader.run(check)
    held = reader.shell.run(repair)
    assert (held.returncode, held.stderr.count("\n")) == (73, 1), "only the first two run beside a daemon"


def test_the_python_that_it_shows_runs(home: Home) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    daemon = home.start()
    program = code.replace("127.0.0.1:8463", daemon.listen[0])
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with daemon.connect() as connection:
        assert connection.done("stats")["tasks"]["cancelled"] == 1


# --- letting others in -----------------------------------------------------------------------------

TOKEN, OPENSSL, OPEN, EXPORT, BILL, STATS = (
    line
    for block in (re.findall(r"```sh\n(.*?)```", README.split("## Letting others in")[1], re.DOTALL))[:2]
    for line in block.strip().splitlines()
)


@plays("README.md", TOKEN, OPENSSL, OPEN, EXPORT, BILL, STATS)
def test_others_are_let_in_by_token_over_tls(tmp_path: Path) -> None:
    need("openssl")
    reader = Reader(tmp_path)
    made = reader.run(TOKEN)
    token, table = made.splitlines()[0], made[made.index("[[tokens]]") :]
    assert reader.shell.run(OPENSSL).returncode == 0
    (file,) = blocks("README.md", "toml")
    shown = file[file.index("[[tokens]]") :]
    assert re.sub(r'"[0-9a-f]{64}"', "HASH", table) == re.sub(r'"[0-9a-f]{64}"', "HASH", shown)
    file = file.replace(shown, table).replace(":8463", ":0").replace(":8464", ":0")
    (tmp_path / "wheeltimer.toml").write_text(file)
    try:
        plain, tls = re.findall(r"listen=(\S+)", reader.serve(OPEN))[0].split(",")
        there = EXPORT.replace(":8464", f":{tls.rpartition(':')[2]}").replace("DNHIWqOf...", token)
        assert "scheduled: " in reader.run(
            f"{there}; {BILL.replace('https://example.org', 'https://1.1.1.1')}"
        )
        assert re.search(r"billing-eu +1$", reader.run(f"{there}; {STATS}"), re.MULTILINE)
        foreign = reader.shell.run(f"{there}; {BILL.replace('billing-eu', 'orders')}")
        assert (foreign.returncode, "refused (forbidden)" in foreign.stderr) == (1, True)
        nobody = reader.shell.run(f".venv/bin/wheeltimer stats --server {plain}")
        assert (nobody.returncode, "refused (unauthorized)" in nobody.stderr) == (1, True)
        private = reader.shell.run(
            f"{there}; .venv/bin/wheeltimer schedule http://192.168.0.1/ --queue billing-eu"
        )
        assert "allow_nets" in private.stderr, "public addresses only, and those that are named"
    finally:
        reader.stop()


@plays("protocol.md", "wheeltimer token new", "wheeltimer protocol schema")
def test_what_a_daemon_with_tokens_answers_is_what_the_page_shows(home: Home, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert "$defs" in json.loads(shell.run("wheeltimer protocol schema").stdout)
    made = shell.run("wheeltimer token new").stdout
    table = made[made.index("[[tokens]]") :].replace('"client"', '"billing"')
    daemon = home.start(config=f"[journal]\nsegment_bytes = 1048576\n{table}")
    (block,) = [text for text in blocks("protocol.md", "text") if "unauthorized" in text]
    lines = block.splitlines()
    with daemon.connect() as client:
        for request, shown in zip(lines[::2], lines[1::2], strict=True):
            client.send_bytes(f"{request}\n".replace('"..."', f'"{made.splitlines()[0]}"').encode())
            answer, op = client.line(), json.loads(request)["op"]
            assert answer is not None
            assert masked(answer.decode(), op) == masked(shown, op)


# --- operations.md, journal-format.md --------------------------------------------------------------

UPGRADE = (
    "systemctl stop wheeltimer", "cp -a /var/lib/wheeltimer/ /backup/wheeltimer",
    "/opt/wheeltimer/bin/pip install --upgrade .",
    "/opt/wheeltimer/bin/wheeltimer journal check /var/lib/wheeltimer",
    "systemctl start wheeltimer",
)  # fmt: skip


@plays("operations.md", *(line for line in UPGRADE if "pip" not in line))
def test_an_upgrade_as_the_page_has_it_keeps_every_task(home: Home, tmp_path: Path) -> None:
    """With a ``systemctl`` of the test's own: it stops and starts the daemon, which is all that is asked."""
    assert "\n".join(UPGRADE) in PAGES["operations.md"]
    shell = Shell(tmp_path)
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="kept", delay="1h", url="http://127.0.0.1:9/")
    (tmp_path / "backup").mkdir()
    for line in UPGRADE:
        if line == "systemctl stop wheeltimer":
            daemon.stop()
        elif line == "systemctl start wheeltimer":
            daemon = home.start()
        elif "pip" not in line:
            here = (
                line.removeprefix("/opt/wheeltimer/bin/")
                .replace("/var/lib/wheeltimer", str(home.data))
                .replace("/backup", f"{tmp_path}/backup")
            )
            done = shell.run(here)
            assert (done.returncode, done.stderr) == (0, ""), done
    assert daemon.tasks == 1


@plays("operations.md", "wheeltimer stats --json", "wheeltimer list --state dead", "wheeltimer serve --help")
def test_what_an_operator_asks_is_answered(home: Home, tmp_path: Path) -> None:
    daemon, shell = home.start(), Shell(tmp_path)
    with daemon.connect() as client:
        client.done("schedule", id="fails", retry="none", url="http://127.0.0.1:9/")
        for _ in until():
            if client.done("get", id="fails")["task"]["state"] == "dead":
                break
    there = {"WHEELTIMER_SERVER": daemon.listen[0]}
    assert json.loads(shell.run("wheeltimer stats --json", **there).stdout)["tasks"]["dead"] == 1
    assert "fails" in shell.run("wheeltimer list --state dead", **there).stdout
    assert "--data-dir" in shell.run("wheeltimer serve --help").stdout


TOOLS = tuple(f"wheeltimer journal {name} DIR" for name in ("check", "dump", "repair"))


@plays("journal-format.md", *TOOLS)
@plays("operations.md", TOOLS[-1])
def test_the_journal_tools_look_at_a_folder(home: Home, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="kept", delay="1h", url="http://127.0.0.1:9/")
    daemon.stop()
    check, dump, repair = (shell.run(line.replace("DIR", str(home.data))) for line in TOOLS)
    assert (check.returncode, dump.returncode, repair.returncode) == (0, 0, 0)
    assert "sound" in check.stdout
    assert json.loads(dump.stdout.splitlines()[0])["id"] == "kept"
    assert repair.stdout == "the journal is not damaged; nothing was changed\n"


# --- what the README says beside its commands ------------------------------------------------------


def test_both_install_commands_stand_on_one_line_each() -> None:
    install = [block.strip() for block in blocks("README.md", "sh") if "python3 -m venv" in block]
    assert install == [SERVE, TESTS]


def test_every_op_is_in_the_table() -> None:
    known = {struct.__struct_config__.tag for struct in ops.AnyCommand.__args__}
    table = README.split("| op | what it does |")[1].split("\n\n")[0]
    rows = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z]+)`", rows)) == known


def test_every_command_is_named() -> None:
    """Those of an op stand in the table of ops, the others as they are typed."""
    known = {struct.__struct_config__.tag for struct in ops.AnyCommand.__args__}
    for words in map(" ".join, COMMANDS):
        typed = re.search(rf"wheeltimer {words}\b", README)
        assert typed or words in known, words


def test_every_exit_code_is_named() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and hasattr(error, "exit_code")
    }
    listed = {int(code) for code in re.findall(r"\b(\d+)\b", README.split("Exit codes:")[1].split("\n\n")[0])}
    assert codes - {1, 69} <= listed, "1 and 69 are the client commands' own"


def test_files_and_sections_that_it_names_exist() -> None:
    for path, _, title in re.findall(r"\]\(([^)#:]*)(#([^)]+))?\)", README):
        assert not path or (ROOT / path).exists(), path
        text = (ROOT / path).read_text(encoding="utf-8") if path and title else README
        titles = {
            re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-")
            for one in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert not title or title in titles, (path, title)


def test_it_is_read_in_five_minutes() -> None:
    """At 250 words a minute; blocks are typed, not read."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    assert sum(any(map(str.isalnum, word)) for word in prose.split()) <= 5 * 250
