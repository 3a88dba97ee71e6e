"""The protocol as JSON Schema, made from the structs that parse and write the lines."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from wheeltimer.protocol import events, replies, requests

REPLIES: Final[dict[str, type[msgspec.Struct]]] = {
    "hello": replies.HelloReply, "ping": replies.PingReply, "schedule": replies.ScheduleReply,
    "get": replies.TaskReply, "cancel": replies.CancelReply, "reschedule": replies.RescheduleReply,
    "finish": replies.FinishReply, "redrive": replies.RedriveReply, "list": replies.ListReply,
    "pause": replies.PauseReply, "resume": replies.PauseReply, "subscribe": replies.SubscribeReply,
    "forecast": replies.ForecastReply, "stats": replies.StatsReply,
}  # fmt: skip
_REF: Final = "#/$defs/{name}"


def schema() -> dict[str, Any]:
    """One schema for any line; ``requests``, ``replies`` and ``events`` refer to each one's by name."""
    asked = {struct.__struct_config__.tag: _shown(struct) for struct in requests.AnyCommand.__args__}
    seen = {name: _event(name) for name in events.TYPES}
    structs = [*asked.values(), *REPLIES.values(), replies.ErrorReply, *events.EVENTS]
    refs, definitions = msgspec.json.schema_components(
        dict.fromkeys(structs), schema_hook=_any, ref_template=_REF
    )
    by_struct = dict(zip(dict.fromkeys(structs), refs, strict=True))
    for name, definition in definitions.items():
        if "ok" in definition.get("properties", {}):
            definition["properties"]["ok"] = {"const": name != replies.ErrorReply.__name__}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wheeltimer protocol 1: a line",
        "anyOf": list(by_struct.values()),
        "requests": {op: by_struct[struct] for op, struct in asked.items()},
        "replies": {op: by_struct[struct] for op, struct in REPLIES.items()},
        "refusal": by_struct[replies.ErrorReply],
        "events": {name: by_struct[struct] for name, struct in seen.items()},
        "$defs": definitions,
    }


def _any(kind: type) -> dict[str, Any]:
    assert kind is object, kind
    return {"description": "any JSON"}


def _event(name: str) -> type[msgspec.Struct]:
    if name == "attempt.started":
        return events.StartEvent
    if name.startswith("attempt."):
        return events.AttemptEvent
    return events.ChangeEvent if name.endswith("scheduled") else events.EndEvent


def _shown(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The struct with each ``Raw`` field, which has no JSON Schema, as an optional field of any JSON."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if isinstance(field.default, msgspec.Raw):
            fields.append((field.name, Any, msgspec.UNSET))
        elif field.required:
            fields.append((field.name, field.type))
        else:
            fields.append((field.name, field.type, field.default))
    config = struct.__struct_config__
    renamed = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    return msgspec.defstruct(
        struct.__name__, fields, kw_only=True, tag_field=config.tag_field, tag=config.tag, rename=renamed,
        forbid_unknown_fields=True,
    )  # fmt: skip
