"""The real daemon with receivers that are fast, slow and dead; limits, pauses and SIGHUP hold at once."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, until
from tests.process.receiver import Receiver

FLAGS = ("--fsync", "off")
ROOMY = "[journal]\nsegment_bytes = 33554432\n"  # hundreds of attempts in flight reserve 8 KiB each


@contextmanager
def deaf() -> Iterator[str]:
    """The URL of a receiver that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def ready(client: Connection) -> int:
    count = client.done("stats")["tasks"]["ready"]
    assert isinstance(count, int)
    return count


def percentile(values: list[float], permille: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * permille // 1000)]


@pytest.mark.parametrize("dead", [False, True], ids=["alone", "dead_beside"])
def test_no_backlog_grows_at_a_receiver_that_takes_its_time(
    home: Home, receiver: Receiver, dead: bool, thorough: bool
) -> None:
    """Callbacks at an even rate to one that answers in 50 ms; ready tasks are counted all the while."""
    rate, seconds = (1000, 30) if thorough else (400, 4)
    daemon = home.start(*FLAGS, config=ROOMY)
    with daemon.connect() as client, deaf() as nowhere:
        if dead:
            client.send(*(
                {"op": "schedule", "id": f"dead-{number}", "queue": "dead", "url": nowhere, "timeout": "1s"}
                for number in range(500)
            ))  # fmt: skip
            assert all(reply["ok"] for reply in client.replies(500))
            time.sleep(1)
        start_ms = client.done("ping")["now"] + 1500
        count = rate * seconds
        for first in range(0, count, 500):
            client.send(*(
                {"op": "schedule", "id": str(number), "at": start_ms + number * 1000 // rate,
                 "url": receiver.url("/slow/50")}
                for number in range(first, min(first + 500, count))
            ))  # fmt: skip
            assert all(reply["ok"] for reply in client.replies(min(500, count - first)))
        seen = []
        while client.done("ping")["now"] < start_ms + seconds * 1000:
            stats = client.done("stats")["queues"]
            seen.append(stats.get("default", {}).get("ready", 0))
            time.sleep(0.1)
        callbacks = receiver.wait(lambda all_: len(all_) >= count)
        late_ms = [float(each.wall_ms - each.due) for each in callbacks]
        half = len(seen) // 2
        print(
            f"dead={dead} rate={rate}/s ready: max {max(seen)}, in the second half {max(seen[half:])};"
            f" late p50 {percentile(late_ms, 500):.0f} p99 {percentile(late_ms, 990):.0f}"
            f" max {max(late_ms):.0f} ms"
        )
        assert max(seen[half:]) < rate, "a second's worth waits: a backlog grows"
    daemon.stop()


def test_slow_destinations_leave_room_for_a_fast_one(home: Home, receiver: Receiver) -> None:
    """Twenty that never answer, with more waiting for each than all permits together."""
    daemon = home.start(*FLAGS, "--concurrency", "128", config=ROOMY)
    with daemon.connect() as client, ExitStack() as stack:
        for number in range(20):
            url = stack.enter_context(deaf())
            client.send(*(
                {"op": "schedule", "id": f"{number}-{each}", "url": url, "queue": "slow"}
                for each in range(70)
            ))  # fmt: skip
            assert all(reply["ok"] for reply in client.replies(70))
        for _ in until():
            if client.done("stats")["tasks"]["running"] >= 100:
                break
        for number in range(300):
            client.done("schedule", id=f"fast-{number}", url=receiver.url())
            time.sleep(0.005)
        callbacks = receiver.wait(lambda all_: len(all_) == 300)
        late_ms = [float(each.wall_ms - each.due) for each in callbacks]
        print(f"fast beside slow: late p50 {percentile(late_ms, 500)} p99 {percentile(late_ms, 990)} ms")
        assert percentile(late_ms, 990) < 2000, "15 s is what one of the slow takes"
    daemon.kill()


def _reload(daemon: Daemon, home: Home, config: str, times: int) -> None:
    (home.folder / "wheeltimer.toml").write_text(config)
    daemon.signal(signal.SIGHUP)
    for _ in until():
        if daemon.log.count("settings reloaded") + daemon.log.count("not reloaded") == times:
            return


def test_limits_of_a_new_configuration_hold_at_once(home: Home, receiver: Receiver) -> None:
    one = SMALL + "[queues.q]\nconcurrency = 1\n"
    daemon = home.start(*FLAGS, config=one)
    with daemon.connect() as client:
        client.send(*(
            {"op": "schedule", "id": f"{number:03}", "queue": "q", "url": receiver.url("/hold")}
            for number in range(50)
        ))  # fmt: skip
        assert all(reply["ok"] for reply in client.replies(50))
        receiver.wait(lambda all_: len(all_) == 1)
        time.sleep(0.2)
        assert len(receiver.callbacks) == 1
        _reload(daemon, home, SMALL + '[queues.q]\nconcurrency = "many"\n', 1)
        assert len(receiver.callbacks) == 1, "with a bad file the old settings stay"
        _reload(daemon, home, SMALL + "[queues.q]\nconcurrency = 5\n", 2)
        receiver.wait(lambda all_: len(all_) == 5)
        time.sleep(0.2)
        assert len(receiver.callbacks) == 5
        _reload(daemon, home, SMALL, 3)
        receiver.wait(lambda all_: len(all_) == 8)
        receiver.release()
        receiver.wait(lambda all_: len(all_) == 50)
    daemon.stop()


def test_paused_queue_sends_nothing_and_resume_sends_at_once(home: Home, receiver: Receiver) -> None:
    daemon = home.start(*FLAGS)
    with daemon.connect() as client:
        client.done("pause", queue="q")
        for number in range(20):
            client.done("schedule", id=str(number), queue="q", url=receiver.url())
        client.done("schedule", id="other", url=receiver.url())
        receiver.wait_for("other")
        time.sleep(0.2)
        assert len(receiver.callbacks) == 1
        assert ready(client) == 20
        client.done("resume", queue="q")
        receiver.wait(lambda all_: len(all_) == 21)
    daemon.stop()
