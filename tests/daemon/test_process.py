"""sd_notify on a real datagram socket, by path and in the abstract namespace; and when nobody hears it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from wheeltimer.core.task import NS_PER_MS
from wheeltimer.daemon.process import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """(what NOTIFY_SOCKET says, the socket behind it)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"{os.getpid()}-{tmp_path.name}"
        address = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
        sock.bind(address if request.param == "path" else f"\0{name}")
        sock.settimeout(10)
        yield address, sock


def test_each_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with pytest.raises(KeyError), notifier.reloading():
        raise KeyError("a bad file")
    after_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.stopping()
    first, reloading, again, stopping = (sock.recv(4096).decode() for _ in range(4))
    assert (first, again, stopping) == ("READY=1", "READY=1", "STOPPING=1")
    state, _, at_us = reloading.partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert before_us <= int(at_us) <= after_us


@pytest.mark.parametrize("address", ["/no/such/folder/notify", "@nobody-listens", "x" * 200, "a\0b"])
def test_a_manager_that_cannot_be_reached_is_a_warning(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "READY=1" in record.getMessage()


def test_a_manager_that_does_not_read_does_not_hold_the_loop(
    manager: tuple[str, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    for _ in range(3000):
        notifier.ready()
        if caplog.records:
            return
    raise AssertionError("its socket never filled")


def test_without_a_manager_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.stopping()
    trio.run(notifier.watch, lambda: 0, lambda: 0)
    assert not caplog.records


def test_signs_of_life_end_when_the_ticker_stands_still(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    notifier = Notifier(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": f"{os.getpid()}"}
    )

    async def run() -> None:
        def now_ns() -> int:
            return int(trio.current_time() * 1000) * NS_PER_MS

        died_ns = now_ns() + 20_000 * NS_PER_MS
        with trio.move_on_after(101):
            await notifier.watch(lambda: min(now_ns(), died_ns), now_ns)

    trio.run(run, clock=MockClock(autojump_threshold=0))
    sock.setblocking(False)
    heard = 0
    while True:
        try:
            assert sock.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            break
        heard += 1
    assert heard == 6, "every 5 s, and not 10 s after the ticker's last look"


@pytest.mark.parametrize("environ", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}])
def test_a_watchdog_of_another_process_is_none_of_ours(
    environ: dict[str, str], manager: tuple[str, socket.socket]
) -> None:
    address, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"} | environ)
    trio.run(notifier.watch, lambda: 0, lambda: 0)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(100)
