"""The command as a whole: exit codes, one line per error, help that answers at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner, Result

from tests.client.scripted import CLOSE, ScriptedServer
from tests.process.conftest import home
from tests.process.daemon import SMALL, Home
from wheeltimer import __version__
from wheeltimer.cli import main, output

__all__ = ["home"]  # a fixture of the process tests


def commands(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, as it is typed."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())
CLIENT_COMMANDS = {
    "schedule", "get", "list", "cancel", "reschedule", "finish", "redrive", "pause", "resume", "forecast",
    "stats", "tail", "top", "import", "bench", "ping",
}  # fmt: skip


def run(*args: str, server: ScriptedServer | None = None, stdin: str | None = None) -> Result:
    """The command in this process, without the caller's own configuration."""
    environ = {name: None for name in os.environ if name.startswith("WHEELTIMER_")}
    where = ("--server", server.address) if server else ()
    return CliRunner().invoke(main, [*args, *where], input=stdin, env=environ)


def one_line(result: Result) -> str:
    """The error: exactly one line, on standard error, and nothing on standard output."""
    assert result.stdout == ""
    assert result.stderr.startswith("wheeltimer: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"wheeltimer {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_in_its_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition("Example")
    assert f"wheeltimer {' '.join(command)}" in examples
    assert command[-1] in run(*command[:-1], "--help").stdout


def test_every_command_that_asks_a_daemon_takes_server_token_and_json() -> None:
    options = {
        name: {opt for parameter in command.params for opt in parameter.opts}
        for name, command in COMMANDS.items()
    }
    having = {name[0] for name, opts in options.items() if opts & {"--server", "--token", "--json"}}
    having -= {"journal", "token", "receive"}  # ask no daemon
    assert having >= CLIENT_COMMANDS
    assert all(options[name,] >= {"--server", "--token", "--json"} for name in having)


def test_every_option_is_explained() -> None:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    script = run("completion", shell)
    assert script.exit_code == 0
    assert "_WHEELTIMER_COMPLETE" in script.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("wheeltimer re", {"receive", "redrive", "reschedule", "resume"}),
        ("wheeltimer list --state d", {"done", "dead"}),
        ("wheeltimer tail --type task.d", {"task.done", "task.dead"}),
        ("wheeltimer protocol s", {"schema"}),
    ],
)
def test_the_shell_is_offered_what_fits(typed: str, wanted: set[str]) -> None:
    environ = os.environ | {
        "_WHEELTIMER_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")),
    }  # fmt: skip
    program = [sys.executable, "-c", "from wheeltimer.cli import main; main(prog_name='wheeltimer')"]
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == wanted


