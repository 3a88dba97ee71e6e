"""A limit of descriptors that is lowered under a running daemon, and raised again: attempts are put back."""

from __future__ import annotations

import resource

from tests.process.daemon import Home, until
from tests.process.receiver import Receiver

TASKS = 40


def test_no_attempt_is_used_up_while_descriptors_are_out(home: Home, receiver: Receiver) -> None:
    """No connection can be opened; once one can, each task is called once, as attempt 1."""
    daemon = home.start()
    pid = daemon.pid
    with daemon.connect() as client:
        client.done("ping")  # accepted, before nobody can be
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # what is open stays; none is to be had
        client.send(
            *({"op": "schedule", "id": f"t{n}", "url": receiver.url(), "retry": "none"} for n in range(TASKS))
        )
        assert all(reply["ok"] for reply in client.replies(TASKS))
        for _ in until():
            stats = client.done("stats")
            if stats["lapsed"]["descriptors"] >= 3:
                break
        assert stats["tasks"]["ready"] + stats["tasks"]["running"] == TASKS
        assert stats["attempts"] == {"succeeded": 0, "failed": 0, "not_yet": 0}
        client.send({"op": "cancel", "id": "t0"})
        assert client.replies(1)[0]["cancelled"] == 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for _ in until():
            if client.done("stats")["tasks"]["done"] == TASKS - 1:
                break
        assert client.done("stats")["attempts"]["failed"] == 0
    log = daemon.stop().log
    assert log.count("short_of=descriptors") == 1
    assert "raise LimitNOFILE (ulimit -n)" in log
    assert sorted(callback.id for callback in receiver.callbacks) == sorted(f"t{n}" for n in range(1, TASKS))
    assert {callback.attempt for callback in receiver.callbacks} == {1}
