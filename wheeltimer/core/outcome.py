"""Records for what time and receivers' answers cause: due, started, an attempt's outcome, expiry, the end.

An answer is judged in the order of the contract: success, then a final answer, then "not yet" and retry.
Functions change nothing; see ``schedule.py`` for how they are called.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from wheeltimer.core import records as r
from wheeltimer.core.engine import Engine
from wheeltimer.core.policy import QueuePolicy
from wheeltimer.core.task import NS_PER_MS, STOP_CANCEL, STOP_FINISH, Now, Task, key_of, split_key
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.requests import URL_BYTES_MAX
from wheeltimer.protocol.retry import BUILT_IN, DEFAULT_RULE, Rule, next_delay_ms, poll_delay_ms, resolve
from wheeltimer.protocol.success import BOM, DEFAULT_SUCCESS, SuccessRule, unmet, unread, without_bom
from wheeltimer.protocol.task_view import STATE_WORDS, Attempt, State

ERROR_CHARS_MAX: Final = 300
GONE: Final = 410
# Plain integers: comparing with a member of an enumeration takes three times as long.
_SCHEDULED, _READY, _RUNNING, _DONE = map(int, (State.SCHEDULED, State.READY, State.RUNNING, State.DONE))
# A Retry-After below 1 s is raised to min(the rule's delay, 1 s): ``Retry-After: 0`` must not use up all
# attempts at once.
RETRY_AFTER_LEAST_MS: Final = 1_000


class Answer(Struct, frozen=True, gc=False):
    """The result of one attempt: a reply, or an error with the reason why there is no complete one.

    ``status`` is set beside ``error`` if a status line arrived, and ``body`` has as much as arrived.
    ``undecoded``: why ``body`` is still in its content coding.

    ``retry_after_ms`` is set only if the status allows it; ``stop`` is the reply header that makes
    an answer final; ``given_ms`` is the time-out that ran out, None if none did. Times are ms;
    ``started`` is Unix time.
    """

    started: int
    ms: int
    late_ms: int
    status: int | None = None
    error: str | None = None
    body: bytes = b""
    truncated: bool = False
    retry_after_ms: int | None = None
    stop: bool = False
    undecoded: str | None = None
    given_ms: int | None = None


def due(engine: Engine, key: str, task: Task, now: Now, lsn: int) -> r.Records | r.Due | None:
    """Records for a key that a wheel handed over: the task is due, has expired, or its retention is over.

    None if none of these is true yet.
    """
    if task.state >= _DONE:
        return [r.Forgotten([key], now.wall_ms)] if engine.forget_ns(task) <= now.elapsed_ns else None
    if _expired(task, now):
        return end(engine, key, task, State.EXPIRED, now, lsn, reason="expired")
    if task.state == _SCHEDULED and _is_due(task, now):
        return r.Due(key, now.wall_ms, task, task.late_ms(now))
    return None


def _is_due(task: Task, now: Now) -> bool:
    if task.deadline_ns is not None:
        return task.deadline_ns <= now.elapsed_ns
    return task.due_ms * NS_PER_MS <= now.wall_ns


def _expired(task: Task, now: Now) -> bool:
    return (task.expiry_ns is not None and task.expiry_ns <= now.elapsed_ns) or (
        task.expiry_ms is not None and task.expiry_ms * NS_PER_MS <= now.wall_ns
    )


def start(key: str, task: Task, now: Now) -> r.Started:
    """An attempt of a ``ready`` task begins; its number is counted when it ends."""
    assert task.state == _READY
    return r.Started(key, now.wall_ms, task.version, task.attempts + 1, task)


def lapsed(engine: Engine, key: str, now: Now, lsn: int) -> r.Records | r.Lapsed:
    """Records for an attempt in flight that was not made after all.

    The task goes back to ``ready``, and the next attempt has the same number; if a newer version waits, that
    version is scheduled; if a cancel or finish is stored, the task ends.
    """
    task = engine.get(key)
    assert task is not None
    assert task.state == _RUNNING
    return stopped(engine, key, task, now, lsn) if task.stop else r.Lapsed(key, now.wall_ms, task)


def rule_of(task: Task) -> Rule:
    """The retry rule the task was scheduled with."""
    if task.rule is not None:
        return task.rule
    return DEFAULT_RULE if task.retry is None else resolve(task.retry, BUILT_IN)


def attempt_ended(
    engine: Engine, queue: QueuePolicy, key: str, answer: Answer, now: Now, lsn: int, chance: int
) -> r.Records:
    """The outcome of the attempt in flight: one ``Attempted``, and the task's end if the attempt ends it."""
    task = engine.get(key)
    assert task is not None
    assert task.state == _RUNNING
    reply_bytes_max = engine.limits.reply_bytes_max
    if answer.body.startswith(BOM):
        answer = replace(answer, body=without_bom(answer.body))
    if len(answer.body) > reply_bytes_max:  # the space reserved in the journal is for this size
        answer = replace(answer, body=answer.body[:reply_bytes_max], truncated=True)
    present = task.flight == task.version
    sent = task if present else engine.superseded[key]
    rule = sent.success or DEFAULT_SUCCESS
    why = answer.error
    if why is None:
        why = unmet(
            rule, answer.status or 0, answer.body, answer.truncated, answer.undecoded, reply_bytes_max,
            engine.limits.history_reply_bytes_max,
        )  # fmt: skip
    succeeded = why is None
    outcome, final = _outcome(sent, queue, answer, succeeded)
    if not succeeded and answer.error is None:
        answer = _with_problem(rule, answer, reply_bytes_max)
    failures, polls, wait_ms = _next(sent, answer, outcome, chance)
    ending, reason = _ending(task, now, present, succeeded, final, wait_ms, polls)
    next_ms = deadline_ns = None
    if ending is None and present:
        assert wait_ms is not None
        next_ms = now.wall_ms + wait_ms
        deadline_ns = now.elapsed_at(next_ms)
    error = f"success: {why}" if why and answer.error is None else answer.error
    attempt = _attempt(engine, sent, answer, outcome, error)
    attempted = r.Attempted(
        key, now.wall_ms, attempt, failures, polls, next_ms, deadline_ns, ending is not None, task.group
    )
    if ending is None:
        return [attempted]
    if present:
        task.attempts += 1
    if task.stop == STOP_FINISH:  # the attempt's answer is in the history; the end has the reply of finish
        return [attempted, *end(engine, key, task, ending, now, lsn + 1, finish_reply=task.stop_reply)]
    return [attempted, *end(engine, key, task, ending, now, lsn + 1, reason=reason, answer=answer)]


