"""Content codings of replies: what is decoded, what is not, and what a bomb costs."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import pytest

from wheeltimer.delivery.coding import MEMBERS_MAX, decoded
from wheeltimer.protocol.limits import REPLY_BYTES_MAX

pytestmark = pytest.mark.quick
BODY = b'{"status":"success"}'
RAW = zlib.compressobj(wbits=-15)
RAW_BODY = RAW.compress(BODY) + RAW.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        (" GZip ", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:5]) + gzip.compress(b"") + gzip.compress(BODY[5:])),
        ("gzip", gzip.compress(BODY) + b"\0\0\0"),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW_BODY),
        ("identity", BODY),
        ("identity, gzip", gzip.compress(BODY)),
        ("gzip,identity", gzip.compress(BODY)),
        (",, Identity ,,GZIP , ,", gzip.compress(BODY)),
        ("identity, deflate, identity", zlib.compress(BODY)),
        ("identity,, identity", BODY),
        ("", BODY),
    ],
)
def test_what_is_decoded(coding: str, body: bytes) -> None:
    assert decoded(body, coding, True) == (BODY, True, None)


@pytest.mark.parametrize(
    ("coding", "body", "why"),
    [
        ("br", b"..", "the content-encoding 'br' is not decoded"),
        ("zstd", b"..", "the content-encoding 'zstd' is not decoded"),
        (
            "gzip, gzip",
            gzip.compress(gzip.compress(BODY)),
            "the content-encoding 'gzip, gzip' is not decoded",
        ),
        ("x" * 999, b"..", f"the content-encoding '{'x' * 40}' is not decoded"),
        ("gzip", BODY, "the body is no gzip, or a damaged one"),
        ("gzip", zlib.compress(BODY), "the body is no gzip, or a damaged one"),
        ("gzip", gzip.compress(BODY)[:-5] + b"12345", "the body is no gzip, or a damaged one"),
        ("deflate", b"\xff" + BODY, "the body is no deflate, or a damaged one"),
    ],
)
def test_what_is_not_decoded_stays_as_it_came(coding: str, body: bytes, why: str) -> None:
    assert decoded(body, coding, True) == (body, True, why)


def test_cut_short() -> None:
    body = gzip.compress(bytes(random.Random(1).randbytes(1000)))[:-600]
    content, whole, why = decoded(body, "gzip", True)
    assert (whole, why) == (False, "the gzip of the body is cut short")
    assert random.Random(1).randbytes(1000).startswith(content)
    assert decoded(body, "gzip", False)[1:] == (False, None)  # that it is cut is known already


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, identity"])
def test_no_body_is_no_damaged_one(coding: str, whole: bool) -> None:
    """As with 204, and with servers that name a coding for every reply."""
    assert decoded(b"", coding, whole) == (b"", whole, None)


@pytest.mark.parametrize(("coding", "body"), [("gzip", gzip.compress(BODY)), ("deflate", RAW_BODY)])
def test_what_was_not_read_to_its_end_is_not_whole_although_the_coding_ends(coding: str, body: bytes) -> None:
    """Another member may come."""
    assert decoded(body, coding, False) == (BODY, False, None)


@pytest.mark.parametrize("size", [REPLY_BYTES_MAX, REPLY_BYTES_MAX + 1])
def test_at_the_limit_it_is_whole_and_one_byte_more_is_not(size: int) -> None:
    content, whole, why = decoded(gzip.compress(b"x" * size), "gzip", True)
    assert (content, whole, why) == (b"x" * REPLY_BYTES_MAX, size == REPLY_BYTES_MAX, None)


def test_bomb_costs_bounded_memory() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20), 9)
    assert len(bomb) <= REPLY_BYTES_MAX
    tracemalloc.start()
    try:
        content, whole, why = decoded(bomb, "gzip", True)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(content), whole, why) == (REPLY_BYTES_MAX, False, None)
    assert most < 1 << 20


def test_endless_empty_members_are_not_all_opened() -> None:
    body = gzip.compress(b"") * (MEMBERS_MAX + 1) + gzip.compress(BODY)
    assert decoded(body, "gzip", True)[1:] == (False, "the gzip of the body is cut short")
