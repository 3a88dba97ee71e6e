"""Accidents of other systems, tried on the real daemon; clocks, disks, kills and lines stand elsewhere."""

from __future__ import annotations

import json
import random
import signal
import threading

from tests.process.daemon import Home, until
from tests.process.receiver import Receiver

URL = "http://127.0.0.1:9/never"
IDLE_S = 3.0


def test_a_task_cancelled_around_its_due_is_not_sent(home: Home, receiver: Receiver) -> None:
    """Whatever lies between "moved to the due list" and "sent", a cancel that says so holds."""
    daemon = home.start("--concurrency=4")
    chance = random.Random(5)
    cancelled, running = set(), 0
    with daemon.connect() as client:
        for number in range(60):
            ids = [f"{number}-{n}" for n in range(20)]
            for id in ids:
                client.send(
                    {"op": "schedule", "id": id, "url": receiver.url(), "delay": chance.randrange(12)}
                )
            client.replies(20)
            threading.Event().wait(chance.random() * 0.01)
            client.send(*({"op": "cancel", "id": id} for id in ids))
            for id, reply in zip(ids, client.replies(20), strict=True):
                if reply["ok"] and reply["cancelled"]:
                    cancelled.add(id)
                elif reply["ok"]:
                    running += reply["running"]
                else:
                    assert reply["error"] == "too_late", reply
        for _ in until():
            tasks = client.done("stats")["tasks"]
            if tasks["scheduled"] == tasks["ready"] == tasks["running"] == 0:
                break
        assert tasks["done"] + tasks["cancelled"] == 1200
    daemon.stop()
    assert 0 < len(cancelled) < 1200, "no race was tried"
    sent = {callback.id for callback in receiver.callbacks}
    assert not sent & cancelled
    assert len(sent) == 1200 - len(cancelled)
    assert len(receiver.callbacks) == len(sent)


def test_a_daemon_that_was_held_up_loses_no_timer(home: Home, receiver: Receiver) -> None:
    """It wakes hundreds of ticks late, and all that was passed is due."""
    daemon = home.start("--tick=1ms", "--wheel-size=64")  # the wheel turns many times meanwhile
    with daemon.connect() as client:
        client.send(
            *(
                {"op": "schedule", "id": f"t{n}", "url": receiver.url(), "delay": 300 + 5 * n}
                for n in range(300)
            )
        )
        assert all(reply["ok"] for reply in client.replies(300))
        receiver.wait_for("t0")
        daemon.signal(signal.SIGSTOP)
        threading.Event().wait(1.0)
        daemon.signal(signal.SIGCONT)
        callbacks = receiver.wait(lambda all_: len(all_) >= 300)
    daemon.stop()
    assert len({callback.id for callback in callbacks}) == len(callbacks) == 300
    assert all(callback.wall_ms >= callback.due for callback in callbacks)


def test_nothing_is_early_on_the_boundary_of_a_tick(home: Home, receiver: Receiver) -> None:
    """Instants on a tick, one ms less and one more, by both clocks."""
    daemon = home.start("--tick=10ms")
    with daemon.connect() as client:
        start = client.done("ping")["now"] // 10 * 10 + 500
        for n in range(100):
            for beside in (-1, 0, 1):
                at = start + 10 * n + beside
                client.send(
                    {"op": "schedule", "id": f"at-{at}", "url": receiver.url(), "at": at},
                    {
                        "op": "schedule",
                        "id": f"delay-{at}",
                        "url": receiver.url(),
                        "delay": 500 + 10 * n + beside,
                    },
                )
        assert all(reply["ok"] for reply in client.replies(600))
        callbacks = receiver.wait(lambda all_: len(all_) >= 600)
    daemon.stop()
    early = [callback for callback in callbacks if callback.wall_ms < callback.due]
    assert not early, early[:3]
    assert len({callback.id for callback in callbacks}) == len(callbacks) == 600


def test_an_idle_daemon_does_not_spin(home: Home) -> None:
    """A wait that comes out as zero burns a core. The bound is generous; a spin takes 100 %."""
    daemon = home.start()
    with daemon.connect() as client, daemon.connect():
        client.send(*({"op": "schedule", "url": URL, "delay": 3_600_000 + n} for n in range(2000)))
        client.replies(2000)
        client.done("schedule", url=URL, delay="365d")
        client.done("schedule", url=URL, at="2100-01-01T00:00:00Z")
        for _ in until():  # spare files are made in the background first
            if len(list(home.data.glob("*.zeros"))) == 3:
                break
        threading.Event().wait(1.5)  # and the marker is synced after a second
        before_ns = daemon.cpu_ns()
        threading.Event().wait(IDLE_S)
        used = (daemon.cpu_ns() - before_ns) / (IDLE_S * 1e9)
    assert used < 0.03, f"{used:.1%} of a core while idle"
    daemon.stop()


