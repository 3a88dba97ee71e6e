"""A disk that fails, seen from outside: strace makes one system call of the real process fail.

Only calls on the open segment are touched (``-P``), so that the count of a call does not depend on
what the daemon does to its spare files.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest

from tests.process.daemon import Connection, Daemon, Home, until
from tests.process.receiver import Receiver
from tests.process.tools import need

URL = "http://127.0.0.1:9/never"
SPARES = 3


@pytest.fixture
def quiet(home: Home) -> Home:
    """A folder whose spare files are made: what is written from now on is records and markers."""
    daemon = home.start()
    for _ in until():
        if len(list(home.data.glob("*.zeros"))) == SPARES:
            break
    daemon.stop()
    return home


def injected(home: Home, *injections: str, calls: str = "fdatasync,pwrite64") -> Sequence[str]:
    """strace around the daemon, as a grandchild: the daemon keeps its parent and its pid."""
    (segment,) = home.segments()
    command = [
        need("strace"),
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(home.folder / "trace"),
        "-P",
        str(segment),
    ]
    command += ["-e", f"trace={calls}"]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    return command


def traced(home: Home, call: str) -> list[str]:
    lines = (home.folder / "trace").read_text().splitlines()
    return [line for line in lines if f" {call}(" in line]


def await_syncs(home: Home, count: int) -> None:
    """A commit and, once nothing follows, its marker: only then is it known which sync comes next."""
    for _ in until():
        if len(traced(home, "fdatasync")) == count:
            return


def acknowledge(client: Connection, *ids: str, url: str = URL, delay: int | str = "1h") -> None:
    for id in ids:
        client.done("schedule", id=id, url=url, delay=delay)


def check_ended_by_storage(daemon: Daemon) -> None:
    ended = daemon.wait()
    assert ended.code == 74, ended
    assert "storage failed" in ended.log
    assert "Traceback" not in ended.log, ended.log


def test_one_failed_sync_ends_the_daemon_and_nothing_acknowledged_is_missing(
    quiet: Home, receiver: Receiver
) -> None:
    """Nobody is told that it was stored, the sync is never tried again, nothing goes on
    in memory alone. Timers and attempts are under way while it happens, and the sync that fails takes
    its time: all who ask meanwhile have been read by then, and nothing of theirs is in the frame that may
    have been kept."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:delay_enter=3000000:when=5"))
    with daemon.connect() as first, daemon.connect() as second, daemon.connect() as third:
        acknowledge(first, "in-flight", url=receiver.url("/hold"), delay=0)
        receiver.wait_for("in-flight")
        await_syncs(quiet, 2)
        acknowledge(first, "a")
        await_syncs(quiet, 4)
        second.send(
            *(
                {"op": "schedule", "id": f"s{n}", "url": receiver.url(), "delay": n, "seq": n}
                for n in range(300)
            )
        )
        for _ in until():
            if len(traced(quiet, "pwrite64")) == 5:  # two commits, two markers, and what cannot be synced
                break
        third.send(
            {"op": "schedule", "id": "t", "url": URL, "delay": "1h"}, {"op": "get", "id": "a", "seq": "g"}
        )
        receiver.release()  # an outcome has to be recorded on a dead disk
        told = [*second.rest(), *third.rest()]
        assert {reply["error"] for reply in told} == {"storage"}, told
        assert [reply["seq"] for reply in told if isinstance(reply.get("seq"), int)] == list(range(300))
        assert first.line() is None  # nothing of it was waiting: closed without a word
    check_ended_by_storage(daemon)
    syncs = traced(quiet, "fdatasync")
    assert len(syncs) == 5, syncs
    assert "EIO" in syncs[-1]
    assert not any(callback.id.startswith("s") for callback in receiver.callbacks)

    again = quiet.start()
    with again.connect() as client:
        for id in ("in-flight", "a"):
            assert client.done("get", id=id)["task"]["version"] == 1
        # "storage" leaves the outcome unknown: the same request again settles it.
        for n in range(300):
            client.done("schedule", id=f"s{n}", url=receiver.url(), delay=n)
    callbacks = receiver.wait_for("in-flight", 2)
    assert [callback.attempt for callback in callbacks] == [1, 1], (
        "an attempt without an outcome was not made"
    )
    receiver.wait(lambda all_: len({callback.id for callback in all_}) == 301)
    again.stop()


