"""Access: every command with every scope, own queue and foreign; patterns, hashes, quota."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from wheeltimer.core import access
from wheeltimer.core.access import (
    ALLOWED,
    SCOPES,
    UNAUTHENTICATED,
    WRONG_TOKEN,
    Access,
    Credentials,
    Grant,
    Quota,
    digest_of,
)
from wheeltimer.core.engine import Engine
from wheeltimer.core.store import Queue
from wheeltimer.core.task import Now
from wheeltimer.errors import Refused
from wheeltimer.protocol import requests as c
from wheeltimer.protocol.limits import Limits

COMMANDS = list(c.AnyCommand.__args__)
FIELDS: dict[str, dict[str, Any]] = {
    "schedule": {"url": "http://a/", "id": "a"}, "reschedule": {"id": "a"}, "get": {"id": "a"},
    "cancel": {"id": "a"}, "finish": {"id": "a"}, "redrive": {"id": "a"},
}  # fmt: skip
NO_QUEUE = ("hello", "ping", "stats")
# Said a second time, in the words of the documentation.
SAID = {
    "produce": "hello ping schedule cancel reschedule finish get",
    "read": "hello ping get list subscribe forecast stats",
    "admin": " ".join(kind.__struct_config__.tag for kind in COMMANDS),
}


def refusal(grant: Grant, command: Any) -> str | None:
    try:
        access.check(grant, command)
    except Refused as error:
        return error.code
    return None


def made(kind: Any, **queue: str) -> Any:
    op = kind.__struct_config__.tag
    return kind(**FIELDS.get(op, {}), **({} if op in NO_QUEUE else queue))


def test_every_command_has_a_line_and_one_without_is_allowed_to_nobody() -> None:
    assert set(ALLOWED) == set(COMMANDS)

    class New(c.Command, tag="new"):
        pass

    grant = Grant(name="a", scopes=frozenset(SCOPES), queues=("*",))
    assert refusal(grant, New()) == "forbidden"  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__struct_config__.tag)
def test_every_command_with_every_scope_in_its_own_queue_and_in_a_foreign_one(kind: Any, scope: str) -> None:
    op = kind.__struct_config__.tag
    grant = Grant(name="a", scopes=frozenset({scope}), queues=("mine", "my-*"))
    allowed = None if op in SAID[scope].split() else "forbidden"
    for queue in ("mine", "my-other", "my-"):
        assert refusal(grant, made(kind, queue=queue)) == allowed, queue
    for queue in ("theirs", "mine2", "my", "", "m"):
        assert refusal(grant, made(kind, queue=queue)) == (allowed if op in NO_QUEUE else "forbidden"), queue
    want = None if op == "hello" else "unauthorized"
    assert refusal(UNAUTHENTICATED, made(kind, queue="mine")) == want
    assert refusal(WRONG_TOKEN, made(kind, queue="mine")) == want


@pytest.mark.parametrize("op", FIELDS)
def test_what_names_one_task_without_a_queue_means_default(op: str) -> None:
    (kind,) = [kind for kind in COMMANDS if kind.__struct_config__.tag == op]
    mine = Grant(name="a", scopes=frozenset({"admin"}), queues=("mine",))
    assert refusal(mine, kind(**FIELDS[op])) == "forbidden"
    assert refusal(Grant(scopes=mine.scopes, queues=("def*",)), kind(**FIELDS[op])) is None
    if op in ("cancel", "finish", "redrive"):
        assert refusal(mine, kind(group="g")) is None, "by group it is for all that it sees"


def test_a_schedule_without_id_is_for_the_default_queue_too() -> None:
    mine = Grant(name="a", scopes=frozenset({"produce"}), queues=("mine",))
    assert refusal(mine, c.Schedule(url="http://a/")) == "forbidden"


def test_every_stored_hash_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    grants = [Grant(name=name, sha256=digest_of(name), scopes=frozenset({"read"})) for name in "abc"]
    seen: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for name in "abcd":
        seen.clear()
        found = Access(grants).grant_of(digest_of(name))
        assert found is (WRONG_TOKEN if name == "d" else grants["abc".index(name)])
        assert seen == [grant.sha256 for grant in grants]


def test_a_visitor_keeps_its_token_over_reloads() -> None:
    one = Access([Grant(name="a", sha256=digest_of("a"), scopes=frozenset({"read"}), queues=("*",))])
    visitor = Credentials(Access())
    assert visitor.grant is None
    visitor.show("a", Access())
    visitor.again(one)
    assert visitor.grant is one.grants[0]
    visitor.again(Access([Grant(name="b", sha256=digest_of("b"), scopes=frozenset({"read"}))]))
    assert visitor.grant is WRONG_TOKEN
    for wrong in ("A", "", "a "):
        with pytest.raises(Refused) as refused:
            visitor.show(wrong, one)
        assert refused.value.code == "unauthorized"
        assert visitor.grant is WRONG_TOKEN
    visitor.show("a", one)
    visitor.show(None, one)  # hello without a token asks only
    assert visitor.grant is one.grants[0]


def test_a_quota_is_counted_again_only_where_the_bound_passes_it() -> None:
    engine = Engine(Limits(), Now(0, 0), 10_000_000, 64)
    engine.queues["mine"] = Queue([2, 1, 1, 5, 0, 0, 0])
    engine.queues["theirs"] = Queue([50, 0, 0, 0, 0, 0, 0])
    quota = Quota(Grant(name="a", queues=("mine",), tasks_max=10))
    quota.check(engine, 6, 100, 0)
    with pytest.raises(Refused, match=r"tasks_max \(10\)") as refused:
        quota.check(engine, 7, 100, 0)
    assert refused.value.code == "full"
    engine.queues["mine"].counts[0] = 7  # 5 records later
    with pytest.raises(Refused):
        quota.check(engine, 2, 105, 0)
    quota.check(engine, 1, 105, 0)
    engine.queues["mine"].counts[0] = 0
    quota.check(engine, 8, 120, 0)


def test_a_quota_over_very_many_queues_counts_once_in_a_second() -> None:
    engine = Engine(Limits(), Now(0, 0), 10_000_000, 64)
    engine.queues |= {f"q{number}": Queue([1, 0, 0, 0, 0, 0, 0]) for number in range(access.EXACT_QUEUES + 1)}
    most = len(engine.queues)
    quota = Quota(Grant(name="a", queues=("q*",), tasks_max=most))
    with pytest.raises(Refused):
        quota.check(engine, 1, 1, 0)
    engine.queues["q0"].counts[0] = 0
    with pytest.raises(Refused):
        quota.check(engine, 1, 1, access.RECOUNT_MS - 1)
    quota.check(engine, 1, 1, access.RECOUNT_MS)


def test_a_token_that_is_not_known_is_told_apart_from_none() -> None:
    one = Access([Grant(name="a", sha256=digest_of("a"), scopes=frozenset({"read"}), queues=("*",))])
    visitor = Credentials(one)

    def said() -> str:
        assert visitor.unknown
        assert visitor.grant is not None
        with pytest.raises(Refused) as refused:
            access.check(visitor.grant, c.Stats())
        assert refused.value.code == visitor.unauthorized().code == "unauthorized"
        assert str(refused.value) == str(visitor.unauthorized())
        return str(refused.value)

    assert said() == "this daemon asks for a token: send hello with one that it knows first"
    with pytest.raises(Refused, match="is not known here, or no longer") as refused:
        visitor.show("s3cret", one)
    assert said() == str(refused.value)
    assert "s3cret" not in said()
    visitor.show("a", one)
    assert not visitor.unknown
    visitor.again(Access([Grant(name="b", sha256=digest_of("b"), scopes=frozenset({"read"}))]))
    assert "or no longer" in said()
    visitor.again(Access())
    assert not visitor.unknown
