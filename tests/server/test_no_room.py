"""What a client reads that is refused with `full`: the reason that is true just now."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import trio_test

from tests.daemon.worlds import URL, world
from wheeltimer.journal.preallocation import LACKS
from wheeltimer.shard.durable import NO_ROOM


def test_there_is_a_reason_for_all_that_may_be_lacking() -> None:
    assert NO_ROOM.keys() == {"", *LACKS.values()}


@pytest.mark.parametrize("lacks", NO_ROOM)
@trio_test
async def test_full_names_what_is_lacking_and_nothing_else(tmp_path: Path, lacks: str) -> None:
    async with world(tmp_path) as daemon:
        journal = daemon.journal
        for size in (1 << 16, 1 << 10, 1):  # all of it
            while journal.reserve(size):
                pass
        journal._spares.lacks = lacks
        reply = await daemon.ask(op="schedule", id="a", url=URL, delay=1000)
        assert (reply["error"], reply["retry_after_ms"] > 0) == ("full", True)
        for other in LACKS.values():
            assert (f"no {other}" in reply["message"]) == (other == lacks), reply["message"]
        journal._spares.lacks = ""
