"""Subscribers of a real daemon: broken connections, kills, and nothing missed or doubled."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.process.daemon import SMALL, START_S, Connection, Daemon, Home, Reply, until
from wheeltimer.core import record_events
from wheeltimer.journal_tools.reader import read

URL = "http://127.0.0.1:9/"  # nobody listens there: every attempt fails at once
RECONNECTS = 20
KILLS = 5


def in_journal(folder: Path, writer: record_events.Writer) -> list[bytes]:
    """Every event whose record is on disk."""
    return [
        event.line.rstrip(b"\n")
        for frame in read(folder)
        for event in writer.events(list(enumerate(record_events.split(frame.payload), frame.first_lsn)))
    ]


class Subscriber:
    """Keeps what it saw, and resumes from its last cursor."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.cursor: str | None = None
        self.connection: Connection | None = None

    def connect(self, daemon: Daemon) -> None:
        self.connection = daemon.connect()
        asked = {} if self.cursor is None else {"from": self.cursor}
        reply = self.connection.done("subscribe", **asked)
        assert self.cursor in (None, reply["cursor"])
        self.cursor = reply["cursor"]

    def read(self, count: int) -> None:
        """So many lines that are kept in the journal; fewer where the daemon is gone."""
        assert self.connection is not None
        while count > 0:
            try:
                line = self.connection.line()
            except (ConnectionError, AssertionError):  # killed in the middle of a line
                return
            if line is None:
                return
            event = json.loads(line)
            assert "event" in event, event
            self.cursor = event["cursor"]
            if event["event"] != "attempt.started":
                self.seen.append(line)
                count -= 1

    def close(self) -> None:
        assert self.connection is not None
        self.connection.close()


def work(connection: Connection, chance: random.Random, numbers: Iterator[int], count: int) -> None:
    """Requests of every kind; the answers are not looked at, a killed daemon gives none."""
    requests = []
    for _ in range(count):
        id = f"t{next(numbers)}"
        requests.append(
            {
                "op": "schedule",
                "id": id,
                "url": URL,
                "retry": "none",
                "delay": chance.choice((0, 0, 3600_000)),
            }
        )
        if chance.random() < 0.3:
            requests.append({"op": chance.choice(("cancel", "finish", "redrive")), "id": id})
    connection.send(*requests)


def test_a_subscriber_sees_every_event_once_and_in_order_across_reconnects_and_kills(tmp_path: Path) -> None:
    seed = 11
    print(f"seed {seed}")
    chance, numbers = random.Random(seed), iter(range(10**9))
    subscriber = Subscriber()
    with Home(tmp_path) as home:
        daemon = home.start()
        subscriber.connect(daemon)
        kills = set(chance.sample(range(1, RECONNECTS), KILLS))
        for turn in range(RECONNECTS):
            with daemon.connect() as connection:
                work(connection, chance, numbers, 40)
                subscriber.read(chance.randrange(0, 30))
                work(connection, chance, numbers, 40)
                if turn in kills:
                    daemon.kill()
                    subscriber.read(10**6)  # what was under way still arrives
                else:
                    connection.half_close()
                    connection.rest()
            subscriber.close()
            if turn in kills:
                daemon = home.start()
            subscriber.connect(daemon)
        with daemon.connect() as connection:
            last = connection.done("schedule", id="last", url=URL, delay="1h")
            assert last["ok"]
        while b'"id":"last"' not in (subscriber.seen or [b""])[-1]:
            subscriber.read(1)
        subscriber.close()
        daemon.stop()
        (name,) = {event["cursor"].split("-")[0] for event in map(json.loads, subscriber.seen)}
        wanted = in_journal(home.data, record_events.Writer(bytes.fromhex(name)))
    assert len(subscriber.seen) > 1000
    assert subscriber.seen == wanted[: len(subscriber.seen)], "what ended after it left is not looked at"


