"""A web page and a daemon of this machine: the ``fetch`` of a real engine sends commands; none is obeyed.

All forms of first bytes that are known: ``tests/server/test_first_bytes.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.process.daemon import SMALL, Home

PAGE = Path(__file__).with_name("web_page.mjs")


def test_no_fetch_of_a_web_page_schedules_anything(home: Home) -> None:
    if shutil.which("node") is None:
        assert not os.environ.get("CI"), "node is missing: .ci/run installs it"
        pytest.skip("node is not installed")
    daemon = home.start(config=SMALL)
    port = daemon.listen[0].rpartition(":")[2]
    command = ["node", str(PAGE), port, "pwned"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert page.returncode == 0, page.stderr
    said = json.loads(page.stdout)
    assert said["sent"] > 70
    assert said["answered"] == 0
    with daemon.connect() as client:
        assert client.refused("get", id="pwned")["error"] == "not_found"
        assert sum(client.done("stats")["tasks"].values()) == 0
    log = daemon.stop().log
    assert "Traceback" not in log, log
