"""Retention of the real daemon: ids become free in time, stay free over compaction and kill, and are new."""

from __future__ import annotations

import pytest

from tests.process.daemon import SMALL, Connection, Home, until
from tests.process.raw import RawReceiver

CONFIG = SMALL + "[limits]\nkeep_done = '1s'\nkeep_dead = '2s'\nkeep_done_max = 50\n"
BODY = "x" * 60_000


def gone(client: Connection, id: str) -> None:
    """Go on when the id is no longer known."""
    for _ in until():
        if client.ask("get", id=id).get("error") == "not_found":
            return


def compacted(client: Connection) -> None:
    """Go on when the oldest segment, with all that happened so far, is gone: filled up and given back."""
    before = client.done("stats")["journal"]["compactions"]
    for _ in until(every_s=0.005):
        reply = client.ask("schedule", id="filler", url="http://127.0.0.1:9/", delay="1h", body_text=BODY,
                           on_conflict="replace")  # fmt: skip
        assert reply["ok"] or reply["error"] == "full", "faster than the next segment is made"
        if client.done("stats")["journal"]["compactions"] > before:
            break


@pytest.mark.parametrize("words", ["200", "410"])
def test_an_id_that_returns_after_its_retention_is_another_message(home: Home, words: str) -> None:
    """A receiver that drops what it has seen would drop the new event: each life has its own webhook-id,
    also its hooks, and also where compaction, a crash or both lie between."""
    with RawReceiver() as receiver:
        daemon = home.start("--fsync", "off", config=CONFIG)
        client = daemon.connect()
        url, hook_url = receiver.url(f"/{words}/life"), receiver.url("/200/hook")
        for life, between in enumerate(("nothing", "compaction", "kill", "both"), 1):
            reply = client.done("schedule", id="订单 42", url=url, body=1, on_done=hook_url, on_dead=hook_url)
            assert (reply["version"], reply["duplicate"]) == (1, False)
            callbacks, hooks = receiver.wait("/" + words + "/life", life), receiver.wait("/200/hook", life)
            assert len({request.headers["webhook-id"] for request in [*callbacks, *hooks]}) == 2 * life
            assert callbacks[-1].headers["wheeltimer-version"] == "1"
            gone(client, "订单 42")
            if between in ("compaction", "both"):
                compacted(client)
            if between in ("kill", "both"):
                client.close()
                daemon.kill()
                daemon = home.start("--fsync", "off", config=CONFIG)
                client = daemon.connect()
            assert client.refused("get", id="订单 42")["error"] == "not_found", "forgotten is forgotten"
        client.close()
        daemon.stop()


def test_what_was_kept_is_kept_over_a_kill_and_counts_on(home: Home) -> None:
    """Its body goes with the end; the time that it is kept is counted from the end, not from the start."""
    with RawReceiver() as receiver:
        daemon = home.start("--fsync", "off")
        with daemon.connect() as client:
            for id, words in (("done", "200"), ("dead", "410")):
                client.done("schedule", id=id, url=receiver.url(f"/{words}/{id}"), body={"n": 1})
                for _ in until():
                    if client.done("get", id=id)["task"]["state"] == id:
                        break
            ended = {id: client.done("get", id=id)["task"]["ended"] for id in ("done", "dead")}
        daemon.kill()
        daemon = home.start("--fsync", "off")
        with daemon.connect() as client:
            for id in ("done", "dead"):
                task = client.done("get", id=id)["task"]
                assert (task["ended"], task.get("body")) == (ended[id], None if id == "done" else {"n": 1})
        daemon.kill()
        daemon = home.start("--fsync", "off", config=CONFIG)
        with daemon.connect() as client:
            for id, kept_ms in (("done", 1000), ("dead", 2000)):
                gone(client, id)
                assert client.done("ping")["now"] >= ended[id] + kept_ms
            assert client.done("stats")["tasks"] | {"scheduled": 0} == dict.fromkeys(
                ("scheduled", "ready", "running", "done", "dead", "expired", "cancelled"), 0
            )
        daemon.stop()


def test_no_more_ended_tasks_are_kept_than_the_count_allows(home: Home) -> None:
    config = CONFIG.replace("'1s'", "'1h'")
    with RawReceiver() as receiver:
        daemon = home.start("--fsync", "off", config=config)
        for _ in range(2):
            with daemon.connect() as client:
                for number in range(120):
                    client.done("schedule", id=f"t{number}", url=receiver.url("/200/x"), delay="1h",
                                on_conflict="replace")  # fmt: skip
                    client.done("cancel", id=f"t{number}")
                for _ in until():
                    if client.done("stats")["tasks"]["cancelled"] <= 50:
                        break
                kept = {task["id"] for task in client.done("list", limit=1000)["tasks"]}
                assert kept == {f"t{number}" for number in range(70, 120)}, "the newest"
            daemon.kill()
            daemon = home.start("--fsync", "off", config=config)
        daemon.stop()
