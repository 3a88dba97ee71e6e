"""What the contract promises, checked against what the outside saw: one story for each task.

A story is told event by event in the order of the moments, and knows of its task only what was
acknowledged and what may be true beside it (requests that are still open). Each event is held against it:

- an acknowledged task is there, is delivered, or ended by rule: success, an acknowledged (or open) cancel or
  finish, its attempts or polls used up, a final answer, its expiry;
- no callback is early, none is of a version that was replaced, none starts after an acknowledged cancel,
  finish or pause, or before its schedule was on disk; one at a time for each task;
- attempts are counted by one; the same attempt is made again only after a crash, and only where it was in
  flight then or its outcome was not on disk.

:class:`Facts` holds what is true of the world beside that: clocks, and what commits have put on disk.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from .history import MS, NEVER, Ask, Call, History, Seen, Stored
from .receivers import HOOK, kind_of
from .world_facts import Broken, Facts, bound, early, makes

ENDS: Final = ("done", "dead", "expired", "cancelled")
HELD_AFTER: Final = 10  # calls to a host that found nobody, from which its tasks may end as destination_down


@dataclass(slots=True)
class Story:
    """One task. ``version``, ``fate``: acknowledged; ``open``: requests whose outcome is not known."""

    key: str
    version: int = 0
    fate: str = ""  # live; stopped (by cancel or finish); one of ENDS
    must: str = ""  # how a stopped one ends, where that is sure
    loose: bool = False  # a cancel or finish of its group may have ended it
    open: tuple[Ask, ...] = ()
    paused: bool = False
    due_ns: int = 0
    due_ms: int = 0  # of an ``at``
    since_ns: int = 0  # when the present due was asked for
    last: Call | None = None
    failures: int = 0
    polls: int = 0
    ok: bool = False

    @property
    def top(self) -> int:
        """The highest version that there may be."""
        return self.version + sum(makes(ask) for ask in self.open)

    # -- requests -------------------------------------------------------------------------------

    def sent(self, ask: Ask) -> None:
        if ask.request["op"] == "resume":
            self.paused = False
        self.open += (ask,)

    def heard(self, ask: Ask, facts: Facts) -> None:
        reply, op = ask.reply, ask.request["op"]
        if reply.get("error") in ("storage", "internal"):
            if reply["error"] == "internal":
                raise Broken(f"an internal error: {reply}")
            return  # it stays open
        self.open = tuple(each for each in self.open if each is not ask)
        if not reply["ok"]:
            return
        if op in ("schedule", "reschedule"):
            if not reply.get("duplicate"):
                self._made(reply["version"], ask)
            elif reply["version"] > self.version:
                self.version, self.fate, self.since_ns = reply["version"], "live", ask.sent_ns
        elif op == "redrive":
            self._made(self.version + 1, ask)
        elif op == "pause":
            self.paused = all(each.request["op"] != "resume" for each in self.open)
        elif "group" in ask.request:
            if self.fate == "live":
                self.loose = True
        elif op in ("cancel", "finish"):
            word = "cancelled" if op == "cancel" else "done"
            name = "cancelled" if op == "cancel" else "finished"
            self.fate = "stopped"
            self.must = word if op == "finish" or not reply["running"] else ""
            if self.fate in ENDS and reply[name]:
                raise Broken(f"{self.key} was {self.fate} and is {word} again")

    def _made(self, version: int, ask: Ask) -> None:
        if version == 1:  # new, or forgotten and new
            self.last = None
        elif version <= self.version:
            raise Broken(f"{self.key}: version {version} after {self.version}")
        self.version, self.fate, self.must, self.loose = version, "live", "", False
        self.failures = self.polls = 0
        self.ok = False
        if not self._keeps_due(ask):
            self.due_ns, self.due_ms = bound(ask)
            self.since_ns = ask.sent_ns
        if self.last is not None and self.last.version == version:
            self._count(self.last)  # it was called before the reply was heard

    @staticmethod
    def _keeps_due(ask: Ask) -> bool:
        asked = ask.request
        return asked["op"] == "reschedule" and "delay" not in asked and "at" not in asked

    # -- callbacks ------------------------------------------------------------------------------

    def began(self, call: Call, facts: Facts) -> None:
        what = f"{self.key} version {call.version} attempt {call.attempt}"
        last = self.last
        if last is not None and last.ended == NEVER and last.life == call.life:
            raise Broken(f"{what} begins while another attempt is in flight")
        if kind_of(self.key) is not HOOK:
            self._may_begin(call, what, facts)
        if facts.versions.get(self.key, 0) < call.version:
            raise Broken(f"{what} is called before its schedule is on disk")
        if last is None or last.version != call.version:
            if call.attempt != 1:
                raise Broken(f"{what} is the first that anybody saw of this version")
            self.failures = self.polls = 0
            self.ok = False
        else:
            self._follows(last, call, what, facts)
        self.last = call

    def _may_begin(self, call: Call, what: str, facts: Facts) -> None:
        if call.version < self.version:
            raise Broken(f"{what} fires, and version {self.version} was acknowledged")
        if call.version > self.top:
            raise Broken(f"{what} fires, and nobody asked for more than version {self.top}")
        if call.version == self.version and self.fate in ("stopped", *ENDS):
            raise Broken(f"{what} starts after it was {self.must or self.fate}")
        if self.paused:
            raise Broken(f"{what} starts in a paused queue")
        number = json.loads(call.body)["n"] if call.body else -1
        if self.key not in facts.history.asks[number].keys:
            raise Broken(f"{what} carries another task's body")
        if call.attempt == 1:
            bounds = [(self.since_ns, self.due_ns, self.due_ms)] if call.version == self.version else [
                (ask.sent_ns, *bound(ask)) for ask in self.open if makes(ask) and not self._keeps_due(ask)
            ]  # fmt: skip
            if any(self._keeps_due(ask) for ask in self.open):
                bounds.append((self.since_ns, self.due_ns, self.due_ms))
            if bounds and all(early(bound, call, facts) for bound in bounds):
                raise Broken(f"{what} is early: {bounds} (asked, due ns, due ms), called {call.began_ns}")

    def _follows(self, last: Call, call: Call, what: str, facts: Facts) -> None:
        if last.webhook != call.webhook:
            raise Broken(f"{what} has another webhook-id than the attempt before")
        if call.attempt == last.attempt:
            if last.life == call.life:
                raise Broken(f"{what} is made twice in one life")
            if (self.key, call.version, call.attempt) in facts.outcomes and last.verdict != "cut":
                raise Broken(f"{what} is made again, and its outcome was on disk")
            self.failures -= last.verdict == "failed"  # it was not made
            self.polls -= last.verdict == "not_yet"
            return
        if call.attempt != last.attempt + 1:
            raise Broken(f"{what} follows attempt {last.attempt}")
        if last.verdict in ("ok", "final"):
            raise Broken(f"{what} is made after an answer that was {last.verdict}")
        kind = kind_of(self.key)
        waits = kind.waits_ms
        wait_ms = kind.every_ms if last.verdict == "not_yet" else 0
        if last.verdict == "failed" and waits:
            if self.failures > len(waits):
                raise Broken(f"{what} is one more than the rule allows")
            wait_ms = waits[self.failures - 1]
        early_ns = last.ended_ns + wait_ms * MS - call.began_ns
        if last.ended != NEVER and early_ns > facts.leeway_ns(last.ended_ns, call.began_ns):
            raise Broken(f"{what} is {early_ns} ns early after attempt {last.attempt}")

    def ended(self, call: Call, facts: Facts) -> None:
        if not call.reachable:
            facts.unreachable[call.host] = facts.unreachable.get(call.host, 0) + 1
        if self.last is call:
            self._count(call)

    def _count(self, call: Call) -> None:
        if call.verdict == "not_yet":
            self.failures, self.polls = 0, self.polls + 1
        elif call.verdict == "failed":
            self.failures += 1
        self.ok = self.ok or call.verdict in ("ok", "cut")

    # -- what the daemon shows ------------------------------------------------------------------

    def judge(self, task: dict[str, Any] | None, facts: Facts, *, over: bool = False) -> None:
        """Whether the task may be so; ``over``: faults have stopped, and everything had its time."""
        if task is None:
            if self.version and self.fate == "live" and not (self.ok or self.loose or self.open):
                raise Broken(f"{self.key} version {self.version} was acknowledged and is lost")
            return
        version, state = task["version"], task["state"]
        what = f"{self.key} version {version} is {state}"
        if kind_of(self.key) is HOOK:
            if over and state not in ENDS:
                raise Broken(f"{what} after all faults have stopped")
            return
        if not self.version <= version <= self.top:
            raise Broken(f"{what}, acknowledged is {self.version}, asked for {self.top}")
        if over and state not in ENDS:
            raise Broken(f"{what} after all faults have stopped")
        if version > self.version or task.get("stop"):
            return
        if self.fate == "stopped":
            if state not in ((self.must,) if self.must else ("cancelled", "done")):
                raise Broken(f"{what}, and {self.must or 'its stop'} was acknowledged")
        elif self.fate in ENDS:
            if state != self.fate:
                raise Broken(f"{what}, and was {self.fate}")
        elif self.fate == "live" and (why := self._unexplained(state, version, facts)):
            raise Broken(f"{what}, {why}")

    def _unexplained(self, state: str, version: int, facts: Facts) -> str:
        """Why a live task cannot be in this state; empty where it can."""
        asked = {ask.request["op"] for ask in self.open}
        last = self.last if self.last is not None and self.last.version == version else None
        if state in ("scheduled", "ready", "running"):
            known = last is not None and (self.key, version, last.attempt) in facts.outcomes
            return "and its success was on disk" if known and last and last.verdict == "ok" else ""
        if self.loose and state in ("cancelled", "done"):
            return ""
        if state == "done":
            return "" if self.ok or "finish" in asked else "and nobody saw a success"
        if state == "cancelled":
            return "" if "cancel" in asked else "and nobody asked for that"
        kind = kind_of(self.key)
        if state == "expired":
            after_ns = kind.fields.get("expires_in", 1 << 40) * MS
            now_ns = facts.history.ns()
            if self.due_ms:  # an ``at`` expires by the wall clock too
                over = (self.since_ns, 0, self.due_ms + after_ns // MS)
            else:
                over = (self.since_ns, self.due_ns + after_ns, 0)
            return "before its time" if early(over, None, facts, now_ns) else ""
        used_up = self.failures >= kind.attempts or (kind.polls and self.polls >= kind.polls)
        final = last is not None and last.verdict in ("final", "cut")
        held = any(count >= HELD_AFTER for count in facts.unreachable.values())
        return "" if used_up or final or held else f"and only {self.failures} attempts failed"

    def seen(self, task: dict[str, Any] | None, facts: Facts) -> None:
        """The start of a life: what is open is decided now."""
        self.judge(task, facts)
        opened = [ask for ask in self.open if makes(ask)]
        if any(ask.request["op"] == "pause" for ask in self.open):
            self.paused = False
        self.open = ()
        if task is None:
            self.version, self.fate, self.last = 0, "", None
            return
        facts.versions[self.key] = max(task["version"], facts.versions.get(self.key, 0))
        if task["version"] > self.version:
            self.version, self.must, self.loose = task["version"], "", False
            bounds = [bound(ask) for ask in opened if not self._keeps_due(ask)]
            if len(bounds) < len(opened):
                bounds.append((self.due_ns, self.due_ms))
            self.due_ns = min((ns for ns, _ in bounds), default=self.due_ns)
            self.due_ms = min((ms for _, ms in bounds), default=self.due_ms)
            self.fate = "live"
        if task["state"] in ENDS:
            self.fate = task["state"]
        elif task.get("stop"):
            self.fate, self.must = "stopped", ""


class Stories:
    """All of them; ``tell`` brings them up to date with the history."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.told = 0
        self.of: dict[str, Story] = {}

    def fork(self, history: History) -> Stories:
        """The same until now, for another future."""
        other = Stories(self.facts.fork(history))
        other.of = {key: copy(story) for key, story in self.of.items()}
        return other

    def story(self, key: str) -> Story:
        if key not in self.of:
            self.of[key] = Story(key)
        return self.of[key]

    def tell(self, upto: int = NEVER) -> None:
        """Hold every event up to this moment against its story."""
        facts = self.facts
        events = facts.history.events
        while self.told < len(events) and events[self.told][0] <= upto:
            _, what, thing = events[self.told]
            self.told += 1
            if isinstance(thing, Ask):
                for key in thing.keys:
                    story = self.story(key)
                    story.sent(thing) if what == "sent" else story.heard(thing, facts)
            elif isinstance(thing, Call):
                story = self.story(thing.key)
                story.began(thing, facts) if what == "began" else story.ended(thing, facts)
            elif isinstance(thing, Seen):
                self.story(thing.key).seen(thing.task, facts)
            elif isinstance(thing, Stored):
                for key, version in thing.versions:
                    facts.versions[key] = max(version, facts.versions.get(key, 0))
                facts.outcomes.update(thing.outcomes)

    def judge(self, tasks: dict[str, dict[str, Any]], *, over: bool = False) -> None:
        """What the daemon shows of all tasks."""
        for key in tasks:
            self.story(key)
        for key, story in self.of.items():
            story.judge(tasks.get(key), self.facts, over=over)
