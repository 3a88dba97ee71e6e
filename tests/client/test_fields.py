"""What the typed methods take: units, bytes, instants, names that an editor knows; and ``from_env``."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import anyio
import msgspec
import pytest
import trustme

from tests.client.scripted import Request, ScriptedServer
from tests.client.test_lost import _answer
from wheeltimer.client import AsyncClient, Client, fields, results
from wheeltimer.errors import BadValue
from wheeltimer.protocol import requests, retry, success
from wheeltimer.protocol.task_view import Poll

URL = "http://x/"
UTC = timezone.utc  # noqa: UP017 -- one name in every version


def sent(call: Any) -> Request:
    """The one request that the call makes, without ``seq``."""
    with ScriptedServer(_answer) as server, Client(server.address, timeout=5) as client:
        call(client)
    (request,) = server.requests
    return request


def refused(call: Any) -> BadValue:
    """The error of a call that sends nothing: nobody listens, and it would be another error."""
    with Client("127.0.0.1:1", reconnect=0) as client, pytest.raises(BadValue) as caught:
        call(client)
    return caught.value


# --- durations -------------------------------------------------------------------------------------


class NumpyLike:
    """A number of another library: no int and no float, but it turns into either."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __float__(self) -> float:
        return float(self.value)

    def __eq__(self, other: object) -> bool:
        return self.value == other

    def __hash__(self) -> int:
        return hash(self.value)


NUMBERS = [30, -1, 0.5, 1800000, True, False, float("nan"), NumpyLike(30), Decimal(30), Fraction(1, 2)]
DURATIONS: dict[str, Any] = {
    "delay": lambda client, value: client.schedule(URL, delay=value),
    "timeout": lambda client, value: client.schedule(URL, timeout=value),
    "connect_timeout": lambda client, value: client.reschedule("a", connect_timeout=value),
    "expires_in": lambda client, value: list(client.schedule_many([{"url": URL, "expires_in": value}])),
    "horizon": lambda client, value: client.forecast(horizon=value),
    "poll.every": lambda client, value: client.schedule(URL, poll={"every": value}),
    "poll.cap": lambda client, value: client.schedule(URL, poll={"every": "1s", "factor": 2, "cap": value}),
    "retry.base": lambda client, value: client.schedule(URL, retry={"kind": "exponential", "base": value}),
    "retry.cap": lambda client, value: client.schedule(URL, retry={"kind": "exponential", "cap": value}),
    "retry.every": lambda client, value: client.reschedule("a", retry={"kind": "fixed", "every": value}),
    "retry.step": lambda client, value: client.schedule(URL, retry={"kind": "linear", "step": value}),
    "retry.delays": lambda client, value: client.schedule(
        URL, retry={"kind": "list", "delays": ["1s", value]}
    ),
}


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: f"{type(value).__name__}-{value}")
def test_a_bare_number_is_no_duration(name: str, value: object) -> None:
    error = refused(lambda client: DURATIONS[name](client, value))
    assert error.field == name
    field = name.rpartition(".")[2]
    for way in ("timedelta(minutes=30)", '"30m"', f"{field}_ms"):
        assert way in str(error)


@pytest.mark.parametrize("name", DURATIONS)
def test_the_right_ways_to_write_a_duration(name: str) -> None:
    outer, _, inner = name.partition(".")

    def found(value: object) -> object:
        request = sent(lambda client: DURATIONS[name](client, value))[outer]
        request = request[inner] if inner else request
        return request[1] if isinstance(request, list) else request

    assert found("30m") == "30m"
    assert found(timedelta(minutes=30)) == 1_800_000
    assert found(timedelta(microseconds=1)) == 1, "rounded up"
    assert found(0) == found(0.0) == found(NumpyLike(0)) == 0


