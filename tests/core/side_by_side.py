"""The engine and the model side by side, one step at a time, and all that is compared after a step.

A step is four small integers, as Hypothesis likes to draw and to shrink them; what they mean is here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.core.driver import FAR_NS, START_WALL_NS, Driver
from tests.core.model import Model, Reading
from tests.core.model_task import HOOK, LIVE, MS, Key, Reply
from wheeltimer.core import outcome, queries
from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.invariants import check
from wheeltimer.core.outcome import Answer
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.core.task import Task, key_of, split_key, unpack
from wheeltimer.protocol.ids import webhook_id
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.retry import CHANCE_MAX
from wheeltimer.protocol.task_view import State
from wheeltimer.protocol.units import format_instant

STEPS = 50
LIMITS = Limits(tasks_max=5, keep_done_ms=400, keep_done_max=4, keep_dead_ms=900, keep_dead_max=3)
START_MS = START_WALL_NS // MS
JOURNAL_ID = b"journal-of-tests"

QUEUES = ("default", "q")
IDS = ("a", "b", "订单 7", None)
DUES: tuple[dict[str, Any], ...] = (
    {}, {"delay": 0}, {"delay": 7}, {"delay": 40}, {"delay": "30ms"}, {"at": START_MS + 25},
    {"at": START_MS + 160}, {"at": format_instant(START_MS + 60)}, {"delay": "3m"},
    {"at": "1970-01-01T00:00:00Z"},
)  # fmt: skip
RETRIES: tuple[dict[str, Any], ...] = (
    {}, {"retry": "none"}, {"retry": {"kind": "fixed", "every": "10ms", "attempts": 3, "jitter": 0}},
    {"retry": {"kind": "exponential", "base": 4, "cap": "20ms", "attempts": 4}},
    {"retry": {"kind": "list", "delays": [5, "25ms"], "jitter": 0.5}}, {"retry": "alipay"},
)  # fmt: skip
POLLS: tuple[dict[str, Any], ...] = (
    {}, {"poll": {"every": "9ms", "max": 2}, "success": {"text": "ok"}},
    {"success": {"status": [304, "2xx"]}}, {"poll": {"every": 30, "max": 1}, "success": {"status": [201]}},
)  # fmt: skip
EXPIRIES: tuple[dict[str, Any], ...] = (
    {}, {}, {"expires_in": 12}, {"expires_in": "60ms"}, {"expires_at": START_MS + 50},
    {"expires_at": START_MS},
)  # fmt: skip
HOOKS: tuple[dict[str, Any], ...] = (
    {}, {"on_done": "http://h/done"}, {"on_dead": "http://h/dead"},
    {"on_done": "http://h/done", "on_dead": "http://h/dead", "meta": {"a": [1]}},
)  # fmt: skip
CONTENTS: tuple[dict[str, Any], ...] = (
    {}, {"body": {"n": 1}}, {"body_text": "hé"}, {"headers": {"x-a": "1"}, "group": "g"}, {"group": "g"},
    {"group": "h"}, {"method": "PUT"},
)  # fmt: skip
CONFLICTS: tuple[dict[str, Any], ...] = ({}, {"on_conflict": "replace"}, {"on_conflict": "keep"})
ANSWERS: tuple[dict[str, Any], ...] = (
    {"status": 200}, {"status": 200, "body": b" ok\n"}, {"status": 500, "body": b"no"}, {"status": 201},
    {"error": "connect: refused"}, {"status": 410}, {"status": 401}, {"status": 503, "retry_after_ms": 15},
    {"status": 200, "body": b"wait", "stop": True}, {"status": 304, "body": b"\xff\xfe"},
    {"status": 200, "error": "broke off"},
)  # fmt: skip
OTHER_URL = {"url": "http://other/"}

STEP = st.tuples(st.integers(0, 41), st.integers(0, 11), st.integers(0, 59), st.integers(0, 59))


class Play:
    """One example: the engine and the model side by side."""

    def __init__(self) -> None:
        finals = {"q": {401}}
        policy = Policy(queues={"q": QueuePolicy(None, frozenset(finals["q"]))})
        self.driver = Driver(LIMITS, policy)
        self.model = Model(LIMITS, self.driver.boot, finals)
        self.story: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.webhook_ids: dict[tuple[int, int], str] = {}
        self.looked = True  # the wheels know the clocks as they are
        self.due_ns: int | None = None  # the earliest timer after the last step, if the ticker knows it

    # -- one step -------------------------------------------------------------------------------

    def step(self, what: int, target: int, a: int, b: int) -> None:
        kinds: tuple[tuple[int, Callable[[int, int, int], None]], ...] = (
            (1, self.nothing), (5, self.schedule), (3, self.reschedule), (2, self.cancel), (2, self.finish),
            (1, self.redrive), (1, self.many), (1, self.pause), (2, self.advance), (5, self.start),
            (8, self.outcome), (2, self.lapse), (1, self.step_wall), (1, self.crash), (1, self.forget),
            (1, self.destination_down), (1, self.page), (4, self.compact),
        )  # fmt: skip
        for weight, act in kinds:
            if what < weight:
                self.driver.engine.earliest_added_ns = FAR_NS
                act(target, a, b)
                return
            what -= weight
        raise AssertionError(what)

    def nothing(self, target: int, a: int, b: int) -> None:
        pass

    def named(self, target: int) -> dict[str, Any]:
        """A task that is known, a hook perhaps; often one that is running, now and then one that is not."""
        known = sorted(self.model.tasks)
        running = [key for key in known if self.model.tasks[key].state == "running"]
        if target == 11 or not known:
            return {"id": "nobody"}
        queue, id = running[target % len(running)] if running and target < 6 else known[target % len(known)]
        return {"id": id} if queue == "default" and target % 2 else {"id": id, "queue": queue}

    def same(self, op: str, ask: dict[str, Any], answered: Callable[[Reply], Reply]) -> None:
        """Ask both; the replies may differ in their words only."""
        self.story.append(f"{op} {ask}")
        line = json.dumps({"op": op} | ask).encode()
        run = self.driver.run([line])  # the way in for plain schedules, where this is one
        got = run[0] if run else self.driver.line(line)
        expected = answered(got)
        self.story.append(f"   -> {got}")
        if got["ok"]:
            assert got == expected
        else:
            assert {name: got.get(name) for name in expected} == expected, expected

    def schedule(self, target: int, a: int, b: int) -> None:
        ask: dict[str, Any] = {"url": "http://r/"}
        id, queue = IDS[target % 4], QUEUES[target // 4 % 3 % 2]
        if id is not None:
            ask["id"] = id
        if queue != "default":
            ask["queue"] = queue
        # Few combinations, each often, so that the same request comes twice.
        ask |= DUES[a % len(DUES)] | POLLS[a // 3 % 4] | EXPIRIES[b % 6] | CONTENTS[a % 7] | HOOKS[b // 2 % 4]
        ask |= RETRIES[(a + b) % 6] | CONFLICTS[a // 20]
        if b % 5 == 4:  # nothing special: what most clients ask, and its own way in
            ask = {name: ask[name] for name in ("url", "id", "queue") if name in ask} | {"delay": a}
        if self.asked and a % 4 == 3:  # what was asked before, once more
            ask = self.asked[b % len(self.asked)]
        elif id is not None:
            self.asked.append(ask)
        now, model = self.driver.now, self.model
        self.same("schedule", ask, lambda got: model.schedule(ask, now, ask.get("id") or got.get("id", "")))

    def reschedule(self, target: int, a: int, b: int) -> None:
        ask: dict[str, Any] = self.named(target)
        choices: tuple[dict[str, Any], ...] = ((), DUES, DUES, EXPIRIES, CONTENTS, RETRIES, POLLS)[a % 7]
        ask |= (
            (choices[b % len(choices)] if choices else {})
            | (HOOKS[b % 4] if a // 7 % 3 == 1 else {})
            | (OTHER_URL if a > 55 else {})
        )
        if a // 7 % 3 == 2:
            ask["if_version"] = 1 + b % 3
        self.same("reschedule", ask, lambda got: self.model.reschedule(ask, self.driver.now))

    def cancel(self, target: int, a: int, b: int) -> None:
        ask = self.named(target) | ({"if_version": 1 + b % 3} if a % 3 == 2 else {})
        self.same("cancel", ask, lambda got: self.model.cancel(ask, self.driver.now))

    def finish(self, target: int, a: int, b: int) -> None:
        ask = self.named(target) | ({}, {"reply": {"r": [b]}}, {"reply": "x"})[a % 3]
        self.same("finish", ask, lambda got: self.model.finish(ask, self.driver.now))

    def redrive(self, target: int, a: int, b: int) -> None:
        ask = self.named(target)
        ended = sorted(key for key, task in self.model.tasks.items() if task.state in ("dead", "expired"))
        if ended and target < 10:
            queue, id = ended[target % len(ended)]
            ask = {"queue": queue, "id": id}
        self.same("redrive", ask, lambda got: self.model.redrive(ask, self.driver.now))

    def many(self, target: int, a: int, b: int) -> None:
        op = ("cancel", "finish", "redrive")[a % 3]
        group = (None if op == "redrive" else "g", "g", "h")[b % 3]
        queue = (None, *QUEUES)[target % 3] if group else QUEUES[target % 2]
        reply = {"of": b}
        members = self.driver.members(group)
        got = self.driver.many(op, group, queue, msgspec.json.encode(reply))
        self.story.append(f"{op} group={group} queue={queue} -> {got}")
        # The order within a group is nobody's promise: the model takes the engine's.
        order = {split_key(key): number for number, key in enumerate(members)}
        assert got == self.model.many(op, group, queue, self.driver.now, reply, order)

    def pause(self, target: int, a: int, b: int) -> None:
        ask = {"queue": QUEUES[target % 2]}
        op = ("pause", "resume")[a % 2]
        self.same(op, ask, lambda got: self.model.pause(ask["queue"], op == "pause"))

    def advance(self, target: int, a: int, b: int) -> None:
        ns = (a * MS, b * 333_333, a * b * MS // 4, 120_000 * MS)[target % 4]
        self.driver.pass_ns(ns)
        self.look(b)

    def look(self, limit: int) -> None:
        """The wheels are asked, a few keys at a time: all that is due and nothing else comes."""
        now, model = self.driver.now, self.model
        self.tell_kept()
        keys = self.driver.tick(1 + limit % 5)
        self.looked, self.due_ns = True, None
        self.story.append(f"now {now}: {keys}")
        for key in keys:
            assert model.moved(split_key(key), now), key
        assert [key for key in list(model.tasks) if model.moved(key, now)] == []

    def tell_kept(self) -> None:
        """The model is told until when ended tasks are kept: that rule has tests of its own."""
        engine = self.driver.engine
        for key in self.model.tasks:
            task = engine.get(key_of(*key))
            if task is not None and State(task.state).ended:
                self.model.kept_until_ns[key] = engine.forget_ns(task)

    def step_wall(self, target: int, a: int, b: int) -> None:
        self.driver.step_wall_ms((a - 30) * 3)
        self.looked, self.due_ns = False, None
        self.story.append(f"wall stepped to {self.driver.now}")
        if b % 2:
            self.look(b)

    def start(self, target: int, a: int, b: int) -> None:
        """Begin an attempt; where nothing is ready, time passes."""
        keys = self.model.startable()
        if not keys:
            self.advance(target % 3, a, b)
            return
        queue, id = keys[target % len(keys)]
        self.story.append(f"start {queue}/{id}")
        self.driver.start(key_of(queue, id))
        self.model.start((queue, id))

    def outcome(self, target: int, a: int, b: int) -> None:
        keys = sorted(key for key, task in self.model.tasks.items() if task.state == "running")
        if not keys:
            self.start(target, a, b)
            return
        key = keys[target % len(keys)]
        now = self.driver.now
        answer = Answer(now.wall_ms - 3, 3, target, **ANSWERS[a % len(ANSWERS)])
        chance = CHANCE_MAX * (b % 4) // 3
        self.story.append(f"outcome {key} {answer}")
        self.driver.outcome(key_of(*key), answer, chance)
        self.model.outcome(key, answer, now, Fraction(chance, CHANCE_MAX))

    def lapse(self, target: int, a: int, b: int) -> None:
        """An attempt that has begun is not made after all; what has expired meanwhile is handed over."""
        keys = sorted(key for key, task in self.model.tasks.items() if task.state == "running")
        if keys:
            key = keys[target % len(keys)]
            self.story.append(f"lapse {key}")
            self.driver.lapse(key_of(*key))
            self.model.lapse(key, self.driver.now)
            self.look(b)

    def destination_down(self, target: int, a: int, b: int) -> None:
        keys = self.model.startable()
        if keys:
            key = keys[target % len(keys)]
            self.story.append(f"destination down {key}")
            self.driver.give_up(key_of(*key))
            self.model.destination_down(key, self.driver.now)

    def forget(self, target: int, a: int, b: int) -> None:
        count = self.driver.forget()
        self.story.append(f"forgot {count}")
        assert count == self.model.forget(self.driver.now)

    def crash(self, target: int, a: int, b: int) -> None:
        clocks, ends_carried = self.clocks(), self.driver.ends_carried
        boot = target % 2 == 1
        self.driver.crash(boot=boot, down_ms=b * 2, wall_ms=(a - 30) * 5 if target % 3 == 0 else 0)
        self.model.crash(self.driver.now, self.driver.boot, clocks, ends_carried)
        self.looked, self.due_ns = False, None
        self.story.append(f"crash, another boot: {boot}, now {self.driver.now}")

    def compact(self, target: int, a: int, b: int) -> None:
        """Some of the survivors of the oldest frames go forward; when none is left there, the frames go."""
        frames = self.driver.journal.frames
        if not frames:
            return
        frame = frames[min(len(frames) - 1, a * len(frames) // 60)]
        upto_lsn = frame.first_lsn + len(r.decode_all(frame.payload)) - 1
        keys = self.driver.carry(upto_lsn, 1 + b if target % 3 else 1_000)
        for key in keys:
            self.model.carried(split_key(key), self.driver.now)
        over = target % 3 == 0 or len(keys) < 1 + b
        if over:
            self.driver.trim(upto_lsn)
        self.story.append(f"carried {keys} that stood at {upto_lsn} or before; trimmed: {over}")

    def clocks(self) -> dict[bytes, list[Reading]]:
        """What each boot's frames say, in order."""
        readings: dict[bytes, list[Reading]] = {}
        for frame in self.driver.journal.frames:
            readings.setdefault(frame.clocks.boot_id, []).append(frame.clocks[1:])
        return readings

    def page(self, target: int, a: int, b: int) -> None:
        """``list`` page by page, with filters."""
        ask: dict[str, Any] = {"limit": 1 + a % 3}
        if b % 3 == 1:
            ask["queue"] = "q"
        if b % 5 == 1:
            ask["group"] = "g"
        if b % 4 == 1:
            ask["state"] = ("scheduled", "ready", "done", "dead")[target % 4]
        expected = [
            key for key in self.model.listed()
            if ask.get("queue", key[0]) == key[0]
            and ask.get("group") in (None, self.model.tasks[key].spec.get("group"))
            and ask.get("state") in (None, self.model.tasks[key].state)
        ]  # fmt: skip
        found: list[Key] = []
        cursor: dict[str, Any] = {}
        for _ in range(len(expected) + 1):
            got = self.driver.ask("list", **ask, **cursor)
            assert len(got["tasks"]) <= ask["limit"]
            found += [(task["queue"], task["id"]) for task in got["tasks"]]
            if "cursor" not in got:
                break
            cursor = {"cursor": got["cursor"]}
        assert found == expected

    # -- after every step -----------------------------------------------------------------------

    def compare(self) -> None:
        """Everything that can be seen, the timers, the live engine's invariants, and a whole replay.

        The replayed engine's own invariants are derived again where it goes on living: at a crash.
        """
        engine = self.driver.engine
        check(engine)
        tasks = {key: unpack(row) for key, row in engine.table.items()}
        self.compare_tasks(engine, tasks)
        self.compare_timers(engine, tasks)
        self.compare_webhook_ids(tasks)
        replayed, found = self.driver.replayed()
        self.compare_replayed(replayed, engine, tasks)
        stopping = {key for key, task in self.model.tasks.items() if task.stop}
        assert stopping <= {split_key(key) for key in found.stopping}
        if stopping:
            self.compare_recovered(replayed, found.stopping)

    def compare_tasks(self, engine: Engine, tasks: dict[str, Task]) -> None:
        model = self.model
        assert {split_key(key) for key in tasks} == set(model.tasks)
        counts = dict.fromkeys(("scheduled", "ready", "running", "done", "dead", "expired", "cancelled"), 0)
        queues: dict[str, dict[str, object]] = {name: {"paused": True} for name in model.paused}
        for key, task in tasks.items():
            expected = model.tasks[split_key(key)]
            shown = json.loads(msgspec.json.encode(queries.view(key, task)))
            error = shown.pop("error", None)
            for name in ("success", "retry"):  # shown with their defaults filled in
                if isinstance(shown.get(name), dict):
                    shown[name] = {part: shown[name][part] for part in expected.spec[name]}
            assert shown == model.view(split_key(key)), key
            assert (error is not None) == (expected.state in ("dead", "expired")), (error, expected.state)
            assert task.failures == expected.failures, key
            assert {0: "", 1: "cancel", 2: "finish"}[task.stop] == expected.stop, key
            flight = expected.flight
            assert task.flight == (flight.version if flight else 0), key
            counts[expected.state] += 1
            queue = queues.setdefault(split_key(key)[0], {"paused": False})
            queue[expected.state] = 1 + queue.get(expected.state, 0)  # type: ignore[operator]
        assert queries.counts(engine) == counts
        assert queries.queues(engine) == queues
        assert engine.live == sum(counts[state] for state in LIVE)
        assert engine.outcomes == model.outcomes
        done, dead = ("done", "cancelled"), ("dead", "expired")
        ends = [key_of(*key) for key in model.ends]
        assert list(engine.kept_done) == [k for k in ends if model.tasks[split_key(k)].state in done]
        assert list(engine.kept_dead) == [k for k in ends if model.tasks[split_key(k)].state in dead]

    def compare_timers(self, engine: Engine, tasks: dict[str, Task]) -> None:
        """When each task must be looked at next; and whoever sleeps is woken for an earlier one."""
        now = self.driver.now
        instants_ns = [FAR_NS]
        for key, task in tasks.items():
            expected = self.model.tasks[split_key(key)]
            if expected.state in LIVE and expected.state != "running":
                wait, expiry = expected.deadline, expected.expiry
                assert task.deadline_ns == (None if wait is None else wait.at_ns), key
                assert task.expiry_ns == (None if expiry is None else expiry.at_ns), key
                assert task.expiry_ms == expected.expiry_ms, key
                instants_ns += expected.instants_ns(now)
            elif expected.state not in LIVE:
                instants_ns.append(engine.forget_ns(task))
        earliest_ns = min(instants_ns)
        if self.due_ns is not None and earliest_ns < self.due_ns:
            assert engine.earliest_added_ns <= earliest_ns, "nobody is woken for it"
        self.due_ns = earliest_ns if self.looked else None

    def compare_webhook_ids(self, tasks: dict[str, Task]) -> None:
        """One for each life of an id and each change of what is sent; never again for another."""
        for key, task in tasks.items():
            expected = self.model.tasks[split_key(key)]
            made = webhook_id(JOURNAL_ID, key, task.born, task.revision)
            known = self.webhook_ids.setdefault((expected.life, expected.changes), made)
            assert made == known, key
        assert len(set(self.webhook_ids.values())) == len(self.webhook_ids)

    def compare_replayed(self, replayed: Engine, live: Engine, tasks: dict[str, Task]) -> None:
        recovered = {key: unpack(row) for key, row in replayed.table.items()}
        for key, task in tasks.items():
            if State(task.state).ended:  # frames have their wall clock in whole ms
                assert abs(replayed.forget_ns(recovered[key]) - live.forget_ns(task)) <= 2 * MS, key
                recovered[key].deadline_ns = task.deadline_ns
        assert recovered == {key: folded(task) for key, task in tasks.items()}
        assert replayed.outcomes == live.outcomes
        for was, kept in ((live.kept_done, replayed.kept_done), (live.kept_dead, replayed.kept_dead)):
            carried = self.driver.ends_carried
            assert list(kept) == sorted(was, key=lambda key: self.model.order_of_end(split_key(key), carried))
        assert {name for name, queue in replayed.queues.items() if queue.paused} == self.model.paused

    def compare_recovered(self, replayed: Engine, stopping: set[str]) -> None:
        """A start at this moment would end what a stored cancel or finish waits for."""
        model, driver = copy.deepcopy(self.model), self.driver
        lsn = driver.journal.next_lsn
        for key in sorted(key_of(*key) for key, task in model.tasks.items() if task.stop):
            task = replayed.get(key)
            assert task is not None
            assert key in stopping
            for record in outcome.stopped(replayed, key, task, driver.now, lsn):
                replayed.apply(record)
                lsn += 1
        model.crash(driver.now, driver.boot, self.clocks(), driver.ends_carried)
        shown = {split_key(key): queries.view(key, unpack(row)) for key, row in replayed.table.items()}
        for name, expected in model.tasks.items():
            ended, body = shown[name]["ended"], shown[name].get("body")
            assert (shown[name]["state"], shown[name]["version"]) == (expected.state, expected.version), name
            assert ended == expected.ended_ms, name
            if expected.content == HOOK and body is not None:
                assert json.loads(msgspec.json.encode(body)) == expected.spec["body"], name
        assert set(shown) == set(model.tasks)
        check(replayed)


def folded(task: Task) -> Task:
    """Without what is volatile."""
    if task.state in (State.READY, State.RUNNING):
        return replace(task, state=int(State.SCHEDULED), flight=0)
    return task