def _with_problem(rule: SuccessRule, answer: Answer, reply_bytes_max: int) -> Answer:
    """``answer``, with an error if the rule needs a body that cannot be compared; a hook gets that error too.

    If the body only differs from what the rule expects, the error is in the history alone: the hook has the
    body.
    """
    problem = unread(
        rule, answer.status or 0, answer.body, answer.truncated, answer.undecoded, reply_bytes_max
    )
    return answer if problem is None else replace(answer, error=f"success: {problem}")


def _outcome(sent: Task, queue: QueuePolicy, answer: Answer, succeeded: bool) -> tuple[str, bool]:
    """(succeeded | failed | not_yet, whether the answer is final). ``sent``: the version that was sent."""
    if succeeded:
        return "succeeded", False
    if answer.stop or answer.status == GONE or answer.status in queue.final_statuses:
        return "failed", True
    if sent.poll is not None and answer.error is None and 200 <= (answer.status or 0) < 300:
        return "not_yet", False
    return "failed", False


def _next(sent: Task, answer: Answer, outcome: str, chance: int) -> tuple[int, int, int | None]:
    """(failures, polls, ms to the next attempt or None for never) of this version after this outcome."""
    if outcome == "not_yet":
        assert sent.poll is not None
        polls = sent.polls + 1
        poll = sent.poll
        return 0, polls, poll_delay_ms(poll.every, poll.factor, poll.cap, polls) if polls < poll.max else None
    failures = sent.failures + (outcome == "failed")
    wait_ms = next_delay_ms(rule_of(sent), failures, chance) if failures else None
    if wait_ms is not None and answer.retry_after_ms is not None:
        # The receiver's wait replaces the rule's, except that 0 would use up all attempts at once.
        wait_ms = max(answer.retry_after_ms, min(wait_ms, RETRY_AFTER_LEAST_MS))
    return failures, sent.polls, wait_ms


def _ending(
    task: Task, now: Now, present: bool, succeeded: bool, final: bool, wait_ms: int | None, polls: int
) -> tuple[State | None, str | None]:
    """(the state in which this attempt ends the task, or None; the reason)."""
    if task.stop == STOP_FINISH:
        return State.DONE, None
    if task.stop == STOP_CANCEL:
        return (State.DONE, None) if succeeded and present else (State.CANCELLED, None)
    if not present:
        return None, None
    if succeeded:
        return State.DONE, None
    if _expired(task, now):
        return State.EXPIRED, "expired"
    if final:
        return State.DEAD, "final_answer"
    if wait_ms is None:
        used_up = task.poll is not None and polls >= task.poll.max
        return State.DEAD, "polls_used_up" if used_up else "attempts_used_up"
    return None, None


def _attempt(engine: Engine, sent: Task, answer: Answer, outcome: str, error: str | None) -> Attempt:
    reply = None
    if answer.body:
        limit = engine.limits.history_reply_bytes_max
        reply = answer.body[:limit].decode(errors="replace")
    return Attempt(
        sent.attempts + 1, sent.version, answer.started, answer.late_ms, answer.ms, outcome, answer.status,
        error[:ERROR_CHARS_MAX] if error else None, reply,
    )  # fmt: skip


