"""Records for the requests that make or change tasks: identity, versions, due times, refusals.

Each function takes the engine, one reading of the clocks and the lsn that the first record will get; it
changes nothing. A refusal is raised as ``Refused`` or ``BadValue``. Requests that end tasks are in
``control.py``; what time and receivers' answers cause is in ``outcome.py``.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.policy import Policy
from wheeltimer.core.states import TRANSITIONS, Input
from wheeltimer.core.task import NS_PER_MS, Now, Task, content_of, digest, key_of, split_key, unpack
from wheeltimer.errors import BadValue, Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.ids import is_hook_id, make_id
from wheeltimer.protocol.replies import RescheduleReply, ScheduleReply
from wheeltimer.protocol.retry import BUILT_IN, Rule, resolve
from wheeltimer.protocol.task_view import STATE_WORDS, State
from wheeltimer.protocol.units import parse_duration_ms, parse_instant_ms

DEFAULT_QUEUE: Final = "default"
RETRY_FULL_MS: Final = 1_000  # ``retry_after_ms`` of a refusal with "full"


def schedule(
    engine: Engine, policy: Policy, command: c.Schedule, now: Now, lsn: int, chance: int
) -> tuple[r.Records, ScheduleReply]:
    """One ``Scheduled`` record, or none for a duplicate. ``chance`` is 32 random bits, for an id."""
    # The fast path of most requests: every field that they leave out is tested at most once.
    limits, wall_ms = engine.limits, now.wall_ms
    queue, id, url, delay = command.queue, command.id, command.url, command.delay
    if queue is None:
        queue = DEFAULT_QUEUE
    elif queue not in engine.queues:
        c.check_name(queue, "queue")
    if id is None:
        id = make_id(wall_ms, lsn, chance)
    elif not (id.isascii() and id.isprintable() and 0 < len(id) <= limits.id_bytes_max):
        c.check_id(id, limits)
    policy.check_target(url)
    if type(delay) is int and 0 <= delay <= limits.delay_max_ms and c.is_plain(command):
        body = c.json_body(command, limits) if command.body else None
        task = Task(
            url, body=body, delay=delay, created_ms=wall_ms, lsn=lsn,
            deadline_ns=now.elapsed_at(wall_ms + delay), rule=policy.queue(queue).retry,
        )  # fmt: skip
        due_ms = wall_ms + delay
    else:
        task = _new_task(engine, policy, command, queue, now, lsn)
        due_ms = task.due_ms
    key = f"{queue}/{id}"
    row = engine.table.get(key)
    if row is not None:
        return _known(engine, command, key, unpack(row), task, wall_ms)
    if "/d" in id and is_hook_id(id):  # 25 ns for most ids; the call is 190
        raise BadValue("id: hooks have ids that end in /done/NUMBER or /dead/NUMBER; choose another", "id")
    if engine.live >= limits.tasks_max:
        raise full(engine)
    reply = ScheduleReply(True, id, queue, 1, due_ms, "scheduled", False, command.reply_seq)
    return [r.Scheduled(key, wall_ms, task)], reply


def _known(
    engine: Engine, command: c.Schedule, key: str, known: Task, task: Task, wall_ms: int
) -> tuple[r.Records, ScheduleReply]:
    """``schedule`` of an id that exists: a duplicate, a refusal, or a new version."""
    queue, id = split_key(key)
    state = STATE_WORDS[known.state]
    if command.on_conflict != "replace":
        if command.on_conflict == "error" and content_of(known) != digest(task):
            raise Refused(
                "exists",
                f"queue {queue} has another task with this id; on_conflict says what to do then",
                version=known.version,
                state=state,
                due=known.due_ms,
            )
        return [], ScheduleReply(True, id, queue, known.version, known.due_ms, state, True, command.reply_seq)
    if known.state >= State.DONE:
        state = "scheduled"
        if engine.live >= engine.limits.tasks_max:
            raise full(engine)
    elif known.state == State.READY:
        state = "scheduled"
    task.version, task.revision = known.version + 1, known.revision + 1
    task.born_lsn, task.history = known.born, known.history
    reply = ScheduleReply(True, id, queue, task.version, task.due_ms, state, False, command.reply_seq)
    return [r.Scheduled(key, wall_ms, task)], reply


def full(engine: Engine) -> Refused:
    """The refusal of one more live task."""
    return Refused(
        "full",
        f"tasks_max ({engine.limits.tasks_max}) live tasks are held; ask again later or raise it",
        retry_after_ms=RETRY_FULL_MS,
    )


def _new_task(engine: Engine, policy: Policy, command: c.Schedule, queue: str, now: Now, lsn: int) -> Task:
    """The task of a request, with every field checked."""
    wall_ms = now.wall_ms
    c.check_fields(command, engine.limits, wall_ms)
    body, body_as = c.body_of(command, engine.limits)
    task = Task(
        command.url,
        command.method or "POST",
        command.headers,
        body,
        body_as,
        bytes(command.meta) if command.meta else None,
        command.retry,
        command.timeout,
        command.connect_timeout,
        command.expires_in,
        command.expires_at,
        command.success,
        command.poll,
        command.group,
        command.on_done,
        command.on_dead,
        command.delay,
        command.at,
        created_ms=wall_ms,
        lsn=lsn,
    )
    _check_task(policy, command, task)
    task.rule = _kept_rule(policy, task.retry, queue)
    if task.at is not None:
        task.due_given_ms = parse_instant_ms(task.at, "at")
    else:
        due_ms = wall_ms
        if task.delay is not None:
            due_ms += parse_duration_ms(task.delay, "delay", max_ms=engine.limits.delay_max_ms)
        task.deadline_ns = now.elapsed_at(due_ms)
        if type(task.delay) is not int:
            task.due_given_ms = due_ms
    set_expiry(engine, task)
    return task


def _check_task(policy: Policy, command: c.TaskFields, task: Task) -> None:
    """Check what depends on several fields; and the hooks' URLs, if the request has them."""
    if task.method == "GET" and task.body is not None:
        raise Refused("bad_request", "body: none with GET", field="body")
    if command.on_done is not None:
        policy.check_target(command.on_done, "on_done")
    if command.on_dead is not None:
        policy.check_target(command.on_dead, "on_dead")


