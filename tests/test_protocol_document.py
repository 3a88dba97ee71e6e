"""docs/protocol.md is held to the code: its ops, fields and codes are all there, and its examples run."""

from __future__ import annotations

import ast
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from tests.process.daemon import Connection, Home, until
from wheeltimer import errors
from wheeltimer.core import records
from wheeltimer.core.states import TRANSITIONS
from wheeltimer.protocol import events, replies, requests, retry, success
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.requests import _RESERVED, _RESERVED_PREFIXES
from wheeltimer.protocol.task_view import Attempt, Poll, State

PACKAGE = Path(requests.__file__).parents[1]
TEXT = (PACKAGE / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
OPS = {struct.__struct_config__.tag: struct for struct in requests.AnyCommand.__args__}
TASK_FIELDS = set(requests.TaskFields.__struct_fields__) - {"seq", "delay", "at"}


def section(title: str) -> str:
    """What stands under a heading, up to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", TEXT, re.MULTILINE)
    assert found, f"no section {title!r}"
    rank = len(found[1])
    rest = TEXT[found.end() :]
    following = re.search(rf"^#{{1,{rank}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def words(text: str) -> set[str]:
    """All that stands in back quotes."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)))


def rows(text: str) -> set[str]:
    """The names in the first column of a section's tables."""
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


# --- nothing is missing ----------------------------------------------------------------------------


def test_every_op_has_a_section_and_no_section_names_another() -> None:
    assert set(re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE)) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_every_field_of_an_op_is_named(op: str) -> None:
    fields = set(OPS[op].__struct_encode_fields__) - {"seq"} - TASK_FIELDS
    assert fields <= words(section(f"`{op}`"))


@pytest.mark.parametrize("op", OPS)
def test_a_table_of_fields_names_none_that_is_not_there(op: str) -> None:
    assert rows(section(f"`{op}`")) <= set(OPS[op].__struct_encode_fields__)


@pytest.mark.parametrize(
    ("op", "reply"),
    [
        ("schedule", replies.ScheduleReply), ("reschedule", replies.RescheduleReply),
        ("cancel", replies.CancelReply), ("finish", replies.FinishReply), ("redrive", replies.RedriveReply),
        ("pause", replies.PauseReply), ("resume", replies.PauseReply), ("get", replies.TaskReply),
        ("list", replies.ListReply), ("ping", replies.PingReply), ("subscribe", replies.SubscribeReply),
        ("forecast", replies.ForecastReply),
    ],
)  # fmt: skip
def test_every_field_of_a_reply_is_named(op: str, reply: type[msgspec.Struct]) -> None:
    assert set(reply.__struct_encode_fields__) - {"ok", "seq"} <= words(section(f"`{op}`"))


CHANGES = {"bad_request", "full", "storage"}
REFUSALS = {
    "hello": {"bad_request", "unauthorized"}, "ping": {"bad_request"}, "get": {"not_found", "bad_request"},
    "list": {"bad_request"}, "forecast": {"bad_request"}, "stats": {"bad_request"},
    "schedule": CHANGES | {"exists", "draining", "target_blocked"},
    "reschedule": CHANGES | {"conflict", "too_late", "not_found", "draining", "target_blocked"},
    "cancel": CHANGES | {"too_late", "conflict", "not_found"},
    "finish": CHANGES | {"too_late", "not_found"},
    "redrive": CHANGES | {"conflict", "not_found", "draining"},
    "pause": CHANGES, "resume": CHANGES,
    "subscribe": {"lagged", "full", "bad_request", "storage"},
}  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_every_refusal_of_an_op_is_named(op: str) -> None:
    text = section(f"`{op}`")
    said = text[text.index("Refused ") :]
    assert words(said) & CODES == REFUSALS[op]


def test_every_event_is_named_and_no_other() -> None:
    text = section("Events")
    table = dict(re.findall(r"^\| `((?:task|attempt)\.\w+)` \|[^|]*\|([^|]*)\|", text, re.MULTILINE))
    assert set(table) == set(events.TYPES)
    for struct in (
        events.ChangeEvent,
        events.EndEvent,
        events.StartEvent,
        events.AttemptEvent,
    ):
        own = {field for field in struct.__struct_fields__ if field not in events.Head.__struct_fields__}
        assert any(own == set(re.findall(r"`(\w+)`", cell)) for cell in table.values()), struct
    assert set(events.Head.__struct_fields__) <= rows(text.split("and, by its name")[0])
    shown = {json.loads(line)["event"] for line in EVENTS}
    assert {"task.scheduled", "attempt.started", "attempt.succeeded", "task.done"} <= shown


