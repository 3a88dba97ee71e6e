"""A misspelt field, op or word is refused with the one that was probably meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.core.driver import Driver
from wheeltimer.protocol import hints

pytestmark = pytest.mark.quick

URL = {"op": "schedule", "url": "http://r/"}
FIXED = {"kind": "fixed", "every": "1s", "attempts": 3}
# (request, field, what it was meant to be)
MISSPELT: list[tuple[dict[str, Any], str, str]] = [
    (URL | {"delya": "1h"}, "delya", "delay"),
    (URL | {"dealy": "1h"}, "dealy", "delay"),
    (URL | {"Delay": "1h"}, "Delay", "delay"),
    (URL | {"delay_ms": 5}, "delay_ms", "delay"),
    (URL | {"header": {}}, "header", "headers"),
    (URL | {"expiresIn": "1h"}, "expiresIn", "expires_in"),
    (URL | {"bodytext": ""}, "bodytext", "body_text"),
    (URL | {"quue": "a"}, "quue", "queue"),
    ({"op": "schedule", "ulr": "http://r/"}, "ulr", "url"),
    ({"op": "list", "limits": 5}, "limits", "limit"),
    ({"op": "subscribe", "form": "x"}, "form", "from"),
    ({"op": "get", "id": "a", "squ": 5}, "squ", "seq"),
    (URL | {"retry": FIXED | {"attemps": 3}}, "retry.attemps", "attempts"),
    (URL | {"retry": {"knd": "fixed", **FIXED}}, "retry.knd", "kind"),
    (URL | {"poll": {"evry": "5s"}}, "poll.evry", "every"),
    (URL | {"success": {"statuses": [200]}}, "success.statuses", "status"),
    (URL | {"success": {"json": [{"pointr": ""}]}}, "success.json[0].pointr", "pointer"),
    ({"op": "shedule"}, "op", "schedule"),
    ({"op": "LIST"}, "op", "list"),
    ({"op": "unsubscribe"}, "op", "subscribe"),
    (URL | {"method": "post"}, "method", "POST"),
    (URL | {"on_conflict": "replaced"}, "on_conflict", "replace"),
    (URL | {"retry": {"kind": "exponentional"}}, "retry.kind", "exponential"),
    ({"op": "list", "state": "canceled"}, "state", "cancelled"),
]
# What is like nothing that is known, or is known but has no place there.
OTHER: list[tuple[dict[str, Any], str]] = [
    (URL | {"colour": "red"}, "colour"),
    (URL | {"": 1}, ""),
    ({"op": "get", "id": "a", "url": "http://r/"}, "url"),
    (URL | {"retry": FIXED | {"delays": [1]}}, "retry.delays"),
    (URL | {"retry": FIXED | {"x": 1}}, "retry.x"),
    ({"op": "launch"}, "op"),
    ({"op": "ping", "delay" * 20: 1}, "delay" * 20),
]


@pytest.mark.parametrize(("request_", "field", "meant"), MISSPELT, ids=[row[1] for row in MISSPELT])
def test_a_misspelt_word_is_answered_with_the_right_one(
    request_: dict[str, Any], field: str, meant: str
) -> None:
    reply = Driver().line(json.dumps(request_).encode())
    assert (reply["error"], reply["field"]) == ("bad_request", field)
    assert reply["message"].endswith(f"; did you mean {meant}?"), reply


@pytest.mark.parametrize(("request_", "field"), OTHER, ids=[row[1][:20] for row in OTHER])
def test_nothing_is_guessed_where_nothing_is_like_it(request_: dict[str, Any], field: str) -> None:
    reply = Driver().line(json.dumps(request_).encode())
    assert (reply["error"], reply.get("field", "")) == ("bad_request", field)
    assert "did you mean" not in reply["message"]


def test_a_word_that_is_too_long_is_compared_with_nothing() -> None:
    """difflib takes the product of both lengths."""
    known = ["x" * hints.WORD_CHARS_MAX]
    assert hints.did_you_mean("x" * (hints.WORD_CHARS_MAX - 1), known)
    assert not hints.did_you_mean("x" * (hints.WORD_CHARS_MAX + 1), known)
    words = [name for struct in hints._BY_OP.values() for name in struct.__struct_encode_fields__]
    assert max(map(len, words)) * 2 <= hints.WORD_CHARS_MAX
