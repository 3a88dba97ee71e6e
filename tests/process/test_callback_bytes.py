"""Every byte of a callback, for every kind of attempt, as a bare socket reads it from the real daemon.

Each case runs in a queue of its own, once without and once with two secrets. What is ours to choose is
compared as bytes, in order; what only the daemon knows (the moment, the lateness) with its own history, and
with what the socket saw; signatures with those that the reference library makes.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from standardwebhooks.webhooks import Webhook

import wheeltimer
from tests.process.daemon import SMALL, START_S, Connection, Home, until
from tests.process.raw import RawReceiver, Request, reply

ID, SENT_ID = "订单 42", "%E8%AE%A2%E5%8D%95%2042"
SECRETS = ["whsec_" + base64.b64encode(bytes(range(start, start + 24))).decode() for start in (0, 100)]
NO_CODING = b"accept-encoding: identity"
AGENT = f"wheeltimer/{wheeltimer.__version__}".encode()
WAIT_MS = 300
RETRY = {"kind": "fixed", "every": WAIT_MS, "attempts": 5, "jitter": 0}
JSON, TEXT, OCTETS = b"application/json", b"text/plain; charset=utf-8", b"application/octet-stream"


class Seen(NamedTuple):
    """What one request must be. Equal letters of ``webhook`` are equal ids, others are others."""

    version: int = 1
    attempt: int = 1
    webhook: str = "A"
    body: bytes = b'{"n":1 }'
    fields: bytes = b"user-agent: %b\r\n%b\r\ncontent-type: %b\r\n" % (AGENT, NO_CODING, JSON)
    method: bytes = b"POST"
    recorded: bool = True  # in the history: not where a crash ended the attempt
    id: str = SENT_ID


class World:
    """One daemon after the other on the same folder, a receiver, and the case that runs just now."""

    def __init__(self, home: Home, receiver: RawReceiver, config: str) -> None:
        self.home, self.receiver, self.config = home, receiver, config
        self.client: Connection
        self.queue = self.path = ""
        self.dues: dict[int, int] = {}
        self.start()

    def start(self) -> None:
        self.daemon = self.home.start("--fsync", "off", config=self.config)
        self.client = self.daemon.connect()

    def begin(self, queue: str, words: str, fields: dict[str, Any], body: bytes | None) -> None:
        self.queue, self.path, self.dues = queue, f"/{words}/{queue}", {}
        self.schedule(body, **fields)

    def schedule(self, body: bytes | None, **fields: Any) -> None:
        """The line is put together here: a body goes as its own bytes, spaces and all."""
        given = {name: each() if callable(each) else each for name, each in fields.items()}
        url = self.receiver.url(self.path)
        line = json.dumps({"op": "schedule", "id": ID, "queue": self.queue, "url": url} | given).encode()
        if body is not None:
            line = line[:-1] + b',"body":' + body + b"}"
        self.client.send_bytes(line + b"\n")
        self.note(self.client.reply())

    def note(self, answer: dict[str, Any]) -> None:
        assert answer["ok"], answer
        self.dues[answer["version"]] = answer["due"]

    def task(self, id: str = ID) -> dict[str, Any]:
        task: dict[str, Any] = self.client.done("get", id=id, queue=self.queue)["task"]
        return task

    def recorded(self, count: int, id: str = ID) -> list[dict[str, Any]]:
        """The history, as soon as it has so many attempts."""
        for _ in until():
            history: list[dict[str, Any]] = self.task(id)["history"]
            if len(history) >= count:
                break
        return history


def after(count: int) -> Callable[[World], None]:
    """Go on when so many attempts have ended."""
    return lambda world: world.recorded(count) and None


def reschedule(**fields: Any) -> Callable[[World], None]:
    return lambda world: world.note(world.client.done("reschedule", id=ID, queue=world.queue, **fields))


def replace(body: bytes | None = b'{"n":1 }', **fields: Any) -> Callable[[World], None]:
    return lambda world: world.schedule(body, on_conflict="replace", **fields)


def redrive(world: World) -> None:
    assert world.client.done("redrive", id=ID, queue=world.queue)["redriven"] == 1
    task = world.task()
    world.dues[task["version"]] = task["due"]


def kill(world: World) -> None:
    world.client.close()
    world.daemon.kill()
    world.start()


def arrived(world: World) -> None:
    """Go on when an attempt is in flight."""
    world.receiver.wait(world.path)


def soon() -> str:
    return datetime.fromtimestamp(time.time() + 0.3, UTC).isoformat()


class Case(NamedTuple):
    words: str  # how the receiver answers, see raw.py
    fields: dict[str, Any]
    steps: list[Callable[[World], None]]
    seen: list[Seen]
    body: bytes | None = b'{"n":1 }'


def own(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


AGENT_LINE = b"user-agent: " + AGENT + b"\r\n" + NO_CODING
POLL = {"poll": {"every": WAIT_MS}, "success": {"text": "ok"}}
CASES: dict[str, Case] = {
    "first.now": Case("200", {}, [], [Seen()]),
    "first.delay": Case("200", {"delay": 120}, [], [Seen()]),
    "first.delay.text": Case("200", {"delay": "120ms"}, [], [Seen()]),
    "first.at": Case("200", {"at": soon}, [], [Seen()]),
    "first.at.past": Case("200", {"at": "2001-01-01T00:00:00+08:00"}, [], [Seen()]),
    "retry": Case("500,503,200", {"retry": RETRY}, [], [Seen(), Seen(attempt=2), Seen(attempt=3)]),
    "poll": Case("wait,500,ok", POLL | {"retry": RETRY}, [], [Seen(), Seen(attempt=2), Seen(attempt=3)]),
    "rescheduled.before": Case(
        "200", {"delay": "1h"}, [reschedule(delay=50), reschedule(at="2001-01-01T00:00:00Z", timeout="5s")],
        [Seen(version=3)],
    ),
    "rescheduled.between": Case(
        "500,200", {"retry": RETRY | {"every": "1h"}}, [after(1), reschedule(delay=10)],
        [Seen(), Seen(version=2)],
    ),
    "rescheduled.without.time": Case(
        "500,200", {"retry": RETRY | {"every": "1h"}}, [after(1), reschedule(meta=1)],
        [Seen(), Seen(version=2)],
    ),
    "rescheduled.content": Case(
        "500,200", {"retry": RETRY | {"every": "1h"}}, [after(1), reschedule(body_text="é", delay=0)],
        [Seen(), Seen(2, 1, "B", "é".encode(), own(AGENT_LINE, b"content-type: " + TEXT))],
    ),
    "rescheduled.headers": Case(
        "200", {"delay": "1h"}, [reschedule(headers={"X-Two": "2"}, delay=0)],
        [Seen(2, 1, "B", fields=own(AGENT_LINE, b"content-type: " + JSON, b"X-Two: 2"))],
    ),
    "replaced.before": Case("200", {"delay": "1h"}, [replace()], [Seen(version=2)]),
    "replaced.done": Case("200", {}, [after(1), replace()], [Seen(), Seen(2, 1, "B")]),
    "replaced.dead": Case(
        "410,200", {}, [after(1), replace(None, method="GET")],
        [Seen(), Seen(2, 1, "B", b"", own(AGENT_LINE), b"GET")],
    ),
    "redriven": Case("410,200", {}, [after(1), redrive], [Seen(), Seen(version=2)]),
    "redriven.twice": Case(
        "410", {"at": soon, "expires_in": "1h"}, [after(1), redrive, after(2), redrive],
        [Seen(), Seen(version=2), Seen(version=3)],
    ),
    "restart.between": Case("500,200", {"retry": RETRY}, [after(1), kill], [Seen(), Seen(attempt=2)]),
    "restart.in.flight": Case("hold,200", {}, [arrived, kill], [Seen(recorded=False), Seen()]),
    "restart.redriven": Case("410,200", {}, [after(1), kill, redrive], [Seen(), Seen(version=2)]),
    "body.none": Case("200", {}, [], [Seen(body=b"", fields=own(AGENT_LINE))], None),
    "body.null": Case("200", {}, [], [Seen(body=b"null")], b"null"),
    "body.text": Case(
        "200", {"body_text": " é\n"}, [],
        [Seen(body=" é\n".encode(), fields=own(AGENT_LINE, b"content-type: " + TEXT))], None,
    ),
    "body.base64": Case(
        "200", {"body_base64": "e30K"}, [],
        [Seen(body=b"{}\n", fields=own(AGENT_LINE, b"content-type: " + OCTETS))], None,
    ),
    "get": Case("200", {"method": "GET"}, [], [Seen(body=b"", fields=own(AGENT_LINE), method=b"GET")], None),
    "put": Case("200", {"method": "PUT"}, [], [Seen(method=b"PUT")]),
    "patch": Case("200", {"method": "PATCH"}, [], [Seen(method=b"PATCH")]),
    "delete": Case(
        "200", {"method": "DELETE"}, [], [Seen(body=b"", fields=own(AGENT_LINE), method=b"DELETE")], None
    ),
    "headers": Case(
        "200", {"headers": {"Content-Type": "application/x", "X-A": "a  b", "x-u": "ü"}}, [],
        [Seen(fields=own(AGENT_LINE, b"Content-Type: application/x", b"X-A: a  b", b"x-u: \xfc"))],
    ),
    "headers.agent": Case(
        "200", {"headers": {"USER-AGENT": "mine"}}, [],
        [Seen(fields=own(NO_CODING, b"content-type: " + JSON, b"USER-AGENT: mine"))],
    ),
    "headers.coding": Case(
        "200", {"headers": {"Accept-Encoding": "gzip"}}, [],
        [Seen(fields=own(b"user-agent: " + AGENT, b"content-type: " + JSON, b"Accept-Encoding: gzip"))],
    ),
}  # fmt: skip
HOOKED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "hook.done": ("text", {"on_done": 1}, "done", {"status": 200, "error": None, "reply": 'é "quoted"'}),
    "hook.done.bytes": (
        "bytes", {"on_done": 1}, "done", {"status": 200, "error": None, "reply_base64": "//4="}
    ),
    "hook.dead": (
        "410", {"on_dead": 1, "group": "g", "meta": {"订": 1}}, "dead",
        {"status": 410, "error": "final_answer", "reply": None},
    ),
}  # fmt: skip
QUEUES = ("plain", "signed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = SMALL + "".join(
        f'[queues."signed:{name}"]\nsecrets = {json.dumps(SECRETS)}\n' for name in [*CASES, *HOOKED]
    )
    folder: Path = tmp_path_factory.mktemp("bytes")
    with Home(folder) as home, RawReceiver() as receiver:
        receiver.answers["ok"] = reply(200, b"ok")
        receiver.answers["text"] = reply(200, 'é "quoted"'.encode())
        world = World(home, receiver, config)
        yield world
        world.client.close()
        world.daemon.stop()


def expected_head(world: World, request: Request, seen: Seen, due: int, late_ms: str) -> bytes:
    """The whole head, with the request's own moment and webhook-id in their places."""
    headers = request.headers
    id, moment = headers["webhook-id"], int(headers["webhook-timestamp"])
    assert 0 <= request.wall_ns // 10**9 - moment <= START_S, "of this attempt"
    lines = [
        seen.method + f" {request.target} HTTP/1.1".encode(),
        f"host: 127.0.0.1:{world.receiver.port}".encode(),
        *seen.fields.split(b"\r\n")[:-1],
        f"webhook-id: {id}".encode(),
        f"webhook-timestamp: {moment}".encode(),
        b"wheeltimer-id: " + seen.id.encode(),
        b"wheeltimer-queue: " + world.queue.encode(),
        f"wheeltimer-attempt: {seen.attempt}".encode(),
        f"wheeltimer-due: {due}".encode(),
        f"wheeltimer-late-ms: {late_ms}".encode(),
        f"wheeltimer-version: {seen.version}".encode(),
    ]
    if world.queue.startswith("signed"):
        body = request.body.decode()
        made = [Webhook(each).sign(id, datetime.fromtimestamp(moment, UTC), body) for each in SECRETS]
        lines.append(b"webhook-signature: " + " ".join(made).encode())
    if seen.method != b"GET":
        lines.append(b"content-length: %d" % len(seen.body))
    return b"\r\n".join([*lines, b"", b""])


