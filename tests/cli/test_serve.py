"""``serve``: what it hands to the daemon, and how a start that fails ends."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.test_main import one_line
from tests.client.scripted import ScriptedServer
from wheeltimer import errors
from wheeltimer.cli import main, output
from wheeltimer.settings import Address, Settings


class Daemon:
    """Stands for ``daemon.run``: notes its settings, then returns or raises."""

    def __init__(self) -> None:
        self.settings: list[Settings] = []
        self.outcome: int | Exception = 0

    def main(
        self,
        settings: Settings,
        progress: Callable[[int, int], None] | None = None,
        reload: Callable[[], Settings] | None = None,
    ) -> int:
        self.settings.append(settings)
        assert progress is None  # no terminal, no bar
        assert reload is not None
        self.reload = reload
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon = Daemon()
    module = types.ModuleType("wheeltimer.daemon.run")
    module.main = daemon.main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wheeltimer.daemon.run", module)
    return daemon


def serve(*args: str, **environ: str) -> Result:
    clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("WHEELTIMER_")}
    return CliRunner().invoke(main, ["serve", *args], env=clean | environ)


def test_every_flag_reaches_the_settings(daemon: Daemon, tmp_path: Path) -> None:
    flags = (
        "--listen 127.0.0.1:1 --listen unix:/tmp/s --http 127.0.0.1:2 --tick 5ms --wheel-size 8192"
        " --allow-net 10.0.0.0/8 --allow-net fd00::/8 --fsync off --concurrency 7 --max-tasks 9 --insecure"
    )
    result = serve(*flags.split(), "--data-dir", str(tmp_path))
    assert (result.exit_code, result.stderr) == (0, "")
    (settings,) = daemon.settings
    assert settings.listen == (Address("tcp", "127.0.0.1", 1), Address("unix", path="/tmp/s"))
    assert settings.http == Address("tcp", "127.0.0.1", 2)
    assert (settings.tick_ms, settings.wheel_size) == (5, 8192)
    assert [str(net) for net in settings.allow_nets] == ["10.0.0.0/8", "fd00::/8"]
    assert (settings.fsync, settings.concurrency, settings.limits.tasks_max) == ("off", 7, 9)
    assert settings.insecure
    assert settings.data_dir == tmp_path


def test_a_reload_reads_the_file_anew_under_the_same_flags(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "wheeltimer.toml"
    file.write_text("tick = 5\nconcurrency = 5\n")
    serve("--config", str(file), "--tick", "7ms")
    file.write_text("tick = 6\nconcurrency = 6\n")
    settings = daemon.reload()
    assert (settings.tick_ms, settings.concurrency) == (7, 6)
    file.write_text("concurency = 6\n")
    with pytest.raises(errors.SettingsError, match=r"did you mean concurrency\?"):
        daemon.reload()


def test_without_flags_it_is_loopback_only_with_the_journal_on(daemon: Daemon) -> None:
    assert serve().exit_code == 0
    (settings,) = daemon.settings
    assert [str(address) for address in settings.listen] == ["127.0.0.1:8463"]
    assert settings.fsync == "group"


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.JournalDamaged("journal damaged at 00000001.seg:512"), 65),
        (errors.JournalNewer("written by a later version"), 65),
        (errors.ListenError("127.0.0.1:8463 is in use"), 71),
        (errors.JournalInUse("held by process 7"), 73),
        (errors.StorageFailed("fdatasync: no such device"), 74),
        (errors.SettingsError("tls.cert: cannot be read"), 78),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_start_that_fails_is_one_line_and_its_exit_code(
    daemon: Daemon, error: errors.WheeltimerError, exit_code: int
) -> None:
    daemon.outcome = error
    result = serve()
    assert result.exit_code == exit_code
    assert one_line(result) == f"wheeltimer: {error}\n"


@pytest.mark.parametrize("exit_code", [0, 74])
def test_the_daemons_own_exit_code_is_the_commands(daemon: Daemon, exit_code: int) -> None:
    daemon.outcome = exit_code
    assert serve().exit_code == exit_code


def test_a_bug_is_not_dressed_up_as_an_error_line(daemon: Daemon) -> None:
    daemon.outcome = AssertionError("a broken invariant")
    assert isinstance(serve().exception, AssertionError)


@pytest.mark.parametrize(
    ("args", "environ", "exit_code", "named"),
    [
        (("--tick", "0"), {}, 2, "--tick"),
        (("--wheel-size", "100"), {}, 2, "--wheel-size"),
        (("--fsync", "sometimes"), {}, 2, "--fsync"),
        (("--listen", "8463"), {}, 2, "--listen"),
        (("--frobnicate",), {}, 2, "--frobnicate"),
        (("--config", "/no/such/file"), {}, 78, "/no/such/file"),
        (("--listen", "0.0.0.0:1"), {}, 78, "--insecure"),
        ((), {"WHEELTIMER_TICK": "0"}, 78, "WHEELTIMER_TICK"),
        ((), {"WHEELTIMER_TIKC": "1ms"}, 78, "WHEELTIMER_TICK?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple | dict) else "",
)
def test_a_bad_setting_is_one_line_and_the_daemon_never_starts(
    daemon: Daemon, args: tuple[str, ...], environ: dict[str, str], exit_code: int, named: str
) -> None:
    result = serve(*args, **environ)
    assert result.exit_code == exit_code
    assert named in one_line(result)
    assert daemon.settings == []


def test_a_data_folder_that_cannot_be_made_exits_73() -> None:
    """It was 74 and a raw errno, as if a disk had failed."""
    command = [sys.executable, "-m", "wheeltimer", "serve", "--data-dir", "/proc/nope"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 73
    assert done.stderr == "wheeltimer: data folder /proc/nope cannot be made: No such file or directory\n"


def test_a_person_who_waits_for_the_recovery_sees_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with output.reading_bar() as progress:
        assert progress is not None
        for done in range(0, 1_000_001, 1000):
            progress(done, 1_000_000)
        before = capsys.readouterr()
        progress(1_000_000, 1_000_000)  # over: nothing more is drawn while the daemon runs
        progress(0, 0)
    after = capsys.readouterr()
    assert "reading the journal" in before.err
    assert "100%" in before.err
    assert (before.out, after.out) == ("", "")
    assert "reading" not in after.err


# --- --check, and where there is no daemon ---------------------------------------------------------


def test_check_reads_all_settings_and_starts_nothing(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "wheeltimer.toml"
    file.write_text("tick = '5ms'\n")
    result = serve("--config", str(file), "--data-dir", str(tmp_path / "data"), "--check")
    said = f"settings: no error; listen=127.0.0.1:8463 data={tmp_path}/data config={file}\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, said, "")
    assert daemon.settings == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tik = 5\n", "did you mean tick?"),
        ("listen = ['0.0.0.0:1']\n", "--insecure"),
        ("[queues.a]\nsecret_files = ['/no/such/file']\n", "/no/such/file"),
        ("[tls]\ncert = 'here'\nkey = 'here'\n", "tls.cert"),
    ],
    ids=["unknown", "open", "secret", "tls"],
)
def test_check_names_what_is_wrong_and_exits_78(
    daemon: Daemon, tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "here").touch()
    (tmp_path / "wheeltimer.toml").write_text(text)
    result = serve("--config", str(tmp_path / "wheeltimer.toml"), "--check")
    assert result.exit_code == 78
    assert named in one_line(result)


_ELSEWHERE = """
import sys, select, signal
# Before the platform is another: these ask the system itself for what it has.
import asyncio, click, httpx, platformdirs, http.server, ssl, subprocess, tempfile
sys.platform = {platform!r}
sys.argv = ["wheeltimer", *{args!r}]
if {bare!r}:  # a system without these: the standard library has a module for each only where it works
    for module in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[module] = None
    for name in ("poll", "epoll"):
        delattr(select, name)
    for name in ("SIGHUP", "SIGALRM", "setitimer"):
        delattr(signal, name)
from wheeltimer.cli import main
main()
"""


def elsewhere(platform: str, *args: str) -> subprocess.CompletedProcess[str]:
    """The command on another system, as far as Python shows it."""
    script = _ELSEWHERE.format(platform=platform, args=args, bare=platform == "win32")
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_serve_is_one_line_that_says_so(platform: str) -> None:
    done = elsewhere(platform, "serve")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        f"wheeltimer: serve: the daemon runs on Linux, and this is {platform}; clients run anywhere: name a"
        " daemon with --server\n"
    )


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_clients_run_anywhere(platform: str) -> None:
    with ScriptedServer([{"ok": True, "now": 7}]) as server:
        done = elsewhere(platform, "ping", "--json", "--server", server.address)
    assert (done.returncode, done.stderr) == (0, "")