def _kept_rule(policy: Policy, retry: str | Rule | None, queue: str) -> Rule | None:
    """The rule to store with the task: None if ``retry`` alone defines it (no named rule of the settings)."""
    if retry is None:
        return policy.queue(queue).retry
    rule = resolve(retry, policy.rules)
    return rule if isinstance(retry, str) and retry not in BUILT_IN else None


def set_expiry(engine: Engine, task: Task) -> None:
    """``expires_in`` counts on the time line of the due time, ``expires_at`` on the wall clock."""
    task.expiry_ns = task.expiry_ms = None
    if task.expires_at is not None:
        task.expiry_ms = parse_instant_ms(task.expires_at, "expires_at")
    elif task.expires_in is not None:
        after_ms = parse_duration_ms(task.expires_in, "expires_in", max_ms=engine.limits.delay_max_ms)
        if task.deadline_ns is None:
            task.expiry_ms = task.due_ms + after_ms
        else:
            task.expiry_ns = task.deadline_ns + after_ms * NS_PER_MS


def find(engine: Engine, id: str, queue: str | None) -> tuple[str, Task]:
    """Key and task of an id; refused as ``not_found``. Without ``queue``: in the queue "default"."""
    name = c.check_name(queue, "queue") if queue is not None else DEFAULT_QUEUE
    key = key_of(name, id)
    task = engine.get(key)
    if task is None:
        c.check_id(id, engine.limits)  # only here: a hook's id may be longer than a client may choose
        raise Refused("not_found", f"queue {name} knows no task with this id")
    return key, task


