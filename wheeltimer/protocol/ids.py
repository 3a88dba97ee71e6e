"""Ids that the daemon makes, for tasks without one and for callbacks; and the signature of a callback."""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts like the number
_HOOK_END: Final = re.compile(r"/(?:done|dead)/[0-9]+\Z").search


def is_hook_id(id: str) -> bool:
    """Whether a hook may get this id: ``ID/done/VERSION`` or ``ID/dead/VERSION``."""
    return _HOOK_END(id) is not None


def _base32(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def make_id(wall_ms: int, lsn: int, chance: int) -> str:
    """A 26-character id that sorts by time: 50 bits of ms, 48 of lsn (unique in a journal), 32 of chance."""
    return _base32(wall_ms, 10) + _base32((lsn << 32 | chance) & (1 << 80) - 1, 16)


def webhook_id(journal_id: bytes, key: str, born_lsn: int, revision: int) -> str:
    """``wt_`` and 26 characters (104 bits): unique per journal, key, first scheduling and content sent.

    ``born_lsn``, of the first scheduling, makes the difference if an id is used again after the retention of
    an earlier task; ``revision`` counts changes of the content sent.
    """
    seed = b"%b\0%b\0%d\0%d" % (journal_id, key.encode(), born_lsn, revision)
    return "wt_" + blake2b(seed, digest_size=13).hexdigest()


def sign(keys: Iterable[bytes], webhook_id: bytes, timestamp_s: int, body: bytes) -> bytes:
    """The value of ``webhook-signature``: one ``v1,...`` for each key, separated by spaces.

    Source: Standard Webhooks 1.0.0, "Signature scheme": HMAC-SHA256 over ``id.timestamp.body``, base64, with
    the scheme's version in front. Several keys give several signatures: a key can be replaced without a gap.
    """
    message = b"%b.%d.%b" % (webhook_id, timestamp_s, body)
    return b" ".join(b"v1," + b64encode(hmac.digest(key, message, "sha256")) for key in keys)
