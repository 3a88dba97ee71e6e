"""The settings that decisions depend on; replaced as a whole when settings are reloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

from msgspec import Struct

from wheeltimer.errors import BadValue, TargetBlocked
from wheeltimer.protocol.hosts import host_problem
from wheeltimer.protocol.requests import URL_BYTES_MAX, split_url
from wheeltimer.protocol.retry import Rule

_SEEN_MAX = 65_536  # origins remembered; if there are more, all are dropped
_VISIBLE = bytes(set(range(33, 127)) - {ord("#")})  # the bytes a URL may have; a fragment is refused
_ORIGIN_CHARS_MAX = 300  # longer origins are not remembered; a DNS name has at most 253


class QueuePolicy(Struct, frozen=True):
    """One queue's own defaults; ``retry`` is a rule, resolved."""

    retry: Rule | None = None
    final_statuses: frozenset[int] = frozenset()


_PLAIN = QueuePolicy()


class Policy:
    """Named retry rules, queue defaults, and which hosts may be called.

    ``check_host`` takes a URL's host and returns why it may not be called, or None. Names are always
    allowed here; their addresses are checked when a connection is made.
    """

    def __init__(
        self,
        *,
        rules: Mapping[str, Rule] | None = None,
        queues: Mapping[str, QueuePolicy] | None = None,
        check_host: Callable[[str], str | None] = lambda host: None,
    ) -> None:
        self.rules = dict(rules or {})
        self.queues = dict(queues or {})
        self._check_host = check_host
        self._origins: set[str] = set()  # scheme, host and port as they stand in URLs that passed

    def queue(self, name: str) -> QueuePolicy:
        return self.queues.get(name, _PLAIN)

    def check_target(self, url: str, field: str = "url") -> None:
        """Refuse a URL that is malformed (BadValue), or whose host may not be called (TargetBlocked).

        0.5 us if scheme, host and port were seen before.
        """
        visible = url.isascii() and url.isprintable() and " " not in url and "#" not in url
        if visible and len(url) <= URL_BYTES_MAX and _origin(url) in self._origins:
            return
        _, host, _, _ = split_url(url, field)
        if problem := host_problem(host):
            raise BadValue(f"{field}: {problem}", field)
        try:
            reason = self._check_host(host)
        except BadValue as error:  # names no field; the field is known here
            raise BadValue(f"{field}{str(error).removeprefix(error.field)}", field) from error
        if reason is not None:
            raise TargetBlocked(f"{field}: {reason}")
        if len(self._origins) >= _SEEN_MAX:
            self._origins.clear()
        origin = _origin(url)
        if len(origin) <= _ORIGIN_CHARS_MAX:
            self._origins.add(origin)

    def all_pass(self, urls: Sequence[str]) -> bool:
        """Whether the origins of these URLs passed before, and the rest of each URL is well formed."""
        return (
            not "".join(urls).encode(errors="surrogatepass").translate(None, _VISIBLE)
            and max(map(len, urls)) <= URL_BYTES_MAX
            and (self._all_of_one_origin(urls) or self._origins.issuperset(map(_origin, urls)))
        )

    def _all_of_one_origin(self, urls: Sequence[str]) -> bool:
        """Whether all URLs have one known origin: the usual case, and five times as fast to check."""
        origin = _origin(urls[0])
        return origin in self._origins and all(map(str.startswith, urls, repeat(f"{origin}/")))


def _origin(url: str) -> str:
    """Scheme, host and port, as they stand in the URL."""
    path_at = url.find("/", 8)
    origin = url if path_at < 0 else url[:path_at]
    return origin.partition("?")[0] if "?" in origin else origin
