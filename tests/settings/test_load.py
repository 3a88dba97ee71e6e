"""Layers and names: who wins, and errors that name the setting and who gave it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.settings.files import TOKEN, load_toml, refused
from wheeltimer.errors import SettingsError
from wheeltimer.settings import (
    FLAGS,
    Journal,
    Limits,
    Tls,
    knobs,
    load,
)


def _layers(tmp_path: Path) -> Iterator[tuple[dict[str, object], dict[str, str], int]]:
    """Ever more layers that speak, and who wins."""
    file = tmp_path / "wheeltimer.toml"
    file.write_text('tick = "2ms"\n[limits]\ntasks_max = 2\n')
    yield {}, {}, 0
    yield {"config": str(file)}, {}, 2
    yield {"config": str(file)}, {"WHEELTIMER_TICK": "3ms", "WHEELTIMER_MAX_TASKS": "3"}, 3
    environ = {"WHEELTIMER_TICK": "3ms", "WHEELTIMER_LIMITS_TASKS_MAX": "3"}
    yield {"config": str(file), "tick": "4ms", "max_tasks": "4"}, environ, 4


def test_flags_beat_variables_beat_the_file_beat_the_defaults(tmp_path: Path) -> None:
    for flags, environ, winner in _layers(tmp_path):
        settings = load(flags, environ)
        expected = (winner, winner) if winner else (10, 10_000_000)
        assert (settings.tick_ms, settings.limits.tasks_max) == expected


def test_a_lower_layer_that_loses_is_still_looked_at_for_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tickk in .*did you mean tick"):
        load_toml(tmp_path, 'tickk = "2ms"\n', tick="1ms")


def test_every_flag_can_be_a_variable(tmp_path: Path) -> None:
    values = {
        "LISTEN": "127.0.0.1:1, unix:/s", "HTTP": "127.0.0.1:2", "DATA_DIR": str(tmp_path), "TICK": "7",
        "WHEEL_SIZE": "64", "ALLOW_NET": "10.0.0.0/8,fd00::/8", "FSYNC": "off", "CONCURRENCY": "5",
        "MAX_TASKS": "6", "INSECURE": "true",
    }  # fmt: skip
    assert {name.lower() for name in values} == set(FLAGS)
    settings = load({}, {f"WHEELTIMER_{name}": value for name, value in values.items()})
    assert [str(address) for address in settings.listen] == ["127.0.0.1:1", "unix:/s"]
    assert (settings.tick_ms, settings.wheel_size, settings.concurrency) == (7, 64, 5)
    assert (settings.fsync, settings.limits.tasks_max, settings.insecure) == ("off", 6, True)
    assert [str(net) for net in settings.allow_nets] == ["10.0.0.0/8", "fd00::/8"]


def test_what_no_flag_sets_can_be_a_variable_too() -> None:
    assert load({}, {"WHEELTIMER_UNIX_MODE": "0660"}).unix_mode == "0660"


def test_every_limit_can_be_a_variable() -> None:
    for table, struct in (("limits", Limits), ("journal", Journal)):
        for knob in knobs(struct):
            name = f"WHEELTIMER_{table}_{knob.key}".upper()
            settings = load({}, {name: str(knob.default)})
            assert getattr(getattr(settings, table), knob.attribute) == knob.default


def test_two_variables_for_one_setting_are_refused() -> None:
    environ = {"WHEELTIMER_MAX_TASKS": "1", "WHEELTIMER_LIMITS_TASKS_MAX": "2"}
    with pytest.raises(
        SettingsError, match=r"WHEELTIMER_LIMITS_TASKS_MAX: WHEELTIMER_MAX_TASKS sets the same"
    ):
        load({}, environ)


def test_an_empty_variable_is_not_given() -> None:
    assert load({}, {"WHEELTIMER_TICK": ""}).tick_ms == 10


def test_the_clients_and_kubernetes_variables_are_left_alone() -> None:
    """A pod beside a service called "wheeltimer" gets these, and must start."""
    names = (
        "SERVER", "TOKEN", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_TCP", "PORT", "PORT_8463_TCP",
        "PORT_8463_TCP_ADDR", "PORT_8463_TCP_PORT", "PORT_8463_TCP_PROTO",
    )  # fmt: skip
    assert load({}, {f"WHEELTIMER_{name}": "tcp://10.0.0.1:8463" for name in names}).tick_ms == 10


def test_the_data_folder_is_the_services_else_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load({}, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}).data_dir == Path("/var/lib/a")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load({}, {}).data_dir == tmp_path / "wheeltimer"
    assert load({"data_dir": "here"}, {"STATE_DIRECTORY": "/x"}).data_dir == Path.cwd() / "here"
    assert load({"data_dir": "~/there"}, {}).data_dir == Path.home() / "there"


@pytest.mark.parametrize(
    ("text", "named", "meant"),
    [
        ("tikc = 1", "tikc", "tick"),
        ("allow_net = []", "allow_net", "allow_nets"),
        ("tasks_max = 1", "tasks_max", "limits.tasks_max"),
        ("segment_bytes = 1", "segment_bytes", "journal.segment_bytes"),
        ("[limits]\nlines_bytes_max = 1", "limits.lines_bytes_max", "limits.line_bytes_max"),
        ("[limit]\ntasks_max = 1", "limit", "limits"),
        ("[queue.orders]\n", "queue", "queues"),
        ("[journal]\nsegment = 1", "journal.segment", "journal.segment_bytes"),
        ("[queues.orders]\nretries = 'none'", "queues.orders.retries", "retry"),
        ('[destinations."https://a"]\nwindow = 1', 'destinations."https://a".window', "window_max"),
        ("[tls]\ncertificate = 'a'", "tls.certificate", None),
        (TOKEN + "scope = []", "tokens[1].scope", "scopes"),
        ("[retry.x]\nkind = 'fixed'\nevery = 1\nattempts = 1\nevry = 1", "retry.x", None),
    ],
)
def test_an_unknown_key_is_refused_by_its_full_name(
    tmp_path: Path, text: str, named: str, meant: str | None
) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"{named} in {tmp_path}/wheeltimer.toml: ")
    if meant is not None:
        assert message.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["MAX", "TOKENS", "HOST", "LOG_LEVEL", "PORT_X"])
def test_a_guess_that_is_no_more_than_one_is_not_made(name: str) -> None:
    """``WHEELTIMER_MAX`` was answered with the first of a dozen limits."""
    with pytest.raises(SettingsError, match=rf"^WHEELTIMER_{name}: no such setting$"):
        load({}, {f"WHEELTIMER_{name}": "1"})


def test_an_unknown_variable_is_refused_by_its_full_name() -> None:
    with pytest.raises(
        SettingsError, match=r"^WHEELTIMER_TIKC: .* did you mean WHEELTIMER_TICK\?$"
    ) as caught:
        load({}, {"WHEELTIMER_TIKC": "1ms"})
    assert caught.value.exit_code == 78
    with pytest.raises(SettingsError, match=r"did you mean WHEELTIMER_LIMITS_HISTORY_MAX\?$"):
        load({}, {"WHEELTIMER_HISTORY_MAX": "1"})


@pytest.mark.parametrize(
    ("flags", "environ", "exit_code", "named"),
    [
        ({"tick": "0"}, {}, 2, "--tick: "),
        ({"max_tasks": "0"}, {}, 2, "--max-tasks: "),
        ({"wheel_size": "abc"}, {}, 2, "--wheel-size: "),
        ({"fsync": "maybe"}, {}, 2, "^--fsync: 'maybe': give group or off$"),
        ({"concurrency": "many"}, {}, 2, "^--concurrency: 'many': give 1 to 100000$"),
        ({"listen": ("127.0.0.1",)}, {}, 2, "--listen: "),
        ({"listen": ("127.0.0.1:1", "127.0.0.1:1")}, {}, 2, "--listen: .*twice"),
        ({"allow_net": ("10.0.0.1/8",)}, {}, 2, "--allow-net: .*host bits"),
        ({"allow_net": ("ten",)}, {}, 2, "--allow-net: .*10.20.0.0/16"),
        ({"data_dir": ""}, {}, 2, "--data-dir: "),
        ({}, {"WHEELTIMER_TICK": "0"}, 78, "WHEELTIMER_TICK: "),
        ({}, {"WHEELTIMER_INSECURE": "maybe"}, 78, "^WHEELTIMER_INSECURE: 'maybe': give true or false$"),
        ({}, {"WHEELTIMER_CONFIG": "/no/such/file"}, 78, "/no/such/file: No such file"),
    ],
)
def test_a_wrong_value_names_who_gave_it(
    flags: dict[str, object], environ: dict[str, str], exit_code: int, named: str
) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        load(flags, environ)
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("content", [b"tick =", b"\xff\xfe", b"[a]\n[a]\n", b"tick = 1\ntick = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"{re.escape(str(file))} is not TOML"):
        load({"config": str(file)}, {})


@pytest.mark.parametrize(
    "text", ["limits = 1", "journal = []", "retry = 1", "queues = 'a'", "tls = 1", "tokens = {}"]
)
def test_a_value_where_a_table_belongs_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text).startswith(text.split(" ")[0])


@pytest.mark.parametrize(
    "flags", [{"listen": ("0.0.0.0:1",)}, {"listen": ("[::]:1",)}, {"http": "10.0.0.1:1"}]
)
def test_an_open_listener_without_tokens_is_refused(tmp_path: Path, flags: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="--insecure") as caught:
        load(flags, {})
    assert caught.value.exit_code == 78
    assert load(flags | {"insecure": True}, {}).insecure
    assert "wheeltimer token new" in str(caught.value)
    assert load_toml(tmp_path, TOKEN, **flags).tokens


def test_a_listener_that_only_this_machine_reaches_needs_no_token() -> None:
    assert load({"listen": ("127.0.0.1:0", "[::1]:0", "unix:/s"), "http": "localhost:1"}, {})


def test_a_tls_listener_needs_its_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[tls\]"):
        load({"listen": ("tls:127.0.0.1:1",)}, {})
    text = '[tls]\ncert = "c.pem"\nkey = "k.pem"\n'
    (tmp_path / "c.pem").touch()
    assert "tls.key" in refused(tmp_path, text)
    assert "key is missing" in refused(tmp_path, '[tls]\ncert = "c.pem"\n')
    (tmp_path / "k.pem").touch()
    settings = load_toml(tmp_path, text, listen=("tls:127.0.0.1:1",))
    assert settings.tls == Tls(cert=tmp_path / "c.pem", key=tmp_path / "k.pem")


def test_no_listener_at_all_is_refused(tmp_path: Path) -> None:
    assert "at least one address" in refused(tmp_path, "listen = []")


def test_limits_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    assert "line_bytes_max" in refused(tmp_path, "[limits]\nline_bytes_max = 8192\n")  # a body has 64 KiB
    text = "[limits]\nline_bytes_max = 1048576\n[journal]\nsegment_bytes = 1048576\n"
    assert "segment_bytes" in refused(tmp_path, text)