def check_version(task: Task, if_version: int | None) -> None:
    """Refuse a request whose ``if_version`` is another version."""
    if if_version is not None and if_version != task.version:
        raise Refused(
            "conflict",
            f"if_version is {if_version}, the task is at version {task.version}",
            version=task.version,
            state=STATE_WORDS[task.state],
        )


def refuse_ended(task: Task, what: Input) -> None:
    """Raise the refusal that the table of transitions has for this input, if it has one."""
    cell = TRANSITIONS[State(task.state)][what]
    if isinstance(cell, str):
        word = STATE_WORDS[task.state]
        raise Refused(cell, f"the task is {word}", state=word, version=task.version)


def reschedule(
    engine: Engine, policy: Policy, command: c.Reschedule, now: Now, lsn: int
) -> tuple[r.Records, RescheduleReply]:
    """A new version with a new due time or new fields; ``content`` stays that of the request that made it."""
    key, old = find(engine, command.id, command.queue)
    check_version(old, command.if_version)
    refuse_ended(old, Input.RESCHEDULE)
    if old.stop:
        why = "the running task is being cancelled or finished"
        raise Refused("too_late", why, state="running", version=old.version)
    c.check_fields(command, engine.limits, now.wall_ms)
    task = replace(
        old, content=content_of(old), version=old.version + 1, lsn=lsn, born_lsn=old.born, state=0,
        flight=0, attempts=0, failures=0, polls=0, next_given_ms=None,
    )  # fmt: skip
    _change_fields(engine, policy, command, task, key)
    if any(getattr(task, name) != getattr(old, name) for name in _SENT_FIELDS):
        task.revision += 1
    _change_due(engine, command, old, task, now)
    reply = RescheduleReply(True, task.version, task.due_ms, command.reply_seq)
    return [r.Rescheduled(key, now.wall_ms, task)], reply


_SENT_FIELDS: Final = ("url", "method", "headers", "body", "body_as")  # another webhook-id from here on
_PLAIN_FIELDS: Final = (
    "method", "headers", "timeout", "connect_timeout", "success", "poll", "group", "on_done", "on_dead",
)  # fmt: skip


def _change_fields(engine: Engine, policy: Policy, command: c.Reschedule, task: Task, key: str) -> None:
    if command.url is not None:
        policy.check_target(command.url)
        task.url = command.url
    for name in _PLAIN_FIELDS:
        value = getattr(command, name)
        if value is not None:
            setattr(task, name, value)
    body, body_as = c.body_of(command, engine.limits)
    if body is not None:
        task.body, task.body_as = body, body_as
    if command.meta:
        task.meta = bytes(command.meta)
    if command.retry is not None:
        task.retry = command.retry
        task.rule = _kept_rule(policy, command.retry, key.partition("/")[0])
    _check_task(policy, command, task)


def _change_due(engine: Engine, command: c.Reschedule, old: Task, task: Task, now: Now) -> None:
    moved = True
    if command.at is not None:
        task.at, task.delay = command.at, None
        task.due_given_ms, task.deadline_ns = parse_instant_ms(command.at, "at"), None
    elif command.delay is not None:
        task.delay, task.at = command.delay, None
        delay_ms = parse_duration_ms(command.delay, "delay", max_ms=engine.limits.delay_max_ms)
        task.due_given_ms = now.wall_ms + delay_ms
        task.deadline_ns = now.elapsed_at(task.due_given_ms)
    else:
        moved = False
        task.due_given_ms = old.due_ms
        if old.next_given_ms is not None:  # it waited for a retry: its due time is past, so it is due at once
            follows_wall = task.at is not None
            task.deadline_ns = None if follows_wall else min(now.elapsed_ns, now.elapsed_at(old.due_ms))
    if command.expires_in is not None:
        task.expires_in, task.expires_at = command.expires_in, None
    elif command.expires_at is not None:
        task.expires_at, task.expires_in = command.expires_at, None
    elif not (moved and task.expires_in is not None):
        return
    set_expiry(engine, task)
