"""What the operator has set that decisions depend on; replaced as a whole when settings are reloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from wheeltimer.core.commands import split_url
from wheeltimer.core.retry import Rule
from wheeltimer.errors import TargetBlocked

_SEEN_MAX = 65_536  # checked destinations remembered; then the memory starts afresh


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
        self._queues = dict(queues or {})
        self._check_host = check_host
        self._allowed: set[str] = set()

    def queue(self, name: str) -> QueuePolicy:
        return self._queues.get(name, _PLAIN)

    def check_target(self, url: str, field: str = "url") -> None:
        """Refuse a URL that is no URL (BadValue) or may not be called (TargetBlocked)."""
        if url in self._allowed:
            return
        _, host, _, _ = split_url(url, field)
        reason = self._check_host(host)
        if reason is not None:
            raise TargetBlocked(f"{field}: {reason}")
        if len(self._allowed) >= _SEEN_MAX:
            self._allowed.clear()
        self._allowed.add(url)
