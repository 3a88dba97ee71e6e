"""The table of states and inputs, two of its columns with real processes: kill -9, and a drain.

``tests/daemon/states`` has the table and plays it on a clock that leaps. Here a task in each of its states is
in one daemon, with real sockets, files and signals, and its successor must show what the table's cells say.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.daemon.states.rows import ROWS
from tests.daemon.states.table import state_after
from tests.process.daemon import SMALL, Connection, Home, until
from tests.process.receiver import Receiver

CONFIG = SMALL + "[queues.one]\nconcurrency = 1\n"
# Held calls last as long as the test, also on a slow machine.
FAR = {"retry": {"kind": "fixed", "every": "1h", "attempts": 3, "jitter": 0}, "timeout": "10m"}


@contextmanager
def nobody() -> Iterator[str]:
    """A URL where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def make_all(client: Connection, receiver: Receiver, down: str) -> None:
    """A task in every state, its id the state's name."""
    hold = receiver.url("/hold")

    def schedule(id: str, url: str, **fields: Any) -> None:
        client.done("schedule", id=id, url=url, on_done=receiver.url("/ok"), **FAR | fields)

    schedule("scheduled", hold, delay="1h")
    schedule("scheduled, between attempts", receiver.url("/status/500"))
    poll = {"success": {"text": "ready"}, "poll": {"every": "1h"}}
    schedule("scheduled, between polls", receiver.url("/ok"), **poll)
    schedule("holds the permit", hold, queue="one")
    schedule("ready, waits for a permit", hold, queue="one")
    client.done("pause", queue="paused")
    schedule("ready, queue paused", hold, queue="paused")
    for number in range(10):
        schedule(f"down-{number}", down, retry="none")
    for state in ROWS:
        if state.startswith("running"):
            schedule(state, hold)
    schedule("done", receiver.url("/ok"))
    schedule("dead", receiver.url("/status/410"))
    schedule("expired", receiver.url("/status/500"), expires_in="10ms")
    schedule("cancelled", hold, delay="1h")
    client.done("cancel", id="cancelled")
    for state in ROWS:
        if state.startswith("running"):
            receiver.wait_for(state)
    client.done("reschedule", id="running, rescheduled", delay="1h")
    client.done("schedule", id="running, replaced", url=hold, delay="1h", on_conflict="replace")
    client.done("cancel", id="running, to be cancelled")
    client.done("finish", id="running, to be finished", reply={"by": "first"})
    for _ in until():
        if all(client.done("get", id=f"down-{number}")["task"]["state"] == "dead" for number in range(10)):
            break
    schedule("ready, destination held", down)


def states(client: Connection) -> dict[str, str]:
    """What ``get`` shows of all."""
    shown = {}
    for state in ROWS:
        queue = {"ready, waits for a permit": "one", "ready, queue paused": "paused"}.get(state, "default")
        reply = client.ask("get", id=state, queue=queue)
        shown[state] = f"{reply['task']['state']} {reply['task']['version']}" if reply["ok"] else "unknown"
    return shown


def await_states(client: Connection, wanted: dict[str, str]) -> None:
    """Until they are there; the difference where they do not come."""
    shown: dict[str, str] = {}
    try:
        for _ in until(20):
            if (shown := states(client)) == wanted:
                return
    finally:
        assert shown == wanted


@pytest.mark.parametrize("how", ["kill -9 and restart", "drain and restart"])
def test_a_task_in_every_state_is_after_a_restart_what_the_table_says(
    home: Home, receiver: Receiver, how: str
) -> None:
    with nobody() as down:
        daemon = home.start(config=CONFIG)
        with daemon.connect() as client:
            make_all(client, receiver, down)
            await_states(client, {state: state_after(state, "get") for state in ROWS})
        if how.startswith("kill"):
            daemon.kill()
        else:
            daemon.signal()
            for _ in until():
                if "draining" in daemon.log:
                    break
            receiver.release()
            assert daemon.wait().code == 0
        daemon = home.start(config=CONFIG)
        with daemon.connect() as client:
            await_states(client, {state: state_after(state, how) for state in ROWS})
        (hook,) = receiver.wait_for("running, to be finished/done/1")
        assert json.loads(hook.body)["reply"] == {"by": "first"}
        daemon.stop() if how.startswith("drain") else daemon.kill()