def test_a_real_bash_completes_with_the_script(tmp_path: Path) -> None:
    """Read by bash as from ~/.bashrc, with the program in the PATH; then as if Tab was pressed."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "wheeltimer"
    program.write_text(f"#!{sys.executable}\nfrom wheeltimer.cli import main\nmain(prog_name='wheeltimer')\n")
    program.chmod(0o755)
    script = (
        'eval "$(wheeltimer completion bash)"\n'
        "complete -p wheeltimer >&2\n"
        "COMP_WORDS=(wheeltimer journal c) COMP_CWORD=2\n"
        "$(complete -p wheeltimer | sed 's/.*-F \\([^ ]*\\).*/\\1/') wheeltimer c journal\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["check"], done.stderr


NO_JSON = {
    "serve": "runs until it is stopped; its one line and its log are for machines as they are",
    "demo": "is watched", "completion": "prints a script", "protocol schema": "prints JSON anyway",
    "journal dump": "prints JSON anyway",
}  # fmt: skip


def test_every_command_has_json_or_a_reason() -> None:
    without = {
        " ".join(name)
        for name, command in COMMANDS.items()
        if not isinstance(command, click.Group)
        and not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without <= set(NO_JSON), without - set(NO_JSON)


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("schedule", "--help"), ("serve", "--help")])
def test_help_does_not_wait_for_trio_or_httpx(args: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from wheeltimer.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'trio', 'httpx', 'rich', 'asyncio'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("nope",), "nope"),
        (("get",), "ID"),
        (("get", "a", "--frobnicate"), "--frobnicate"),
        (("cancel",), "--group"),
        (("cancel", "a", "--group", "g"), "--group"),
        (("schedule", "http://x/", "--in", "1s", "--at", "2030-01-31T08:00:00Z"), "--at"),
        (("reschedule", "a", "--in", "1s", "--at", "2030-01-31T08:00:00Z"), "--at"),
        (("schedule", "http://x/", "--body", "{not json"), "--body"),
        (("schedule", "http://x/", "--body", "@/no/such/file"), "/no/such/file"),
        (("schedule", "http://x/", "--meta", "nope"), "--meta"),
        (("schedule", "http://x/", "--retry", "{nope"), "--retry"),
        (("schedule", "http://x/", "--header", "no colon"), "no colon"),
        (("schedule", "http://x/", "--on-conflict", "shrug"), "--on-conflict"),
        (("schedule", "http://x/", "--method", "BREW"), "--method"),
        (("list", "--state", "asleep"), "--state"),
        (("list", "--limit", "many"), "--limit"),
        (("get", "a", "--server", "nonsense:port"), "nonsense:port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_usage_error_is_one_line_that_names_the_argument_and_exits_2(
    args: tuple[str, ...], named: str
) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert named in one_line(result)


def test_no_command_shows_the_help_and_exits_2() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_a_daemon_that_is_not_there_exits_69() -> None:
    result = run("get", "a", "--server", "unix:/no/such/socket")
    assert result.exit_code == 69
    line = one_line(result)
    assert "unix:/no/such/socket" in line
    assert "wheeltimer serve" in line


def test_a_connection_that_dies_exits_69_and_says_what_is_open() -> None:
    with ScriptedServer([CLOSE]) as server:
        result = run("cancel", "a", server=server)
    assert result.exit_code == 69
    assert "may or may not" in one_line(result)


REFUSAL = {"ok": False, "error": "not_found", "message": "queue default knows\nno such \x1b[2Jtask"}


def test_a_refusal_exits_1_with_code_and_message() -> None:
    with ScriptedServer([REFUSAL]) as server:
        result = run("get", "a", server=server)
    assert result.exit_code == 1
    assert one_line(result) == "wheeltimer: refused (not_found): queue default knows no such \\x1b[2Jtask\n"


def test_with_json_a_refusal_is_the_reply_on_standard_output_too() -> None:
    with ScriptedServer([REFUSAL]) as server:
        result = run("get", "a", "--json", server=server)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == REFUSAL
    assert result.stderr.startswith("wheeltimer: refused (not_found): ")


def test_server_and_token_come_from_the_environment_and_flags_beat_them() -> None:
    with ScriptedServer(lambda _request: {"ok": True, "tasks": []}) as server:
        environ = {"WHEELTIMER_SERVER": server.address, "WHEELTIMER_TOKEN": "from-environment"}
        assert CliRunner().invoke(main, ["list"], env=environ).exit_code == 0
        assert CliRunner().invoke(main, ["list", "--token", "flag"], env=environ).exit_code == 0
    hellos = [request["token"] for request in server.requests if request["op"] == "hello"]
    assert hellos == ["from-environment", "flag"]


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wheeltimer", "get", "a", "--server", "unix:/no/such/socket"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert done.stderr.startswith("wheeltimer: no daemon answers")


@pytest.mark.parametrize("tasks", [1, 5000], ids=["one buffer", "many"])
def test_a_closed_pipe_ends_quietly(tasks: int) -> None:
    """``wheeltimer list | head -0``: no traceback, no complaint at the interpreter's exit."""
    task = {"id": "a" * 200, "queue": "q", "state": "dead", "attempts": 0, "url": "http://x/", "ended": 1}
    with ScriptedServer([{"ok": True, "tasks": [task] * tasks}]) as server:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "wheeltimer", "list", "--server", server.address]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_json_is_the_reply_as_it_came_on_one_line() -> None:
    reply = {"ok": True, "tasks": [{"id": "ä", "queue": "q", "big": 12345678901234567890}], "cursor": "c"}
    with ScriptedServer([reply]) as server:
        result = run("list", "--json", server=server)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert result.stdout == json.dumps(reply) + "\n"


