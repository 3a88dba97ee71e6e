"""Refusals as exceptions: one class for each code, a text that tells what was asked, across process pools."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import wheeltimer
from tests.client.scripted import ScriptedServer
from wheeltimer import errors
from wheeltimer.client import AsyncClient, Client, OutcomeUnknown
from wheeltimer.errors import REFUSALS, Refused, WheeltimerError

PROTOCOL = Path(wheeltimer.__file__).parent / "docs" / "protocol.md"


def refusal(code: str, **extra: object) -> dict[str, object]:
    return {"ok": False, "error": code, "message": "because"} | extra


def _raised(reply: dict[str, object], call: Any) -> Refused:
    with (
        ScriptedServer([reply]) as server,
        Client(server.address, timeout=5) as client,
        pytest.raises(Refused) as caught,
    ):
        call(client)
    return caught.value


@pytest.mark.parametrize("code", REFUSALS)
def test_each_code_has_its_class(code: str) -> None:
    reply = refusal(code, field="id", state="done")
    error = _raised(reply, lambda client: client.reschedule("a", delay="1h"))
    assert type(error) is REFUSALS[code]
    assert type(error).__name__ == code.title().replace("_", "")
    assert getattr(wheeltimer, type(error).__name__) is type(error)
    assert (error.code, error.message, error.extra) == (code, "because", {"field": "id", "state": "done"})
    assert str(error) == f"reschedule queue=default id=a: {code}: because"


def test_the_codes_are_those_of_the_protocols_page() -> None:
    page = PROTOCOL.read_text(encoding="utf-8")
    table = page.partition("| code | more fields |")[2].partition("\n\n")[0]
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert rows == set(REFUSALS) - {"unavailable"}, "a daemon that is alone never answers `unavailable`"


def test_a_code_of_a_later_daemon_is_a_plain_refusal() -> None:
    error = _raised(refusal("on_strike") | {"code": "x", "message2": "y"}, lambda client: client.ping())
    assert type(error) is Refused
    assert error.extra == {"code": "x", "message2": "y"}


@pytest.mark.parametrize(
    ("call", "about"),
    [
        (lambda c: c.cancel("order-1"), "cancel queue=default id=order-1"),
        (lambda c: c.cancel("order-1", queue="q"), "cancel queue=q id=order-1"),
        (lambda c: c.finish(group="g"), "finish group=g"),
        (lambda c: c.list(queue="q", group="g"), "list queue=q group=g"),
        (lambda c: c.pause("q"), "pause queue=q"),
        (lambda c: c.schedule("http://x/", id="a\nb"), "schedule queue=default id='a\\nb'"),
        (lambda c: c.get("x" * 300), f"get queue=default id={'x' * 256}..."),
        (lambda c: c.stats(), "stats"),
        (lambda c: c.subscribe(queue="q"), "subscribe queue=q"),
    ],
)
def test_the_text_tells_what_was_asked(call: Any, about: str) -> None:
    assert str(_raised(refusal("forbidden"), call)) == f"{about}: forbidden: because"


def _every_error() -> list[WheeltimerError]:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in classes if issubclass(kind, WheeltimerError)]
    made: list[WheeltimerError] = []
    for kind in [*kinds, OutcomeUnknown]:
        made.append(kind("a code", "said", state="done") if kind is Refused else kind("said"))
    return [*made, errors.BadValue("id: no", "id"), errors.JournalDamaged("at", "f", 3, 4)]


@pytest.mark.parametrize("error", _every_error(), ids=lambda error: type(error).__name__)
def test_errors_are_pickled_and_copied_as_they_are(error: WheeltimerError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def _refuse(address: str) -> None:
    Client(address, timeout=5).cancel("a", if_version=1)


def test_a_refusal_crosses_a_process_pool() -> None:
    import multiprocessing

    with (
        ScriptedServer([refusal("conflict", version=3)]) as server,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(wheeltimer.Conflict, match=re.escape("cancel queue=default id=a: conflict")) as caught,
    ):
        pool.submit(_refuse, server.address).result(30)
    assert caught.value.extra == {"version": 3}


def test_cancel_of_what_may_be_missing() -> None:
    with ScriptedServer([refusal("not_found")] * 2 + [refusal("too_late")]) as server:
        with Client(server.address, timeout=5) as client:
            done = client.cancel("a", missing_ok=True)
            assert (done.cancelled, done.running) == (0, 0)
            with pytest.raises(wheeltimer.NotFound):
                client.cancel("a")
            with pytest.raises(wheeltimer.TooLate):
                client.cancel("a", missing_ok=True)
        assert all("missing_ok" not in request for request in server.requests)

    async def main() -> None:
        async with AsyncClient(server.address, timeout=5) as client:
            assert (await client.cancel("a", missing_ok=True)).cancelled == 0

    with ScriptedServer([refusal("not_found")]) as server:
        anyio.run(main, backend="trio")


def test_all_that_is_named_can_be_imported_and_the_client_loads_no_event_loop() -> None:
    script = (
        "import sys, wheeltimer\n"
        "assert not {'trio', 'anyio', 'wheeltimer.client', 'wheeltimer.errors'} & set(sys.modules)\n"
        "from wheeltimer import Client, Refused, NotFound\n"
        "assert not {'trio', 'anyio', 'asyncio', 'httpx', 'click'} & set(sys.modules)\n"
        "from wheeltimer import *\n"
        "assert all(name in globals() for name in wheeltimer.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