@pytest.mark.parametrize("op", ["hello", "stats"])
def test_every_field_of_a_reply_that_is_no_struct_is_named(op: str) -> None:
    (example,) = [reply for request, reply in EXAMPLES if json.loads(request)["op"] == op]
    assert json.loads(example).keys() - {"ok"} <= words(section(f"`{op}`"))


def test_the_table_of_task_fields_is_the_struct() -> None:
    before_the_view = section("Task fields").split("### What a task shows")[0]
    assert rows(before_the_view) == TASK_FIELDS


def test_every_header_that_a_task_may_not_set_is_named() -> None:
    named = words(section("Task fields"))
    assert {*_RESERVED, *(f"{prefix}*" for prefix in _RESERVED_PREFIXES)} <= named


def test_what_a_task_shows() -> None:
    as_given = TASK_FIELDS | {"url", "delay", "at"}
    shown = {
        field
        for request, reply in EXAMPLES
        if json.loads(request)["op"] == "get"
        for field in json.loads(reply).get("task", ())
    } - as_given
    assert rows(section("What a task shows")) == shown | set(Attempt.__struct_fields__)


@pytest.mark.parametrize(
    ("title", "structs"),
    [
        (
            "Retry rules",
            [retry.ExponentialRule, retry.FixedRule, retry.LinearRule, retry.ListRule],
        ),
        ("Success", [success.SuccessRule, success.JsonCheck]),
        ("Poll", [Poll]),
    ],
)
def test_every_field_of_a_rule_is_named(title: str, structs: list[type[msgspec.Struct]]) -> None:
    fields = {field for struct in structs for field in struct.__struct_fields__}
    kinds = {struct.__struct_config__.tag for struct in structs} - {None}
    assert fields | kinds <= words(section(title))


def test_every_built_in_rule_is_named_with_its_delays() -> None:
    table = section("Retry rules")
    for name, rule in retry.BUILT_IN.items():
        delays = ", ".join(map(str, rule.delays)) if isinstance(rule, retry.ListRule) else ""
        assert re.search(rf"^\| `{name}` \| .*{delays}", table, re.MULTILINE), name
    assert all(kind in "".join(BLOCKS) for kind in ('"exponential"', '"fixed"', '"linear"', '"list"'))


def test_how_long_the_default_rule_goes_on() -> None:
    minutes = retry.budget_ms(retry.DEFAULT_RULE) // 60_000
    assert f"about {minutes // 60} h {minutes % 60} m in all" in section("Retry rules")
    assert minutes // 60 == 4, "the README says about four hours"


def test_states_are_those_of_the_code() -> None:
    table = section("A task's life").split("### Identity")[0]
    assert rows(table) == {state.word for state in State}


def test_limits_are_those_of_the_code() -> None:
    table = section("Lines")
    for name, shown in (
        ("line_bytes_max", "128 KiB"), ("body_bytes_max", "64 KiB"), ("meta_bytes_max", "4 KiB"),
        ("id_bytes_max", "256 bytes"), ("tasks_max", "10,000,000"),
    ):  # fmt: skip
        number, _, unit = shown.replace(",", "").partition(" ")
        assert getattr(Limits(), name) == int(number) * (1024 if unit == "KiB" else 1)
        assert re.search(rf"\| {shown} \| `{name}` \|", table), name


CODES = set(re.findall(r"^\| `(\w+)` \|", section("Errors"), re.MULTILINE))