def test_an_expiry_found_at_recovery_is_told_like_any_other(home: Home, receiver: Receiver) -> None:
    """It expired while nobody ran; the same end, and the hook goes out."""
    daemon = home.start()
    with daemon.connect() as client:
        client.done("pause", queue="default")
        client.done(
            "schedule", id="missed", url=receiver.url(), expires_in="1s", meta={"order": 7},
            on_dead=receiver.url("/ok/dead"), on_done=receiver.url("/ok/done"),
        )  # fmt: skip
        client.done("schedule", id="kept", url=receiver.url(), expires_in="1h")
        for _ in until():
            if client.done("get", id="missed")["task"]["state"] == "ready":
                break
    daemon.kill()
    threading.Event().wait(1.0)
    again = home.start()
    with again.connect() as client:
        for _ in until():
            task = client.done("get", id="missed")["task"]
            if task["state"] == "expired":
                break
        assert task["attempts"] == 0
        client.done("resume", queue="default")
        (hook,) = receiver.wait_for("missed/dead/1")
        receiver.wait_for("kept")
    told = json.loads(hook.body)
    assert (told["type"], told["id"], told["version"]) == ("task.expired", "missed", 1)
    assert told["meta"] == {"order": 7}
    assert not receiver.of("missed")
    again.stop()


def test_the_timer_of_an_old_version_does_not_fire(home: Home, receiver: Receiver) -> None:
    """Put off, brought forward, replaced; also over a restart."""
    daemon = home.start()
    with daemon.connect() as client:
        for id in ("later", "sooner", "replaced", "cancelled"):
            client.done("schedule", id=id, url=receiver.url(), delay=600)
        later = client.done("reschedule", id="later", delay=2500)
        sooner = client.done("reschedule", id="sooner", delay=100)
        replaced = client.done(
            "schedule", id="replaced", url=receiver.url("/ok/new"), delay=2500, on_conflict="replace"
        )
        client.done("cancel", id="cancelled")
        client.done("schedule", id="cancelled", url=receiver.url(), delay=2500, on_conflict="replace")
        receiver.wait_for("sooner")
        threading.Event().wait(0.7)
        assert [callback.id for callback in receiver.callbacks] == ["sooner"]
        daemon.kill()
        daemon = home.start()
    callbacks = receiver.wait(lambda all_: len(all_) == 4)
    by_id = {callback.id: callback for callback in callbacks}
    for id, reply in (("later", later), ("sooner", sooner), ("replaced", replaced)):
        assert (by_id[id].version, by_id[id].due) == (2, reply["due"]), by_id[id]
        assert by_id[id].wall_ms >= reply["due"]
    assert by_id["replaced"].path == "/ok/new"
    assert by_id["cancelled"].version == 2
    daemon.stop()
    assert len(receiver.callbacks) == 4


def test_a_version_that_is_old_when_its_attempt_ends_does_not_decide(home: Home, receiver: Receiver) -> None:
    """A reschedule while the callback runs, and a crash in between."""
    daemon = home.start()
    with daemon.connect() as client:
        client.done("schedule", id="a", url=receiver.url("/hold"))
        receiver.wait_for("a")
        reply = client.done("reschedule", id="a", delay=1500)
        assert reply["version"] == 2
        assert client.done("get", id="a")["task"]["state"] == "running"
        receiver.release()
        for _ in until():
            task = client.done("get", id="a")["task"]
            if task["state"] == "scheduled":
                break
        assert [(attempt["version"], attempt["outcome"]) for attempt in task["history"]] == [(1, "succeeded")]
        assert task["due"] == reply["due"]
    daemon.kill()
    again = home.start()
    callbacks = receiver.wait_for("a", 2)
    assert [callback.version for callback in callbacks] == [1, 2]
    assert callbacks[1].wall_ms >= reply["due"]
    again.stop()


def test_a_client_that_lists_all_day_does_not_stop_the_timers(home: Home, receiver: Receiver) -> None:
    """End to end; that slices are small is counted in ``tests/server/test_service.py``."""
    daemon = home.start(config="")
    with daemon.connect() as client:
        for _ in range(20):
            client.send(*({"op": "schedule", "url": URL, "delay": "1h", "group": "all"} for _ in range(1000)))
            assert all(reply["ok"] for reply in client.replies(1000))
        client.send(
            *(
                {"op": "schedule", "id": f"t{n}", "url": receiver.url(), "delay": 500 + 10 * n}
                for n in range(100)
            )
        )
        client.replies(100)
        lists = 0
        while len(receiver.callbacks) < 100:
            assert len(client.done("list", limit=10)["tasks"]) == 10
            lists += 1
        assert client.done("cancel", group="all")["cancelled"] == 20_000
        late_ms = sorted(callback.late_ms for callback in receiver.callbacks)
        assert late_ms[50] < 50, late_ms
    assert lists > 1
    daemon.stop()


def test_callbacks_go_on_where_room_for_outcomes_ran_out(home: Home, receiver: Receiver) -> None:
    """A start that finds no room is tried again; a burst into a small journal ends."""
    daemon = home.start()
    with daemon.connect() as client:
        stored = 0
        for n in range(10):
            client.send(
                *({"op": "schedule", "url": receiver.url(), "delay": 300 - 30 * n} for _ in range(400))
            )
            stored += sum(reply["ok"] for reply in client.replies(400))
        receiver.wait(lambda all_: len(all_) == stored)
    daemon.stop()
