"""A reply is never that of another request: interrupts, threads, streams that are left, a wrong ``seq``."""

from __future__ import annotations

import dis
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.client.echo import EchoServer, Request, echo
from tests.client.scripted import SEQ, ScriptedServer, reply_line
from wheeltimer.client import Client, OutcomeUnknown
from wheeltimer.errors import ClientMisused, Refused, ServerUnreachable

URL = "http://x/"
STORM = int(os.environ.get("WHEELTIMER_CLIENT_STORM", "5000"))
"""Requests under signals; CI makes 5,000, a release 100,000."""


STRIDE = 1 if STORM > 5000 else 5
LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A connect that is interrupted inside the standard library leaves its socket to the collector."""


class Soft(BaseException):
    """What a signal handler raises: a worker's soft time limit, Ctrl-C."""


# --- interrupts ------------------------------------------------------------------------------------


def raise_soft() -> None:
    raise Soft


class Interrupt:
    """Calls ``handler``, which raises ``Soft`` unless another is given, at the n-th place of the client's
    code where CPython runs signal handlers.

    Those are: the begin of a function, the end of a call, and a jump backwards. With several numbers, again
    that many places after the one before.
    """

    def __init__(self, places: list[int], handler: Callable[[], None] = raise_soft) -> None:
        self.places = places
        self._handler = handler
        self.raised = False
        self._places: dict[CodeType, dict[int, str]] = {}
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if "/wheeltimer/client/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self._before.get(frame, "RESUME")
            self._before[frame] = self._name(frame)
            if self.places and before.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                self.places[0] -= 1
                if self.places[0] < 0:
                    self.places.pop(0)
                    self.raised = True
                    self._handler()
        elif event == "return":
            self._before.pop(frame, None)
        return self

    def _name(self, frame: FrameType) -> str:
        code = frame.f_code
        if code not in self._places:
            self._places[code] = {found.offset: found.opname for found in dis.get_instructions(code)}
        return self._places[code][frame.f_lasti]


def _interrupted(places: list[int], work: Any) -> bool:
    """Whether ``work`` was interrupted; False where it was done before."""
    trace, interrupt = sys.gettrace(), Interrupt(places)
    sys._getframe().f_trace_opcodes = True  # Python 3.12 traces opcodes only if a frame has this by now
    sys.settrace(interrupt)
    try:
        work()
    except Soft:
        assert interrupt.raised
    finally:
        sys.settrace(trace)
    return interrupt.raised


WORK: dict[str, Any] = {
    "first request": lambda client: client.schedule(URL, id="lost"),
    "a later request": lambda client: client.schedule(URL, id="lost"),
    "what is not sent again": lambda client: client.pause("lost"),
    "a stream": lambda client: list(client.schedule_many([{"url": URL, "id": f"s{n}"} for n in range(2)])),
}


@LEAKS
@pytest.mark.parametrize("name", WORK)
def test_an_interrupt_at_any_bytecode_leaves_a_client_that_answers_rightly(name: str) -> None:
    at = 0
    with EchoServer() as server:
        while True:
            with Client(server.address, timeout=5, reconnect=0.5) as client:
                if name != "first request":
                    client.ping()
                if not _interrupted([at], lambda: WORK[name](client)):
                    break
                for number in range(2):
                    assert client.schedule(URL, id=f"after-{number}").id == f"after-{number}", at
            at += STRIDE
    assert at > 50


@LEAKS
def test_a_second_interrupt_while_the_first_is_handled() -> None:
    rng = random.Random(1)
    with EchoServer() as server, Client(server.address, timeout=5, reconnect=0.5) as client:
        for number in range(50):
            client.ping()
            first = rng.randrange(110)
            assert _interrupted([first, rng.randrange(25)], lambda: client.schedule(URL, id="lost")), first
            assert client.schedule(URL, id=f"a{number}").id == f"a{number}"


@LEAKS
def test_a_storm_of_signals() -> None:
    """Handlers raise at random instants, also while the client waits in the system."""
    rng = random.Random(7)

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise Soft

    before = signal.signal(signal.SIGALRM, handler)
    cut, wrong = 0, 0
    try:
        with EchoServer() as server, Client(server.address, timeout=5) as client:
            for number in range(STORM):
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00005, 0.0012))
                    reply = client.schedule(URL, id=f"t{number}")
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    wrong += reply.id != f"t{number}"
                except Soft:
                    cut += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cut > STORM / 100
    assert wrong == 0


