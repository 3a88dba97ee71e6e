"""Standard Webhooks 1.0.0: what a receiver needs to know that a callback is ours and fresh.

Source: the Standard Webhooks specification, "Signature scheme": HMAC-SHA256 over
``id.timestamp.body``, base64, with the scheme's version in front; several keys give several
signatures, so that a key can be replaced without a gap.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Iterable


def sign(keys: Iterable[bytes], webhook_id: bytes, timestamp_s: int, body: bytes) -> bytes:
    """The value of ``webhook-signature``: one ``v1,...`` for each key, parted by spaces."""
    message = b"%b.%d.%b" % (webhook_id, timestamp_s, body)
    return b" ".join(b"v1," + b64encode(hmac.digest(key, message, "sha256")) for key in keys)
