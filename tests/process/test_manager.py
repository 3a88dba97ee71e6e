"""A real daemon under a service manager: what it says, and when."""

from __future__ import annotations

import signal
import socket

from tests.process.daemon import SMALL, START_S, Home, until


def test_ready_reloading_watchdog_and_stopping_are_told_at_their_time(home: Home) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home.folder / "notify"))
        manager.settimeout(START_S)

        def told() -> str:
            while (text := manager.recv(4096).decode()) == "WATCHDOG=1":
                pass
            return text

        env = {"NOTIFY_SOCKET": str(home.folder / "notify"), "WATCHDOG_USEC": "400000"}
        daemon = home.start(env=env)
        assert told() == "READY=1"
        with daemon.connect() as client:
            client.done("ping")
            assert manager.recv(4096) == b"WATCHDOG=1"
            for config, says in ((SMALL, "settings reloaded"), ("colour = 'red'", "the old ones stay")):
                (home.folder / "wheeltimer.toml").write_text(config)
                daemon.signal(signal.SIGHUP)
                assert told().startswith("RELOADING=1\nMONOTONIC_USEC=")
                assert told() == "READY=1"
                for _ in until():
                    if says in daemon.log:
                        break
        daemon.signal()
        assert told() == "STOPPING=1"
        assert daemon.wait().code == 0


def test_a_manager_that_is_gone_stops_nothing(home: Home) -> None:
    daemon = home.start(env={"NOTIFY_SOCKET": str(home.folder / "nobody"), "WATCHDOG_USEC": "1000000"})
    with daemon.connect() as client:
        client.done("ping")
    log = daemon.stop().log
    assert "service manager not told state=READY=1" in log
    assert "Traceback" not in log