def test_a_failed_sync_with_nobody_waiting_ends_the_daemon_too(quiet: Home) -> None:
    """The idle marker's sync fails: the next commit could not be trusted."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:when=2"))
    with daemon.connect() as client:
        acknowledge(client, "a")
        assert client.line() is None
    check_ended_by_storage(daemon)
    assert quiet.start().tasks == 1


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_a_failed_write_inside_reserved_room_ends_the_daemon(quiet: Home, error: str) -> None:
    daemon = quiet.start(wrap=injected(quiet, f"pwrite64:error={error}:when=3"))  # commit, marker, commit
    with daemon.connect() as client:
        acknowledge(client, "a")
        for _ in until():
            if len(traced(quiet, "pwrite64")) == 2:
                break
        assert client.refused("schedule", id="b", url=URL, delay="1h")["error"] == "storage"
        assert client.line() is None
    check_ended_by_storage(daemon)
    again = quiet.start()
    with again.connect() as client:
        client.done("get", id="a")
        assert client.refused("get", id="b")["error"] == "not_found"
    again.stop()


def test_a_sync_that_fails_at_a_clean_stop_is_74(quiet: Home) -> None:
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:when=3+"))
    with daemon.connect() as client:
        acknowledge(client, "a")
        await_syncs(quiet, 2)
    daemon.signal()
    check_ended_by_storage(daemon)
    assert quiet.start().tasks == 1


def test_a_segment_that_cannot_be_read_is_74(quiet: Home) -> None:
    daemon = quiet.launch(wrap=injected(quiet, "read:error=EIO", calls="read"))
    ended = daemon.wait()
    assert ended.code == 74, ended
    assert ended.out == ""
    assert "Traceback" not in ended.log, ended.log
    assert str(quiet.data) in ended.log
    quiet.start().stop()


def test_no_callback_goes_out_for_a_schedule_that_is_not_durable_yet(quiet: Home, receiver: Receiver) -> None:
    """The sync takes a second; until it is done there is neither a reply nor a callback."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:delay_exit=1000000:when=1"))
    with daemon.connect() as client:
        client.send({"op": "schedule", "id": "a", "url": receiver.url()})
        for _ in until():
            if traced(quiet, "pwrite64"):
                break
        client.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert not receiver.callbacks
        with daemon.connect() as other:
            assert other.done("stats", seq=1)["seq"] == 1  # once the disk has caught up
    (callback,) = receiver.wait_for("a")
    assert callback.late_ms >= 500, "it waited for the disk"
    daemon.stop()


def test_no_callback_goes_out_for_a_schedule_that_never_became_durable(
    quiet: Home, receiver: Receiver
) -> None:
    """Due at once, decided, applied, and the sync that would make it true takes long and fails."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:delay_enter=700000:when=2"))
    with daemon.connect() as client:
        acknowledge(client, "before", url=receiver.url(), delay=300)
        client.send(
            {"op": "schedule", "id": "a", "url": receiver.url()},
            {"op": "schedule", "id": "b", "url": receiver.url(), "delay": 20},
        )
        assert [reply["error"] for reply in client.rest()] == ["storage", "storage"]
    check_ended_by_storage(daemon)
    # What was durable before did not wait for the disk that hung: it was called on time.
    (callback,) = receiver.callbacks
    assert callback.id == "before"
    assert callback.late_ms < 250


def test_a_refusal_that_depends_on_what_is_not_durable_waits_for_it_too(quiet: Home) -> None:
    """Memory runs ahead of the disk, what is said does not: ``exists``, a duplicate, a ``get``."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:delay_enter=500000:when=1"))
    with daemon.connect() as client, daemon.connect() as other:
        client.send({"op": "schedule", "id": "a", "url": URL, "delay": "1h"})
        for _ in until():
            if traced(quiet, "pwrite64"):
                break
        other.send(
            {"op": "schedule", "id": "a", "url": URL, "delay": "1h"},
            {"op": "schedule", "id": "a", "url": URL, "delay": "2h"},
            {"op": "get", "id": "a"},
            {"op": "cancel", "id": "a"},
        )
        assert [reply["error"] for reply in other.rest()] == ["storage"] * 4
    check_ended_by_storage(daemon)