def test_who_is_not_let_in_is_told_which_option_it_takes() -> None:
    with ScriptedServer([REFUSAL | {"error": "unauthorized", "message": "show a token"}]) as server:
        result = run("get", "a", server=server)
    assert result.exit_code == 1
    assert "refused (unauthorized): show a token; that is --token, or WHEELTIMER_TOKEN" in one_line(result)


def test_a_certificate_that_is_not_trusted_is_no_daemon_that_is_missing(home: Home, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    tls = f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
    daemon = home.start(config=SMALL + tls, listen=("tls:127.0.0.1:0", "127.0.0.1:0"))
    secret, plain = (address.rpartition(":")[2] for address in daemon.listen)
    for server, said in (
        (f"tls:localhost:{secret}", "--ca-file or WHEELTIMER_CA_FILE"),
        (f"tls:localhost:{secret}", "tls=ssl.create_default_context(cafile="),
        (f"tls:localhost:{plain}", "leave out tls:"),
        (f"127.0.0.1:{secret}", "tls:HOST:PORT"),
    ):
        result = run("stats", "--server", server)
        assert result.exit_code == 69
        assert said in one_line(result)
        assert "wheeltimer serve" not in result.stderr
    wrong = run("stats", "--server", f"tls:localhost:{secret}", "--ca-file", "/no/such")
    assert (wrong.exit_code, "--ca-file: /no/such" in one_line(wrong)) == (2, True)


def test_a_web_server_is_told_from_a_daemon() -> None:
    with ScriptedServer([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as server:
        result = run("schedule", "http://x/", server=server)
    assert result.exit_code == 69
    line = one_line(result)
    assert f"what answers at {server.address} does not speak wheeltimer's protocol" in line
    assert "400 Bad Request" in line
    assert "may or may not" not in line


@pytest.mark.parametrize("option", ["--in", "--timeout", "--connect-timeout", "--expires-in"])
@pytest.mark.parametrize("text", ["5", "0", "-5", "1.5", "30000"])
def test_a_duration_without_a_unit_is_refused(option: str, text: str) -> None:
    """``--in 5`` was 5 ms, and nobody meant that."""
    for command in (("schedule", "http://x/"), ("reschedule", "a")):
        result = run(*command, f"{option}={text}")
        assert result.exit_code == 2
        assert f"{option}: '{text}' has no unit; write {text}s, {text}m or {text}ms" in one_line(result)


@pytest.mark.parametrize("option", ["--at", "--expires-at"])
@pytest.mark.parametrize("text", ["2030", "1800000000", "-1", "99999999999", "1800000000000.5"])
def test_a_number_that_is_no_unix_milliseconds_is_refused(option: str, text: str) -> None:
    result = run("schedule", "http://x/", f"{option}={text}")
    assert result.exit_code == 2
    assert f"{option}: '{text}' is no time in Unix milliseconds" in one_line(result)


def test_a_time_in_seconds_shows_the_milliseconds() -> None:
    for text in ("1796002145", "1796002145.5"):
        line = one_line(run("schedule", "http://x/", "--at", text))
        assert 'seconds were probably meant; give 1796002145000, or "2026-11-30T' in line


def test_on_a_machine_whose_clock_is_not_set_any_time_is_the_daemons_to_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "now_ms", lambda: 10**11 - 1)
    with ScriptedServer([{"ok": True, "version": 2, "due": 5}]) as server:
        assert run("reschedule", "a", "--at", "5", server=server).exit_code == 0
    assert server.requests[0]["at"] == 5


def test_help_shows_no_default_that_would_not_be_used() -> None:
    """``reschedule`` leaves alone what is not named, and ``list`` without ``--queue`` lists all."""
    schedule, reschedule = run("schedule", "--help").stdout, run("reschedule", "--help").stdout
    assert schedule.count("[default: ") == reschedule.count("[default: ") + 3
    assert "[default: 15s]" in schedule
    assert "[default: 15s]" not in reschedule
    assert "[default: all]" in run("list", "--help").stdout
    assert "[default: default]" not in run("list", "--help").stdout


def test_help_offers_nothing_that_is_not_served() -> None:
    text = run("serve", "--help").stdout
    assert "--http" not in text