@pytest.mark.parametrize("call", ["ping", "stream", "close"])
def test_a_handler_that_calls_the_client_in_the_middle_of_a_request(call: str) -> None:
    """A second entry is an error in the handler, not a deadlock; the request itself goes on."""
    said: list[BaseException] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        try:
            if call == "stream":
                next(client.request_many([{"op": "ping"}]))
            else:
                getattr(client, call)()
        except ClientMisused as error:
            said.append(error)

    def answer(request: Request) -> Request:
        if request.get("id") == "slow":
            os.kill(os.getpid(), signal.SIGUSR1)
            entered.wait(0.2)
        return echo(request)

    entered = threading.Event()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with EchoServer(answer) as server, Client(server.address, timeout=5) as client:
            client.ping()
            if call == "close":
                with pytest.raises(OutcomeUnknown, match="closed"):
                    client.schedule(URL, id="slow")
                with pytest.raises(ServerUnreachable, match="make a new client"):
                    client.ping()
                return
            assert client.schedule(URL, id="slow").id == "slow"
            assert client.schedule(URL, id="next").id == "next"
        assert len(server.connections) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(said) == 1
    assert "in the middle of a request" in str(said[0])


def test_a_handler_that_calls_the_client_at_any_bytecode_is_answered_or_refused() -> None:
    """Also between the steps that take and release the lock: it never waits for its own thread."""
    at, refused = 0, 0
    with EchoServer() as server:
        while True:
            with Client(server.address, timeout=5) as client:
                client.ping()
                interrupt, said = _with_handler(client, at)
            assert said.pop("outer") == "outer", at
            if not interrupt.raised:
                break
            refused += said["inner"] == "refused"
            assert said["inner"] in ("inner", "refused"), at
            at += STRIDE
    assert at > 50
    assert refused > 10


def _with_handler(client: Client, at: int) -> tuple[Interrupt, dict[str, str]]:
    """What a request, and one from a handler in its middle, were answered; in a thread that may hang."""
    said: dict[str, str] = {}

    def handler() -> None:
        try:
            said["inner"] = client.schedule(URL, id="inner").id
        except ClientMisused:
            said["inner"] = "refused"

    def work() -> None:
        sys.settrace(interrupt)
        try:
            said["outer"] = client.schedule(URL, id="outer").id
        finally:
            sys.settrace(None)

    interrupt = Interrupt([at], handler)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), f"the thread waits for itself, at place {at}"
    return interrupt, said


# --- many users of one client ----------------------------------------------------------------------


