"""The data folder is deleted or replaced under the real daemon."""

from __future__ import annotations

import shutil

import pytest

from tests.process.daemon import Home, until

URL = "http://127.0.0.1:9/never"


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_folder_that_goes_under_a_daemon_ends_it_and_nothing_is_acknowledged_after_that(
    home: Home, replaced: bool
) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="a", url=URL, delay="1h")
        copy = home.folder / "copy"
        shutil.copytree(home.data, copy, ignore=shutil.ignore_patterns("*.tmp"))  # in the making
        shutil.rmtree(home.data)
        if replaced:
            copy.rename(home.data)
        for turn in until():
            client.send({"op": "schedule", "id": f"{turn}", "url": URL, "delay": "1h"})
            line = client.line()
            if line is None or b'"storage"' in line:
                break
    ended = daemon.wait()
    assert ended.code == 74
    assert "storage failed, stopping" in ended.log
    daemon = home.start()
    with daemon.connect() as client:
        assert client.ask("get", id="a")["ok"] == replaced, "what stands there now, and nothing else"
    daemon.stop()
