"""The bounds that the core enforces, each with its default and its reason.

``settings/definitions.py`` fills these from ``[limits]``; bounds that only the server or delivery enforces
(connections, unread bytes, concurrency) are not here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from wheeltimer.protocol.units import DAY_MS

REPLY_BYTES_MAX: Final = 65_536
"""Most bytes of a callback's reply that are read, judged or passed on; ``reply_bytes_max`` may be less."""

HEADERS_MOST: Final = 256
"""The highest value of ``headers_max``."""


class Limits(Struct, frozen=True, kw_only=True):
    """Sizes are bytes, times are milliseconds."""

    line_bytes_max: int = 131_072  # a 64 KiB body, escaped, and its fields
    body_bytes_max: int = 65_536  # what receivers' own limits commonly allow
    meta_bytes_max: int = 4_096  # kept in every event and hook of the task
    headers_max: int = 32
    header_bytes_max: int = 8_192  # what common servers accept for all headers
    id_bytes_max: int = 256
    reply_bytes_max: int = REPLY_BYTES_MAX  # of a callback's reply, read and judged
    history_max: int = 20  # attempts kept per task
    history_reply_bytes_max: int = 1_024  # of the last reply
    delay_max_ms: int = 3_650 * DAY_MS  # ten years
    timeout_max_ms: int = 600_000  # an attempt may hold a permit for all this time
    polls_max: int = 1_000_000
    tasks_max: int = 10_000_000  # live tasks; about 350 bytes each
    keep_done_ms: int = DAY_MS
    keep_done_max: int = 1_000_000
    keep_dead_ms: int = 30 * DAY_MS
    keep_dead_max: int = 100_000