def test_threads_and_streams_share_one_client() -> None:
    """Single requests, streams that are read to their end, and streams that are left, all at once."""
    wrong: list[object] = []

    def single(name: str) -> None:
        for number in range(80):
            id = f"{name}-{number}"
            if (reply := client.schedule(URL, id=id)).id != id:
                wrong.append((id, reply))

    def stream(name: str) -> None:
        ids = [f"{name}-{number}" for number in range(200)]
        got = client.schedule_many(({"url": URL, "id": id} for id in ids), depth=37)
        wrong.extend(pair for pair in zip(ids, got, strict=True) if pair[0] != getattr(pair[1], "id", None))

    def leave(name: str) -> None:
        for turn in range(10):
            items = ({"op": "get", "id": f"{name}-{turn}-{n}"} for n in range(50))
            many = client.request_many(items, depth=9)
            wrong.extend(n for n in range(5) if next(many)["id"] != f"{name}-{turn}-{n}")
            if turn % 2:
                many.close()

    with EchoServer() as server, Client(server.address, timeout=10) as client:
        threads = [
            threading.Thread(target=work, args=(f"{work.__name__}{number}",))
            for work in (single, stream, leave)
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
    assert len(server.connections) == 1, "they share the connection, and none was interrupted"


def test_streams_interleaved_with_each_other_and_with_requests() -> None:
    def items(name: str) -> Iterator[Request]:
        return ({"op": "get", "id": f"{name}{n}"} for n in range(60))

    with EchoServer() as server, Client(server.address, timeout=5) as client:
        first, second = client.request_many(items("a"), 7), client.request_many(items("b"), 20)
        for number in range(60):
            assert next(first)["id"] == f"a{number}"
            if number % 3 == 0:
                assert client.schedule(URL, id=f"c{number}").id == f"c{number}"
            assert next(second)["id"] == f"b{number}"


def test_a_stream_that_is_left_sends_nothing_more() -> None:
    """What it had not sent yet is not sent by the next request, an hour later."""
    with EchoServer() as server, Client(server.address, timeout=5) as client:
        many = client.schedule_many(({"url": URL, "id": f"s{n}"} for n in range(100)), depth=10)
        next(many)
        client.ping()  # reads the replies of s1 to s9
        next(many)  # takes s10, and has nothing to send or to read for s1
        del many
        assert client.schedule(URL, id="after").id == "after"
    ids = [request.get("id") for request in server.connections[0]]
    assert ids == [*(f"s{n}" for n in range(10)), None, "after"]


def test_an_interrupted_stream_leaves_those_of_others_whole() -> None:
    """The connection is closed under them; what does no harm twice goes out again, the rest says so."""
    go = threading.Event()

    def answer(request: Request) -> Request:
        if request.get("queue") == "q5":
            go.wait(10)
        return echo(request)

    with EchoServer(answer) as server, Client(server.address, timeout=5) as client:
        safe = client.request_many(({"op": "get", "id": f"a{n}"} for n in range(30)), depth=10)
        unsafe = client.request_many(({"op": "pause", "queue": f"q{n}"} for n in range(30)), depth=10)
        assert next(safe)["id"] == "a0"
        assert next(unsafe)["paused"]
        assert _interrupted([40], lambda: client.schedule(URL, id="lost"))
        go.set()
        assert [reply["id"] for reply in safe] == [f"a{n}" for n in range(1, 30)]
        with pytest.raises(OutcomeUnknown, match="interrupted"):
            deque(unsafe)
    sent = [request for connection in server.connections for request in connection]
    paused = [request["queue"] for request in sent if request["op"] == "pause"]
    assert len(paused) == len(set(paused)), "none was sent twice"


# --- replies that are not the ones due -------------------------------------------------------------


@pytest.mark.parametrize(
    "seq", [lambda seq: seq - 1, lambda seq: str(seq), lambda seq: None],
    ids=["another", "text", "none"],
)  # fmt: skip
def test_a_reply_with_another_seq_closes_the_connection(seq: Any) -> None:
    with EchoServer(seq=seq) as server, Client(server.address, timeout=5, reconnect=0.2) as client:
        with pytest.raises(ServerUnreachable, match="lost"):
            client.ping()
        with pytest.raises(OutcomeUnknown, match="lost"):
            client.pause("q")
    assert all(len(requests) == 1 for requests in server.connections)


def test_replies_that_are_shifted_by_one_are_found() -> None:
    """A second reply to one request: the next request must not take it."""
    count = 0

    def answer(request: Request) -> Any:
        nonlocal count
        count += 1
        line = b'{"ok":true,"id":"%s","queue":"q","version":1,"due":1,"state":"ready","seq":%s}\n'
        return (line % (request["id"].encode(), SEQ)) * (2 if count == 2 else 1)

    with ScriptedServer(answer) as server, Client(server.address, timeout=5) as client:
        assert [client.schedule(URL, id=id).id for id in "abcd"] == list("abcd")


def test_what_the_daemon_says_while_nothing_is_asked_answers_no_later_request() -> None:
    """It says why it hangs up, on an idle connection."""
    shut = b'{"ok":false,"error":"unauthorized","message":"too late"}\n'
    said = {"a": shut, "b": b""}

    def answer(request: Request) -> bytes:
        return reply_line(echo(request), "$SEQ").replace(b'"$SEQ"', SEQ) + said[request["id"]]

    with ScriptedServer(answer) as server, Client(server.address, timeout=5) as client:
        assert [client.schedule(URL, id=id).id for id in "ab"] == ["a", "b"]


def test_a_refusal_without_seq_is_that_of_the_oldest_request() -> None:
    """A line too long for the daemon has no seq that it could read."""
    refusal = b'{"ok":false,"error":"line_too_long","message":"at most 131072 bytes"}\n'
    with (
        ScriptedServer([refusal]) as server,
        Client(server.address, timeout=5) as client,
        pytest.raises(Refused, match="131072"),
    ):
        client.schedule(URL, id="a")


@pytest.mark.parametrize("given", [7, "mine", 1.5, -1])
def test_the_callers_own_seq_comes_back(given: object) -> None:
    with EchoServer() as server, Client(server.address, timeout=5) as client:
        assert client.request("get", id="a", seq=given)["seq"] == given
        reply, line = client.exchange("get", id="a", seq=given)
        assert reply["seq"] == given
        assert line.endswith(b"}")
        assert line.count(b'"seq"') == 1
        many = list(client.request_many([{"op": "get", "id": "b", "seq": given}, {"op": "get", "id": "c"}]))
        assert many[0]["seq"] == given
        assert "seq" not in many[1]


def test_the_clients_own_seq_is_not_shown() -> None:
    """The reply's own bytes but for the seq, wherever it stands, and not what only looks like one."""
    said = [
        b'{"ok":true,"a": 1.50,"seq":%s}\n' % SEQ,
        b'{"seq":%s,"ok":true,"a": 1.50}\n' % SEQ,
        b'{"ok":true,"t":"\\",\\"seq\\":%s}","seq":%s}\n' % (SEQ, SEQ),
    ]
    with ScriptedServer(said) as server, Client(server.address, timeout=5) as client:
        assert client.exchange("ping")[1] == b'{"ok":true,"a": 1.50}'
        assert client.exchange("ping") == ({"ok": True, "a": 1.5}, b'{"ok":true,"a":1.50}')
        reply, line = client.exchange("ping")
        assert "seq" in reply["t"]
        assert list(reply) == ["ok", "t"]
        assert b'"t":"' in line
