"""Makes parts and their parameters from the settings; called again at a reload."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from wheeltimer import __version__
from wheeltimer.core.access import Access, Grant
from wheeltimer.core.addresses import AddressRule
from wheeltimer.core.policy import Policy, QueuePolicy
from wheeltimer.delivery.authorities import no_authorities
from wheeltimer.delivery.lanes import Queue
from wheeltimer.delivery.pool import Destination
from wheeltimer.delivery.proxy import ProxyTransport
from wheeltimer.delivery.transport import Transport
from wheeltimer.delivery.window import TokenBucket, Window
from wheeltimer.errors import SettingsError
from wheeltimer.protocol.hosts import host_problem
from wheeltimer.protocol.requests import split_url
from wheeltimer.protocol.retry import resolve
from wheeltimer.server.tls import server_context
from wheeltimer.settings import Rate, Settings, changed_keys

_log = logging.getLogger("wheeltimer")
KEYS_MAX: Final = 50  # setting keys in one log line
_RELOADED: Final = ("retry", "queues", "destinations", "tokens", "tls")  # applied while the daemon runs


def check_served(settings: Settings) -> None:
    """Refuse a setting for a part that this version does not have, rather than run without it."""
    if settings.http:
        raise SettingsError(f"http: not served by wheeltimer {__version__}; leave it out")


def reload_line(given: Settings, before: Settings, now: Settings) -> str:
    """The keys that changed since ``before``, and those that differ from ``given`` (the settings of the
    start) and need a restart."""
    late = [key for key in changed_keys(given, now) if key.partition(".")[0] not in _RELOADED]
    line = f"changed={_some(changed_keys(before, now))}"
    return f"{line}, after a restart: {_some(late)}" if late else line


def _some(keys: list[str]) -> str:
    """At most `KEYS_MAX` keys, so that a file with a thousand tokens still gives a readable line."""
    more = f",and {len(keys) - KEYS_MAX} more" if len(keys) > KEYS_MAX else ""
    return ",".join(keys[:KEYS_MAX]) + more if keys else "none"


def _bucket(rate: Rate | None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate.count, rate.period_ms)


def policy_of(settings: Settings, rule: AddressRule) -> Policy:
    """The policy for decisions. ``rule`` is that of the start: a reload keeps listeners and networks."""
    rules = dict(settings.retry)
    queues = {
        name: QueuePolicy(
            None if queue.retry is None else resolve(queue.retry, rules), frozenset(queue.final_statuses)
        )
        for name, queue in settings.queues.items()
    }
    return Policy(rules=rules, queues=queues, check_host=rule.check_host)


def queue_of(settings: Settings) -> Callable[[str], Queue]:
    """A queue's own limits, from the settings."""

    def make(name: str) -> Queue:
        given = settings.queues.get(name)
        if given is None:
            return Queue()
        return Queue(given.concurrency, _bucket(given.rate))

    return make


def window_of(settings: Settings) -> Callable[[Destination], Window]:
    """A destination's window, from the settings."""
    named = {Destination(*split_url(url)[:3]): given for url, given in settings.destinations.items()}
    for destination in named:  # a warning, not an error: earlier versions accepted such a file
        if problem := host_problem(destination.host):
            _log.warning('[destinations."%s"] is used by no new task: %s', destination.origin, problem)

    def make(destination: Destination) -> Window:
        given = named.get(destination)
        if given is None:
            return Window()
        return Window(given.window_max, _bucket(given.rate))

    return make


def keys_of(settings: Settings) -> Callable[[str], Sequence[bytes]]:
    """A queue's signing keys."""
    keys = {name: queue.signing_keys for name, queue in settings.queues.items()}
    return lambda queue: keys.get(queue, ())


def address_rule(settings: Settings) -> AddressRule:
    """Which addresses callbacks may go to; private ones need ``allow_nets`` if a listener is not local."""
    local = settings.http is None and all(address.is_local for address in settings.listen)
    return AddressRule(not local, settings.allow_nets)


def transport_of(settings: Settings, rule: AddressRule, idle_max: int) -> Transport | ProxyTransport:
    """The transport of callbacks. A proxy looks names up itself; then ``rule`` applies only to addresses
    written in URLs. Logs a warning if the system trusts no authority."""
    trust = ssl.create_default_context()
    if (problem := no_authorities(trust, os.environ)) is not None:
        _log.warning("%s", problem)
    if settings.egress_proxy is not None:
        return ProxyTransport(settings.egress_proxy, ssl_context=trust)
    return Transport(rule.check, ssl_context=trust, idle_max=idle_max)


def access_of(settings: Settings) -> Access:
    """The tokens."""
    return Access(
        Grant(
            name=token.name, sha256=token.sha256, scopes=frozenset(token.scopes), queues=token.queues,
            tasks_max=token.tasks_max,
        )
        for token in settings.tokens
    )  # fmt: skip


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Certificate, key and the authority of client certificates. Raises SettingsError."""
    return None if settings.tls is None else server_context(settings.tls)
