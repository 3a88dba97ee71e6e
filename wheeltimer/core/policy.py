"""What the operator has set that decisions depend on; replaced as a whole when settings are reloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from wheeltimer.core.commands import PATH, URL_BYTES_MAX, split_url
from wheeltimer.core.retry import Rule
from wheeltimer.errors import TargetBlocked

_SEEN_MAX = 4_096  # origins remembered; then the memory starts afresh


class QueuePolicy(Struct, frozen=True):
    """One queue's own defaults; ``retry`` is a rule, resolved."""

    retry: Rule | None = None
    final_statuses: frozenset[int] = frozenset()


_PLAIN = QueuePolicy()


class Policy:
    """Named retry rules, queue defaults, and which hosts may be called.

    ``check_host`` takes a URL's host and says why it may not be called, or None; names are always
    allowed here and checked again, address by address, when a connection is made.
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
        """Refuse a URL that is no URL (BadValue) or may not be called (TargetBlocked).

        0.3 us where scheme, host and port were seen before.
        """
        if self.passes(url):
            return
        _, host, _, _ = split_url(url, field)
        reason = self._check_host(host)
        if reason is not None:
            raise TargetBlocked(f"{field}: {reason}")
        if len(self._origins) >= _SEEN_MAX:
            self._origins.clear()
        path_at = url.find("/", 8)
        self._origins.add(url if path_at < 0 else url[:path_at])

    def passes(self, url: str) -> bool:
        """Whether this URL is one of an origin that was checked before, and is well formed beyond it."""
        path_at = url.find("/", 8)
        if path_at < 0:
            return url in self._origins
        return url[:path_at] in self._origins and PATH(url, path_at) is not None and len(url) <= URL_BYTES_MAX