def test_integers_of_milliseconds() -> None:
    whole = {"delay_ms": 1, "timeout_ms": NumpyLike(2), "connect_timeout_ms": 3, "expires_in_ms": 4}
    wanted = {"url": URL, "id": "a", "delay": 1, "timeout": 2, "connect_timeout": 3, "expires_in": 4}
    assert sent(lambda c: c.schedule(URL, id="a", **whole)) == {"op": "schedule"} | wanted
    assert sent(lambda c: list(c.schedule_many([{"url": URL, "id": "a", **whole}]))) == (
        {"op": "schedule"} | wanted
    )
    assert sent(lambda c: c.reschedule("a", url=URL, **whole)) == {"op": "reschedule"} | wanted
    assert sent(lambda c: c.forecast(horizon_ms=5))["horizon"] == 5
    rules = sent(
        lambda c: c.schedule(
            URL,
            retry={"kind": "list", "delays_ms": [1, 2], "jitter": 0},
            poll={"every_ms": 6, "factor": 2, "cap_ms": 60, "max": 3},
        )
    )
    assert rules["retry"] == {"kind": "list", "delays": [1, 2], "jitter": 0}
    assert rules["poll"] == {"every": 6, "factor": 2, "cap": 60, "max": 3}
    exponential = {"kind": "exponential", "base_ms": 1, "cap_ms": 9, "attempts": 3}
    assert sent(lambda c: c.schedule(URL, retry=exponential))["retry"] == {
        "kind": "exponential", "base": 1, "cap": 9, "attempts": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"delay": "1s", "delay_ms": 5}, "delay"),
        ({"delay_ms": 5, "delay": "1s"}, "delay"),
        ({"delay_ms": 1.5}, "delay_ms"),
        ({"delay_ms": True}, "delay_ms"),
        ({"delay_ms": "5"}, "delay_ms"),
        ({"delay": [1]}, "delay"),
        ({"poll": {"every": "1s", "every_ms": 5}}, "poll.every_ms"),
        ({"poll": {"every": "1s", "cap": "1h", "cap_ms": 5}}, "poll.cap_ms"),
        ({"retry": {"kind": "list", "delays_ms": ["1s"]}}, "retry.delays_ms"),
        ({"body_bytes": "text"}, "body_bytes"),
        ({"body_bytes": b"x", "body_base64": "eA=="}, "body_base64"),
    ],
)
def test_values_that_cannot_be_meant(given: dict[str, Any], field: str) -> None:
    assert refused(lambda client: client.schedule(URL, **given)).field == field


def test_the_protocols_own_requests_take_its_own_integers() -> None:
    given = {"url": URL, "id": "a", "delay": 5, "timeout": 7, "poll": {"every": 9}}
    assert sent(lambda c: c.request("schedule", **given)) == {"op": "schedule"} | given
    assert sent(lambda c: c.exchange("schedule", **given)) == {"op": "schedule"} | given
    assert sent(lambda c: list(c.request_many([{"op": "schedule", **given}]))) == {"op": "schedule"} | given
    assert sent(lambda c: list(c.schedule_plain([given]))) == {"op": "schedule"} | given


def test_an_async_client_asks_for_units_too() -> None:
    async def main() -> None:
        async with AsyncClient("127.0.0.1:1", reconnect=0) as client:
            with pytest.raises(BadValue, match="delay_ms"):
                await client.schedule(URL, delay=30)  # type: ignore[arg-type]
            with pytest.raises(BadValue, match="delay_ms"):
                async for _ in client.schedule_many([{"url": URL, "delay": 30}]):  # type: ignore[typeddict-item]
                    pass

    anyio.run(main, backend="trio")


# --- bytes and instants ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"\x00x", bytearray(b"\x00x"), memoryview(b"\x00x")])
def test_bytes(value: Any) -> None:
    error = refused(lambda client: client.schedule(URL, body=value))
    assert error.field == "body"
    assert "body_bytes=" in str(error)
    assert "body_text=" in str(error)
    assert refused(lambda client: client.request("schedule", url=URL, body=value)).field == "body"
    assert refused(lambda client: client.schedule(URL, body_base64=value)).field == "body_base64"
    for request in (
        sent(lambda client: client.schedule(URL, body_bytes=value)),
        sent(lambda client: client.reschedule("a", body_bytes=value)),
        sent(lambda client: list(client.schedule_many([{"url": URL, "body_bytes": value}]))),
    ):
        assert request["body_base64"] == "AHg="
        assert "body_bytes" not in request


