"""Receivers that answer wrongly, endlessly, slowly or never: bounded memory and time, one outcome each."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from trio.testing import trio_test

from tests.delivery.servers import OK, Handler, Wire, answering, arena, endless, once, post
from wheeltimer.delivery.oddhead import CHUNKS_MAX
from wheeltimer.delivery.reply import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    AttemptError,
    Kind,
    Reply,
    ReplyReader,
)

H = b"HTTP/1.1 200 OK\r\n"
TE = b"transfer-encoding: chunked\r\n"
CHUNKED = H + TE + b"\r\n"
LENGTH_3 = H + b"content-length: 3\r\n"
MIB = 1 << 20


async def outcome(handler: Handler, body: bytes = b"{}", limit_s: float = 5) -> Reply | Kind:
    """One POST to a receiver of this kind: its reply, or the kind of error; nothing is ever kept."""
    async with arena() as here:
        server = await here.serve(handler)
        transport = here.transport()
        try:
            with trio.fail_after(limit_s):
                return await post(transport, server.destination, body)
        except AttemptError as error:
            return error.kind
        finally:
            assert transport.idle == 0
            assert len(server.requests) <= 1


INTERIM = b"HTTP/1.1 102 P\r\n\r\n"
NO_REPLIES: dict[str, tuple[bytes, Kind]] = {
    "nothing": (b"", "reset"),
    "half_a_status_line": (b"HTTP/1.", "reset"),
    "half_a_head": (H + b"content-le", "reset"),
    "only_interim": (b"HTTP/1.1 100 Continue\r\n\r\n", "reset"),
    "body_too_short": (H + b"content-length: 5\r\n\r\nabc", "reset"),
    "chunk_cut": (CHUNKED + b"5\r\nabc", "reset"),
    "last_chunk_missing": (CHUNKED + b"3\r\nabc\r\n", "reset"),
    "trailers_cut": (CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n", "reset"),
    "two_lengths": (H + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "protocol"),
    "signed_length": (H + b"content-length: +3\r\n\r\nabc", "protocol"),
    "negative_length": (H + b"content-length: -3\r\n\r\nabc", "protocol"),
    "huge_length": (H + b"content-length: 99999999999999999999\r\n\r\nabc", "protocol"),
    "empty_length": (H + b"content-length:\r\n\r\nabc", "protocol"),
    "length_and_chunked": (
        H + b"content-length: 3\r\n" + TE + b"\r\n0\r\n\r\n",
        "protocol",
    ),
    "chunked_and_length": (
        H + TE + b"content-length: 3\r\n\r\n0\r\n\r\n",
        "protocol",
    ),
    "coding_gzip": (H + b"transfer-encoding: gzip\r\n\r\nabc", "protocol"),
    "coding_gzip_chunked": (H + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol"),
    "coding_chunked_twice": (H + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", "protocol"),
    "coding_almost_chunked": (H + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", "protocol"),
    "chunk_size_no_number": (CHUNKED + b"zz\r\n", "protocol"),
    "chunk_size_negative": (CHUNKED + b"-1\r\n", "protocol"),
    "chunk_size_huge": (CHUNKED + b"fffffffffffffffff\r\n", "protocol"),
    "chunk_longer_than_it_says": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "protocol"),
    "no_http": (b"220 mail.example ESMTP\r\n", "protocol"),
    "http_0_9": (b"<html>hello</html>", "protocol"),
    "http_2": (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", "protocol"),
    "http_2_preface": (b"\0\0\x12\4\0\0\0\0\0", "protocol"),
    "status_0": (b"HTTP/1.1 000 Zero\r\ncontent-length: 0\r\n\r\n", "protocol"),
    "status_of_four_digits": (b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", "protocol"),
    "switched_protocols": (b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + OK, "protocol"),
    "interim_with_a_body": (b"HTTP/1.1 100 Continue\r\ncontent-length: 3\r\n\r\nabc" + OK, "protocol"),
    "interim_flood": (INTERIM * (HEAD_BYTES_MAX // len(INTERIM) + 800), "protocol"),
    "interim_flood_in_lf": (INTERIM.replace(b"\r", b"") * (HEAD_BYTES_MAX // 20 + 1_000), "protocol"),
    "reason_of_1_mib": (b"HTTP/1.1 200 " + b"x" * MIB + b"\r\n\r\n", "protocol"),
    "blank_lines": (b"\r\n" * MIB, "protocol"),
}

# Heads that are not by the book and have one meaning: (what comes, the body).
ODD: dict[str, tuple[bytes, bytes]] = {
    "lines_with_bare_lf": (b"HTTP/1.1 200 OK\ncontent-length: 3\n\nabc", b"abc"),
    "some_lines_with_bare_lf": (b"HTTP/1.1 200 OK\r\na: b\ncontent-length: 3\r\n\nabc", b"abc"),
    "bare_lf_and_no_length": (b"HTTP/1.1 200 OK\n\nabc", b"abc"),
    "bare_lf_and_no_reason": (b"HTTP/1.0 200\n\n", b""),
    "bare_lf_first": (b"\nHTTP/1.1 200 OK\ncontent-length: 3\n\nabc", b"abc"),
    "interim_with_bare_lf": (b"HTTP/1.1 103 E\na: b\n\nHTTP/1.1 200 OK\ncontent-length: 3\n\nabc", b"abc"),
    "interim_by_the_book": (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\ncontent-length: 3\n\nabc", b"abc"),
    "folded_line": (H + b"a: b\r\n c\r\n\td\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "folded_length": (H + b"content-length:\r\n 3\r\n\r\nabc", b"abc"),
    "length_hidden_in_a_fold": (H + b"a: b\r\n content-length: 1\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "fold_first": (H + b" folded\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "the_same_length_twice": (H + b"content-length: 3\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "list_of_lengths": (H + b"content-length: 3, 3\r\n\r\nabc", b"abc"),
    "space_before_colon": (H + b"content-length : 3\r\n\r\nabc", b"abc"),
    "line_without_colon": (H + b"abc\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "name_that_is_no_token": (H + b"a@b c(: d\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "no_name": (H + b": d\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "bare_cr_in_a_value": (H + b"a: b\rc\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "nul_in_a_value": (H + b"a: b\0c\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "control_in_a_value": (H + b"a: b\1c\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "coding_with_vertical_tab": (H + b"transfer-encoding: \x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "coding_identity": (H + b"transfer-encoding: identity\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "chunk_lines_with_bare_lf": (CHUNKED + b"3\nabc\n0\n\n", b"abc"),
    "all_lines_with_bare_lf": (CHUNKED.replace(b"\r", b"") + b"1\na\n2;x\nbc\n0\ny: z\n\n", b"abc"),
    "space_after_a_chunk_size": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", b"abc"),
    "odd_chunk_extension": (CHUNKED + b"3;a=\1\r\nabc\r\n0\r\n\r\n", b"abc"),
    "length_in_a_trailer": (CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 3\r\n\r\n", b"abc"),
    "odd_trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nx : y\r\n\r\n", b"abc"),
    "300_cookies": (H + b"set-cookie: a=b\r\n" * 300 + b"content-length: 3\r\n\r\nabc", b"abc"),
    "length_and_300_cookies": (LENGTH_3 + b"set-cookie: a=b\r\n" * 300 + b"\r\nabc", b"abc"),
    "20_interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + LENGTH_3 + b"a : b\r\n\r\nabc", b"abc"),
    "2000_interim_in_lf": (INTERIM.replace(b"\r", b"") * 2_000 + LENGTH_3 + b"\r\nabc", b"abc"),
    "interim_with_two_lengths": (
        b"HTTP/1.1 103 E\ncontent-length: 3\ncontent-length: 4\n\n" + LENGTH_3 + b"\r\nabc",
        b"abc",
    ),
    "300_lengths": (H + b"content-length: 3\r\n" * 300 + b"\r\nabc", b"abc"),
    "300_fields_that_count": (H + b"retry-after: 1\r\n" * 300 + b"content-length: 3\r\n\r\nabc", b"abc"),
    "3000_cookies": (LENGTH_3 + b"set-cookie: a=b\r\n" * 3_000 + b"\r\nabc", b"abc"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("pieces", [False, True])
def test_odd_but_harmless_head_counts_and_ends_the_connection(name: str, pieces: bool) -> None:
    raw, body = ODD[name]

    async def handle(wire: Wire) -> None:
        await wire.request()
        for piece in (raw[:-30], raw[-30:-2], raw[-2:-1], raw[-1:]) if pieces else (raw,):
            await wire.send(piece) if piece else None

    reply = trio.run(outcome, handle)  # it asserts that no connection is kept
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.truncated) == (200, body, False)


CUT: dict[str, tuple[bytes, bytes]] = {
    "too_many_odd_chunks": (CHUNKED + b"1\na\n" * 2_000 + b"0\n\n", b"a" * CHUNKS_MAX),
    "too_many_odd_chunks_in_lf": (
        CHUNKED.replace(b"\r", b"") + b"1\na\n" * 3_000 + b"0\n\n",
        b"a" * CHUNKS_MAX,
    ),
    "long_line_of_an_odd_chunk": (CHUNKED + b"3\nabc\n1 ;" + b"x" * 10_000 + b"\nd\n0\n\n", b"abc"),
    "long_trailer_in_lf": (CHUNKED + b"3\nabc\n0\nx: " + b"y" * 10_000 + b"\n\n", b"abc"),
}


@pytest.mark.parametrize("name", CUT)
def test_odd_reply_over_a_limit_counts_with_what_was_read(name: str) -> None:
    raw, body = CUT[name]
    reply = trio.run(outcome, once(raw))  # it asserts that no connection is kept
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.truncated) == (200, body, True)


ENDLESS_HEADS = {
    "one_header": H + b"wheeltimer-retry: stop\r\na: " + b"x" * MIB + b"\r\ncontent-length: 0\r\n\r\n",
    "many_headers": H + b"wheeltimer-retry: stop\r\n" + b"abcdefgh: abcdef\r\n" * (MIB // 18) + b"\r\n",
    "bare_lf": b"HTTP/1.1 200 OK\n" + b"abcdefgh: abcdef\n" * (MIB // 17) + b"\n",
}


@pytest.mark.parametrize("name", ENDLESS_HEADS)
def test_head_over_its_limit_counts_as_its_status(name: str) -> None:
    reply = trio.run(outcome, once(ENDLESS_HEADS[name]))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.truncated) == (200, b"", True)
    if name == "one_header":
        assert reply.headers == ((b"wheeltimer-retry", b"stop"),)


UNSOUND = {
    "two_lengths_with_bare_lf": b"HTTP/1.1 200 OK\ncontent-length: 3\ncontent-length: 4\n\nabcd",
    "list_of_two_lengths": H + b"content-length: 3, 4\r\n\r\nabcd",
    "chunked_beside_a_length_folded": H + TE + b"content-length:\r\n 3\r\n\r\n0\r\n\r\n",
    "odd_coding_with_bare_lf": b"HTTP/1.1 200 OK\ntransfer-encoding: gzip, chunked\n\n0\n\n",
    "odd_size_with_bare_lf": CHUNKED + b"3\nabc\nzz\n",
    "chunk_longer_than_its_size": CHUNKED + b"3\nabcd\n0\n\n",
    "endless_size_of_a_chunk": CHUNKED + b"3\nabc\n" + b"0" * 10_000,
    "odd_chunk_longer_than_its_size_by_far": CHUNKED + b"3\nabc" + b"x" * 10_000,
    "another_length_after_many": H + b"content-length: 3\r\n" * 300 + b"content-length: 4\r\n\r\nabcd",
    "switched_protocols": H[:9] + b"101 X\n\n" + OK,
    "trailer_with_bare_lf_that_never_ends": CHUNKED + b"3\nabc\n0\nx: y\n",
}
WHY_UNSOUND = {
    "two_lengths_with_bare_lf": "two different lengths",
    "list_of_two_lengths": "two different lengths",
    "chunked_beside_a_length_folded": "a content-length beside a transfer coding",
    "odd_coding_with_bare_lf": "a transfer coding other than chunked",
    "odd_size_with_bare_lf": "a chunk whose size is no number",
    "chunk_longer_than_its_size": "a chunk that is longer than its size",
    "endless_size_of_a_chunk": "a chunk whose size is no number",
    "odd_chunk_longer_than_its_size_by_far": "a chunk that is longer than its size",
    "another_length_after_many": "two different lengths",
    "switched_protocols": "switched protocols without being asked",
    "trailer_with_bare_lf_that_never_ends": "closed in the reply body",
}


@pytest.mark.parametrize("name", UNSOUND)
def test_odd_head_whose_end_is_a_guess_is_no_reply_but_its_status_is_told(name: str) -> None:
    async def check() -> None:
        async with arena() as here:
            server = await here.serve(once(UNSOUND[name]))
            with trio.fail_after(5), pytest.raises(AttemptError, match=WHY_UNSOUND[name]) as caught:
                await post(here.transport(), server.destination)
            told = caught.value.reply
            assert (told is None) == (name == "switched_protocols")
            assert told is None or (told.status, told.truncated) == (200, True)

    trio.run(check)


@pytest.mark.parametrize("name", NO_REPLIES)
def test_what_is_no_reply_is_no_reply(name: str) -> None:
    raw, kind = NO_REPLIES[name]
    assert trio.run(outcome, once(raw)) == kind


@pytest.mark.parametrize(
    "name", ["two_lengths", "coding_gzip", "chunk_cut", "body_too_short", "only_interim"]
)
def test_no_reply_in_pieces_of_one_byte(name: str) -> None:
    raw, kind = NO_REPLIES[name]

    async def drip(wire: Wire) -> None:
        await wire.request()
        for index in range(len(raw)):
            await wire.send(raw[index : index + 1])

    assert trio.run(outcome, drip) == kind


@pytest.mark.parametrize("count", [17, 3_000])
def test_interim_replies_are_limited_by_their_bytes_alone(count: int) -> None:
    assert count * len(INTERIM) <= HEAD_BYTES_MAX
    reader = ReplyReader()
    reader.feed(INTERIM * count + OK)
    assert reader.reply().status == 200
    assert reader.reusable
    reader.close()


STANDING: dict[str, tuple[bytes, bytes]] = {
    "a_second_reply": (OK + b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"ok"),
    "junk": (OK + b"junk", b"ok"),
    "junk_after_close": (
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok" + b"junk",
        b"ok",
    ),
    "body_on_204": (b"HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\nabc", b""),
    "junk_after_the_last_chunk": (CHUNKED + b"2\r\nok\r\n0\r\n\r\njunk", b"ok"),
}


@pytest.mark.parametrize("name", STANDING)
def test_bytes_after_the_reply_change_nothing_and_end_the_connection(name: str) -> None:
    raw, body = STANDING[name]

    async def handle(wire: Wire) -> None:
        await wire.request()
        await wire.send(raw)
        await wire.request()

    reply = trio.run(outcome, handle)
    assert isinstance(reply, Reply)
    assert (reply.body, reply.truncated) == (body, False)


@trio_test
async def test_reply_that_nobody_asked_for_is_not_given_to_the_next_request() -> None:
    async def handle(wire: Wire) -> None:
        if await wire.request() is not None:
            await wire.send(OK)
            await wire.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\npoison!"
            ) if wire.number == 1 else None
            await wire.request()

    async with arena() as here:
        server = await here.serve(handle)
        transport = here.transport()
        await post(transport, server.destination)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await post(transport, server.destination)).body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_endless_body_is_cut_at_the_limit(framing: str) -> None:
    head, more = {
        "length": (H + b"content-length: 9999999999\r\n\r\n", b"x" * 1000),
        "chunked": (CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        "close": (H + b"\r\n", b"x" * 1000),
    }[framing]
    reply = trio.run(outcome, endless(head, more))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.truncated, reply.body) == (200, True, b"x" * BODY_BYTES_MAX)


@pytest.mark.parametrize(
    "more",
    [b"1;" + b"e" * 2_000 + b"\r\nx\r\n", b"1\r\nx\r\n" * 300, b"0\r\n" + b"trailer: x\r\n" * 99_999],
    ids=["chunk_extensions", "chunks_of_one_byte", "trailers"],
)
def test_endless_framing_is_cut_too(more: bytes) -> None:
    reply = trio.run(outcome, endless(CHUNKED, more))
    assert isinstance(reply, Reply)
    assert reply.truncated
    assert set(reply.body) <= set(b"x")


@pytest.mark.parametrize("size", [BODY_BYTES_MAX - 1, BODY_BYTES_MAX, BODY_BYTES_MAX + 1])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_body_at_the_limit_is_whole_and_one_byte_more_is_not(size: int, framing: str) -> None:
    body = b"x" * size
    raw = {
        "length": H + b"content-length: %d\r\n\r\n" % size + body,
        "chunked": CHUNKED + b"%x\r\n" % size + body + b"\r\n0\r\n\r\n",
        "close": H + b"\r\n" + body,
    }[framing]

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(once(raw))
            reply = await post(here.transport(), server.destination)
            assert reply.truncated == (size > BODY_BYTES_MAX)
            assert reply.body == body[:BODY_BYTES_MAX]

    trio.run(main)


def test_head_at_the_limit_is_read() -> None:
    head = H + b"content-length: 0\r\n"
    raw = head + b"a: " + b"x" * (HEAD_BYTES_MAX - len(head) - 7) + b"\r\n\r\n"
    assert len(raw) == HEAD_BYTES_MAX

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(once(raw))
            assert (await post(here.transport(), server.destination)).status == 200

    trio.run(main)


@pytest.mark.parametrize("name", ["no_answer", "one_byte_at_a_time", "slow_body", "interim_for_ever"])
def test_slow_receiver_ends_with_the_callers_own_timeout(name: str) -> None:
    async def silent(wire: Wire) -> None:
        await wire.request()
        await trio.sleep_forever()

    handler = {
        "no_answer": silent,
        "one_byte_at_a_time": endless(H, b"a", 0.02),
        "slow_body": endless(CHUNKED, b"1\r\nx\r\n", 0.02),
        "interim_for_ever": endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.02),
    }[name]

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(handler)
            transport = here.transport()
            with trio.move_on_after(0.1) as scope:
                await post(transport, server.destination)
            assert scope.cancelled_caught
            assert transport.idle == 0

    trio.run(main)


@pytest.mark.parametrize(
    "after", [b"", b"HTTP/1.1 2", H + b"content-length: 9\r\n\r\nabc", CHUNKED + b"9\r\nabc"]
)
def test_reset_in_the_middle(after: bytes) -> None:
    async def handle(wire: Wire) -> None:
        await wire.request()
        await wire.send(after) if after else None
        await trio.sleep(0.005)
        wire.reset()

    assert trio.run(outcome, handle) == "reset"


BIG_BODY = b"x" * (16 * MIB)  # more than socket buffers take


def test_reply_before_the_request_is_read_counts_and_ends_the_connection() -> None:
    async def handle(wire: Wire) -> None:
        await wire.stream.receive_some(1)
        await wire.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await trio.sleep_forever()

    reply = trio.run(outcome, handle, BIG_BODY)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (413, b"no")


def test_receiver_that_talks_endlessly_and_never_reads_does_not_lock_up() -> None:
    async def no_read(wire: Wire) -> None:
        await wire.send(H + b"\r\n")
        while True:
            await wire.send(b"x" * 4096)

    reply = trio.run(outcome, no_read, BIG_BODY)
    assert isinstance(reply, Reply)
    assert reply.truncated


def test_receiver_that_closes_while_the_request_goes_out() -> None:
    async def handle(wire: Wire) -> None:
        await wire.stream.receive_some(1)
        wire.reset()

    assert trio.run(outcome, handle, BIG_BODY) == "reset"


def test_receiver_that_never_reads_ends_with_the_callers_timeout() -> None:
    async def handle(wire: Wire) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with arena() as here:
            server = await here.serve(handle)
            with trio.move_on_after(0.1) as scope:
                await post(here.transport(), server.destination, BIG_BODY)
            assert scope.cancelled_caught

    trio.run(main)


def test_large_request_to_a_slow_reader_arrives_whole() -> None:
    async def main() -> None:
        async with arena() as here:
            server = await here.serve(answering(OK))
            transport = here.transport()
            for _ in range(2):
                assert (await post(transport, server.destination, BIG_BODY)).body == b"ok"
            assert server.connections == 1
            assert server.requests[1].endswith(BIG_BODY)

    trio.run(main)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_returned_not_followed(status: int) -> None:
    async def main() -> None:
        async with arena() as here:
            target = await here.serve(answering(OK))
            raw = b"HTTP/1.1 %d Go\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % (
                status,
                target.url.encode(),
            )
            server = await here.serve(answering(raw))
            reply = await post(here.transport(), server.destination)
            assert reply.status == status
            assert target.connections == 0

    trio.run(main)


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (H, b"abcdefgh: abcdef\r\n" * 200),
        (H + b"a: ", b"x" * 4096),
        (CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        (CHUNKED, b"1;" + b"e" * 4096 + b"\r\nx\r\n"),
        (b"", b"HTTP/1.1 102 P\r\n\r\n" * 100),
    ],
    ids=["headers", "one_header", "body", "chunk_extensions", "interim"],
)
def test_endless_replies_cost_bounded_memory(head: bytes, more: bytes) -> None:
    trio.run(outcome, endless(head, more))  # what is allocated once is allocated now
    tracemalloc.start()
    try:
        trio.run(outcome, endless(head, more))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB
