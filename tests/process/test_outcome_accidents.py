"""Accidents of others with ends, versions and repeats, at the real daemon and what a receiver saw of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, until
from tests.process.raw import RawReceiver, reply

AHEAD_MS = 3000  # what is scheduled for then finds the daemon gone, also where the machine is busy


def state(client: Connection, id: str, *wanted: str) -> dict[str, Any]:
    """The task, as soon as it is in one of these states."""
    for _ in until():
        task: dict[str, Any] = client.done("get", id=id)["task"]
        if task["state"] in wanted:
            break
    return task


def away(home: Home, daemon: Daemon, how: str, until_ms: int) -> Daemon:
    """The daemon is not there until then: held up, or killed and started again."""
    if how == "held up":
        daemon.signal(signal.SIGSTOP)
    else:
        daemon.kill()
    threading.Event().wait(until_ms / 1000 - time.time())
    if how == "held up":
        daemon.signal(signal.SIGCONT)
        return daemon
    return home.start()


def client_now(daemon: Daemon) -> int:
    """The daemon's clock, in ms."""
    with daemon.connect() as client:
        return int(client.done("ping")["now"])


@pytest.mark.parametrize("how", ["held up", "killed"])
def test_late_by_a_second_is_not_dropped(home: Home, how: str) -> None:
    """Only expires_in and expires_at drop what is late."""
    with RawReceiver() as receiver:
        daemon = home.start()
        with daemon.connect() as client:
            now = client.done("ping")["now"]
            for id, fields in {
                "delay": {"delay": AHEAD_MS}, "at": {"at": now + AHEAD_MS},
                "due": {"delay": AHEAD_MS, "expires_in": "1h"},
                "over": {"delay": AHEAD_MS, "expires_in": 500},
                "over at": {"delay": AHEAD_MS, "expires_at": now + AHEAD_MS + 500},
            }.items():  # fmt: skip
                client.done("schedule", id=id, url=receiver.url(f"/200/{id[:4]}/{len(id)}"), **fields)
        daemon = away(home, daemon, how, client_now(daemon) + AHEAD_MS + 1200)
        with daemon.connect() as client:
            for id in ("delay", "at", "due"):
                task = state(client, id, "done", "expired")
                (request,) = receiver.wait(f"/200/{id[:4]}/{len(id)}")
                assert task["state"] == "done"
                assert int(request.headers["wheeltimer-late-ms"]) >= 900
            for id in ("over", "over at"):
                assert state(client, id, "done", "expired")["state"] == "expired"
                assert not receiver.of(f"/200/{id[:4]}/{len(id)}")
        daemon.stop()


def test_a_wanted_repeat_is_not_swallowed_by_the_dedupe_window(home: Home) -> None:
    """Within the window the same request calls nobody; ``replace`` re-opens; the window is a setting."""
    with RawReceiver() as receiver:
        daemon = home.start()
        with daemon.connect() as client:
            task = {"id": "report", "url": receiver.url("/200/report"), "body": {"day": 1}}
            assert client.done("schedule", **task)["duplicate"] is False
            state(client, "report", "done")
            again = client.done("schedule", **task)
            assert (again["duplicate"], again["state"], again["version"]) == (True, "done", 1)
            assert client.done("schedule", **task, on_conflict="keep")["duplicate"] is True
            assert client.refused("schedule", **task | {"body": {"day": 2}})["error"] == "exists"
            assert len(receiver.of("/200/report")) == 1
            wanted = client.done("schedule", **task, on_conflict="replace")
            assert (wanted["duplicate"], wanted["state"], wanted["version"]) == (False, "scheduled", 2)
            receiver.wait("/200/report", 2)
            state(client, "report", "done")
        daemon.kill()
        daemon = home.start(config=SMALL + "[limits]\nkeep_done = '10ms'\n")
        with daemon.connect() as client:
            for _ in until():  # the window is over: the same request is a new task
                reply = client.done("schedule", **task)
                if not reply["duplicate"]:
                    break
            assert (reply["version"], reply["state"]) == (1, "scheduled")
            requests = receiver.wait("/200/report", 3)
        assert len({request.headers["webhook-id"] for request in requests}) == 3
        daemon.stop()


