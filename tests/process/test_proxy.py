"""Callbacks through an egress proxy that the settings name, and through no other."""

from __future__ import annotations

import pytest

from tests.process.daemon import Home, until
from tests.process.receiver import Receiver

NOWHERE = "http://partner.invalid/callback?a=b"  # a name that no resolver knows (RFC 6761)


def test_callbacks_go_through_the_proxy_that_the_settings_name(home: Home, receiver: Receiver) -> None:
    """The name is the proxy's to look up; headers, body and outcome are as without one."""
    daemon = home.start(config=f'egress_proxy = "http://127.0.0.1:{receiver.port}"\n')
    with daemon.connect() as client:
        client.done("schedule", id="a", url=NOWHERE, body={"n": 1})
        client.done("schedule", id="b", url=NOWHERE, body={"n": 2}, delay=50)
        (first,), (second,) = receiver.wait_for("a"), receiver.wait_for("b")
        assert (first.path, first.body, first.attempt) == (NOWHERE, b'{"n": 1}', 1)
        assert second.path == NOWHERE
        assert first.webhook_id != second.webhook_id
        for _ in until():
            if client.done("stats")["tasks"]["done"] == 2:
                break
    daemon.stop()


def test_proxy_of_the_environment_is_not_looked_at(
    home: Home, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        daemon = home.start()
        with daemon.connect() as client:
            client.done("schedule", id="a", url=receiver.url())
            receiver.wait_for("a")
        daemon.stop()
        assert not proxy.callbacks
