"""How descriptors are shared out at the start."""

from __future__ import annotations

import itertools
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from wheeltimer.daemon.process import HELD, LEAST, PER_LISTENER, PER_TLS, ample, fit, share
from wheeltimer.errors import SettingsError
from wheeltimer.settings import Address, Limits, Settings

PLAIN, TLS = Address("tcp", "127.0.0.1", 1), Address("tls", "127.0.0.1", 2)


def settings(concurrency: int, connections_max: int, *listen: Address) -> Settings:
    return Settings(
        data_dir=Path("/nowhere"), concurrency=concurrency, limits=Limits(connections_max=connections_max),
        listen=listen or (PLAIN,),
    )  # fmt: skip


@pytest.mark.parametrize("limit", [64, 65, 100, 128, 255, 256, 300, 512, 1024, 4096, 20_000])
def test_what_is_shared_out_is_there_and_everybody_has_some(limit: int) -> None:
    for concurrency, clients, listen in itertools.product(
        (1, 20, 512, 100_000), (1, 50, 500, 10_000), ((PLAIN,), (TLS,), (PLAIN, TLS, PLAIN))
    ):
        given = settings(concurrency, clients, *listen)
        found = share(limit, given)
        each = PER_TLS if TLS in listen else 1
        held = HELD + PER_LISTENER * len(listen) + found.turned_away_max
        assert held + found.concurrency + found.idle_max + found.connections_max * each <= limit, found
        assert min(found) >= 1
        assert found.concurrency <= concurrency
        assert found.connections_max <= clients


def test_what_fits_is_not_lowered() -> None:
    """By the daemon's own sum there was room for these, and kept connections took it all."""
    for concurrency, clients in ((64, 500), (8, 800), (400, 50)):
        found = share(1024, settings(concurrency, clients))
        assert (found.concurrency, found.connections_max) == (concurrency, clients)
        assert found.idle_max >= min(concurrency, 64)


@pytest.fixture
def limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_lowered_is_one_line_with_names_and_numbers(
    limit: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (300, 300))
    given = settings(512, 10_000)
    found, shares = fit(given)
    assert (found.concurrency, found.limits.connections_max) == (shares.concurrency, shares.connections_max)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    for part in ("descriptors=300", "concurrency=100 instead of 512", "connections_max=50 instead of 10000"):
        assert part in text, text
    assert "LimitNOFILE" in text


@pytest.mark.parametrize("hard", [4096, 20_000, resource.RLIM_INFINITY])
def test_the_soft_limit_is_raised_to_the_hard_one(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most systems start a service with 1,024 and allow more."""
    limits = [(1024, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append(both))
    given = settings(512, 2000)
    found, _ = fit(given)
    assert limits[1:] == [(hard, hard)]
    assert found == given, "it is shared out as far as the hard limit goes"


def test_fewer_than_the_least_are_refused_with_what_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    for hard in (LEAST - 1, LEAST):
        monkeypatch.setattr(resource, "getrlimit", lambda which, hard=hard: (hard, hard))
        if hard < LEAST:
            with pytest.raises(SettingsError, match="63 are allowed, 64 are needed; raise LimitNOFILE"):
                fit(settings(1, 1))
        else:
            assert min(fit(settings(1, 1))[1]) >= 1


def test_enough_for_all_changes_nothing_and_logs_nothing(
    limit: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = settings(512, 10_000)
    for hard in (20_000, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda which, hard=hard: (hard, hard))
        assert fit(given) == (given, ample(given))
    assert not caplog.records
    assert LEAST == 64, "as the operations page says"
