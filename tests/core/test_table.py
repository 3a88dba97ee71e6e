"""The table of rows against a plain dict, and walking it while it changes."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from wheeltimer.core.store import SHARDS, Table

pytestmark = pytest.mark.quick


def test_the_table_does_what_a_dict_does() -> None:
    seed = 5
    chance = random.Random(seed)
    table, model = Table(), dict[str, bytes]()
    for turn in range(20_000):
        key = f"q/{chance.randrange(3000)}"
        if key in model and chance.random() < 0.45:
            table.pop(key)
            del model[key]
        else:
            table[key] = model[key] = b"%d" % turn
        assert table.get(key) == model.get(key), f"seed {seed}"
    assert len(table) == len(model)
    assert table.size == sum(len(key) + len(row) for key, row in model.items())
    assert dict(table.items()) == model
    assert all(table[key] == row for key, row in model.items())
    assert table.get("q/nobody") is None
    with pytest.raises(KeyError):
        table.pop("q/nobody")


def test_a_walk_sees_every_row_that_stays_exactly_once() -> None:
    """A list goes on in slices while others add, change and cancel."""
    seed = 6
    chance = random.Random(seed)
    table = Table()
    stay = {f"s/{n}" for n in range(4000)}
    go = [f"g/{n}" for n in range(4000)]
    for key in (*stay, *go):
        table[key] = b"0"
    seen: list[str] = []
    sizes = []
    added = 0
    for rows in table.slices(7):
        sizes.append(len(rows))
        seen += [key for key, _ in rows]
        for _ in range(6):
            added += 1
            table[f"a/{added}"] = b"0"
            table[chance.choice(sorted(stay)[:50])] = b"1"
            if go:
                table.pop(go.pop())
    assert max(sizes) <= 7
    assert len(seen) == len(set(seen)), f"seed {seed}"
    assert stay <= set(seen)


def test_an_empty_walk_ends() -> None:
    assert [rows for rows in Table().slices() if rows] == []


def test_memory_comes_back_when_most_rows_have_gone() -> None:
    def size(table: Table) -> int:
        return sum(map(sys.getsizeof, table.shards))

    table = Table()
    empty = size(table)
    for n in range(200 * SHARDS):
        table[f"q/{n}"] = b""
    full = size(table)
    for n in range(200 * SHARDS):
        if n % 50:
            table.pop(f"q/{n}")
    assert size(table) < full / 4
    for n in range(0, 200 * SHARDS, 50):
        table.pop(f"q/{n}")
    assert len(table) == 0
    assert size(table) < empty + SHARDS * sys.getsizeof(dict.fromkeys(range(64)))


def test_shards_are_filled_evenly() -> None:
    table = Table()
    for n in range(100 * SHARDS):
        table[f"default/order-{n:08}"] = b""
    sizes = [len(shard) for shard in table.shards]
    assert min(sizes) > 40
    assert max(sizes) < 170


def test_a_row_takes_no_more_memory_than_its_bytes() -> None:
    """The encoder's own result stands in a block that is up to a third larger than it is."""
    program = """
import os
from wheeltimer.core.task import Task, pack
given = dict(url="http://127.0.0.1:8080/", created_ms=1 << 40, lsn=1 << 20, deadline_ns=1 << 50)
tasks = [Task(body=b"x" * n, **given) for n in range(80)]
def taken(make):
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
        rows = [make(task) for _ in range(2_000) for task in tasks]
        statm.seek(0)
        return (int(statm.read().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE"), rows
exact, kept = taken(lambda task: bytes(bytearray(pack(task))))
packed, _ = taken(pack)
print(packed / exact)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 0.95 < float(said) < 1.05
