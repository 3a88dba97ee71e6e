"""The JSON Schema of the protocol, held against every example of its page and against what is refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.test_protocol_document import EVENTS, EXAMPLES
from wheeltimer.protocol.events import TYPES
from wheeltimer.protocol.schema import schema

SCHEMA = schema()


def valid(value: object, ref: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator({**ref, "$defs": SCHEMA["$defs"]}).is_valid(value)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(SCHEMA)))
    assert set(SCHEMA["requests"]) == set(SCHEMA["replies"])
    assert set(SCHEMA["events"]) == set(TYPES)


@pytest.mark.parametrize(("request_", "reply"), EXAMPLES)
def test_every_example_of_the_page_is_valid(request_: str, reply: str) -> None:
    asked, answered = json.loads(request_), json.loads(reply)
    if answered.get("field") not in ("dealy", "op"):
        assert valid(asked, SCHEMA["requests"][asked["op"]])
        assert valid(asked, {"anyOf": SCHEMA["anyOf"]})
    else:
        assert not valid(asked, {"anyOf": [*SCHEMA["requests"].values()]})
    kind = SCHEMA["replies"].get(asked["op"]) if answered["ok"] else SCHEMA["refusal"]
    assert valid(answered, kind)
    assert not valid(answered | {"ok": not answered["ok"]}, kind)


@pytest.mark.parametrize("line", EVENTS)
def test_every_event_of_the_page_is_valid(line: str) -> None:
    event = json.loads(line)
    assert valid(event, SCHEMA["events"][event["event"]])
    event.pop("cursor")
    assert not valid(event, SCHEMA["events"][event["event"]])


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "get"}, {"op": "get", "id": 5}, {"op": "get", "id": "a", "ids": 1}, {"id": "a"},
        {"op": "list", "state": "gone"}, {"op": "schedule", "url": "x", "method": "HEAD"},
        {"op": "schedule", "url": "x", "retry": {"kind": "never"}}, {"op": "forecast", "slices": "6"},
        {"op": "subscribe", "from_": "a"}, {"op": "subscribe", "types": "task.*"},
    ],
)  # fmt: skip
def test_what_the_daemon_does_not_read_is_not_valid(request_: dict[str, Any]) -> None:
    assert not valid(request_, {"anyOf": [*SCHEMA["requests"].values()]})


def test_any_json_is_a_body() -> None:
    for body in (None, 1, 1.5, "a", [], {"a": [None]}):
        request = {"op": "schedule", "url": "http://x/", "body": body, "meta": body}
        assert valid(request, SCHEMA["requests"]["schedule"])
