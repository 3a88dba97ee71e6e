"""Every state and every input: what the contract says, as one table; and what only a bug can ask for.

A cell reads ``answer; state after, version; records written``. Records are s (scheduled, here: a
replaced task, or a hook), r (rescheduled), a (an attempt ended), x (a stop is stored), e (ended),
f (forgotten). A dash: nobody can ask for it, and the engine stops before anything changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.core.driver import Driver
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.states import TRANSITIONS, Input
from wheeltimer.protocol.task_view import Attempt, State

KEY = "default/t"
ASK: dict[str, Any] = {
    "id": "t", "url": "http://r/", "delay": 100, "expires_in": 1000, "group": "g",
    "retry": {"kind": "fixed", "every": 10, "attempts": 3, "jitter": 0}, "poll": {"every": 20, "max": 3},
    "success": {"text": "ok"}, "on_done": "http://h/done", "on_dead": "http://h/dead",
}  # fmt: skip
LAST: dict[str, Any] = {"retry": "none", "poll": {"every": 20, "max": 1}}

TABLE: dict[str, dict[str, str]] = {
    "scheduled": {
        "schedule the same": "duplicate; scheduled 1; ",
        "schedule another": "exists; scheduled 1; ",
        "schedule another, keep": "duplicate; scheduled 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "ok; scheduled 2; r",
        "reschedule another version": "conflict; scheduled 1; ",
        "cancel": "1 0; cancelled 1; e",
        "finish": "1 0; done 1; es",
        "redrive": "conflict; scheduled 1; ",
        "due": "; ready 1; ",
        "expiry": "; expired 1; es",
        "start": "-",
        "success": "-",
        "destination down": "-",
        "retention": "; scheduled 1; ",
        "lapse": "-",
        "crash": "; scheduled 1; ",
    },
    "ready": {
        "schedule the same": "duplicate; ready 1; ",
        "schedule another": "exists; ready 1; ",
        "schedule another, keep": "duplicate; ready 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "ok; scheduled 2; r",
        "reschedule another version": "conflict; ready 1; ",
        "cancel": "1 0; cancelled 1; e",
        "finish": "1 0; done 1; es",
        "redrive": "conflict; ready 1; ",
        "due": "; ready 1; ",
        "expiry": "; expired 1; es",
        "start": "; running 1; ",
        "success": "-",
        "destination down": "; dead 1; es",
        "retention": "; ready 1; ",
        "lapse": "-",
        "crash": "; scheduled 1; ",
    },
    "running": {
        "schedule the same": "duplicate; running 1; ",
        "schedule another": "exists; running 1; ",
        "schedule another, keep": "duplicate; running 1; ",
        "schedule, replace": "ok; running 2; s",
        "reschedule": "ok; running 2; r",
        "reschedule another version": "conflict; running 1; ",
        "cancel": "0 1; running 1; x",
        "finish": "0 1; running 1; x",
        "redrive": "conflict; running 1; ",
        "due": "; running 1; ",
        "expiry": "; running 1; ",
        "start": "-",
        "success": "; done 1; aes",
        "late success": "; done 1; aes",
        "failure": "; scheduled 1; a",
        "last failure": "; dead 1; aes",
        "late failure": "; expired 1; aes",
        "final": "; dead 1; aes",
        "not yet": "; scheduled 1; a",
        "last not yet": "; dead 1; aes",
        "late not yet": "; expired 1; aes",
        "destination down": "-",
        "retention": "; running 1; ",
        "lapse": "; ready 1; ",
        "late lapse": "; expired 1; es",
        "crash": "; scheduled 1; ",
    },
    "running, to be cancelled": {
        "schedule the same": "duplicate; running 1; ",
        "schedule another": "exists; running 1; ",
        "schedule, replace": "ok; running 2; s",
        "reschedule": "too_late; running 1; ",
        "cancel": "0 1; running 1; ",
        "finish": "0 1; running 1; x",
        "expiry": "; running 1; ",
        "success": "; done 1; aes",
        "late success": "; done 1; aes",
        "failure": "; cancelled 1; ae",
        "late failure": "; cancelled 1; ae",
        "final": "; cancelled 1; ae",
        "not yet": "; cancelled 1; ae",
        "lapse": "; cancelled 1; e",
        "late lapse": "; cancelled 1; e",
        "crash": "; cancelled 1; e",
    },
    "running, to be finished": {
        "schedule, replace": "ok; running 2; s",
        "reschedule": "too_late; running 1; ",
        "cancel": "0 1; running 1; ",
        "finish": "0 1; running 1; ",
        "success": "; done 1; aes",
        "failure": "; done 1; aes",
        "late failure": "; done 1; aes",
        "final": "; done 1; aes",
        "not yet": "; done 1; aes",
        "lapse": "; done 1; es",
        "late lapse": "; done 1; es",
        "crash": "; done 1; es",
    },
    "running, a newer version waits": {
        "schedule the same": "duplicate; running 2; ",
        "schedule, replace": "ok; running 3; s",
        "reschedule": "ok; running 3; r",
        "reschedule another version": "conflict; running 2; ",
        "cancel": "0 1; running 2; x",
        "finish": "0 1; running 2; x",
        "redrive": "conflict; running 2; ",
        "expiry": "; running 2; ",
        "success": "; scheduled 2; a",
        "failure": "; scheduled 2; a",
        "last failure": "; scheduled 2; a",
        "late failure": "; scheduled 2; a",
        "final": "; scheduled 2; a",
        "not yet": "; scheduled 2; a",
        "lapse": "; scheduled 2; ",
        "late lapse": "; scheduled 2; ",
        "crash": "; scheduled 2; ",
    },
    "running, a newer version waits, to be cancelled": {
        "schedule, replace": "ok; running 3; s",
        "reschedule": "too_late; running 2; ",
        "finish": "0 1; running 2; x",
        "success": "; cancelled 2; ae",
        "failure": "; cancelled 2; ae",
        "lapse": "; cancelled 2; e",
        "crash": "; cancelled 2; e",
    },
    "running, a newer version waits, to be finished": {
        "schedule, replace": "ok; running 3; s",
        "reschedule": "too_late; running 2; ",
        "cancel": "0 1; running 2; ",
        "success": "; done 2; aes",
        "failure": "; done 2; aes",
        "lapse": "; done 2; es",
        "crash": "; done 2; es",
    },
    "running, replaced after a cancel": {
        "reschedule": "ok; running 3; r",
        "cancel": "0 1; running 2; x",
        "success": "; scheduled 2; a",
        "failure": "; scheduled 2; a",
        "lapse": "; scheduled 2; ",
        "crash": "; scheduled 2; ",
    },
    "done": {
        "schedule the same": "duplicate; done 1; ",
        "schedule another": "exists; done 1; ",
        "schedule another, keep": "duplicate; done 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "too_late; done 1; ",
        "reschedule another version": "conflict; done 1; ",
        "cancel": "too_late; done 1; ",
        "finish": "0 0; done 1; ",
        "redrive": "conflict; done 1; ",
        "due": "; done 1; ",
        "expiry": "; done 1; ",
        "start": "-",
        "success": "-",
        "destination down": "-",
        "retention": "; unknown; f",
        "lapse": "-",
        "crash": "; done 1; ",
    },
    "dead": {
        "schedule the same": "duplicate; dead 1; ",
        "schedule another": "exists; dead 1; ",
        "schedule another, keep": "duplicate; dead 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "too_late; dead 1; ",
        "cancel": "too_late; dead 1; ",
        "finish": "too_late; dead 1; ",
        "redrive": "1; scheduled 2; r",
        "due": "; dead 1; ",
        "expiry": "; dead 1; ",
        "start": "-",
        "success": "-",
        "destination down": "-",
        "retention": "; unknown; f",
        "lapse": "-",
        "crash": "; dead 1; ",
    },
    "expired": {
        "schedule the same": "duplicate; expired 1; ",
        "schedule another": "exists; expired 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "too_late; expired 1; ",
        "cancel": "too_late; expired 1; ",
        "finish": "too_late; expired 1; ",
        "redrive": "1; scheduled 2; r",
        "start": "-",
        "success": "-",
        "destination down": "-",
        "retention": "; unknown; f",
        "lapse": "-",
        "crash": "; expired 1; ",
    },
    "cancelled": {
        "schedule the same": "duplicate; cancelled 1; ",
        "schedule another": "exists; cancelled 1; ",
        "schedule, replace": "ok; scheduled 2; s",
        "reschedule": "too_late; cancelled 1; ",
        "cancel": "0 0; cancelled 1; ",
        "finish": "too_late; cancelled 1; ",
        "redrive": "conflict; cancelled 1; ",
        "due": "; cancelled 1; ",
        "start": "-",
        "success": "-",
        "destination down": "-",
        "retention": "; unknown; f",
        "lapse": "-",
        "crash": "; cancelled 1; ",
    },
    "unknown": {
        "schedule the same": "ok; scheduled 1; s",
        "schedule, replace": "ok; scheduled 1; s",
        "reschedule": "not_found; unknown; ",
        "cancel": "not_found; unknown; ",
        "finish": "not_found; unknown; ",
        "redrive": "not_found; unknown; ",
        "get": "not_found; unknown; ",
    },
}


def make(state: str, **other: object) -> Driver:
    """A driver with the task ``t`` in this state."""
    driver = Driver()
    if state == "unknown":
        return driver
    driver.ask("schedule", **ASK | other)
    if state == "expired":
        driver.pass_ms(1100)
    elif state != "scheduled":
        driver.pass_ms(100)
    driver.tick()
    if state in ("scheduled", "ready", "expired"):
        return driver
    if state == "cancelled":
        driver.ask("cancel", id="t")
        return driver
    driver.start(KEY)
    if "newer" in state:
        driver.ask("reschedule", id="t", delay=5000)
    if "cancel" in state:
        driver.ask("cancel", id="t")
    if "to be finished" in state:
        driver.ask("finish", id="t", reply=["finished"])
    if "replaced" in state:
        driver.ask("schedule", **ASK, on_conflict="replace")
    if state in ("done", "dead"):
        driver.outcome(KEY, Answer(0, 0, 0, 200 if state == "done" else 410, body=b"ok"))
    assert driver.view(KEY)["state"] == state.partition(",")[0]
    return driver


def attempt_ends(*, after_ms: int = 0, **answer: Any) -> Callable[[Driver], str]:
    def end(driver: Driver) -> str:
        if after_ms:
            driver.pass_ms(after_ms)
            driver.tick()
        driver.outcome(KEY, Answer(0, 0, 0, **answer))
        return ""

    return end


def time_passes(ms: int) -> Callable[[Driver], str]:
    def wait(driver: Driver) -> str:
        driver.pass_ms(ms)
        driver.tick()
        return ""

    return wait


def asks(op: str, **fields: Any) -> Callable[[Driver], str]:
    def ask(driver: Driver) -> str:
        got = driver.ask(op, **fields)
        if not got["ok"]:
            if got["error"] != "not_found":
                assert got["state"] == driver.view(KEY)["state"]
            return str(got["error"])
        if op == "schedule":
            return "duplicate" if got["duplicate"] else "ok"
        numbers = [
            str(n) for name, n in got.items() if name in ("cancelled", "finished", "running", "redriven")
        ]
        return " ".join(numbers) or "ok"

    return ask


def lapses(*, after_ms: int = 0) -> Callable[[Driver], str]:
    """The attempt in flight was not made after all, so much later; then the wheels are asked."""

    def lapse(driver: Driver) -> str:
        driver.pass_ms(after_ms)
        driver.lapse(KEY)
        driver.tick()
        return ""

    return lapse


def destination_down(driver: Driver) -> str:
    driver.give_up(KEY)
    return ""


def retention(driver: Driver) -> str:
    driver.engine.limits = replace(driver.limits, keep_done_max=0, keep_dead_max=0)
    driver.limits = driver.engine.limits
    driver.forget()
    return ""


def crash(driver: Driver) -> str:
    driver.crash()
    return ""


def start(driver: Driver) -> str:
    driver.start(KEY)
    return ""


INPUTS: dict[str, Callable[[Driver], str]] = {
    "schedule the same": asks("schedule", **ASK),
    "schedule another": asks("schedule", **ASK | {"url": "http://other/"}),
    "schedule another, keep": asks("schedule", **ASK | {"url": "http://other/"}, on_conflict="keep"),
    "schedule, replace": asks("schedule", **ASK, on_conflict="replace"),
    "reschedule": asks("reschedule", id="t", delay=70),
    "reschedule another version": asks("reschedule", id="t", if_version=9),
    "cancel": asks("cancel", id="t"),
    "finish": asks("finish", id="t", reply={"by": "hand"}),
    "redrive": asks("redrive", id="t"),
    "get": asks("get", id="t"),
    "due": time_passes(100),
    "expiry": time_passes(1100),
    "start": start,
    "success": attempt_ends(status=200, body=b"ok"),
    "late success": attempt_ends(status=200, body=b"ok", after_ms=2000),
    "failure": attempt_ends(status=500),
    "last failure": attempt_ends(error="connect: refused"),
    "late failure": attempt_ends(error="connect: refused", after_ms=2000),
    "final": attempt_ends(status=200, body=b"wait", stop=True),
    "not yet": attempt_ends(status=201, body=b"wait"),
    "last not yet": attempt_ends(status=200, body=b"wait"),
    "late not yet": attempt_ends(status=200, body=b"wait", after_ms=2000),
    "lapse": lapses(),
    "late lapse": lapses(after_ms=2000),
    "destination down": destination_down,
    "retention": retention,
    "crash": crash,
}
CELLS = [(state, what) for state, row in TABLE.items() for what in row]


def tags(records: list[r.Replayed]) -> str:
    return "".join(str(type(record).__struct_config__.tag) for record in records)


def everything(engine: Engine) -> object:
    """All that an illegal move could spoil, as a value."""
    return copy.deepcopy((
        dict(engine.table.items()), engine.counts, engine.outcomes, engine.groups,
        list(engine.kept_done), list(engine.kept_dead),
        {name: (queue.counts, queue.paused) for name, queue in engine.queues.items()},
        len(engine.elapsed), len(engine.wall), set(engine.superseded),
    ))  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize(("state", "what"), CELLS, ids=[f"{state} - {what}" for state, what in CELLS])
def test_every_state_and_every_input(state: str, what: str) -> None:
    expected = TABLE[state][what]
    driver = make(state, **LAST) if what.startswith("last") else make(state)
    before, count = everything(driver.engine), len(driver.written())
    if expected == "-":
        with pytest.raises(AssertionError):
            INPUTS[what](driver)
        assert everything(driver.engine) == before
        return
    answer = INPUTS[what](driver)
    task = driver.engine.get(KEY)
    shown = "unknown" if task is None else f"{State(task.state).word} {task.version}"
    assert f"{answer}; {shown}; {tags(driver.written()[count:])}" == expected
    check(driver.engine)


def test_every_cell_that_matters_has_a_row() -> None:
    """A state that has no row for an input is one of the running ones, whose plain row speaks for it."""
    everywhere = set(TABLE["scheduled"])
    for state in ("ready", "running", "done", "dead"):
        assert everywhere - {"reschedule another version"} <= set(TABLE[state]), state
    assert {state for state in TABLE if ", " not in state} == {s.word for s in State} | {"unknown"}


# Records: what may come next in each state, the hooks and replies aside.
LEGAL: dict[State, dict[str, str]] = {
    State.SCHEDULED: {
        "due": "ready", "done": "done", "expired": "expired", "cancelled": "cancelled",
        "replaced": "scheduled", "rescheduled": "scheduled",
    },
    State.READY: {
        "started": "running", "done": "done", "dead": "dead", "expired": "expired", "cancelled": "cancelled",
        "replaced": "scheduled", "rescheduled": "scheduled",
    },
    State.RUNNING: {
        "again": "scheduled", "last": "running", "lapsed": "ready", "stop": "running", "done": "done",
        "dead": "dead", "expired": "expired", "cancelled": "cancelled", "replaced": "running",
        "rescheduled": "running",
    },
    State.DONE: {"replaced": "scheduled", "forgotten": "unknown"},
    State.DEAD: {"replaced": "scheduled", "rescheduled": "scheduled", "forgotten": "unknown"},
    State.EXPIRED: {"replaced": "scheduled", "rescheduled": "scheduled", "forgotten": "unknown"},
    State.CANCELLED: {"replaced": "scheduled", "forgotten": "unknown"},
}  # fmt: skip


def record_of(driver: Driver, kind: str) -> r.AnyRecord:
    task, now_ms = driver.task(KEY), driver.now.wall_ms
    newer = replace(task, version=task.version + 1, state=0, flight=0, stop=0, ended_ms=None, deadline_ns=1)
    attempt = Attempt(task.attempts + 1, task.version, 0, 0, 0, "failed")
    match kind:
        case "due":
            return r.Due(KEY, now_ms, task, 0)
        case "started":
            return r.Started(KEY, now_ms, task.version, 1, task)
        case "started of an older version":
            return r.Started(KEY, now_ms, task.version - 1, 1, task)
        case "lapsed":
            return r.Lapsed(KEY, now_ms, task)
        case "lapsed although a stop is stored":
            return r.Lapsed(KEY, now_ms, replace(task, stop=1))
        case "again":
            return r.Attempted(KEY, now_ms, attempt, 1, 0, now_ms, driver.now.elapsed_ns)
        case "last":
            return r.Attempted(KEY, now_ms, attempt, 1, 0, None, None, True)
        case "stop":
            return r.Stopping(KEY, now_ms, 1)
        case "replaced":
            return r.Scheduled(KEY, now_ms, newer)
        case "rescheduled":
            return r.Rescheduled(KEY, now_ms, newer)
        case "replaced by the same version":
            return r.Scheduled(KEY, now_ms, task)
        case "rescheduled by a version too new":
            return r.Rescheduled(KEY, now_ms, replace(newer, version=task.version + 2))
        case "forgotten":
            return r.Forgotten([KEY], now_ms)
        case _:
            state = next(s for s in State if s.word == kind)
            return r.Ended(KEY, now_ms, task.version, int(state), task.attempts)


KINDS = (
    "due", "started", "lapsed", "again", "last", "stop", "done", "dead", "expired", "cancelled", "replaced",
    "rescheduled", "forgotten", "started of an older version", "replaced by the same version",
    "rescheduled by a version too new", "lapsed although a stop is stored",
)  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", list(State))
def test_an_illegal_record_stops_and_changes_nothing(state: State, kind: str) -> None:
    driver = make(state.word)
    record = record_of(driver, kind)
    expected = LEGAL[state].get(kind)
    if expected is not None:
        driver.engine.apply(record)
        task = driver.engine.get(KEY)
        assert (State(task.state).word if task else "unknown") == expected
        return
    before = everything(driver.engine)
    with pytest.raises(AssertionError):
        driver.engine.apply(record)
    assert everything(driver.engine) == before
    check(driver.engine)


def test_one_live_task_among_those_to_forget_changes_nothing() -> None:
    driver = make("done")
    driver.ask("schedule", id="u", url="http://r/")
    before = everything(driver.engine)
    with pytest.raises(AssertionError):
        driver.engine.apply(r.Forgotten([KEY, "default/u"], 0))
    assert everything(driver.engine) == before


def test_the_table_has_a_cell_for_every_input() -> None:
    for state in State:
        assert set(TRANSITIONS[state]) == set(Input)
