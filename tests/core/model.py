"""The contract as naively as it can be said: plain objects, no wheel, no packing, no records.

Written from the contract alone, to be compared with the engine after every step. It walks all tasks
for every question, keeps each deadline in the open and knows nothing of the engine's code. What is not
here: parsing and its refusals (tested by table), the journal, who may go first.

Times: ``*_ms`` is Unix ms, ``*_ns`` is ns; ``Now`` is one reading of both clocks. A deadline on elapsed
time also remembers how it was written down: under which boot, and how long the wait was then.
"""

from __future__ import annotations

import base64
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.core.model_task import (
    DEFAULT_RULE,
    HISTORY_MAX,
    HOOK,
    LIVE,
    MS,
    NAMED_RULES,
    REPLY_BYTES_MAX,
    Deadline,
    Flight,
    Key,
    ModelTask,
    Reply,
    content_of,
    delay_after,
    met,
    refused,
    sent_of,
    shown_ms,
    unlike,
)
from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now
from wheeltimer.protocol.limits import Limits
from wheeltimer.protocol.units import parse_duration_ms, parse_instant_ms

Reading = tuple[int, int]
"""Elapsed ns and Unix ms, as a frame keeps them."""


class Model:
    """All tasks by key. Every method takes the time; requests answer with a reply or a refusal."""

    def __init__(self, limits: Limits, boot: bytes, finals: dict[str, set[int]]) -> None:
        self.limits = limits
        self.boot = boot
        self.finals = finals
        self.tasks: dict[Key, ModelTask] = {}
        self.paused: set[str] = set()
        # When ended tasks are forgotten, in elapsed ns: told by the engine; test_retention.py has the rule.
        self.kept_until_ns: dict[Key, int] = {}
        self.ends: list[Key] = []  # ended tasks in the order of their end
        self.lives = self.ended_count = 0
        self.outcomes = {"succeeded": 0, "failed": 0, "not_yet": 0}

    # -- requests -------------------------------------------------------------------------------

    def schedule(self, ask: dict[str, Any], now: Now, id: str) -> Reply:
        key = (ask.get("queue", "default"), id)
        known = self.tasks.get(key)
        mode = ask.get("on_conflict", "error")
        if known and mode != "replace":
            if mode == "error" and known.content != content_of(ask):
                return refused("exists", version=known.version, state=known.state, due=known.due_ms)
            return self._schedule_reply(key, known, duplicate=True)
        if self.live >= self.limits.tasks_max and (known is None or known.state not in LIVE):
            return refused("full")
        spec = {k: v for k, v in ask.items() if k not in ("op", "seq", "on_conflict", "id", "queue")}
        task = ModelTask(spec, content_of(ask), 0, shown_ms(now), shown_ms(now))
        task.rule = self._rule(spec.get("retry"))
        self._set_due(task, spec, now)
        self._set_expiry(task, now)
        self._store(key, task)
        return self._schedule_reply(key, task, duplicate=False)

    def reschedule(self, ask: dict[str, Any], now: Now) -> Reply:
        task = self.tasks.get((ask.get("queue", "default"), ask["id"]))
        if task is None:
            return refused("not_found")
        if ask.get("if_version", task.version) != task.version:
            return refused("conflict", version=task.version, state=task.state)
        if task.state not in LIVE or task.stop:
            return refused("too_late", state=task.state)
        changed = {k: v for k, v in ask.items() if k not in ("op", "seq", "id", "queue", "if_version")}
        before, had_attempts = sent_of(task.spec), task.attempts > 0
        spec = dict(task.spec)
        for groups in (("delay", "at"), ("expires_in", "expires_at"), ("body", "body_text", "body_base64")):
            if any(name in changed for name in groups):
                for name in groups:
                    spec.pop(name, None)
        task.spec = spec | changed
        task.changes += sent_of(task.spec) != before
        task.version += 1
        task.attempts = task.failures = task.polls = 0
        if "retry" in changed:
            task.rule = self._rule(changed["retry"])
        moved = "delay" in changed or "at" in changed
        if moved:
            self._set_due(task, changed, now)
        else:
            task.next_ms = task.due_ms
            if had_attempts and "at" in task.spec:  # its due is past, unless the wall clock was put back
                task.deadline = None
            elif had_attempts:
                due_ns = min(now.elapsed_ns, self._elapsed_ns(task.due_ms, now))
                task.deadline = self._deadline(due_ns, now)
            elif task.deadline is not None:
                task.deadline = self._deadline(task.deadline.at_ns, now)
        if "expires_in" in changed or "expires_at" in changed or (moved and "expires_in" in task.spec):
            self._set_expiry(task, now)
        elif task.expiry is not None:
            task.expiry = self._deadline(task.expiry.at_ns, now)
        if task.state == "ready":
            task.state = "scheduled"
        return {"ok": True, "version": task.version, "due": task.due_ms}

    def cancel(self, ask: dict[str, Any], now: Now) -> Reply:
        key = (ask.get("queue", "default"), ask["id"])
        task = self.tasks.get(key)
        if task is None:
            return refused("not_found")
        if ask.get("if_version", task.version) != task.version:
            return refused("conflict", version=task.version, state=task.state)
        if task.state in ("done", "dead", "expired"):
            return refused("too_late", state=task.state)
        return {"ok": True} | self._stop("cancelled", [key], now, None)

    def finish(self, ask: dict[str, Any], now: Now) -> Reply:
        key = (ask.get("queue", "default"), ask["id"])
        task = self.tasks.get(key)
        if task is None:
            return refused("not_found")
        if task.state in ("cancelled", "dead", "expired"):
            return refused("too_late", state=task.state)
        return {"ok": True} | self._stop("finished", [key], now, ask.get("reply"))

    def redrive(self, ask: dict[str, Any], now: Now) -> Reply:
        key = (ask.get("queue", "default"), ask["id"])
        task = self.tasks.get(key)
        if task is None:
            return refused("not_found")
        if task.state not in ("dead", "expired"):
            return refused("conflict", state=task.state)
        if self.live >= self.limits.tasks_max:
            return refused("full")
        self._redrive(key, now)
        return {"ok": True, "redriven": 1}

    def many(
        self, op: str, group: str | None, queue: str | None, now: Now, reply: object, order: dict[Key, int]
    ) -> Reply:
        """By group, or all dead of a queue: no match is 0; what has ended is left alone."""
        keys = [
            key
            for key, task in self.tasks.items()
            if (queue is None or key[0] == queue) and (group is None or task.spec.get("group") == group)
        ]
        if op == "redrive":
            keys = [key for key in keys if self.tasks[key].state in ("dead", "expired")]
            for key in sorted(keys, key=order.__getitem__):
                self._redrive(key, now)
            return {"redriven": len(keys)}
        keys = sorted((key for key in keys if self.tasks[key].state in LIVE), key=order.__getitem__)
        return self._stop("cancelled" if op == "cancel" else "finished", keys, now, reply)

    def pause(self, queue: str, paused: bool) -> Reply:
        (self.paused.add if paused else self.paused.discard)(queue)
        return {"ok": True, "queue": queue, "paused": paused}

    # -- time, attempts, crashes ----------------------------------------------------------------

    def moved(self, key: Key, now: Now) -> bool:
        """Whether time does something to this task by now, and do it: due, expired, forgotten."""
        task = self.tasks[key]
        if task.state not in LIVE:
            return self._kept_long_enough(key, now)
        if task.state in ("scheduled", "ready") and self._expired(task, now):
            self._end(key, "expired", now, error="expired")
            return True
        if task.state == "scheduled" and self._due(task, now):
            task.state = "ready"
            return True
        return False

    def startable(self) -> list[Key]:
        """Ready and not paused, soonest first."""
        found = [k for k, t in self.tasks.items() if t.state == "ready" and k[0] not in self.paused]
        return sorted(found, key=lambda key: (self.tasks[key].next_ms, key))

    def start(self, key: Key) -> None:
        task = self.tasks[key]
        assert task.state == "ready"
        task.state = "running"
        spec = task.spec
        task.flight = Flight(task.version, task.attempts + 1, spec.get("success"), spec.get("poll"))

    def outcome(self, key: Key, answer: Answer, now: Now, share: Fraction) -> None:
        task = self.tasks[key]
        flight = task.flight
        assert flight is not None
        present = flight.version == task.version
        ok = answer.error is None and met(flight.success, answer)
        final = not ok and (
            answer.stop or answer.status == 410 or answer.status in self.finals.get(key[0], ())
        )
        two = answer.error is None and 200 <= (answer.status or 0) < 300
        not_yet = not ok and not final and flight.poll is not None and two
        word = "succeeded" if ok else "not_yet" if not_yet else "failed"
        self.outcomes[word] += 1
        self._remember(task, flight, answer, word)
        if present:
            task.attempts += 1
            task.polls += not_yet
            task.failures = 0 if not_yet else task.failures + (not ok)
        if task.stop == "finish":
            self._end(key, "done", now, reply=task.stop_reply)
        elif task.stop == "cancel":
            if ok and present:
                self._end(key, "done", now, answer=answer)
            else:
                self._end(key, "cancelled", now)
        elif not present:
            task.state, task.flight = "scheduled", None
        elif ok:
            self._end(key, "done", now, answer=answer)
        elif self._expired(task, now):
            self._end(key, "expired", now, answer=answer, error="expired")
        else:
            wait_ms = None if final else self._wait_ms(task, not_yet, answer, share)
            if wait_ms is None:
                why = "final_answer" if final else "polls_used_up" if not_yet else "attempts_used_up"
                self._end(key, "dead", now, answer=answer, error=why)
                return
            task.state, task.flight = "scheduled", None
            task.next_ms = shown_ms(now) + wait_ms
            task.deadline = self._deadline(self._elapsed_ns(task.next_ms, now), now)

    def lapse(self, key: Key, now: Now) -> None:
        """The attempt in flight was not made: nothing is counted and nothing remembered."""
        task = self.tasks[key]
        assert task.flight is not None
        if task.stop == "finish":
            self._end(key, "done", now, reply=task.stop_reply)
        elif task.stop == "cancel":
            self._end(key, "cancelled", now)
        else:
            present = task.flight.version == task.version
            task.state, task.flight = "ready" if present else "scheduled", None

    def destination_down(self, key: Key, now: Now) -> None:
        assert self.tasks[key].state == "ready"
        self._end(key, "dead", now, error="destination_down")

    def crash(self, now: Now, boot: bytes, clocks: dict[bytes, list[Reading]], ends_carried: bool) -> None:
        """A restart under ``boot``; ``clocks`` are each boot's readings (elapsed ns, Unix ms) on disk."""
        self.boot = boot
        for task in self.tasks.values():
            if task.state in LIVE:
                task.state, task.flight = "scheduled", None
            for deadline in (task.deadline, task.expiry):
                if deadline is not None:
                    deadline.at_ns = self._recovered_ns(deadline, now, clocks)
        self.ends.sort(key=lambda key: self.order_of_end(key, ends_carried))
        for key in sorted(self.tasks, key="/".join):  # in the order that the driver takes
            task = self.tasks[key]
            if task.stop == "cancel":
                self._end(key, "cancelled", now)
            elif task.stop == "finish":
                self._end(key, "done", now, reply=task.stop_reply)

    def _recovered_ns(self, deadline: Deadline, now: Now, clocks: dict[bytes, list[Reading]]) -> int:
        """What passed while a boot was up is known; what passed between two is told by the wall clock."""
        if deadline.boot == self.boot:
            return deadline.ns
        readings = clocks | {self.boot: clocks.get(self.boot) or [(now.elapsed_ns, now.wall_ns // MS)]}
        left_ns = deadline.ns - readings[deadline.boot][-1][0]  # when its boot ended
        boots = list(readings)
        for before, after in pairwise(boots[boots.index(deadline.boot) :]):
            (first_ns, first_ms), (last_ns, _) = readings[after][0], readings[after][-1]
            left_ns += (readings[before][-1][1] + 1 - first_ms) * MS
            if after == self.boot:
                return min(first_ns + left_ns, now.elapsed_ns + deadline.left_ns)
            left_ns -= last_ns - first_ns
        raise AssertionError("this boot is the last one")

    def order_of_end(self, key: Key, ends_carried: bool) -> tuple[object, ...]:
        """Where a restart puts it: in order; by their clocks, where compaction's copies are among them."""
        task = self.tasks[key]
        return (task.ended_ms, "/".join(key)) if ends_carried else (task.end_number,)

    def carried(self, key: Key, now: Now) -> None:
        """Compaction wrote the task down again, deadlines and all."""
        task = self.tasks[key]
        for deadline in (task.deadline, task.expiry):
            if deadline is not None:
                deadline.boot, deadline.ns = self.boot, deadline.at_ns
                deadline.left_ns = deadline.at_ns - now.elapsed_ns

    def forget(self, now: Now) -> int:
        """Retention by count: done and cancelled together, dead and expired together."""
        count = 0
        for states, most in (
            (("done", "cancelled"), self.limits.keep_done_max),
            (("dead", "expired"), self.limits.keep_dead_max),
        ):
            kept = [key for key in self.ends if self.tasks[key].state in states]
            for key in kept[: max(0, len(kept) - most)]:
                self._forget(key)
                count += 1
        return count

    def _forget(self, key: Key) -> None:
        self.ends.remove(key)
        del self.tasks[key]

    def _kept_long_enough(self, key: Key, now: Now) -> bool:
        until_ns = self.kept_until_ns.get(key)  # None: it ended in this very look
        over = until_ns is not None and until_ns <= now.elapsed_ns
        if over:
            self._forget(key)
        return over

    # -- what can be seen -----------------------------------------------------------------------

    @property
    def live(self) -> int:
        return sum(task.state in LIVE for task in self.tasks.values())

    def view(self, key: Key) -> dict[str, Any]:
        """What ``get`` must show."""
        task = self.tasks[key]
        shown = {"method": "POST"} | task.spec | {
            "queue": key[0], "id": key[1], "version": task.version, "state": task.state,
            "created": task.created_ms, "due": task.due_ms,
            "next": task.next_ms if task.state in LIVE else None, "ended": task.ended_ms,
            "attempts": task.attempts, "polls": task.polls, "history": task.history,
        }  # fmt: skip
        if task.state in ("done", "cancelled"):
            for name in ("body", "body_text", "body_base64"):
                shown.pop(name, None)
        return shown

    def listed(self) -> list[Key]:
        """The order of ``list``: soonest next first, the ended last."""

        def order(key: Key) -> tuple[object, ...]:
            task = self.tasks[key]
            return (task.state not in LIVE, task.next_ms if task.state in LIVE else 0, *key)

        return sorted(self.tasks, key=order)

    # -- the parts ------------------------------------------------------------------------------

    @staticmethod
    def _rule(retry: str | dict[str, Any] | None) -> dict[str, Any]:
        if isinstance(retry, dict):
            return retry
        return NAMED_RULES[retry or "default"]

    @staticmethod
    def _schedule_reply(key: Key, task: ModelTask, *, duplicate: bool) -> Reply:
        return {
            "ok": True, "id": key[1], "queue": key[0], "version": task.version, "due": task.due_ms,
            "state": task.state, "duplicate": duplicate,
        }  # fmt: skip

    @staticmethod
    def _elapsed_ns(wall_ms: int, now: Now) -> int:
        return now.elapsed_ns + wall_ms * MS - now.wall_ns

    def _deadline(self, at_ns: int, now: Now) -> Deadline:
        """A deadline as it is written down now."""
        return Deadline(at_ns, self.boot, at_ns, at_ns - now.elapsed_ns)

    def _set_due(self, task: ModelTask, said: dict[str, Any], now: Now) -> None:
        if "at" in said:
            task.due_ms, task.deadline = parse_instant_ms(said["at"], ""), None
        else:
            task.due_ms = shown_ms(now) + parse_duration_ms(said.get("delay", 0), "")
            task.deadline = self._deadline(self._elapsed_ns(task.due_ms, now), now)
        task.next_ms = task.due_ms

    def _set_expiry(self, task: ModelTask, now: Now) -> None:
        task.expiry = task.expiry_ms = None
        if "expires_at" in task.spec:
            task.expiry_ms = parse_instant_ms(task.spec["expires_at"], "")
        elif "expires_in" in task.spec:
            after_ms = parse_duration_ms(task.spec["expires_in"], "")
            if task.deadline is None:
                task.expiry_ms = task.due_ms + after_ms
            else:
                task.expiry = self._deadline(task.deadline.at_ns + after_ms * MS, now)

    def _store(self, key: Key, task: ModelTask) -> None:
        """As by ``replace`` where the key is known; else a new life."""
        known = self.tasks.get(key)
        if known is None:
            self.lives += 1
            task.life = self.lives
        else:
            task.life, task.version, task.changes = known.life, known.version + 1, known.changes + 1
            # A hook's history begins anew: room for it is not part of what an attempt reserves.
            task.history = known.history if task.content != HOOK else []
            if known.state == "running":
                task.state, task.flight = "running", known.flight
            if key in self.ends:
                self.ends.remove(key)
        self.tasks[key] = task

    def _redrive(self, key: Key, now: Now) -> None:
        task = self.tasks[key]
        self.ends.remove(key)
        task.version += 1
        task.state, task.ended_ms = "scheduled", None
        task.attempts = task.failures = task.polls = 0
        if "expires_at" in task.spec and parse_instant_ms(task.spec["expires_at"], "") <= shown_ms(now):
            task.spec = {k: v for k, v in task.spec.items() if k != "expires_at"}
        self._set_due(task, {}, now)
        self._set_expiry(task, now)

    def _stop(self, word: str, keys: list[Key], now: Now, reply: object) -> Reply:
        ended = running = 0
        for key in keys:
            task = self.tasks[key]
            if task.state == "running":
                running += 1
                if word == "finished" and task.stop != "finish":
                    task.stop, task.stop_reply = "finish", reply
                elif not task.stop:
                    task.stop = "cancel"
            elif task.state in LIVE:
                ended += 1
                self._end(key, "done" if word == "finished" else "cancelled", now, reply=reply)
        return {word: ended, "running": running}

    @staticmethod
    def _wait_ms(task: ModelTask, not_yet: bool, answer: Answer, share: Fraction) -> int | None:
        if not_yet:
            poll = task.spec["poll"]
            return None if task.polls >= poll.get("max", 120) else parse_duration_ms(poll["every"], "")
        wait_ms = delay_after(task.rule, task.failures, share)
        if wait_ms is not None and answer.retry_after_ms is not None:
            return max(answer.retry_after_ms, min(wait_ms, 1000))
        return wait_ms

    @staticmethod
    def _remember(task: ModelTask, flight: Flight, answer: Answer, word: str) -> None:
        entry: dict[str, Any] = {
            "attempt": flight.number, "version": flight.version, "started": answer.started,
            "late_ms": answer.late_ms, "ms": answer.ms, "outcome": word,
        }  # fmt: skip
        if answer.status is not None:
            entry["status"] = answer.status
        error = answer.error or unlike(flight.success, answer)
        if error is not None:
            entry["error"] = error
        for old in task.history:
            old.pop("reply", None)
        if answer.body:
            entry["reply"] = answer.body[:REPLY_BYTES_MAX].decode(errors="replace")
        task.history = [*task.history, entry][-HISTORY_MAX:]

    @staticmethod
    def _due(task: ModelTask, now: Now) -> bool:
        if task.deadline is not None:
            return task.deadline.at_ns <= now.elapsed_ns
        return task.due_ms * MS <= now.wall_ns

    @staticmethod
    def _expired(task: ModelTask, now: Now) -> bool:
        return (task.expiry is not None and task.expiry.at_ns <= now.elapsed_ns) or (
            task.expiry_ms is not None and task.expiry_ms * MS <= now.wall_ns
        )

    def _end(
        self, key: Key, state: str, now: Now, *, reply: object = None, answer: Answer | None = None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        task = self.tasks[key]
        task.state, task.ended_ms = state, shown_ms(now)
        self.kept_until_ns.pop(key, None)
        task.flight = task.deadline = task.expiry = task.expiry_ms = None
        task.stop, task.stop_reply = "", None
        self.ends.append(key)
        self.ended_count += 1
        task.end_number = self.ended_count
        word = {"done": "done", "dead": "dead", "expired": "dead"}.get(state)
        url = task.spec.get(f"on_{word}")
        if word is None or url is None:
            return
        shown = {
            "type": f"task.{state}", "queue": key[0], "id": key[1], "version": task.version,
            "group": task.spec.get("group"), "meta": task.spec.get("meta"), "attempts": task.attempts,
            "status": answer.status if answer else None,
            "error": (answer.error if answer else None) or error, "reply": reply, "ended": shown_ms(now),
        }  # fmt: skip
        if answer is not None and answer.body:
            try:
                shown["reply"] = answer.body.decode()
            except UnicodeDecodeError:
                del shown["reply"]
                shown["reply_base64"] = base64.b64encode(answer.body).decode()
        hook = ModelTask(
            {"url": url, "body": shown}, HOOK, 0, shown_ms(now), shown_ms(now), rule=DEFAULT_RULE
        )
        self._set_due(hook, {}, now)
        self._store((key[0], f"{key[1]}/{word}/{task.version}"), hook)