def check(world: World, request: Request, seen: Seen, due: int, entry: dict[str, Any] | None) -> None:
    """One request, byte by byte. ``entry``: the attempt in the task's history."""
    late_ms = request.headers["wheeltimer-late-ms"]
    assert re.fullmatch(r"wt_[0-9a-z]{26}", request.headers["webhook-id"])
    if entry is None:
        assert re.fullmatch(r"0|[1-9][0-9]*", late_ms)
    else:
        assert (entry["version"], entry["attempt"], str(entry["late_ms"])) == (*seen[:2], late_ms)
        moment, late = int(request.headers["webhook-timestamp"]), entry["started"] - due
        assert moment in (entry["started"] // 1000, (entry["started"] - 1) // 1000)
        if seen.attempt == 1:  # against due: both are whole ms, rounded
            assert late - 1 <= int(late_ms) <= late, f"started {late} ms after due"
        else:  # against the instant that was planned, which lies behind due
            assert int(late_ms) <= late - WAIT_MS * (seen.attempt - 1)
    assert request.wall_ns >= due * 1_000_000, "early"
    assert request.head == expected_head(world, request, seen, due, late_ms)
    assert request.body == seen.body


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("name", CASES)
def test_every_byte_of_every_kind_of_attempt(world: World, name: str, queue: str) -> None:
    case = CASES[name]
    world.begin(f"{queue}:{name}", case.words, case.fields, case.body)
    for step in case.steps:
        step(world)
    requests = world.receiver.wait(world.path, len(case.seen))
    history = iter(world.recorded(sum(seen.recorded for seen in case.seen)))
    assert len(world.receiver.of(world.path)) == len(case.seen)
    letters: dict[str, set[str]] = {}
    for request, seen in zip(requests, case.seen, strict=True):
        check(world, request, seen, world.dues[seen.version], next(history) if seen.recorded else None)
        letters.setdefault(seen.webhook, set()).add(request.headers["webhook-id"])
    assert all(len(ids) == 1 for ids in letters.values()), letters
    assert len(set.union(*letters.values())) == len(letters), letters


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("name", HOOKED)
def test_every_byte_of_a_hook(world: World, name: str, queue: str) -> None:
    words, fields, word, told = HOOKED[name]
    hook_path, hook_id = f"/200/{queue}:{name}", f"{ID}/{word}/1"
    hooks = {key: world.receiver.url(hook_path) if key.startswith("on_") else fields[key] for key in fields}
    world.begin(f"{queue}:{name}", words, hooks, b"{}")
    (request,) = world.receiver.wait(hook_path)
    (entry,) = world.recorded(1, hook_id)
    task, hook = world.task(), world.task(hook_id)
    assert (hook["due"], hook["state"]) == (task["ended"], "done")
    body = {
        "type": f"task.{word}", "queue": world.queue, "id": ID, "version": 1, "group": fields.get("group"),
        "meta": fields.get("meta"), "attempts": 1, "status": told["status"], "error": told["error"],
    }  # fmt: skip
    if "reply_base64" in told:
        body |= {"ended": task["ended"], "reply_base64": told["reply_base64"]}
    else:
        body |= {"reply": told["reply"], "ended": task["ended"]}
    sent = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    if fields.get("meta"):  # as it came, escapes and all
        sent = sent.replace('"订"'.encode() + b":1", b'"\\u8ba2": 1')
    check(world, request, Seen(body=sent, id=f"{SENT_ID}/{word}/1"), hook["due"], entry)
    (callback,) = world.receiver.of(world.path)
    assert request.headers["webhook-id"] != callback.headers["webhook-id"]


def test_what_only_the_daemon_sets_is_refused_from_callers(world: World) -> None:
    names = [
        "webhook-id", "webhook-timestamp", "webhook-signature", "webhook-anything", "wheeltimer-id",
        "wheeltimer-queue", "wheeltimer-attempt", "wheeltimer-due", "wheeltimer-late-ms",
        "wheeltimer-version", "host", "content-length", "transfer-encoding", "connection", "keep-alive",
        "upgrade", "te", "trailer", "expect", "proxy-authorization", "proxy-connection",
    ]  # fmt: skip
    url = world.receiver.url("/200/never")
    world.client.done("schedule", id="there", url=url, delay="1h")
    for name in names:
        for spelled in (name, name.title()):
            for op, fields in (("schedule", {"id": "forger", "url": url}), ("reschedule", {"id": "there"})):
                refusal = world.client.refused(op, headers={spelled: "1"}, **fields)
                assert (refusal["error"], refusal["field"]) == ("bad_request", "headers")
                assert spelled in refusal["message"]
    assert not world.receiver.of("/200/never")