def test_every_error_code_is_in_the_table_and_no_other() -> None:
    codes = {cell for row in TRANSITIONS.values() for cell in row.values() if isinstance(cell, str)}
    kinds = {kind.__name__: code for code, kind in errors.REFUSALS.items()}
    rooms = ("protocol", "core", "runtime", "shard", "server", "daemon")
    for path in (path for room in rooms for path in PACKAGE.glob(f"{room}/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"Refused": 0, "ErrorReply": 1}.get(node.func.id)
                if at is not None and isinstance(node.args[at], ast.Constant):
                    codes.add(node.args[at].value)
                codes |= {kinds[node.func.id]} if node.func.id in kinds else set()
    table = re.findall(r"^\| `(\w+)` \|([^|]*)\|", section("Errors"), re.MULTILINE)
    assert {code for code, _ in table} == codes
    extra = {name for _, fields in table for name in re.findall(r"`(\w+)`", fields)}
    assert extra == set(replies.ErrorReply.__struct_fields__) - {"ok", "error", "message", "seq"}


def test_links_inside_the_page_lead_somewhere() -> None:
    titles = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= titles


def test_the_journals_records_are_those_of_the_code() -> None:
    text = (PACKAGE / "docs" / "journal-format.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w)` \| (\w+) \| ([^|]+) \|", text, re.MULTILINE)
    assert {(kind, name): tuple(re.findall(r"`(\w+)`", fields)) for kind, name, fields in table} == {
        (record.__struct_config__.tag, record.__name__.lower()): record.__struct_fields__
        for record in get_args(records.Written)
    }


# --- the examples run ------------------------------------------------------------------------------


def _examples() -> Iterator[tuple[str, str]]:
    for block in BLOCKS:
        lines = block.splitlines()
        for request, reply in zip(lines, [*lines[1:], ""], strict=True):
            if request.startswith('{"op"'):
                yield request, reply


EXAMPLES = list(_examples())
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
SESSION = README.split("$ nc 127.0.0.1 8463\n")[1].split("```")[0].splitlines()
HOOKS = [block.strip() for block in BLOCKS if not block.startswith('{"op"')]
EVENTS = [line for block in BLOCKS for line in block.splitlines() if line.startswith('{"event"')]
_SERVER_ID = re.compile(r'"id":"[0-9a-hjkmnp-tv-z]{26}"')


class Receiver(ThreadingHTTPServer):
    """The receiver that the page asks for; keeps the last headers and body of each path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: dict[str, tuple[dict[str, str], str]] = {}
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Receiver:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A daemon that is killed cuts its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.server.seen[self.path] = {name.lower(): value for name, value in self.headers.items()}, body
        answer = b'{"status":"working"}' if self.path == "/job" else b""
        self.send_response(410 if self.path == "/gone" else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815 -- http.server's own name

    def log_message(self, format: str, *args: object) -> None:
        pass


def masked(reply: str, op: str) -> str:
    """A reply without what differs from run to run: instants, ids of the server, times that were taken."""
    reply = re.sub(r"(?<!\d)\d{13}(?!\d)", "INSTANT", reply)
    reply = re.sub(r'"(late_ms|ms)":\d+', r'"\1":N', reply)
    reply = re.sub(r'"cursor":"[0-9a-f]{8}-\d+"', '"cursor":"CURSOR"', reply)
    reply = _SERVER_ID.sub('"id":"ID"', reply)
    if op == "stats":
        reply = re.sub(r":\d+", ":N", reply)
    if op == "hello":
        reply = re.sub(r'"version":"[^"]+"', '"version":"V"', reply)
    return reply


def converse(connection: Connection, receiver: Receiver, request: str, wanted: str) -> str:
    """The answer to one line of the page. A question is asked again until its answer is the page's."""
    port, op = receiver.server_address[1], json.loads(request)["op"]
    end_s = time.monotonic() + 10
    for _ in until():
        connection.send_bytes(request.replace("127.0.0.1:9000", f"127.0.0.1:{port}").encode() + b"\n")
        line = connection.line()
        assert line is not None, "the daemon closed the connection"
        reply = line.decode().replace(f"127.0.0.1:{port}", "127.0.0.1:9000")
        if op not in ("get", "list", "stats") or masked(reply, op) == masked(wanted, op):
            return reply
        if time.monotonic() > end_s:
            break
    return reply


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[tuple[str, str, str]], Receiver]]:
    """(request, the page's reply, the daemon's), in order, on one connection; then the README's session.

    A ``subscribe`` has a connection of its own; what the first one brings comes last.
    """
    with Receiver() as receiver, Home(tmp_path_factory.mktemp("protocol")) as home, ExitStack() as opened:
        daemon = home.start()
        with daemon.connect() as connection:
            run = []
            subscribers = []
            for request, reply in [*EXAMPLES, *zip(SESSION[::2], SESSION[1::2], strict=True)]:
                on = connection
                if json.loads(request)["op"] == "subscribe":
                    on = opened.enter_context(daemon.connect())
                    subscribers.append(on)
                run.append((request, reply, converse(on, receiver, request, reply)))
            for event in EVENTS:
                line = subscribers[0].line()
                assert line is not None
                run.append(('{"op":"subscribe"}', event, line.decode()))
            for _ in until():
                if "/done" in receiver.seen:
                    break
        yield run, receiver


def test_every_example_is_answered_as_the_page_says(said: Any) -> None:
    run, _ = said
    assert len(run) > 30
    for request, reply, answer in run:
        op = json.loads(request)["op"]
        assert masked(answer, op) == masked(reply, op), request


def test_the_hook_in_the_page_is_what_came(said: Any) -> None:
    _, receiver = said
    (shown,) = HOOKS
    headers, body = receiver.seen["/done"]
    assert masked(body, "") == masked(shown, "")
    assert json.loads(shown).keys() <= rows(section("Hooks"))
    assert headers["content-type"] == "application/json"


def test_every_header_of_a_callback_is_in_the_table_and_no_other(said: Any) -> None:
    _, receiver = said
    headers, _ = receiver.seen["/done"]
    sent = headers.keys() - {"host", "content-length", "connection", "accept"}
    assert sent | {"webhook-signature"} == rows(section("Callbacks"))
