"""The model's task, and the small questions about one: its content, its delays, whether an answer will do.

See ``model.py`` for what happens to tasks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from wheeltimer.core.outcome import Answer
from wheeltimer.core.task import Now
from wheeltimer.protocol.units import parse_duration_ms

MS = 1_000_000
LIVE = ("scheduled", "ready", "running")
HISTORY_MAX = 20
REPLY_BYTES_MAX = 1024
HOOK = "a hook"  # its content: no client asked for it
DEFAULT_RULE = {"kind": "exponential", "base": "1s", "factor": 2, "cap": "1h", "attempts": 16}
NAMED_RULES: dict[str, dict[str, Any]] = {
    "default": DEFAULT_RULE,
    "none": {"kind": "list", "delays": []},
    "alipay": {"kind": "list", "delays": ["4m", "10m", "10m", "1h", "2h", "6h", "15h"]},
}

Key = tuple[str, str]  # (queue, id)
Reply = dict[str, Any]


@dataclass
class Deadline:
    """An instant on elapsed time. ``boot``, ``ns`` and ``left_ns`` are what is stored of it."""

    at_ns: int
    boot: bytes
    ns: int
    left_ns: int  # when it was written


@dataclass
class Flight:
    """An attempt that has begun and not ended: its own version decides what its answer means."""

    version: int
    number: int
    success: dict[str, Any] | None
    poll: dict[str, Any] | None


@dataclass
class ModelTask:
    spec: dict[str, Any]
    content: str
    life: int  # a number of its own for every first scheduling of an id
    created_ms: int
    due_ms: int
    version: int = 1
    changes: int = 0  # replaces, and reschedules that change what is sent
    state: str = "scheduled"
    deadline: Deadline | None = None  # the wait is on elapsed time; else on the wall clock, to due_ms
    expiry: Deadline | None = None
    expiry_ms: int | None = None
    next_ms: int = 0
    rule: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    failures: int = 0
    polls: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    flight: Flight | None = None
    stop: str = ""
    stop_reply: Any = None
    ended_ms: int | None = None
    end_number: int = 0  # ends are numbered as they come, whatever the wall clock says

    def instants_ns(self, now: Now) -> list[int]:
        """When something happens to it by itself, on elapsed time as ``now`` sees the wall clock."""
        found = [] if self.expiry is None else [self.expiry.at_ns]
        walls_ms = [] if self.expiry_ms is None else [self.expiry_ms]
        if self.state == "scheduled":
            if self.deadline is None:
                walls_ms.append(self.due_ms)
            else:
                found.append(self.deadline.at_ns)
        return found + [now.elapsed_at(ms) for ms in walls_ms]


def shown_ms(now: Now) -> int:
    """The present as it is shown and counted from: whole ms, rounded late."""
    return -(-now.wall_ns // MS)


def refused(code: str, **extra: object) -> Reply:
    return {"ok": False, "error": code} | extra


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def content_of(ask: dict[str, Any]) -> str:
    """What the client asked for, without what only says how: two requests with the same are one."""
    said = {k: v for k, v in ask.items() if k not in ("op", "seq", "on_conflict", "id", "queue")}
    return canonical({"method": "POST"} | said)


def sent_of(spec: dict[str, Any]) -> str:
    """What a receiver would see of it."""
    names = ("url", "method", "headers", "body", "body_text", "body_base64")
    return canonical({"method": "POST"} | {n: spec[n] for n in names if n in spec})


def delay_after(rule: dict[str, Any], failed: int, share: Fraction) -> int | None:
    """Ms after failure number ``failed``; ``share`` from 0 to 1 is chance. None: no attempt is left."""
    if rule["kind"] == "list":
        waits = [parse_duration_ms(d, "") for d in rule["delays"]]
        if failed > len(waits):
            return None
        nominal = Fraction(waits[failed - 1])
    elif failed >= rule["attempts"]:
        return None
    elif rule["kind"] == "fixed":
        nominal = Fraction(parse_duration_ms(rule["every"], ""))
    else:
        base, cap = parse_duration_ms(rule["base"], ""), parse_duration_ms(rule["cap"], "")
        nominal = min(Fraction(base) * Fraction(str(rule.get("factor", 2))) ** (failed - 1), Fraction(cap))
    jitter = Fraction(str(rule.get("jitter", 0.2)))
    wait = nominal * (1 - jitter + 2 * jitter * share)
    return max(1, -(-wait.numerator // wait.denominator))


def unlike(success: dict[str, Any] | None, answer: Answer) -> str | None:
    """What history says where the status is right and the text, which is short, is not."""
    rule = success or {}
    if met(success, answer) or not met({"status": rule.get("status", ["2xx"])}, answer):
        return None
    return f'success: text is "{answer.body.decode().strip()}", "{rule["text"]}" expected'


def met(success: dict[str, Any] | None, answer: Answer) -> bool:
    """All that is given must hold; only ``status`` and ``text`` are asked for by these tests."""
    rule = success or {}
    status = answer.status or 0
    if not any(s in (status, f"{status // 100}xx") for s in rule.get("status", ["2xx"])):
        return False
    return "text" not in rule or answer.body.decode().strip() == rule["text"]
