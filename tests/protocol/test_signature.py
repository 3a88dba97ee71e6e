"""Signatures against the published vector of Standard Webhooks, and against its own library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from wheeltimer.protocol.ids import sign

# Published with the specification, in the tests of its libraries.
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = b"msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
# The text of the specification shows what is signed, without a secret for it.
EXAMPLE_ID, EXAMPLE_S = b"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", 1674087231
EXAMPLE_BODY = (
    b'{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z",'
    b'"data":{"id":"1f81eb52-5198-4599-803e-771906343485"}}'
)
EXAMPLE = b"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W.1674087231." + EXAMPLE_BODY
BODIES = (b"", b" ", b"{}", BODY, EXAMPLE_BODY, "订单 42\r\n".encode(), b"a.b.c", b"%s%d" * 10_000)


def test_vector_of_the_specification() -> None:
    assert sign([base64.b64decode(SECRET)], ID, TIMESTAMP_S, BODY) == SIGNATURE


def test_what_is_signed_is_what_the_specification_shows() -> None:
    key = bytes(range(24))
    mac = hmac.new(key, EXAMPLE, hashlib.sha256).digest()
    assert sign([key], EXAMPLE_ID, EXAMPLE_S, EXAMPLE_BODY) == b"v1," + base64.b64encode(mac)


def test_several_keys_give_several_signatures_in_order() -> None:
    keys = [base64.b64decode(SECRET), b"another key", b"x" * 64]
    parts = sign(keys, ID, TIMESTAMP_S, BODY).split(b" ")
    assert parts[0] == SIGNATURE
    moment = datetime.fromtimestamp(TIMESTAMP_S, UTC)
    for key, part in zip(keys, parts, strict=True):
        assert part.decode() == Webhook(key).sign(ID.decode(), moment, BODY.decode())


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body[:12]))
def test_the_scheme_s_own_library_verifies_with_any_of_the_keys(body: bytes) -> None:
    keys, moment = [b"old key" * 4, b"new key" * 4], int(time.time())
    headers = {
        "webhook-id": "wt_" + "0" * 26,
        "webhook-timestamp": str(moment),
        "webhook-signature": sign(keys, b"wt_" + b"0" * 26, moment, body).decode(),
    }
    for key in keys:
        Webhook(key).verify(body, headers, json_parse=False)
    for key, forged, name, value in (
        (b"no key of ours", body, "webhook-id", headers["webhook-id"]),
        (keys[0], body + b" ", "webhook-id", headers["webhook-id"]),
        (keys[0], body, "webhook-id", "wt_" + "1" * 26),
        (keys[0], body, "webhook-timestamp", str(moment - 1)),
    ):
        with pytest.raises(WebhookVerificationError, match="No matching"):
            Webhook(key).verify(forged, headers | {name: value}, json_parse=False)


def test_body_is_signed_as_the_bytes_that_are_sent() -> None:
    assert sign([b"k"], ID, 1, b"\xff\0%s") != sign([b"k"], ID, 1, b"\xff\0%d")
    assert sign([b"k"], ID, 1, b"") != sign([b"k"], ID, 1, b" ")
