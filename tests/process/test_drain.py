"""SIGTERM: no new work, what is in flight may end, the rest is made again after the restart."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, Reply, until
from tests.process.receiver import Receiver

URL = "http://127.0.0.1:9/never"


def draining(log: str) -> bool:
    return "draining" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_refuses_new_work_and_answers_the_rest(
    home: Home, receiver: Receiver, number: signal.Signals
) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="held", url=receiver.url("/hold"))
        client.done("schedule", id="later", url=URL, delay="1h")
        client.done("schedule", id="unwanted", url=URL, delay="1h")
        client.done("schedule", id="ready", url=receiver.url(), delay=700)
        receiver.wait_for("held")
        daemon.signal(number)
        for _ in until():
            if draining(daemon.log):
                break
        assert client.refused("schedule", url=URL, seq=1)["error"] == "draining"
        assert client.refused("schedule", url=URL, seq=1)["seq"] == 1
        assert client.refused("reschedule", id="later", delay=1)["error"] == "draining"
        assert client.refused("redrive", id="later")["error"] == "draining"
        assert client.refused("redrive", queue="default")["error"] == "draining"
        assert client.done("get", id="held")["task"]["state"] == "running"
        assert client.done("cancel", id="unwanted")["cancelled"] == 1
        assert client.done("list")["tasks"]
        assert client.done("stats")["tasks"]["running"] == 1
        with daemon.connect() as other:  # also for those who come now
            assert other.done("finish", id="later")["finished"] == 1
        threading.Event().wait(1.0)
        assert client.done("get", id="ready")["task"]["state"] == "ready", "no attempt starts in a drain"
        receiver.release()
        assert client.line() is None
    ended = daemon.wait()
    assert ended.code == 0, ended
    assert "Traceback" not in ended.log, ended.log
    again = home.start()
    assert again.tasks == 1
    receiver.wait_for("ready")
    with again.connect() as client:
        states = {task["id"]: task["state"] for task in client.done("list")["tasks"]}
        for _ in until():
            if client.done("get", id="ready")["task"]["state"] == "done":
                break
    assert states | {"ready": ""} == {"held": "done", "later": "done", "unwanted": "cancelled", "ready": ""}
    assert [callback.id for callback in receiver.callbacks] == ["held", "ready"]
    again.stop()


def test_an_attempt_that_is_cut_is_made_again_with_the_same_number(home: Home, receiver: Receiver) -> None:
    daemon = home.start(config=SMALL + '[limits]\ndrain = "300ms"\n')
    with daemon.connect() as client:
        client.done(
            "schedule",
            id="cut",
            url=receiver.url("/hold"),
            retry={"kind": "fixed", "every": "1h", "attempts": 2},
        )
        client.done("schedule", id="stopping", url=receiver.url("/hold"))
        receiver.wait(lambda all_: len(all_) == 2)
        assert client.done("cancel", id="stopping")["running"] == 1
        daemon.signal()
        assert client.line() is None
    ended = daemon.wait()
    assert ended.code == 0, ended
    assert "drain cut attempts in_flight=2" in ended.log
    receiver.release()
    again = home.start()
    callbacks = receiver.wait_for("cut", 2)
    assert [callback.attempt for callback in callbacks] == [1, 1]
    assert callbacks[0].webhook_id == callbacks[1].webhook_id
    with again.connect() as client:
        for _ in until():
            task = client.done("get", id="cut")["task"]
            if task["state"] == "done":
                break
        assert task["attempts"] == 1
        assert [attempt["attempt"] for attempt in task["history"]] == [1]
        # A stored cancel ends the task at recovery, where a crash or a cut ended the attempt.
        assert client.done("get", id="stopping")["task"]["state"] == "cancelled"
    assert len(receiver.of("stopping")) == 1
    again.stop()


def test_a_second_signal_ends_at_once(home: Home, receiver: Receiver) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="held", url=receiver.url("/hold"))
        receiver.wait_for("held")
    daemon.signal()
    for _ in until():
        if draining(daemon.log):
            break
    began_s = time.monotonic()
    daemon.signal()
    ended = daemon.wait()
    assert time.monotonic() - began_s < 10  # a drain would have waited for 30 s
    assert ended.code == 128 + signal.SIGTERM, ended
    receiver.release()
    again = home.start()
    assert again.tasks == 1
    assert [callback.attempt for callback in receiver.wait_for("held", 2)] == [1, 1]
    again.stop()


def test_a_drain_commits_what_was_asked_before_it(home: Home) -> None:
    """Requests and the signal at the same moment: each is stored and said so, refused, or not read."""
    daemon = home.start(config="")
    ids = [f"t{n}" for n in range(5000)]
    with daemon.connect() as client:
        client.send(*({"op": "schedule", "id": id, "url": URL, "delay": "1h"} for id in ids))
        daemon.signal()
        replies = client.rest()
    assert daemon.wait().code == 0
    stored = {reply["id"] for reply in replies if reply["ok"]}
    assert {reply["error"] for reply in replies if not reply["ok"]} <= {"draining"}
    assert home.start(config="").tasks == len(stored)


def test_a_drain_answers_cancels_to_the_end(home: Home) -> None:
    """They go on while everything ends: none is told that its outcome is unknown."""
    daemon = home.start(config="")
    ids = [f"t{n}" for n in range(5000)]
    with daemon.connect() as client:
        client.send(*({"op": "schedule", "id": id, "url": URL, "delay": "1h"} for id in ids))
        assert all(reply["ok"] for reply in client.replies(5000))
        client.send(*({"op": "cancel", "id": id} for id in ids))
        daemon.signal()
        replies = client.rest()
    assert daemon.wait().code == 0
    assert all(reply["ok"] for reply in replies), [reply for reply in replies if not reply["ok"]][:3]
    assert home.start(config="").tasks <= 5000 - len(replies)


GROUP = 60_000  # members; a second or more of work, in some hundred slices


def fill_group(client: Connection) -> None:
    for first in range(0, GROUP, 5000):
        client.send(
            *({"op": "schedule", "id": f"t{n}", "url": URL, "delay": "1h", "group": "g"}
              for n in range(first, first + 5000))
        )  # fmt: skip
        assert all(reply["ok"] for reply in client.replies(5000))


def ask_and_stop(daemon: Daemon, client: Connection) -> Reply | None:
    """Ask for the group's end, and for the daemon's when some members are done; the answer to the first."""
    with daemon.connect() as other:
        client.send({"op": "cancel", "group": "g"})
        for _ in until(every_s=0.001):
            if other.done("stats")["tasks"]["cancelled"]:
                break
        daemon.signal()
    line = client.line()
    return None if line is None else json.loads(line)


def test_a_group_that_is_being_cancelled_is_cancelled_to_the_end(home: Home) -> None:
    """A stop in the middle of it waits for it: nobody is left to guess how many were done."""
    daemon = home.start(config="")
    with daemon.connect() as client:
        fill_group(client)
        assert ask_and_stop(daemon, client) == {"ok": True, "cancelled": GROUP, "running": 0}
        assert client.line() is None
    assert daemon.wait().code == 0
    assert home.start(config="").tasks == 0


def test_a_group_that_a_drain_cuts_is_told_how_far_it_came(home: Home) -> None:
    daemon = home.start(config='[limits]\ndrain = "1ms"\n')
    with daemon.connect() as client:
        fill_group(client)
        reply = ask_and_stop(daemon, client)
        assert reply is not None, "members were cancelled, and nobody was told"
        assert (reply["ok"], reply["running"]) == (True, 0)
        assert 0 < reply["cancelled"] < GROUP
    ended = daemon.wait()
    assert ended.code == 0
    assert "drain cut attempts in_flight=0 requests=1" in ended.log
    again = home.start(config="")
    assert again.tasks == GROUP - reply["cancelled"]
    with again.connect() as client:
        assert client.done("cancel", group="g")["cancelled"] == GROUP - reply["cancelled"]


def test_an_idle_daemon_stops_at_once_and_leaves_a_clean_journal(home: Home) -> None:
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="a", url=URL, delay="1h")
        daemon.stop()
        assert client.line() is None, "who is connected is told by the end of the stream"
    before = home.segments()[0].read_bytes()
    again = home.start()
    assert again.tasks == 1
    assert home.segments()[0].read_bytes() == before, "a clean tail is trusted and written on"
    again.stop()