def end(
    engine: Engine, key: str, task: Task, state: State, now: Now, lsn: int, *,
    reason: str | None = None, finish_reply: bytes | None = None, answer: Answer | None = None,
) -> r.Records:  # fmt: skip
    """The end of ``task`` and, if the task names a hook for this state, the hook's task.

    ``lsn`` is that of the ``Ended`` record; the hook's is the next.
    """
    engine.see(now)
    ended = r.Ended(key, now.wall_ms, task.version, state, task.attempts, reason, task.group, task.meta)
    url = None if state is State.CANCELLED else task.on_done if state is State.DONE else task.on_dead
    if url is None:
        return [ended]
    queue, id = split_key(key)
    word = "done" if state is State.DONE else "dead"
    hook_key = key_of(queue, f"{id}/{word}/{task.version}")
    body = _hook_body(key, task, state, now, reason, finish_reply, answer, engine.limits.reply_bytes_max)
    hook = Task(
        url, body=body, created_ms=now.wall_ms, lsn=lsn + 1, due_given_ms=now.wall_ms,
        deadline_ns=now.elapsed_at(now.wall_ms),
    )  # fmt: skip
    known = engine.get(hook_key)
    if known is not None:  # without its history: each attempt would have to reserve space for all of it
        hook.version, hook.revision, hook.born_lsn = known.version + 1, known.revision + 1, known.born
    return [ended, r.Scheduled(hook_key, now.wall_ms, hook)]


def _hook_body(
    key: str, task: Task, state: State, now: Now, reason: str | None, finish_reply: bytes | None,
    answer: Answer | None, reply_bytes_max: int,
) -> bytes:  # fmt: skip
    """The JSON that a hook posts. A reply that is no UTF-8 text is sent as ``reply_base64``."""
    queue, id = split_key(key)
    fields: dict[str, object] = {
        "type": f"task.{STATE_WORDS[state]}",
        "queue": queue,
        "id": id,
        "version": task.version,
        "group": task.group,
        "meta": msgspec.Raw(task.meta) if task.meta else None,
        "attempts": task.attempts,
        "status": answer.status if answer else None,
        "error": answer.error[:ERROR_CHARS_MAX] if answer and answer.error else reason,
        "reply": None,
        "ended": now.wall_ms,
    }
    if finish_reply is not None:
        fields["reply"] = msgspec.Raw(finish_reply)
    elif answer is not None and answer.body:
        text = _text(answer.body, 2 * reply_bytes_max)
        if text is None:
            del fields["reply"]
            fields["reply_base64"] = b64encode(answer.body).decode()
        else:
            fields["reply"] = text
    return msgspec.json.encode(fields)


_CONTROL: Final = bytes(set(range(32)) - {9, 10, 13})
_CONTROL_BYTES: Final = 6  # bytes of such a character in JSON; other characters take at most two


def _text(body: bytes, json_bytes_max: int) -> str | None:
    """``body`` as text; None if it is no UTF-8, or if its JSON could exceed ``json_bytes_max``: a long body
    full of control characters, for which no space was reserved in the journal.
    """
    controls = len(body) - len(body.translate(None, _CONTROL))
    if controls and 2 * (len(body) - controls) + _CONTROL_BYTES * controls > json_bytes_max:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def give_up(engine: Engine, key: str, now: Now, lsn: int, reason: str) -> r.Records:
    """A ready task ends ``dead`` without an attempt: its destination stayed down."""
    task = engine.get(key)
    assert task is not None
    assert task.state == State.READY
    return end(engine, key, task, State.DEAD, now, lsn, reason=reason)


def stopped(engine: Engine, key: str, task: Task, now: Now, lsn: int) -> r.Records:
    """The end that a stored cancel or finish causes if the attempt it waited for has no outcome: a crash
    ended the attempt, or the attempt lapsed.
    """
    if task.stop == STOP_CANCEL:
        return end(engine, key, task, State.CANCELLED, now, lsn)
    return end(engine, key, task, State.DONE, now, lsn, finish_reply=task.stop_reply)


def outcome_bytes_max(engine: Engine, task: Task, finish_reply: bytes | None = None) -> int:
    """The most that the outcome of one attempt of ``task`` can take in the journal, in bytes.

    Attempted and Ended with their texts (UTF-8, up to 4 bytes a character), the meta twice, and the
    hook with its body: the reply at most doubled by escaping.
    """
    limits = engine.limits
    size = 4096 + 4 * ERROR_CHARS_MAX + 3 * limits.history_reply_bytes_max + 2 * len(task.meta or b"")
    hook = max(len(task.on_done or ""), len(task.on_dead or ""))
    if hook:
        size += (
            hook + 2048 + 2 * limits.id_bytes_max + 2 * max(limits.reply_bytes_max, len(finish_reply or b""))
        )
    return size


def decision_bytes_needed(limits: Limits) -> int:
    """The most bytes that one decision can take in the journal under these limits: an outcome with its hook,
    or a task with the history that a new version keeps and, in a copy, the reply of a stored finish.
    """
    outcome = (
        8192 + 4 * ERROR_CHARS_MAX + URL_BYTES_MAX + 3 * limits.history_reply_bytes_max
        + 2 * limits.meta_bytes_max + 2 * limits.id_bytes_max
        + 2 * max(limits.reply_bytes_max, limits.body_bytes_max)
    )  # fmt: skip
    history = limits.history_max * (256 + 4 * ERROR_CHARS_MAX) + 3 * limits.history_reply_bytes_max
    return max(outcome, limits.line_bytes_max + history + limits.body_bytes_max)
