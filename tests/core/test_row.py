"""Views of a row decode what ``Task`` packs, under the same letters."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Struct

from wheeltimer.core import row
from wheeltimer.core.task import Task, pack

WHOLE = Task(
    "http://127.0.0.1:9/",
    body=b"{}",
    group="orders",
    delay=70,
    created_ms=71,
    lsn=72,
    deadline_ns=73,
    due_given_ms=74,
    expiry_ns=75,
    expiry_ms=76,
    version=7,
    state=4,
    stop=2,
    ended_ms=77,
    carried_lsn=78,
)
OF_TASK = {"time_ms": "ended_ms"}  # names that differ from the task's


def test_every_field_has_a_letter_of_its_own() -> None:
    assert set(row.LETTERS) == set(Task.__struct_fields__)
    assert len(set(row.LETTERS.values())) == len(row.LETTERS)
    assert {len(letter) for letter in row.LETTERS.values()} == {1}


@pytest.mark.parametrize("view", row.VIEWS, ids=lambda view: view.__name__)
def test_a_view_sees_what_the_task_has(view: type[Struct]) -> None:
    seen = msgspec.msgpack.decode(pack(WHOLE), type=view)
    for name in view.__struct_fields__:
        assert getattr(seen, name) == getattr(WHOLE, OF_TASK.get(name, name)), name


def test_a_plain_new_task_has_the_same_row_by_both_structs() -> None:
    fields = {"body": b"{}", "delay": 70, "created_ms": 71, "lsn": 72, "deadline_ns": 73}
    fresh, task = row.Fresh("http://127.0.0.1:9/", **fields), Task("http://127.0.0.1:9/", **fields)
    assert pack(fresh)[1:] == pack(task)[3:], "but for the header: fixmap here, map 16 there"