def test_one_sync_serves_all_who_wait(quiet: Home) -> None:
    """Group commit: while one sync is slow, everything that comes meanwhile makes one more."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:delay_exit=400000:when=1"))
    clients = [daemon.connect() for _ in range(20)]
    with daemon.connect() as first:
        first.send({"op": "schedule", "url": URL, "delay": "1h"})
        for _ in until():
            if traced(quiet, "pwrite64"):
                break
        for client in clients:
            client.send(*({"op": "schedule", "url": URL, "delay": "1h"} for _ in range(10)))
        for client in clients:
            assert all(reply["ok"] for reply in client.replies(10))
            client.close()
        assert first.reply()["ok"]
        commits = first.done("stats")["journal"]["commits"]
        assert 2 <= commits <= 4, (
            "201 requests, two commits; more only where the machine is slower than a disk"
        )
        assert commits <= len(traced(quiet, "fdatasync")) <= commits + 1  # and a marker, once it is idle
    daemon.kill()


def test_a_sync_that_takes_seconds_is_told_of_and_counted_and_nobody_is_refused(
    quiet: Home, receiver: Receiver
) -> None:
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:delay_exit=2500000:when=2"))
    with daemon.connect() as client, daemon.connect() as other:
        acknowledge(client, "before", url=receiver.url(), delay=400)
        client.send({"op": "schedule", "id": "waits", "url": URL, "delay": "1h"})
        for _ in until():
            if len(traced(quiet, "pwrite64")) == 2:
                break
        for n in range(20):  # three times what may wait for the disk
            other.send({"op": "schedule", "id": f"s{n}", "url": URL, "delay": "1h", "body": "x" * 20_000})
        (callback,) = receiver.wait_for("before")
        assert callback.late_ms < 250
        assert client.reply()["ok"]
        assert all(reply["ok"] for reply in other.replies(20))
        about = client.done("stats")["journal"]
        assert about["slow_syncs"] == 1
        assert 2500 <= about["sync_ms_max"] < 20_000
    (slow,) = [line for line in daemon.log.splitlines() if "disk is slow" in line]
    assert f"{quiet.segments()[0].name} took ms={about['sync_ms_max']}" in slow
    assert daemon.log.count("disk does not answer") == 1
    daemon.kill()
    with quiet.start().connect() as client:
        assert client.done("stats")["tasks"]["scheduled"] == 21


def test_a_disk_that_hangs_does_not_stop_the_timers(quiet: Home, receiver: Receiver) -> None:
    """The disk is never between a deadline and its callback: every sync takes 300 ms, and one follows
    another, while what was durable before comes due."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:delay_exit=300000"))
    with daemon.connect() as client:
        client.send(
            *(
                {"op": "schedule", "id": f"t{n}", "url": receiver.url(), "delay": 1500 + 5 * n}
                for n in range(100)
            )
        )
        assert all(reply["ok"] for reply in client.replies(100))
        while len(receiver.callbacks) < 100:
            client.done("schedule", url=URL, delay="1h")
        callbacks = receiver.wait(lambda all_: len(all_) == 100)
    assert max(callback.late_ms for callback in callbacks) < 200
    daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["loop", "interpreter"])
def test_a_signal_in_the_last_moments_does_not_change_the_exit_code(
    quiet: Home, where: str, number: int
) -> None:
    """A service manager that stops what fails just now still learns why it failed."""
    daemon = quiet.start(wrap=injected(quiet, "fdatasync:error=EIO:when=1"), module="tests.process.slow_exit")
    with daemon.connect() as client:
        client.send({"op": "schedule", "id": "a", "url": URL, "delay": "1h"})
        assert [reply["error"] for reply in client.rest()] == ["storage"]
    for _ in until():
        if f"last words: {where}" in daemon.log:
            break
    daemon.signal(number)
    check_ended_by_storage(daemon)