def test_an_end_found_at_recovery_raises_its_event_and_its_hook(home: Home) -> None:
    """Expired while nobody ran; cancelled or finished while an attempt ran that the crash cut short."""
    with RawReceiver() as receiver:
        hooks = {"on_done": receiver.url("/200/hook"), "on_dead": receiver.url("/200/hook"), "meta": {"m": 1}}
        daemon = home.start()
        with daemon.connect() as client:
            for id in ("cancelled", "finished", "finished and moved", "cancelled and moved"):
                client.done("schedule", id=id, url=receiver.url(f"/hold,200/{len(id)}"), **hooks)
                receiver.wait(f"/hold,200/{len(id)}")
                if "moved" in id:
                    client.done("reschedule", id=id, delay="1h")
                if id.startswith("cancelled"):
                    assert client.done("cancel", id=id)["running"] == 1
                else:
                    assert client.done("finish", id=id, reply={"by": id})["running"] == 1
            with daemon.connect() as subscriber:
                cursor = subscriber.done("subscribe")["cursor"]
            never = {"url": receiver.url("/200/never"), "delay": AHEAD_MS, "expires_in": 300}
            due = client.done("schedule", id="expires", **never, **hooks)["due"]
        daemon = away(home, daemon, "killed", due + 400)
        ends: dict[str, dict[str, Any]] = {}
        with daemon.connect() as subscriber:
            subscriber.done("subscribe", **{"from": cursor, "types": ["task.*"]})
            while len(ends) < 5 or sum("/" in id for id in ends) < 3:
                event = subscriber.reply()
                if event["event"].rpartition(".")[2] in ("done", "dead", "expired", "cancelled"):
                    assert event["id"] not in ends, "told twice"
                    ends[event["id"]] = event
        ends = {id: end for id, end in ends.items() if "/" not in id}
        told = {id: (end["event"], end["state"], end.get("meta")) for id, end in ends.items()}
        assert told == {
            "expires": ("task.expired", "expired", {"m": 1}),
            "cancelled": ("task.cancelled", "cancelled", {"m": 1}),
            "cancelled and moved": ("task.cancelled", "cancelled", {"m": 1}),
            "finished": ("task.done", "done", {"m": 1}),
            "finished and moved": ("task.done", "done", {"m": 1}),
        }
        bodies = [json.loads(request.body) for request in receiver.wait("/200/hook", 3)]
        assert sorted((body["id"], body["type"], body["version"]) for body in bodies) == [
            ("expires", "task.expired", 1),
            ("finished", "task.done", 1),
            ("finished and moved", "task.done", 2),
        ]
        for body in bodies:
            assert body["reply"] == (None if body["id"] == "expires" else {"by": body["id"]})
        with daemon.connect() as client:
            for id in told:
                assert client.done("get", id=id)["task"]["history"] == [], "not made"
        assert not receiver.of("/200/never")
        daemon.stop()


def test_retry_after_puts_off_and_zero_does_not_use_up_the_attempts(home: Home) -> None:
    """A receiver that asks for an instant that is past gets the rule's wait."""
    with RawReceiver() as receiver:
        receiver.answers["zero"] = reply(503, b"", "retry-after: 0")
        receiver.answers["two"] = reply(429, b"", "Retry-After: 2")
        receiver.answers["past"] = reply(429, b"", "Retry-After: Fri, 02 Jan 2026 03:04:15 GMT")
        daemon = home.start("--fsync", "off")
        rule = {"kind": "fixed", "every": "300ms", "attempts": 3, "jitter": 0}
        with daemon.connect() as client:
            for word, waits_ms in (("zero", 300), ("past", 300), ("two", 2000)):
                client.done("schedule", id=word, url=receiver.url(f"/{word}/x"), retry=rule)
                first, second = receiver.wait(f"/{word}/x", 2)[:2]
                assert second.wall_ns - first.wall_ns >= waits_ms * 1_000_000, word
            for word in ("zero", "past"):
                task = state(client, word, "dead")
                assert (task["attempts"], task["error"]) == (3, "attempts_used_up")
                assert task["ended"] - task["created"] >= 600
        daemon.stop()


PARTNER = SMALL + "[retry.partner]\nkind = 'fixed'\nevery = '{every}'\nattempts = {attempts}\njitter = 0\n"


def test_a_named_rule_stays_as_it_was_over_reload_restart_and_redrive(home: Home) -> None:
    """The file says another thing under the same name, then nothing: tasks have the rule they came with."""
    old = PARTNER.format(every="1ms", attempts=3) + "[queues.orders]\nretry = 'partner'\n"
    new = PARTNER.format(every="1h", attempts=9) + "[queues.orders]\nretry = 'partner'\n"
    with RawReceiver() as receiver:
        daemon = home.start(config=old)
        tasks: dict[str, dict[str, Any]] = {"named": {"retry": "partner"}, "by queue": {"queue": "orders"}}
        with daemon.connect() as client:
            for id, fields in tasks.items():
                client.done("schedule", id=id, url=receiver.url("/500/x"), delay=1500, **fields)
            (home.folder / "wheeltimer.toml").write_text(new)
            daemon.signal(signal.SIGHUP)
            for _ in until():
                if "settings reloaded" in daemon.log:
                    break
            client.done("schedule", id="later", url=receiver.url("/500/later"), retry="partner")
        daemon.kill()
        daemon = home.start(config=SMALL)  # the name means nothing any more
        with daemon.connect() as client:
            assert client.refused("schedule", url=receiver.url("/"), retry="partner")["field"] == "retry"
            for version in (1, 2):
                for id, fields in tasks.items():
                    queue = fields.get("queue", "default")
                    for _ in until():
                        task = client.done("get", id=id, queue=queue)["task"]
                        if task["state"] == "dead" and task["version"] == version:
                            break
                    assert (task["attempts"], task["error"]) == (3, "attempts_used_up"), id
                    if version == 1:
                        client.done("redrive", id=id, queue=queue)
            for _ in until():
                task = client.done("get", id="later")["task"]
                if task["attempts"] == 1:
                    break
            assert task["next"] - task["due"] >= 3_600_000
        daemon.stop()


def test_the_journal_is_on_without_asking_and_fsync_off_shows_itself(home: Home) -> None:
    """A default that forgets at the first crash."""
    for flags, durability in (((), "group"), (("--fsync", "off"), "off")):
        daemon = home.start(*flags)
        with daemon.connect() as client:
            assert client.done("hello")["durability"] == durability
            client.done("schedule", id=f"kept-{durability}", url="http://127.0.0.1:9/", delay="1h")
        assert ("fsync" in daemon.log) == (durability == "off"), "said in the log"
        daemon.kill()
    daemon = home.start(config="")  # nothing set but the folder
    with daemon.connect() as client:
        assert client.done("hello")["durability"] == "group"
        assert client.done("get", id="kept-group")["task"]["state"] == "scheduled"
    daemon.stop()