def test_a_cursor_that_the_journal_no_longer_holds_is_told_so_after_a_kill_too(tmp_path: Path) -> None:
    """Compaction gave its segment back while the subscriber was away and the daemon was killed."""
    with Home(tmp_path) as home:
        config = SMALL + "history_bytes = 0\n[limits]\nkeep_done_max = 10\n"
        daemon = home.start(config=config)
        with daemon.connect() as subscribed, daemon.connect() as connection:
            begin = subscribed.done("subscribe")["cursor"]
            connection.done("schedule", id="seen", url=URL, delay="1h")
            last = subscribed.reply()["cursor"]
        first = home.segments()[0]
        numbers = iter(range(10**6))
        with daemon.connect() as connection:
            for _ in until(every_s=0):
                ids = [f"t{next(numbers)}" for _ in range(50)]
                connection.send(
                    *(
                        {"op": "schedule", "id": id, "url": URL, "delay": "1h", "meta": "m" * 3000}
                        for id in ids
                    ),
                    *({"op": "cancel", "id": id} for id in ids),
                )
                connection.replies(100)
                if not first.exists():
                    break
        daemon.kill()
        daemon = home.start(config=config)
        for cursor in (begin, last):
            with daemon.connect() as back:
                (lagged,) = ask_and_rest(back, cursor)
            assert (lagged["ok"], lagged["error"]) == (False, "lagged")
        with daemon.connect() as back, daemon.connect() as connection:
            assert back.done("subscribe", **{"from": lagged["cursor"]})["cursor"] == lagged["cursor"]
            connection.done("schedule", id="new", url=URL, delay="1h")
            seen = [back.reply()]
            while (seen[-1]["event"], seen[-1]["id"]) != ("task.scheduled", "new"):
                seen.append(back.reply())
            lsns = [int(event["cursor"].rpartition("-")[2]) for event in seen]
            assert lsns == sorted(set(lsns))
            assert lsns[0] > int(lagged["cursor"].rpartition("-")[2])
        daemon.stop()


def ask_and_rest(connection: Connection, cursor: str) -> list[Reply]:
    connection.send({"op": "subscribe", "from": cursor})
    return connection.rest()


def test_a_drain_sends_the_last_events_and_then_closes(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        daemon = home.start()
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with daemon.connect() as connection, daemon.connect() as subscribed:
            subscribed.done("subscribe", types=["task.*"])
            connection.done("schedule", id="a", url=url)
            callback, _ = listener.accept()
            callback.recv(65_536)
            daemon.signal()
            for _ in until():
                if "draining" in daemon.log:
                    break
            assert connection.refused("schedule", id="b", url=url)["error"] == "draining"
            with daemon.connect() as late:
                late.done("subscribe")
                callback.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                assert [event["event"] for event in subscribed.rest()] == ["task.scheduled", "task.done"]
                assert [event["event"] for event in late.rest()] == ["attempt.succeeded", "task.done"]
        assert daemon.wait().code == 0
        callback.close()
        listener.close()


def test_a_subscriber_that_reads_nothing_is_told_lagged_and_others_go_on(tmp_path: Path) -> None:
    # One segment holds all of it, so that compaction takes nothing that the subscriber comes back for.
    config = "[limits]\nsubscriber_bytes_max = 65536\n"
    with Home(tmp_path) as home:
        daemon = home.start(config=config)
        with daemon.connect() as slow, daemon.connect() as other, daemon.connect() as connection:
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            begin = slow.done("subscribe")["cursor"]
            other.done("subscribe")
            task = {"url": URL, "delay": "1h", "meta": "m" * 3000}
            count = 0
            for _ in until(START_S, every_s=0):  # until the kernel's own buffers, and then ours, are full
                connection.send(  # of which ``other`` is told less than may wait for it
                    *({"op": "schedule", "id": f"{count + k}"} | task for k in range(8)),
                    *({"op": "cancel", "id": f"{count + k}"} for k in range(8)),
                )  # fmt: skip
                connection.replies(16)
                for _ in range(16):
                    assert other.reply()["event"] in ("task.scheduled", "task.cancelled")
                count += 8
                if count >= 4000:
                    break
            got = slow.rest()
            assert got[-1]["error"] == "lagged"
            assert all("event" in event for event in got[:-1])
        with daemon.connect() as again:
            again.done("subscribe", **{"from": got[-2]["cursor"]})
            rest = [again.reply() for _ in range(2 * count - len(got) + 1)]
            whole = got[:-1] + rest
            assert [event["cursor"] for event in whole] == [
                f"{begin.split('-')[0]}-{lsn}" for lsn in range(1, 2 * count + 1)
            ]
