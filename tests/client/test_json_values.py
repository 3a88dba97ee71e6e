"""Values that JSON has no form for: refused with the field and the place, before anything is sent."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
import pytest

from tests.client.test_fields import URL, refused, sent
from wheeltimer.client import AsyncClient
from wheeltimer.errors import BadValue

HALF = "\ud83d"


@dataclass
class Price:
    amount: float = math.nan


@dataclass
class Order:
    prices: list[Price] = field(default_factory=lambda: [Price()])


class Sample(msgspec.Struct):
    data: bytes = b"x"


class Ratio(float, enum.Enum):
    NONE = math.inf


VALUES: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "nan, which JSON does not have"),
    "inf": ({"a": math.inf}, "/a is inf, which JSON does not have"),
    "minus inf": ([1, {"a": [2.5, -math.inf]}], "/1/a/1 is -inf, which JSON does not have"),
    "enum": ([Ratio.NONE], "/0 is inf"),
    "tuple": ((0.5, math.nan), "/1 is nan"),
    "set": ({"a": {1, 2}}, "/a is a set, which JSON does not have; write a list"),
    "frozenset": ([frozenset()], "/0 is a set"),
    "bytes": ({"a": [b"x"]}, "/a/0 is bytes, which JSON does not have; write text"),
    "key": ({"a": {b"x": 1}}, "/a/b'x' is under a key that is bytes"),
    "dataclass": ({"order": Order()}, "/order/prices/0/amount is nan"),
    "struct": ([Sample()], "/0/data is bytes"),
    "unprintable": ({HALF: {"\n": math.nan}}, "/\\ud83d/\\n is nan"),
}
FIELDS: dict[str, Callable[[Any, Any], Any]] = {
    "body": lambda client, value: client.schedule(URL, body=value),
    "meta": lambda client, value: list(client.schedule_many([{"url": URL, "meta": value}])),
    "reply": lambda client, value: client.finish("a", reply=value),
    "success": lambda client, value: client.reschedule(
        "a", success={"json": [{"pointer": "/a", "equals": value}]}
    ),
    "poll.factor": lambda client, value: client.schedule(URL, poll={"every": "1s", "factor": value}),
    "fields": lambda client, value: client.request("schedule", url=URL, fields=value),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("case", VALUES)
def test_what_would_be_written_as_another_value(name: str, case: str) -> None:
    value, place = VALUES[case]
    error = refused(lambda client: FIELDS[name](client, value))
    assert error.field == name
    assert str(error).startswith(f"{name}: ")
    assert place.removeprefix("/") in str(error), "the place inside of the field"


def test_what_json_has_goes_out_as_it_is() -> None:
    body = {"a": [0.5, 1e308, 2**70, None, True, "\U0001f600"], "b": {"1": {}}, "c": Order([Price(1.5)])}
    assert sent(lambda client: client.schedule(URL, body=body))["body"] == (
        {**body, "c": {"prices": [{"amount": 1.5}]}}
    )
    assert sent(lambda client: client.schedule(URL, body=(1, (2,))))["body"] == [1, [2]]


HALVES: dict[str, Callable[[Any], Any]] = {
    "id": lambda client: client.schedule(URL, id=HALF),
    "url": lambda client: client.schedule(f"{URL}{HALF}"),
    "queue": lambda client: client.get("a", queue=f"x{HALF}"),
    "group": lambda client: list(client.schedule_many([{"url": URL, "group": HALF}])),
    "headers": lambda client: client.schedule(URL, headers={"x-name": HALF}),
    "body": lambda client: client.schedule(URL, body={"a": [{"b": HALF}]}),
    "meta": lambda client: client.reschedule("a", meta={HALF: 1}),
    "body_text": lambda client: client.schedule(URL, body_text=f"{HALF}\ude00"[::-1]),
    "reply": lambda client: client.finish("a", reply=HALF),
    "token": lambda client: client.hello(token=HALF),
    "seq": lambda client: client.request("ping", seq=HALF),
    "op": lambda client: client.request(HALF),
    "\\ud83d": lambda client: client.request("ping", **{HALF: 1}),
}


@pytest.mark.parametrize("name", HALVES)
def test_half_of_a_surrogate_pair_is_refused_with_its_field(name: str) -> None:
    error = refused(HALVES[name])
    assert error.field == name
    half = "\\ude00" if name == "body_text" else "\\ud83d"
    assert str(error) == f"{name}: {half} is half of a surrogate pair; send whole characters"


def test_an_async_client_refuses_them_too() -> None:
    async def main() -> None:
        async with AsyncClient("127.0.0.1:1", reconnect=0) as client:
            for value in ({"a": math.nan}, HALF, [{1}]):
                with pytest.raises(BadValue) as caught:
                    await client.schedule(URL, body=value)
                assert caught.value.field == "body"

    anyio.run(main, backend="trio")
