"""Tokens on the real daemon: what each sees and does not, who is let in, and what a reload changes."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.daemon import SMALL, Connection, Daemon, Home, Reply, until
from wheeltimer.core.access import digest_of

URL = "http://127.0.0.1:9/"


def table(name: str, scopes: list[str], queues: list[str], **more: int) -> str:
    lines = [
        f"name = {name!r}",
        f"sha256 = '{digest_of(name).hex()}'",
        f"scopes = {scopes}",
        f"queues = {queues}",
    ]
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "[[tokens]]\n" + "\n".join(lines) + "\n"


ALL = ["produce", "read", "admin"]
TWO = SMALL + table("ann", ALL, ["ann-*"]) + table("bob", ALL, ["bob"])


def enter(daemon: Daemon, token: str) -> Connection:
    client = daemon.connect()
    client.done("hello", token=token)
    return client


def reload(daemon: Daemon, home: Home, config: str) -> None:
    before = daemon.log.count("settings reloaded")
    (home.folder / "wheeltimer.toml").write_text(config)
    daemon.signal(signal.SIGHUP)
    for _ in until():
        if daemon.log.count("settings reloaded") > before:
            return


def test_nothing_is_answered_before_hello_with_a_known_token(home: Home) -> None:
    daemon = home.start(config=TWO)
    with daemon.connect() as client:
        for request in ({"op": "ping"}, {"op": "stats"}, {"op": "get", "id": "a"}, {"op": "hello"},
                        {"op": "hello", "token": "eve"}, {"op": "list"}, {"op": "cancel", "group": "g"}):  # fmt: skip  # noqa: E501
            client.send(request)
            assert client.reply()["error"] == "unauthorized", request
        client.send(
            *[
                {"op": "schedule", "id": str(n), "url": URL, "delay": 10**6, "queue": "bob"}
                for n in range(300)
            ]
        )
        assert {reply["error"] for reply in client.replies(300)} == {"unauthorized"}
        client.done("hello", token="bob")
        assert client.done("list")["tasks"] == []
        client.send(
            {"op": "schedule", "id": "a", "url": URL, "queue": "bob", "delay": 10**6},
            {"op": "hello", "token": "eve"},
            {"op": "ping"},
        )
        assert [reply.get("error") for reply in client.replies(3)] == [None, "unauthorized", "unauthorized"]
    daemon.stop()


def test_a_token_sees_nothing_of_queues_that_are_not_its_own(home: Home) -> None:
    daemon = home.start(config=TWO)
    with enter(daemon, "ann") as ann, enter(daemon, "bob") as bob, enter(daemon, "ann") as watch:
        start: Reply = watch.done("subscribe")
        ann.done("pause", queue="ann-1")
        bob.done("pause", queue="bob")
        for client, queue in ((ann, "ann-1"), (bob, "bob")):
            for number in range(20):
                client.done("schedule", id=f"t{number}", queue=queue, url=URL, delay=600_000, group="both")
        asked: list[tuple[str, Reply]] = [
            ("schedule", {"url": URL}), ("get", {}),
            ("schedule", {"url": URL, "on_conflict": "replace"}),
            ("cancel", {}), ("cancel", {"if_version": 9}), ("reschedule", {"delay": 1}), ("finish", {}),
            ("redrive", {}),
        ]  # fmt: skip
        by_id = [{"op": op, "id": id, "queue": "bob", **more} for id in ("t1", "never") for op, more in asked]
        answers: dict[str, set[str]] = {}
        for request in by_id:
            ann.send(request)
            reply = ann.reply()
            assert reply["error"] == "forbidden", (request, reply)
            answers.setdefault(request["op"], set()).add(json.dumps(reply))
        assert all(len(different) == 1 for different in answers.values()), "known and unknown are told apart"
        for op in ("list", "forecast", "subscribe", "pause", "resume", "redrive"):
            assert ann.refused(op, queue="bob")["error"] == "forbidden", op
        for op in ("cancel", "finish", "redrive"):
            assert ann.refused(op, group="both", queue="bob")["error"] == "forbidden", op
        assert ann.refused("get", id="t1")["error"] == "forbidden", "default is not its own"
        # Pipelined, so that they would be taken as a run.
        ann.send(
            *[
                {
                    "op": "schedule",
                    "id": f"r{n}",
                    "queue": ("ann-2", "bob")[n % 2],
                    "url": URL,
                    "delay": 10**6,
                }
                for n in range(64)
            ]
        )
        assert [reply["ok"] for reply in ann.replies(64)] == [True, False] * 32
        seen, cursor = [], None
        while True:
            page = ann.done("list", limit=7, cursor=cursor)
            seen += [task["queue"] for task in page["tasks"]]
            if (cursor := page.get("cursor")) is None:
                break
        assert (seen.count("ann-1"), seen.count("ann-2"), len(seen)) == (20, 32, 52)
        crafted = ann.done("list", cursor="0/bob/t0", limit=1000)["tasks"]
        assert {task["queue"] for task in crafted} == {"ann-1", "ann-2"}
        stats = ann.done("stats")
        assert (set(stats["queues"]), stats["tasks"]["scheduled"]) == ({"ann-1", "ann-2"}, 52)
        assert not stats.keys() & {"attempts", "connections", "journal"}
        forecast = ann.done("forecast")
        assert sum(forecast["counts"]) + forecast["overdue"] + forecast["later"] == 52
        assert ann.done("cancel", group="both")["cancelled"] == 20
        assert bob.done("finish", group="both")["finished"] == 20
        assert {watch.reply()["queue"] for _ in range(72)} == {"ann-1", "ann-2"}
        again = enter(daemon, "ann")
        again.done("subscribe", **{"from": start["cursor"]})
        assert {again.reply()["queue"] for _ in range(72)} == {"ann-1", "ann-2"}
        bob.done("schedule", id="last", queue="bob", url=URL, delay=10**6)
        ann.done("schedule", id="last", queue="ann-1", url=URL, delay=10**6)
        for subscriber in (watch, again):
            assert subscriber.reply()["queue"] == "ann-1", "nothing of bob came between"
        again.close()
    daemon.stop()


def test_the_tasks_of_a_token_are_limited_and_others_go_on(home: Home) -> None:
    config = SMALL + table("ann", ALL, ["ann-*"], tasks_max=100) + table("bob", ALL, ["bob"])
    daemon = home.start(config=config)
    with enter(daemon, "ann") as ann, enter(daemon, "bob") as bob:
        bob.done("schedule", id="b", queue="bob", url=URL, delay=10**6)
        ann.send(
            *[
                {"op": "schedule", "id": str(n), "queue": f"ann-{n % 3}", "url": URL, "delay": 10**6}
                for n in range(250)
            ]
        )
        replies = ann.replies(250)
        assert [reply["ok"] for reply in replies] == [True] * 100 + [False] * 150
        assert replies[-1]["error"] == "full"
        assert replies[-1]["retry_after_ms"] == 1000
        assert ann.done("schedule", id="0", queue="ann-0", url=URL, delay=10**6)["duplicate"]
        ann.done("schedule", id="0", queue="ann-0", url=URL, delay=5, on_conflict="keep")
        bob.done("schedule", id="c", queue="bob", url=URL, delay=10**6)
        ann.done("cancel", id="1", queue="ann-1")
        ann.done("schedule", id="new", queue="ann-1", url=URL, delay=10**6)
        assert (
            ann.refused("schedule", id="1", queue="ann-1", url=URL, on_conflict="replace")["error"] == "full"
        )
    daemon.stop()


def test_a_reload_takes_a_token_away_and_drops_no_connection(home: Home) -> None:
    daemon = home.start(config=SMALL)
    with (
        daemon.connect() as free,
        daemon.connect() as bob,
        daemon.connect() as watch,
        daemon.connect() as bobs,
    ):
        free.done("ping")
        bob.done("hello", token="bob")  # nobody asks yet; it counts once somebody does
        bobs.done("hello", token="bob")
        watch.done("subscribe")
        bobs.done("subscribe")
        reload(daemon, home, TWO)
        assert free.refused("ping")["error"] == "unauthorized"
        free.done("hello", token="ann")
        bob.done("ping")
        assert [reply["error"] for reply in watch.rest()] == ["unauthorized"]
        assert [reply["error"] for reply in bobs.rest()] == ["unauthorized"], "it saw all queues before"
        with enter(daemon, "bob") as later:
            later.done("subscribe")
            reload(daemon, home, SMALL + table("bob", ALL, ["bob"]))
            bob.done("schedule", id="a", queue="bob", url=URL, delay=10**6)
            assert later.reply()["event"] == "task.scheduled", "its rights stayed, so it did"
            assert free.refused("ping")["error"] == "unauthorized"
        reload(daemon, home, SMALL)
        free.done("ping")
    daemon.stop()


def test_a_client_that_shows_no_token_in_time_is_told_and_closed(home: Home) -> None:
    daemon = home.start(
        config=TWO.replace("[limits]", "[limits]\nhello = '200ms'", 1)
        if "[limits]" in TWO
        else "[limits]\nhello = '200ms'\n" + TWO
    )
    with daemon.connect() as client, enter(daemon, "bob") as bob:
        assert [reply["error"] for reply in client.rest()] == ["unauthorized"]
        bob.done("ping")
    daemon.stop()


def test_one_address_cannot_take_all_connections(home: Home) -> None:
    where = home.folder / "socket"
    config = (
        SMALL + "[limits]\naddress_connections_max = 2\n"
        if "[limits]" not in SMALL
        else SMALL.replace("[limits]", "[limits]\naddress_connections_max = 2")
    )
    daemon = home.start(config=config, listen=("127.0.0.1:0", f"unix:{where}"))
    with daemon.connect() as one, daemon.connect() as two:
        one.done("ping"), two.done("ping")
        with daemon.connect() as three:
            (refusal,) = three.rest()
            assert refusal["error"] == "full"
            assert refusal["retry_after_ms"] == 1000
            assert "address_connections_max (2)" in refusal["message"]
        with daemon.connect(1) as local, daemon.connect(1) as another, daemon.connect(1) as third:
            for client in (local, another, third):
                client.done("ping")
        two.close()
        for _ in until():
            with daemon.connect() as four:
                four.send({"op": "ping"})
                if four.reply()["ok"]:
                    break
    daemon.stop()


@pytest.mark.parametrize(("setting", "mode"), [("", 0o600), ("unix_mode = '0660'\n", 0o660)])
def test_a_unix_socket_has_the_mode_of_its_setting(home: Home, setting: str, mode: int) -> None:
    where = home.folder / "socket"
    daemon = home.start(config=setting + SMALL, listen=(f"unix:{where}",))
    assert stat.S_IMODE(where.stat().st_mode) == mode
    daemon.stop()


def test_an_open_listener_with_tokens_opens(home: Home) -> None:
    daemon = home.start(config=TWO, listen=("0.0.0.0:0",))
    with Connection(f"127.0.0.1:{daemon.listen[0].rpartition(':')[2]}") as client:
        assert client.refused("ping")["error"] == "unauthorized"
    daemon.stop()


def test_a_made_token_pasted_into_the_file_is_let_in(home: Home, tmp_path: Path) -> None:
    new = [
        sys.executable,
        "-m",
        "wheeltimer",
        "token",
        "new",
        "--name",
        "ann",
        "--queue",
        "ann-*",
        "--tasks-max",
        "5",
    ]
    made = subprocess.run(new, capture_output=True, text=True, check=True).stdout
    token, _, toml = made.partition("\n")
    assert len(token) == 43
    assert token not in toml
    daemon = home.start(config=SMALL + toml)
    with enter(daemon, token) as client:
        client.done("schedule", id="a", queue="ann-1", url=URL, delay=10**6)
        assert client.refused("pause", queue="ann-1")["error"] == "forbidden"
    shown = json.loads(subprocess.run([*new, "--json"], capture_output=True, check=True).stdout)
    assert digest_of(shown["token"]).hex() == shown["sha256"]
    assert shown["token"] != token
    command = [
        sys.executable,
        "-m",
        "wheeltimer",
        "get",
        "a",
        "--queue",
        "ann-1",
        "--json",
        "--server",
        daemon.listen[0],
    ]
    assert subprocess.run(command, capture_output=True).returncode == 1
    assert subprocess.run([*command, "--token", token], capture_output=True).returncode == 0
    assert token not in daemon.stop().log
