"""The reply reader by itself: where the network cuts the bytes changes nothing."""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc

import pytest

from tests.delivery.test_transport_hostile import CUT, NO_REPLIES, ODD, STANDING, UNSOUND
from tests.delivery.test_transport_shared import REPLIES
from wheeltimer.delivery.http_connection import RECV_BYTES
from wheeltimer.delivery.reply import AttemptError, Kind, Reply, ReplyReader

pytestmark = pytest.mark.quick

RAW = {
    **{f"no_{name}": raw for name, (raw, _) in NO_REPLIES.items() if len(raw) < RECV_BYTES},
    **{f"odd_{name}": raw for name, (raw, _) in ODD.items() if len(raw) < RECV_BYTES},
    **{f"cut_{name}": raw for name, (raw, _) in CUT.items()},
    **{f"unsound_{name}": raw for name, raw in UNSOUND.items()},
    **{f"standing_{name}": raw for name, (raw, _) in STANDING.items()},
    **{f"reply_{name}": raw for name, (raw, _, _) in REPLIES.items()},
}


def read(pieces: list[bytes]) -> Reply | Kind:
    reader = ReplyReader()
    try:
        for piece in pieces:
            reader.feed(piece)
            if reader.done or reader.full:
                return reader.reply()
        reader.end(clean=True)
        return reader.reply()
    except AttemptError as error:
        return error.kind
    finally:
        reader.close()


@pytest.mark.parametrize("name", RAW)
def test_outcome_does_not_depend_on_where_the_bytes_are_cut(name: str, thorough: bool) -> None:
    raw = RAW[name]
    seed = 27
    print(f"seed={seed}")
    chance = random.Random(seed)
    whole = read([raw] if raw else [])
    assert read([raw[index : index + 1] for index in range(len(raw))]) == whole
    for _ in range(200 if thorough else 20):
        cuts = sorted(chance.choices(range(len(raw) + 1), k=chance.randint(1, 6)))
        ends = [0, *cuts, len(raw)]
        pieces = [raw[start:end] for start, end in itertools.pairwise(ends) if start < end]
        assert read(pieces) == whole


@pytest.mark.parametrize("first", REPLIES)
@pytest.mark.parametrize("second", ["length", "chunked", "continue_first"])
def test_reader_forgets_the_reply_before(first: str, second: str) -> None:
    reader = ReplyReader()
    reader.feed(REPLIES[first][0])
    if not reader.reusable:
        return
    reader.begin()
    reader.feed(REPLIES[second][0])
    assert reader.reply() == read([REPLIES[second][0]])
    assert reader.reusable


def test_idle_connection_keeps_no_body() -> None:
    reader = ReplyReader()
    gc.collect()
    tracemalloc.start()
    try:
        reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60_000)
        assert len(reader.reply().body) == 60_000
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 5_000
