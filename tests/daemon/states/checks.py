"""What must hold in every cell, whatever its line says: replies, events and callbacks agree."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from .rows import ASK
from .world import Call, Cell


def check_reply(
    reply: dict[str, Any], before: dict[str, Any] | None, after: dict[str, Any] | None,
    events: list[dict[str, Any]],
) -> None:  # fmt: skip
    """What a reply says of the task is what ``get`` shows: after it, or before it where nothing changed."""
    if not reply["ok"]:
        assert set(reply) <= {"ok", "error", "message", "version", "state", "due"}, reply
        assert before == after, "a refusal changes nothing"
        for name in ("version", "state", "due"):
            assert before is None or reply.get(name, before[name]) == before[name], reply
        assert reply["error"] not in ("too_late", "exists") or "state" in reply
        return
    if "task" in reply:
        assert reply["task"] == after == before
    for task in reply.get("tasks", ()):
        if task["id"] == "t":
            assert after is not None
            assert task == {name: value for name, value in after.items() if name not in ("body", "history")}
    if reply.get("duplicate"):
        assert before == after, "a duplicate changes nothing"
    if "due" in reply and after is not None:
        assert (reply["version"], reply["due"]) == (after["version"], after["due"])
    if "due" in reply and not reply.get("duplicate"):
        began = [event for event in events if event["id"] == "t" and "due" in event][-1]
        assert (began["version"], began["due"]) == (reply["version"], reply["due"])


def check_seen(cell: Cell) -> None:
    """Callbacks and events, in their order."""
    events = [event for event in cell.events if event["id"] == "t"]
    dues = {event["version"]: event["due"] for event in events if "due" in event}
    calls = [call for call in cell.calls if call.headers["wheeltimer-id"] == "t"]
    for now, _, headers, body in calls:
        version, due_ms = int(headers["wheeltimer-version"]), int(headers["wheeltimer-due"])
        assert due_ms == dues[version], "the due in a callback is that of its version's event"
        assert now.wall_ns >= due_ms * 1_000_000, "early"
        assert body == ASK["body"]
        assert int(headers["wheeltimer-late-ms"]) >= 0
    made = [
        (int(call.headers["wheeltimer-version"]), int(call.headers["wheeltimer-attempt"])) for call in calls
    ]
    reached = [
        (event["version"], event["attempt"])
        for event in events
        if event["event"] == "attempt.started" and (event["version"], event["attempt"]) in made
    ]
    if cell.short:  # one that lapses is told to start again, with the same number
        reached = [
            attempt for attempt, before in zip(reached, [None, *reached], strict=False) if attempt != before
        ]
    if cell.history.life == 1:
        assert reached == made, "each attempt that starts is told, live"
    else:  # a start may be over before a subscriber is there again
        assert Counter(reached) <= Counter(made)
    ended = [
        (event["version"], event["attempt"])
        for event in events
        if event["event"].startswith("attempt.") and event["event"] != "attempt.started"
    ]
    assert len(ended) == len(set(ended)), "an attempt has one outcome"
    for event in events:
        if "state" in event:
            assert event["meta"] == ASK["meta"]
            assert event["event"] == f"task.{event['state']}"
        assert event["group"] == ASK["group"]
    check_names(calls, events)
    check_hooks(cell, [event for event in events if "state" in event])


def check_names(calls: list[Call], events: list[dict[str, Any]]) -> None:
    """The webhook-id stays through attempts, changes of time and redrives; a replace, or a reschedule to
    another URL, makes another one.
    """
    replaced = [event["version"] for event in events if event["event"] == "task.scheduled"]
    for one, other in pairwise(calls):
        versions = [int(call.headers["wheeltimer-version"]) for call in (one, other)]
        same = one.path == other.path and not any(versions[0] < each <= versions[1] for each in replaced)
        assert (one.headers["webhook-id"] == other.headers["webhook-id"]) == same, (one, other)


def check_hooks(cell: Cell, ends: list[dict[str, Any]]) -> None:
    """One for each end that has one, with the fields of the end."""
    hooks = {
        call.headers["wheeltimer-id"]: call.body
        for call in cell.calls
        if call.headers["wheeltimer-id"].startswith("t/")
    }
    wanted = {}
    for end in ends:
        if end["state"] != "cancelled":
            word = "done" if end["state"] == "done" else "dead"
            wanted[f"t/{word}/{end['version']}"] = end
    assert sorted(hooks) == sorted(wanted)
    for id, end in wanted.items():
        body = hooks[id]
        assert body["type"] == end["event"]
        for name in ("queue", "id", "version", "group", "meta", "attempts"):
            assert body[name] == end[name], (name, body, end)
        assert body["ended"] == end["time"]
        assert set(body) == {
            "type", "queue", "id", "version", "group", "meta", "attempts", "status", "error", "reply",
            "ended",
        }  # fmt: skip
