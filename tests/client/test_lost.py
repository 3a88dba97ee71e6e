"""Lost connections: what is sent again and what must not be, for both clients alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.client.scripted import CLOSE, SEQ, SILENCE, Request, ScriptedServer, reply_line
from wheeltimer.client import AsyncClient, Client, OutcomeUnknown
from wheeltimer.errors import Refused, ServerUnreachable

STORAGE = {"ok": False, "error": "storage", "message": "disk"}


def _answer(request: Request) -> dict[str, Any]:
    """What a daemon would say, as far as the clients look."""
    return {
        "ok": True, "id": request.get("id"), "queue": "default", "version": 1, "due": 1, "state": "scheduled",
        "duplicate": False, "cancelled": 1, "running": 0, "finished": 1, "redriven": 1, "now": 1, "tasks": [],
        "paused": True, "from": 1, "slice_ms": 1, "counts": [], "overdue": 0, "later": 0,
    }  # fmt: skip


class Flaky:
    """Answers, but loses the connection at the requests with these numbers."""

    def __init__(self, *losses: int, how: object = CLOSE) -> None:
        self.count = 0
        self.losses = losses
        self.how = how

    def __call__(self, request: Request) -> Any:
        self.count += 1
        return self.how if self.count in self.losses else _answer(request)


Call = Callable[[Any], Any]
AGAIN: dict[str, Call] = {
    "ping": lambda c: c.ping(),
    "list": lambda c: c.list(),
    "forecast": lambda c: c.forecast(),
    "schedule": lambda c: c.schedule("http://x/"),
    "schedule with an id": lambda c: c.schedule("http://x/", id="a", on_conflict="keep"),
    "cancel": lambda c: c.cancel("a"),
    "cancel a group": lambda c: c.cancel(group="g"),
}
NEVER: dict[str, Call] = {
    "replace": lambda c: c.schedule("http://x/", id="a", on_conflict="replace"),
    "reschedule": lambda c: c.reschedule("a", delay="1h"),
    "finish": lambda c: c.finish("a"),
    "redrive": lambda c: c.redrive("a"),
    "pause": lambda c: c.pause("q"),
    "resume": lambda c: c.resume("q"),
}


@pytest.fixture(params=["blocking", "trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``run(server, call, ...)``: what the call gives with a client of this kind."""

    def blocking(server: str, *calls: Call, **options: Any) -> Any:
        with Client(server, **options) as client:
            return [call(client) for call in calls]

    def awaiting(server: str, *calls: Call, **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncClient(server, **options) as client:
                return [await call(client) for call in calls]

        return anyio.run(main, backend=request.param)

    return blocking if request.param == "blocking" else awaiting


@pytest.mark.parametrize("call", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize(
    "how", [CLOSE, STORAGE, b"half a li", b"no reply\n"], ids=["close", "storage", "half", "junk"]
)
def test_what_does_no_harm_twice_is_sent_again(run: Any, call: Call, how: object) -> None:
    # Where the server keeps the connection open after its half line, the client's patience ends it.
    with ScriptedServer(Flaky(2, 3, how=how)) as server:
        run(server.address, lambda c: c.ping(), call, lambda c: c.ping(), timeout=0.2)
    first, lost, again, done, last = server.requests
    assert first["op"] == last["op"] == "ping"
    assert lost == again == done, "the same request, its id too"


@pytest.mark.parametrize("call", NEVER.values(), ids=NEVER)
def test_what_could_do_harm_twice_is_not_and_says_that_it_is_unknown(run: Any, call: Call) -> None:
    with ScriptedServer(Flaky(2)) as server:

        def unknown(client: Any) -> Any:
            return _raised(client, call, OutcomeUnknown, "may or may not")

        run(server.address, lambda c: c.ping(), unknown, lambda c: c.ping())
    assert len(server.requests) == 3


def _raised(client: Any, call: Call, error: type[Exception], match: str) -> Any:
    if isinstance(client, Client):
        with pytest.raises(error, match=match):
            call(client)
        return None

    async def awaited() -> None:
        with pytest.raises(error, match=match):
            await call(client)

    return awaited()


@pytest.mark.parametrize("call", NEVER.values(), ids=NEVER)
def test_what_was_never_sent_goes_out_when_there_is_a_connection(run: Any, call: Call) -> None:
    """The daemon closed between two requests: nothing was lost with it."""

    class Once(ScriptedServer):
        def _serve(self, connection: Any) -> None:
            if not self.requests:
                with connection.makefile("rb") as lines:
                    self.requests.append(json.loads(lines.readline()))
                    seq = self.requests[0].pop("seq")
                    connection.sendall(reply_line(_answer(self.requests[0]), seq))
                return
            super()._serve(connection)

    async def breathe() -> None:
        await anyio.sleep(0.2)

    def later(client: Any) -> Any:
        return threading.Event().wait(0.2) if isinstance(client, Client) else breathe()

    with Once(_answer) as server:
        run(server.address, lambda c: c.ping(), later, call)
    assert len(server.requests) == 2


def test_no_connection_for_too_long(run: Any) -> None:
    with ScriptedServer([_answer({}), CLOSE]) as server:

        def gone(client: Any) -> Any:
            server._closing = True
            server._listener.close()
            return _raised(
                client, lambda c: c.schedule("http://x/", id="a"), OutcomeUnknown, "not back within"
            )

        run(server.address, lambda c: c.ping(), gone, reconnect=0.2)


def test_a_read_that_is_given_up_is_no_unknown_outcome(run: Any) -> None:
    def lost(client: Any) -> Any:
        return _raised(client, lambda c: c.get("a"), ServerUnreachable, "send it again")

    with ScriptedServer([CLOSE]) as server:
        run(server.address, lost, reconnect=0)


DEEP = b"[" * 100_000 + b"]" * 100_000
"""More than any parser's recursion limit."""


@pytest.mark.parametrize("ok", [b"true", b"false"])
def test_an_answer_nested_too_deep_is_no_reply(run: Any, ok: bytes) -> None:
    """Never a RecursionError: in Trio one from the reader would end the whole program."""
    # Not as the daemon writes it, so that the reader itself parses it.
    with ScriptedServer(Flaky(2, how=b'{"deep":%b,"ok":%b,"seq":%b}\n' % (DEEP, ok, SEQ))) as server:
        run(server.address, lambda c: c.ping(), lambda c: c.ping(), timeout=5)
    assert [request["op"] for request in server.requests] == ["ping"] * 3, "asked again"


def test_a_reply_with_a_value_nested_too_deep_ends_its_request_alone(run: Any) -> None:
    def refused(client: Any) -> Any:
        return _raised(client, lambda c: c.ping(), ServerUnreachable, "what came is no reply")

    def refused_raw(client: Any) -> Any:
        return _raised(client, lambda c: c.request("ping"), ServerUnreachable, "what came is no reply")

    with ScriptedServer(Flaky(1, 2, how=b'{"ok":true,"deep":%b,"seq":%b}\n' % (DEEP, SEQ))) as server:
        run(server.address, refused, refused_raw, lambda c: c.ping(), timeout=5)
    assert len(server.requests) == 3


def test_a_time_out_longer_than_one_wait_of_the_system_may_be(run: Any) -> None:
    """poll(2) takes at most 24 days of ms."""
    with ScriptedServer(_answer) as server:
        (reply,) = run(server.address, lambda c: c.ping(), timeout=timedelta(days=365))
    assert reply.now == 1


def test_silence_is_given_up(run: Any) -> None:
    with ScriptedServer(lambda _: SILENCE) as server:

        def lost(client: Any) -> Any:
            return _raised(client, lambda c: c.cancel("a"), OutcomeUnknown, "cancel")

        run(server.address, lost, timeout=0.1, reconnect=0.25)
    assert 2 <= len(server.requests) <= 5


def test_the_token_is_shown_on_every_connection(run: Any) -> None:
    with ScriptedServer(Flaky(2)) as server:
        run(server.address, lambda c: c.ping(), token="s3cret")
    assert [request["op"] for request in server.requests] == ["hello", "ping", "hello", "ping"]


def test_a_refused_token_says_so(run: Any) -> None:
    refusal = {"ok": False, "error": "unauthorized", "message": "no such token"}
    with ScriptedServer([refusal]) as server, pytest.raises(Refused, match="no such token"):
        run(server.address, lambda c: c.ping(), token="wrong")


@pytest.mark.parametrize("answer", [b"not json\n", b'{"no":"ok"}\n', CLOSE], ids=["text", "json", "nothing"])
def test_a_token_that_is_shown_to_no_daemon_is_shown_once_and_the_error_says_what_is_there(
    run: Any, answer: object
) -> None:
    with (
        ScriptedServer(lambda _: answer) as server,
        pytest.raises(ServerUnreachable, match="does not speak wheeltimer's protocol"),
    ):
        run(server.address, lambda c: c.ping(), token="s3cret")
    assert [request["op"] for request in server.requests] == ["hello"], "that does not pass, so not again"


def test_a_refusal_is_raised_as_itself_and_the_connection_goes_on(run: Any) -> None:
    refusal = {"ok": False, "error": "full", "message": "no room", "retry_after_ms": 5}
    with ScriptedServer([refusal, _answer({})]) as server:
        run(
            server.address,
            lambda c: _raised(c, lambda c: c.schedule("http://x/"), Refused, "no room"),
            lambda c: c.ping(),
        )
    with ScriptedServer([refusal]) as server, pytest.raises(Refused) as refused:  # through the block's end
        run(server.address, lambda c: c.ping())
    assert (refused.value.code, refused.value.extra) == ("full", {"retry_after_ms": 5})


# --- many ------------------------------------------------------------------------------------------


def _many(run: Any, server: str, tasks: Any, **options: Any) -> list[Any]:
    found: list[Any] = []

    def schedule(client: Any) -> Any:
        if isinstance(client, Client):
            found.extend(client.schedule_many(tasks, **options))
            return None
        return collect(client)

    async def collect(client: AsyncClient) -> None:
        async for result in client.schedule_many(tasks, **options):
            found.append(result)

    run(server, schedule)
    return found


def test_many_are_scheduled_once_each_over_lost_connections(run: Any) -> None:
    with ScriptedServer(Flaky(7, 50, 51, 200)) as server:
        found = _many(
            run, server.address, ({"url": "http://x/", "id": f"t{n}"} for n in range(300)), depth=20
        )
    assert [result.id for result in found] == [f"t{n}" for n in range(300)]
    assert {request["id"] for request in server.requests} == {f"t{n}" for n in range(300)}


def test_each_of_many_has_its_own_result(run: Any) -> None:
    def answer(request: Request) -> Any:
        if request["id"] == "t3":
            return {"ok": False, "error": "exists", "message": "other"}
        return CLOSE if request["id"] == "t5" else _answer(request)

    tasks = [{"url": "http://x/", "id": f"t{n}"} for n in range(8)]
    tasks[5]["on_conflict"] = "replace"
    with ScriptedServer(answer) as server:
        found = _many(run, server.address, tasks, depth=2)
    kinds = [type(result).__name__ for result in found]
    assert kinds[3:6] == ["Exists", "ScheduleReply", "OutcomeUnknown"]
    assert kinds.count("ScheduleReply") == 6
    assert found[3].code == "exists"


def test_many_are_read_as_answers_come(run: Any) -> None:
    taken = 0

    def tasks() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for n in range(100):
            taken += 1
            yield {"url": "http://x/", "id": f"{n}"}

    ahead = []

    def answer(request: Request) -> Any:
        ahead.append(taken - int(request["id"]))
        return _answer(request)

    with ScriptedServer(answer) as server:
        assert len(_many(run, server.address, tasks(), depth=10)) == 100
    assert max(ahead) <= 11


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_many_tasks_share_one_connection(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client, anyio.create_task_group() as group:

            async def ask(number: int) -> None:
                assert (await client.schedule("http://x/", id=f"t{number}")).id == f"t{number}"

            async def leave() -> None:
                with anyio.move_on_after(0):
                    await client.schedule("http://x/", id="left")

            for number in range(200):
                group.start_soon(ask, number)
                if number % 10 == 0:
                    group.start_soon(leave)

    with ScriptedServer(Flaky(30, 90)) as server:
        anyio.run(main, backend=backend)


# --- subscribing -----------------------------------------------------------------------------------


def _event(number: int) -> dict[str, Any]:
    return {
        "event": "task.scheduled", "cursor": f"c-{number}", "time": 1, "queue": "q", "id": f"t{number}",
        "version": 1, "due": 2,
    }  # fmt: skip


def _lines(*replies: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(reply).encode() + b"\n" for reply in replies)


def _subscribed(run: Any, server: str, count: int, **fields: Any) -> list[Any]:
    found: list[Any] = []

    def take(client: Any) -> Any:
        if isinstance(client, Client):
            with client.subscribe(**fields) as events:
                for _ in range(count):
                    found.append(next(events))
                    assert events.cursor == found[-1].cursor
            return None
        return collect(client)

    async def collect(client: AsyncClient) -> None:
        from contextlib import aclosing

        async with aclosing(client.subscribe(**fields)) as events:
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break

    run(server, take, reconnect=2)
    return found


class Events(ScriptedServer):
    """Every connection gets its own piece of script, whose first line is the reply, and is then closed."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__([])
        self.pieces = list(pieces)

    def _run(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                seq = request.pop("seq")
                self.requests.append(request)
                if self.pieces:
                    first, _, rest = self.pieces.pop(0).partition(b"\n")
                    connection.sendall((reply_line(json.loads(first), seq) if first else b"") + rest)


def test_a_subscription_resumes_where_it_was(run: Any) -> None:
    ok = {"ok": True, "cursor": "c-0"}
    lagged = {"ok": False, "error": "lagged", "message": "slow", "cursor": "c-0"}
    with Events(
        _lines(ok, _event(1), _event(2)),
        b"",
        _lines({"ok": True, "cursor": "c-2"}) + b'{"event":"task.sch',
        _lines({"ok": True, "cursor": "c-2"}, _event(3), lagged),
        _lines({"ok": False, "error": "full", "message": "wait"}),
        _lines({"ok": True, "cursor": "c-3"}, _event(4)),
    ) as server:
        found = _subscribed(run, server.address, 4, group="g", types=["task.*"])
    assert [event.id for event in found] == ["t1", "t2", "t3", "t4"]
    assert (found[0].due, found[0].state) == (2, None)
    assert [request.get("from") for request in server.requests] == [None, "c-2", "c-2", "c-2", "c-3", "c-3"]
    assert all((request["group"], request["types"]) == ("g", ["task.*"]) for request in server.requests)


def test_a_subscription_whose_cursor_is_gone_is_told(run: Any) -> None:
    lagged = {"ok": False, "error": "lagged", "message": "gone", "cursor": "c-7"}
    with Events(_lines({"ok": True, "cursor": "c-0"}, _event(1)), _lines(lagged)) as server:
        with pytest.raises(Refused, match="gone") as refused:
            _subscribed(run, server.address, 2)
        assert (refused.value.code, refused.value.extra) == ("lagged", {"cursor": "c-7"})


def test_a_subscription_that_is_not_back_in_time(run: Any) -> None:
    with (
        Events(_lines({"ok": True, "cursor": "c-0"}, _event(1))) as server,
        pytest.raises(ServerUnreachable, match="subscribe: connection lost"),
    ):
        _subscribed(run, server.address, 2)
