"""Signatures against the published vector of Standard Webhooks, and against its own recipe."""

from __future__ import annotations

import base64
import hashlib
import hmac

from wheeltimer.delivery.signature import sign

# From the reference libraries of github.com/standard-webhooks/standard-webhooks.
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = b"msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_vector_of_the_specification() -> None:
    assert sign([base64.b64decode(SECRET)], ID, TIMESTAMP_S, BODY) == SIGNATURE


def test_several_keys_give_several_signatures_in_order() -> None:
    keys = [base64.b64decode(SECRET), b"another key", b"x" * 64]
    parts = sign(keys, ID, TIMESTAMP_S, BODY).split(b" ")
    assert parts[0] == SIGNATURE
    message = ID + b".%d." % TIMESTAMP_S + BODY
    for key, part in zip(keys, parts, strict=True):
        mac = hmac.new(key, message, hashlib.sha256).digest()
        assert part == b"v1," + base64.b64encode(mac)


def test_body_is_signed_as_the_bytes_that_are_sent() -> None:
    assert sign([b"k"], ID, 1, b"\xff\0%s") != sign([b"k"], ID, 1, b"\xff\0%d")
    assert sign([b"k"], ID, 1, b"") != sign([b"k"], ID, 1, b" ")
