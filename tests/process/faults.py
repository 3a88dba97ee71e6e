"""One fault in one system call of the real daemon, and what has to be true afterwards.

``Drill`` is a short life of a daemon that does all there is to do with a disk: it starts on a folder that
was left by a kill, schedules, cancels, delivers, goes through several segments, compacts, stops. A dry
run under strace tells where it calls what (``Spot``); then the same life is lived with one of those calls
failing (``Fault``), and again a start without any fault shows what was kept.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.process.daemon import Connection, Daemon, Ended, Home, until
from tests.process.receiver import Receiver
from tests.process.tools import need

CALLS = (
    "openat",
    "pwrite64",
    "fdatasync",
    "fsync",
    "fallocate",
    "rename",
    "unlink",
    "flock",
    "read",
    "pread64",
)
SAID = {  # how the log names them
    "openat": "open:", "pwrite64": "write:", "fdatasync": "fdatasync:", "fsync": "fsync:",
    "rename": "rename:", "fallocate": "fallocate:", "unlink": "unlink:", "flock": "flock:",
    "read": "read:", "pread64": "read:",
}  # fmt: skip
CONFIG = "[journal]\nsegment_bytes = 1048576\nhistory_bytes = 0\n[limits]\nkeep_done_max = 10\n"
NEVER = "http://127.0.0.1:9/never"
BATCHES, BATCH = 36, 10
BODY = "x" * 5000
_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?P<rest>.*)")


class Spot(NamedTuple):
    """The ``number``-th time, from 1, that one thread calls ``call`` on the file ``name``."""

    call: str
    name: str
    number: int

    @property
    def kind(self) -> str:
        """The name without its numbers."""
        return re.sub(r"\d+", "N", self.name)


class Fault(NamedTuple):
    spot: Spot
    error: str

    def __str__(self) -> str:
        return f"{self.error} at {self.spot.call} {self.spot.number} of {self.spot.name}"


@dataclass
class Acknowledged:
    """What a client was told. ``due_now``: ids whose callback was to go out at once."""

    later: set[str] = field(default_factory=set)
    due_now: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    asked_to_cancel: set[str] = field(default_factory=set)
    full: int = 0
    storage: int = 0


@dataclass
class Lived:
    """How one life went."""

    ended: Ended
    ready: bool
    told: Acknowledged
    trace: list[str]

    @property
    def injected(self) -> list[int]:
        """Numbers of the lines in ``trace`` that a fault was put into."""
        return [number for number, line in enumerate(self.trace) if "(INJECTED)" in line]


def make_template(folder: Path) -> Path:
    """A data folder as a kill leaves it: no clean end, and a file that was not finished."""
    with Home(folder) as home:
        daemon = home.start(config=CONFIG)
        with daemon.connect() as client:
            for n in range(30):
                client.send({"op": "schedule", "id": f"old-{n}", "url": NEVER, "delay": "1h", "body": BODY})
            assert all(reply["ok"] for reply in client.replies(30))
            for _ in until():
                if len(list(home.data.glob("*.zeros"))) == 3:
                    break
        daemon.kill()
        (home.data / "spare-90.tmp").write_bytes(b"left over")
        return home.data


class Drill:
    """One life in a folder of its own, with at most one fault."""

    def __init__(self, folder: Path, template: Path, receiver: Receiver, name: str) -> None:
        folder.mkdir(parents=True)
        self.home = Home(folder)
        shutil.copytree(template, self.home.data)
        self.receiver = receiver
        self.name = name
        self.told = Acknowledged()

    def live(self, fault: Fault | None, *, ends: bool = False) -> Lived:
        """All of it, up to the end of the process. Without a fault everything is traced.

        ``ends``: the fault shall end the daemon, so nobody asks it to.
        """
        daemon = self.home.launch(config=CONFIG, wrap=self._strace(fault))
        ready = self._await_ready(daemon)
        if ready and self._work(daemon) and not (ends and "(INJECTED)" in self._trace()):
            daemon.signal()
        ended = daemon.wait()
        return Lived(ended, ready, self.told, self._trace().splitlines())

    def _trace(self) -> str:
        return (self.home.folder / "trace").read_text(errors="replace")

    def _strace(self, fault: Fault | None) -> Sequence[str]:
        """A tool that execs the daemon under its own pid; ``-P``: nothing but the one file is touched."""
        command = [need("strace"), "-D", "-f", "-y", "-qq", "-s", "0", "--seccomp-bpf"]
        command += ["-o", str(self.home.folder / "trace"), "-e", f"trace={','.join(CALLS)}"]
        if fault is not None:
            path = self.home.data if fault.spot.name == "." else self.home.data / fault.spot.name
            command += ["-P", str(path)]
            command += ["-e", f"inject={fault.spot.call}:error={fault.error}:when={fault.spot.number}"]
        return command

    def _await_ready(self, daemon: Daemon) -> bool:
        try:
            daemon.await_ready()
        except AssertionError:
            if daemon.process.wait(10) is None:
                raise
            return False
        return True

    def _work(self, daemon: Daemon) -> bool:
        """Whether the daemon lived through it."""
        try:
            with daemon.connect() as client, daemon.connect() as watcher:
                watcher.send({"op": "subscribe", "types": ["task.scheduled", "task.done"]})
                for number in range(BATCHES):
                    if not self._batch(client, number):
                        return False
                for _ in until():
                    if client.done("stats")["journal"]["compactions"] or self.told.full:
                        break
        except (ConnectionError, AssertionError):
            return False  # the daemon is gone; what it told counts
        return True

    def _batch(self, client: Connection, number: int) -> bool:
        """Schedule some, cancel most of the batch before; False where the daemon ended in between."""
        requests: list[dict[str, Any]] = []
        for n in range(BATCH):
            id = f"{self.name}-{number}-{n}"
            how = {"url": self.receiver.url(), "delay": 0} if n == 0 else {"url": NEVER, "delay": "1h"}
            requests.append({"op": "schedule", "id": id, "body": BODY, **how})
        if number:
            gone = [f"{self.name}-{number - 1}-{n}" for n in range(2, BATCH)]
            requests += [{"op": "cancel", "id": id} for id in gone if id in self.told.later]
        self.told.asked_to_cancel |= {request["id"] for request in requests if request["op"] == "cancel"}
        client.send(*requests)
        for position, request in enumerate(requests):
            line = client.line()
            if line is None:
                assert position == 0 or self.told.storage, "some of a batch was answered and the rest was not"
                return False
            self._count(request, line)
        return not self.told.storage

    def _count(self, request: dict[str, Any], line: bytes) -> None:
        told, id = self.told, request["id"]
        if b'"ok":true' in line:
            assert not told.storage, "stored, after the storage failed"
            if request["op"] == "cancel":
                told.cancelled.add(id)
            elif request["delay"] == 0:
                told.due_now.add(id)
            else:
                told.later.add(id)
        elif b'"error":"full"' in line:
            told.full += 1
        else:
            assert b'"error":"storage"' in line, line
            told.storage += 1

    def check_kept(self) -> None:
        """A start without faults: all that was acknowledged is there or was delivered."""
        told = self.told
        daemon = self.home.start(config=CONFIG)
        with daemon.connect() as client:
            wanted = sorted(told.later) + [f"old-{n}" for n in range(30)]
            client.send(*({"op": "get", "id": id} for id in wanted))
            for id in wanted:
                reply = client.reply()
                if id in told.cancelled:
                    state = reply["task"]["state"] if reply["ok"] else "forgotten"
                    assert state in ("cancelled", "forgotten"), f"{id}: cancelled, and now {state}"
                elif id in told.asked_to_cancel:
                    assert not reply["ok"] or reply["task"]["state"] in ("scheduled", "cancelled"), reply
                else:
                    assert reply["ok"], f"{id} was acknowledged and is lost: {reply}"
                    assert (reply["task"]["state"], reply["task"]["body"]) == ("scheduled", BODY)
        self.receiver.wait(lambda all_: told.due_now <= {callback.id for callback in all_})
        daemon.kill()

    def close(self) -> None:
        self.home.__exit__()
        shutil.rmtree(self.home.folder)


def spots_of(trace: Sequence[str], data: Path) -> list[Spot]:
    """Where a dry run called what on a file of ``data``, in order."""
    counts: Counter[tuple[str, str, str]] = Counter()
    spots: dict[Spot, None] = {}
    for line in trace:
        found = _LINE.match(line)
        if found is None or found["call"] not in CALLS:
            continue
        # The path of a descriptor stands in <>, a path argument in quotes; of two, the first is renamed.
        names = re.findall(rf'[<"]{re.escape(str(data))}(?:/([^">/]+))?[">]', found["rest"])
        if found["call"] in ("openat", "rename", "unlink"):
            names = re.findall(rf'"{re.escape(str(data))}(?:/([^"/]+))?"', found["rest"])
        if names:
            name = names[0] or "."
            key = (found["pid"], found["call"], name)
            counts[key] += 1
            spots[Spot(found["call"], name, counts[key])] = None
    return list(spots)


def syncs_after(lived: Lived, at: int) -> list[str]:
    """Later attempts to sync the same file: there must be none."""
    return [line for line in lived.trace[at + 1 :] if re.search(r" f(data)?sync\(", line)]