@pytest.mark.parametrize("value", [{"a": b"x"}, [1, [b"x"]], ({"a": {"b": bytearray(b"x")}},)])
def test_bytes_inside_of_json(value: Any) -> None:
    """The encoder would write base64 for them, and the receiver would get text that nobody asked for."""
    for field in ("body", "meta"):
        assert refused(lambda client, name=field: client.schedule(URL, **{name: value})).field == field
        assert refused(lambda client, name=field: client.request("ping", **{name: value})).field == field
    assert refused(lambda client: client.finish("a", reply=value)).field == "reply"


def test_instants_stay_what_they_were() -> None:
    at = datetime(2030, 1, 31, 8, tzinfo=timezone(timedelta(hours=1)))
    request = sent(lambda client: client.schedule(URL, at=at, expires_at="2031-01-01T00:00:00Z"))
    assert (request["at"], request["expires_at"]) == (1_896_073_200_000, "2031-01-01T00:00:00Z")
    assert sent(lambda client: client.schedule(URL, at=1_896_073_200_000))["at"] == 1_896_073_200_000
    assert sent(lambda client: client.schedule(URL, at=NumpyLike(1_896_073_200)))["at"] == 1_896_073_200
    assert refused(lambda client: client.schedule(URL, expires_at=datetime(2030, 1, 1))).field == "expires_at"


NO_INSTANTS = [1796002145.5, float("nan"), Decimal("1796002145.5"), date(2030, 1, 1), timedelta(minutes=30)]


@pytest.mark.parametrize("name", ["at", "expires_at"])
@pytest.mark.parametrize("value", NO_INSTANTS, ids=lambda value: type(value).__name__)
def test_what_is_no_instant_is_refused_with_the_ways_to_write_one(name: str, value: Any) -> None:
    for call in (
        lambda client: client.schedule(URL, **{name: value}),
        lambda client: client.reschedule("a", **{name: value}),
    ):
        error = refused(call)
        assert error.field == name
        for way in ("int(time.time() * 1000)", "RFC 3339", '"2030-01-31T08:00:00Z"', NOW):
            assert way in str(error)


def test_a_datetime_without_a_time_zone_is_refused_with_an_example() -> None:
    naive = datetime(2030, 1, 1)
    assert NOW in str(refused(lambda client: client.schedule(URL, at=naive)))
    assert NOW in str(refused(lambda client: client.request("schedule", url=URL, at=naive)))


NOW = "datetime.now(timezone.utc) + timedelta(minutes=30)"


