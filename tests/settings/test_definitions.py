"""Every knob: a reason, a unit, a default of the contract, and bounds that hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.settings.files import load_toml, refused
from wheeltimer.errors import SettingsError
from wheeltimer.protocol.limits import Limits as CoreLimits
from wheeltimer.protocol.units import format_duration
from wheeltimer.settings import (
    Address,
    Destination,
    Journal,
    Knob,
    Limits,
    Queue,
    Settings,
    Tls,
    Token,
    knobs,
    load,
)

NUMBERS = [
    *((f"limits.{knob.key}", knob) for knob in knobs(Limits)),
    *((f"journal.{knob.key}", knob) for knob in knobs(Journal)),
    *((knob.key, knob) for knob in knobs(Settings) if knob.high is not None),
]


def value_of(settings: Settings, key: str, knob: Knob) -> Any:
    table, _, _ = key.rpartition(".")
    return getattr(getattr(settings, table) if table else settings, knob.attribute)


def assigned(key: str, value: object) -> str:
    """``limits.x = 5`` as a file's text; a dotted key is a table's in TOML too."""
    return f"{key} = {value}\n"


def test_every_knob_has_a_reason_and_every_number_its_bounds() -> None:
    for struct in (Settings, Limits, Journal, Queue, Destination, Token, Tls):
        for knob in knobs(struct):
            assert len(knob.reason) >= 8, knob.key
            if isinstance(knob.default, int) and not isinstance(knob.default, bool):
                assert knob.low is not None, knob.key
                assert knob.high is not None, knob.key
                assert knob.low <= knob.default <= knob.high, knob.key


def test_nothing_that_can_be_set_is_no_knob() -> None:
    tables = {"limits", "journal", "retry", "queues", "destinations", "tokens", "tls", "config_file"}
    for struct, others in ((Settings, tables), (Limits, set()), (Journal, set()), (Queue, set())):
        attributes = {knob.attribute for knob in knobs(struct)}
        assert attributes | others == {field.name for field in msgspec.structs.fields(struct)}


def test_the_cores_limits_are_all_there_with_the_cores_defaults() -> None:
    ours, core = Limits(), CoreLimits()
    assert isinstance(ours, CoreLimits)
    for field in msgspec.structs.fields(CoreLimits):
        assert getattr(ours, field.name) == getattr(core, field.name)


def test_units_are_in_the_attributes_name_and_durations_say_theirs() -> None:
    units = {knob.attribute: (knob.key, knob.unit) for knob in knobs(Limits)}
    assert units["keep_done_ms"] == ("keep_done", "ms")
    assert units["line_bytes_max"] == ("line_bytes_max", "bytes")
    assert units["headers_max"] == ("headers_max", "")


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings = load({"data_dir": str(tmp_path)}, {})
    limits = settings.limits
    assert settings.listen == (Address("tcp", "127.0.0.1", 8463),)
    assert (settings.tick_ms, settings.wheel_size, settings.concurrency) == (10, 4096, 512)
    assert (settings.http, settings.fsync, settings.insecure) == (None, "group", False)
    assert (limits.line_bytes_max, limits.tasks_max, limits.body_bytes_max) == (131072, 10_000_000, 65536)
    assert (limits.meta_bytes_max, limits.headers_max, limits.header_bytes_max) == (4096, 32, 8192)
    assert (limits.id_bytes_max, limits.reply_bytes_max, limits.history_max) == (256, 65536, 20)
    assert (limits.unread_bytes_max, limits.unread_ms, limits.partial_line_ms) == (1 << 20, 30_000, 30_000)
    assert (limits.keep_done_ms, limits.keep_done_max) == (86_400_000, 1_000_000)
    assert (limits.keep_dead_ms, limits.keep_dead_max) == (30 * 86_400_000, 100_000)
    assert (settings.journal.segment_bytes, settings.journal.unsynced_bytes_max) == (64 << 20, 8 << 20)


@pytest.mark.parametrize(("key", "knob"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_a_number_at_its_bounds_is_taken_and_one_beyond_is_refused(
    tmp_path: Path, key: str, knob: Knob
) -> None:
    assert knob.low is not None
    assert knob.high is not None
    # Bounds that belong together are widened together.
    beside = {
        "limits.body_bytes_max": "limits.line_bytes_max = 1048576\n",
        "limits.line_bytes_max": "limits.body_bytes_max = 0\n",
    }.get(key, "")
    for value in (knob.low, knob.high):
        assert value_of(load_toml(tmp_path, beside + assigned(key, value)), key, knob) == value
    for value in (knob.low - 1, knob.high + 1, 2 * knob.high):
        message = refused(tmp_path, beside + assigned(key, value))
        assert message.startswith(f"{key} in {tmp_path}/wheeltimer.toml: ")
    if knob.unit == "ms":
        assert format_duration(knob.high) in refused(tmp_path, assigned(key, knob.high + 1))
    for text in ('"abc"', "true", "1.5", "[1]", '""'):
        assert key in refused(tmp_path, assigned(key, text))


def test_a_duration_takes_units(tmp_path: Path) -> None:
    settings = load_toml(tmp_path, 'tick = "5ms"\n[limits]\nkeep_done = "1h30m"\n')
    assert (settings.tick_ms, settings.limits.keep_done_ms) == (5, 5_400_000)


@pytest.mark.parametrize("size", ["100", "4095", "4097", "0", "-4096"])
def test_a_wheel_that_is_no_power_of_two_is_refused(size: str) -> None:
    with pytest.raises(SettingsError, match=r"--wheel-size: .*power of two"):
        load({"wheel_size": size}, {})


def test_loading_reads_the_environment_it_is_given_and_not_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "WHEELTIMER_TICK", "77ms")
    assert load({}, {}).tick_ms == 10


def test_settings_do_not_change_after_loading(tmp_path: Path) -> None:
    settings = load({"data_dir": str(tmp_path)}, {})
    with pytest.raises(AttributeError):
        settings.tick_ms = 5  # type: ignore[misc]


def test_a_test_may_go_below_a_bound_through_the_constructor(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, journal=Journal(segment_bytes=4096))
    assert settings.journal.segment_bytes == 4096
