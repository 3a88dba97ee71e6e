"""SIGHUP on the real daemon: what is read anew, what stays as it was at the start, and a bad file."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.process.daemon import SMALL, Connection, Daemon, Home, until
from tests.process.receiver import Receiver

OPEN = ("127.0.0.1:0", "0.0.0.0:0")  # an open listener: callbacks go where allow_nets says
FLAGS = ("--insecure", "--fsync", "off")
START = f"""
allow_nets = ["127.0.0.0/8"]
{SMALL}
[retry.partner]
kind = "fixed"
every = "1h"
attempts = 5
jitter = 0

[queues.orders]
retry = "partner"
"""
RELOADED = START.replace("127.0.0.0/8", "10.0.0.0/8").replace("1h", "20ms").replace(
    "attempts = 5", "attempts = 3"
) + ("final_statuses = [401]\n[retry.later]\nkind = 'fixed'\nevery = '1s'\nattempts = 2\n")
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ wheeltimer\S* .+")


def hang_up(daemon: Daemon, home: Home, config: str | None) -> str:
    """SIGHUP with this file, or none; what the daemon says about it, which is one line."""
    path, before = home.folder / "wheeltimer.toml", daemon.log
    if config is None:
        path.unlink()
    else:
        path.write_text(config)
    daemon.signal(signal.SIGHUP)
    for _ in until():
        if "reloaded" in daemon.log[len(before) :]:
            break
    with daemon.connect() as client:  # another turn of its loop: whatever else it says is there too
        client.done("ping")
    said = daemon.log[len(before) :]
    assert _LOG_LINE.fullmatch(said.removesuffix("\n")), said
    return said


def check_start_rule(client: Connection, receiver: Receiver, id: str) -> None:
    """Callbacks go to what was allowed at the start, at scheduling and at connect time, and nowhere else."""
    client.done("schedule", id=id, url=receiver.url())
    receiver.wait_for(id)
    for number in (10, 192):
        refusal = client.refused("schedule", id=f"{id}-{number}", url=f"http://{number}.168.3.4/")
        assert refusal["error"] == "target_blocked"
        assert "allow_nets" in refusal["message"]


def test_a_reload_takes_queues_and_retry_rules_and_keeps_the_address_rule(
    home: Home, receiver: Receiver
) -> None:
    daemon = home.start(*FLAGS, config=START, listen=OPEN)
    daemon.await_log("fsync is off")
    with daemon.connect() as client:
        check_start_rule(client, receiver, "before")
        fails = {"queue": "orders", "url": receiver.url("/status/500")}
        client.done("schedule", id="old", **fails)
        receiver.wait_for("old")
        assert client.refused("schedule", id="x", url=fails["url"], retry="later")["field"] == "retry"

        said = hang_up(daemon, home, RELOADED)
        changed = "allow_nets,retry.partner,retry.later,queues.orders.final_statuses"
        assert said.endswith(f"settings reloaded changed={changed}, after a restart: allow_nets\n"), said
        check_start_rule(client, receiver, "after")
        client.done("schedule", id="new", **fails)
        client.done("schedule", id="refused", queue="orders", url=receiver.url("/status/401"))
        client.done("schedule", id="later", queue="orders", url=receiver.url(), retry="later")
        receiver.wait_for("new", 3)
        for id, count, error in (("new", 3, "attempts_used_up"), ("refused", 1, "final_answer")):
            for _ in until():
                task = client.done("get", id=id, queue="orders")["task"]
                if task["state"] == "dead":
                    break
            assert (task["attempts"], task["error"]) == (count, error), id
        task = client.done("get", id="old", queue="orders")["task"]
        assert (task["state"], task["attempts"]) == ("scheduled", 1), "a task keeps the rule it came with"
        assert task["next"] - task["due"] >= 3_600_000
    daemon.stop()


BAD = {
    "not TOML": ("[queues", "is not TOML"),
    "an unknown setting": ("colour = 'red'\n" + RELOADED, "no such setting"),
    "a rule that is not there": (RELOADED.replace('retry = "partner"', 'retry = "nobody"'), "nobody"),
    "out of bounds": (RELOADED + "[queues.narrow]\nconcurrency = 0\n", "out of bounds"),
    "what is not served": (
        "http = '127.0.0.1:1'\n" + RELOADED,
        "http: not served",
    ),
    "no file": (None, "cannot read the configuration file"),
}


def test_a_bad_file_keeps_all_that_was_and_says_so_in_one_line(home: Home, receiver: Receiver) -> None:
    """Each of them asks for rules that would show at once."""
    daemon = home.start(*FLAGS, config=START, listen=OPEN)
    daemon.await_log("fsync is off")
    with daemon.connect() as client:
        for name, (config, says) in BAD.items():
            said = hang_up(daemon, home, config)
            assert "ERROR wheeltimer settings not reloaded, the old ones stay: " in said, name
            assert says in said, said
        check_start_rule(client, receiver, "after")
        client.done("schedule", id="a", queue="orders", url=receiver.url("/status/401"))
        receiver.wait_for("a")
        for _ in until():
            task = client.done("get", id="a", queue="orders")["task"]
            if task["attempts"] == 1:
                break
        assert task["state"] == "scheduled", "401 is final in the bad files only"
        assert task["next"] - task["due"] >= 3_600_000
        assert "settings reloaded" in hang_up(daemon, home, RELOADED), "a good one is still taken"
        client.done("schedule", id="b", queue="orders", url=receiver.url("/status/500"))
        receiver.wait_for("b", 3)
    daemon.stop()


def test_a_reload_of_what_did_not_change_asks_for_no_restart(home: Home) -> None:
    """Also where the machine has room for fewer clients than the settings, which is a setting made to fit."""
    daemon = home.launch(config=SMALL, wrap=("prlimit", "--nofile=1500:1500"))
    daemon.await_ready()
    daemon.await_log("connections_max=430 instead of 10000")
    assert hang_up(daemon, home, SMALL).endswith("settings reloaded changed=none\n")


def takes_hangups(daemon: Daemon) -> bool:
    """Whether SIGHUP is ignored or handled: it no longer ends the process."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    masks = re.findall(r"Sig(?:Ign|Cgt):\s+([0-9a-f]+)", status)
    return any(int(mask, 16) & 1 << signal.SIGHUP - 1 for mask in masks)


def test_a_hangup_at_any_moment_of_the_start_ends_nothing(home: Home) -> None:
    daemon = home.launch(*FLAGS, config=START)
    for _ in until(every_s=0.001):
        if takes_hangups(daemon):
            break
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    daemon.await_ready()
    daemon.signal(signal.SIGHUP)
    for _ in until():
        if "settings reloaded" in daemon.log:
            break
    assert "Traceback" not in daemon.stop().log