def test_replies_have_datetimes_beside_the_milliseconds() -> None:
    ms, when = 1_767_225_600_123, datetime(2026, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
    history = [{"attempt": 1, "version": 1, "started": ms, "late_ms": 0, "ms": 1, "outcome": "failed"}]
    task = {
        "id": "a", "queue": "q", "url": URL, "version": 1, "state": "done", "created": ms, "due": ms,
        "ended": ms, "history": history,
    }  # fmt: skip
    event = {"event": "task.done", "cursor": "c", "time": ms, "queue": "q", "id": "a", "version": 1}
    of = msgspec.convert
    info = of(task, results.TaskInfo)
    assert info.created_at == info.due_at == info.ended_at == info.history[0].started_at == when
    assert info.next_at is None
    assert of(event, results.Event).time_at == when
    assert of(event, results.Event).due_at is None
    assert of(_answer({"id": "a"}) | {"due": ms}, results.ScheduleReply).due_at == when
    assert of({"ok": True, "version": 1, "due": ms}, results.RescheduleReply).due_at == when
    assert of({"ok": True, "now": ms}, results.PingReply).now_at == when
    assert of(_answer({}) | {"from": ms}, results.ForecastReply).from_at == when


# --- names -----------------------------------------------------------------------------------------


def _names(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def _protocols(kind: Any) -> set[str]:
    """The keys of a TypedDict without those that are of Python alone."""
    keys = set(get_type_hints(kind))
    return {key for key in keys if not key.endswith("_ms")} - {"body_bytes"}


def test_the_typed_fields_are_those_of_the_protocol() -> None:
    assert _protocols(fields.ScheduleItem) == _names(requests.Schedule) - {"seq"}
    assert _protocols(fields.ScheduleFields) == _names(requests.Schedule) - {"seq", "url"}
    assert _protocols(fields.RescheduleFields) == _names(requests.Reschedule) - {"seq", "id"}
    kinds = get_args(retry.Rule)
    assert _protocols(fields.RetryRule) == {"kind"} | set().union(*map(_names, kinds))
    assert _protocols(fields.PollRule) == _names(Poll)
    assert _protocols(fields.SuccessRule) == _names(success.SuccessRule)
    assert _protocols(fields.JsonCheck) == _names(success.JsonCheck)


def test_each_duration_has_its_name_in_milliseconds_and_asks_for_a_unit() -> None:
    for kind in (fields.ScheduleItem, fields.RescheduleFields, fields.RetryRule, fields.PollRule):
        hints = get_type_hints(kind)
        spans = {key for key, hint in hints.items() if "Literal[0]" in str(hint)}
        assert spans, kind
        assert {key.removesuffix("_ms") for key in hints if key.endswith("_ms")} == spans


RIGHT = """
from datetime import datetime, timedelta, timezone
from wheeltimer import AsyncClient, Client, NotFound, Refused

client = Client.from_env(timeout=5, reconnect=timedelta(minutes=1))
reply = client.schedule(
    "http://x/", id="a", queue="q", on_conflict="keep", delay=timedelta(minutes=30), body={"a": 1},
    retry={"kind": "fixed", "every": "30s", "attempts": 5}, poll={"every_ms": 5000, "max": 3},
    success={"status": ["2xx", 304], "json": [{"pointer": "/a", "equals": 1}]}, timeout_ms=500,
)
due: datetime = reply.due_at
client.reschedule("a", at=datetime.now(timezone.utc), if_version=reply.version)
client.cancel("a", missing_ok=True)
for result in client.schedule_many({"url": "http://x/", "id": f"{n}", "delay": 0} for n in range(3)):
    if isinstance(result, Refused):
        print(result.code, isinstance(result, NotFound))

async def main() -> None:
    async with AsyncClient("127.0.0.1:1") as other:
        await other.schedule("http://x/", expires_in="1h", body_bytes=b"x")
        async for each in other.schedule_many([{"url": "http://x/", "group": "g"}]):
            print(each)
"""
WRONG = """
from wheeltimer import AsyncClient, Client

client = Client()
client.schedule("http://x/", delya="30m")
client.reschedule("a", qeue="q")
list(client.schedule_many([{"url": "http://x/", "on_conflcit": "keep"}]))
client.schedule("http://x/", retry={"kind": "fixed", "evry": "30s"})

async def main() -> None:
    await AsyncClient().schedule("http://x/", poll={"every": "5s", "mx": 3})
"""
NUMBERS_ARE_NO_DURATIONS = """
from wheeltimer import Client

Client().schedule("http://x/", delay=30)
Client().schedule("http://x/", timeout=1.5)
Client().forecast(horizon=3600)
"""


def test_a_type_checker_finds_misspelt_fields(tmp_path: Path) -> None:
    """Five in the wrong file, none in the right one; and numbers where a unit is missing."""
    for name, text in (("right", RIGHT), ("wrong", WRONG), ("numbers", NUMBERS_ARE_NO_DURATIONS)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", "", "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    by = {name: [line for line in errors if line.startswith(name)] for name in ("right", "wrong", "numbers")}
    assert by["right"] == [], done.stdout
    lines = WRONG.splitlines()
    named = [lines[int(line.split(":")[1]) - 1] for line in by["wrong"]]
    assert len(named) == 5, done.stdout
    for name, line in zip(("delya", "qeue", "on_conflcit", "evry", "mx"), named, strict=True):
        assert name in line, done.stdout
    assert len(by["numbers"]) == 3, done.stdout


def test_the_protocols_own_fields_may_be_of_pythons_types_also_inside_a_rule() -> None:
    """``request``, ``request_many`` and ``schedule_plain``; rounded up: never early."""
    second, bit = timedelta(seconds=1), timedelta(microseconds=1)
    given: dict[str, Any] = {
        "url": URL, "id": "a", "delay": second + bit,
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC) + bit,
        "retry": {"kind": "list", "delays": [second, 5, "7s"]},
        "poll": {"every": second, "cap": 2 * second, "max": 3}, "group": None,
    }  # fmt: skip
    wanted = {
        "op": "schedule", "url": URL, "id": "a", "delay": 1001, "expires_at": 1_893_456_000_001,
        "retry": {"kind": "list", "delays": [1000, 5, "7s"]}, "poll": {"every": 1000, "cap": 2000, "max": 3},
    }  # fmt: skip
    for call in (
        lambda client: client.request("schedule", **given),
        lambda client: list(client.request_many([{"op": "schedule", **given}])),
        lambda client: list(client.schedule_plain([given])),
    ):
        assert sent(call) == wanted
    error = refused(lambda client: client.request("schedule", url=URL, at=datetime(2030, 1, 1)))
    assert error.field == "at"
    assert "time zone" in str(error)


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_settings_are_seconds(kind: Any) -> None:
    def waits(**given: Any) -> tuple[float, float]:
        place = kind("127.0.0.1:1", **given)._place
        return place.timeout_s, place.reconnect_s

    assert waits() == (30, 30)
    assert waits(timeout=0.5, reconnect=0) == (0.5, 0)
    assert waits(timeout=timedelta(milliseconds=1500), reconnect=timedelta(0)) == (1.5, 0)
    with pytest.deprecated_call(match="timeout_ms is deprecated; write timeout=SECONDS"):
        assert waits(timeout_ms=1500) == (1.5, 30)
    with pytest.deprecated_call(match="reconnect_ms"):
        assert waits(reconnect_ms=0) == (30, 0)
    for wrong in ({"timeout": 1, "timeout_ms": 1000}, {"timeout": 0}, {"reconnect": -1}, {"timeout": 1e300}):
        with pytest.raises(BadValue, match=next(iter(wrong))):
            waits(**wrong)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", ["timeout", "reconnect", "timeout_ms", "reconnect_ms"])
@pytest.mark.parametrize("value", ["5s", "5", b"5", True, [5], 1j, 10**400, float("nan"), -1, float("inf")])
@pytest.mark.filterwarnings("ignore:.*_ms is deprecated")
def test_a_setting_that_is_no_number_of_seconds(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(BadValue) as caught:
        kind("127.0.0.1:1", **{name: value})
    error = caught.value
    short = name.removesuffix("_ms")
    assert error.field in (name, short)
    assert str(error).startswith(f"{error.field}: ")
    assert f"write {short}=5 for 5 seconds, or timedelta(seconds=5)" in str(error)
    assert len(str(error)) < 200


def test_from_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SERVER", "TOKEN", "CA_FILE", "CERT_FILE"):
        monkeypatch.delenv(f"WHEELTIMER_{name}", raising=False)
    assert Client.from_env().server == "127.0.0.1:8463"
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("WHEELTIMER_SERVER", "tls:example.org:1")
    monkeypatch.setenv("WHEELTIMER_TOKEN", "s3cret")
    monkeypatch.setenv("WHEELTIMER_CA_FILE", str(tmp_path / "ca.pem"))
    for client in (Client.from_env(timeout=3), AsyncClient.from_env(timeout=3)):
        place = client._place
        assert (place.server, place.token, place.timeout_s) == ("tls:example.org:1", "s3cret", 3)
        assert place.tls is not None
        assert len(place.tls.get_ca_certs()) == 1
    monkeypatch.setenv("WHEELTIMER_CA_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(BadValue, match=r"none\.pem"):
        Client.from_env()
