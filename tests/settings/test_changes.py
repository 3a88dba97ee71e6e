"""What a reload names: keys as they stand in the file, and never a value."""

from __future__ import annotations

from pathlib import Path

from wheeltimer.settings import Settings, changed_keys, load

KEY = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
BEFORE = f"""
tick = "10ms"
[limits]
keep_done = "1d"
[retry.partner]
kind = "fixed"
every = "1h"
attempts = 5
[queues.orders]
rate = "10/s"
[destinations."https://a.example"]
window_max = 4
[[tokens]]
name = "billing"
sha256 = "{1:064}"
scopes = ["read"]
[[tokens]]
name = "gone"
sha256 = "{2:064}"
scopes = ["read"]
"""
AFTER = f"""
tick = "20ms"
[limits]
keep_done = "2d"
[retry.partner]
kind = "fixed"
every = "2h"
attempts = 5
[queues.orders]
rate = "20/s"
secrets = ["{KEY}"]
[queues.new]
[destinations."https://a.example"]
window_max = 5
[[tokens]]
name = "billing"
sha256 = "{3:064}"
scopes = ["read"]
tasks_max = 7
"""


def settings(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "wheeltimer.toml"
    file.write_text(text)
    return load({"config": str(file), "data_dir": str(tmp_path)}, {})


def test_changes_are_named_by_the_keys_of_the_file(tmp_path: Path) -> None:
    before, after = settings(tmp_path, BEFORE), settings(tmp_path, AFTER)
    assert changed_keys(before, before) == []
    assert set(changed_keys(before, after)) == {
        "tick", "limits.keep_done", "retry.partner", "queues.orders.rate", "queues.orders.secrets",
        "queues.new", 'destinations."https://a.example".window_max', "tokens.billing.sha256",
        "tokens.billing.tasks_max", "tokens.gone",
    }  # fmt: skip
    assert set(changed_keys(settings(tmp_path, ""), after)) >= {"tokens.billing", "queues.orders"}
