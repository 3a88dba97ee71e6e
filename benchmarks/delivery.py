"""Callbacks a second: due, attempt, reply, outcome journaled, with the daemon on one core.

A round stores tasks that are all due at one instant and takes the time from that instant until the daemon
says that the last is done; its answer comes only when that is on disk. The rounds of all set-ups follow
one another, so drift of the machine meets all alike; figures are medians, and ratios of medians.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks import timed, writers
from benchmarks.harness import (
    Bound,
    Client,
    Daemon,
    Figures,
    Options,
    Process,
    Result,
    child,
    daemon,
    wall_ms,
)
from benchmarks.nginx import nginx
from benchmarks.profile import profiled
from benchmarks.receiver import addresses

DONE_TIMEOUT_S: Final = 60
STOCK_CONNECTIONS: Final = 32
PLAIN: Final = "32 permits, 10 destinations"
_LINE: Final = (
    b'{"op":"schedule","id":"round-%02d-%011d","queue":"timed","at":%d,"url":"%s/callback",'
    b'"body":{"order":%20d,"note":"0123456789"}}\n'
)


@dataclass
class _Setup:
    """One daemon, its destinations, and what its rounds gave."""

    target: Daemon
    client: Client
    urls: list[str]
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    stored: int = 0
    rounds: int = 0

    def round(self, tasks: int, lead_ms: int) -> None:
        """Store, let them come due, wait for the last outcome."""
        due_ms = wall_ms() + lead_ms
        urls = [url.encode() for url in self.urls]
        lines = [_LINE % (self.rounds, n, due_ms, urls[n % len(urls)], n) for n in range(tasks)]
        driven = writers.drive(self.target.address, lines, 1, 500, lead_ms / 1000)
        assert driven.ok == tasks, f"{driven.ok} of {tasks} stored"
        left_s = (due_ms - wall_ms()) / 1000
        assert left_s > 0, "storing took longer than the lead"
        self.stored += tasks
        self.rounds += 1
        time.sleep(left_s)
        cpu_s = -self.target.running.cpu_s()
        began = time.perf_counter() - (wall_ms() - due_ms) / 1000
        stats = self.client.ask(op="stats")
        while stats["tasks"]["done"] < self.stored:
            assert time.perf_counter() < began + DONE_TIMEOUT_S, f"not all done: {stats['tasks']}"
            time.sleep(0.02)
            stats = self.client.ask(op="stats")
        self.per_s.append(tasks / (time.perf_counter() - began))
        self.cpu_us.append((cpu_s + self.target.running.cpu_s()) / tasks * 1e6)
        assert stats["attempts"]["succeeded"] == self.stored, stats["attempts"]

    def shown(self) -> Figures:
        return {
            "callbacks_per_s": round(median(self.per_s)),
            "daemon_cpu_us_per_callback": round(median(self.cpu_us), 1),
            "rounds_per_s": [round(value) for value in self.per_s],
        }


def run(options: Options) -> Result:
    tasks, rounds, lead_ms = (300, 1, 600) if options.quick else (10_000, 3, 2500)
    few, many = addresses(10), addresses(1000)
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(nginx(many, few, cores[-1]))
        if server is None:
            own = stack.enter_context(child("receiver", str(len(many))))
            own.pin(cores[-1])
        port = server.port if server else int(own.first_line.split()[1])
        few_urls, many_urls = _urls(few, port), _urls(many, port)
        setups = {
            f"{permits} permits, {len(urls)} destinations": _setup(stack, permits, urls, cores[0])
            for urls in ((few_urls,) if options.quick else (few_urls, many_urls))
            for permits in (32, 512)
        }
        if server and server.cert:
            tls_urls = _urls(few, server.tls_port, "https")
            trust = {"SSL_CERT_FILE": str(server.cert)}
            setups[f"{PLAIN}, TLS"] = _setup(stack, 32, tls_urls, cores[0], trust)
        stock: list[dict[str, float]] = []
        if not options.quick:
            for setup in setups.values():  # opens the connections that later rounds keep
                setup.round(1000, 1000)
                setup.per_s.clear()
                setup.cpu_us.clear()
        for _ in range(rounds):
            for setup in setups.values():
                setup.round(tasks, lead_ms)
            stock.append(_stock(few_urls, 0.5 if options.quick else 3, cores[0]))
        profile: Figures = {}
        if options.profile:
            plain = setups[PLAIN]
            with profiled(plain.target.running.pid, profile):
                for _ in range(rounds):
                    plain.round(tasks, lead_ms)
            del plain.per_s[rounds:], plain.cpu_us[rounds:]  # these were watched
    figures: Figures = {
        "receiver": "nginx" if server else "the benchmark's own (no nginx on this machine)",
        "setups": {name: setup.shown() for name, setup in setups.items()},
        "stock_httpx": {
            "posts_per_s": round(median(one["posts"] / one["seconds"] for one in stock)),
            "cpu_us_per_post": round(median(one["cpu_s"] / one["posts"] for one in stock) * 1e6, 1),
        },
    }
    figures["lateness"] = _lateness(options, cores)
    if profile:
        figures["profile"] = profile
    return Result(figures, _bounds(figures))


def _urls(hosts: list[str], port: int, scheme: str = "http") -> list[str]:
    return [f"{scheme}://{host}:{port}" for host in hosts]


def _setup(
    stack: contextlib.ExitStack, permits: int, urls: list[str], cpu: int, env: dict[str, str] | None = None
) -> _Setup:
    target = stack.enter_context(daemon("--concurrency", str(permits), env=env))
    target.running.pin(cpu)
    client = stack.enter_context(Client(target.address))
    return _Setup(target, client, urls)


def _stock(urls: list[str], seconds: float, cpu: int) -> dict[str, float]:
    """One round of the stock client, on the core that the daemons have."""
    with child("stock", str(STOCK_CONNECTIONS), str(seconds), *urls) as client:
        client.pin(cpu)
        found: dict[str, float] = client.ask("go")
        return found


def _lateness(options: Options, cores: list[int]) -> Figures:
    """End to end at 1,000 callbacks a second, by the benchmark's own receiver: nginx notes no instants."""
    over_s = 1 if options.quick else 10
    with child("receiver") as receiver, daemon() as target:
        target.running.pin(cores[0])
        receiver.pin(cores[-1])
        return _late(target, receiver, over_s, options.seed)


def _late(target: Daemon, receiver: Process, over_s: int, seed: int) -> Figures:
    port = int(receiver.first_line.split()[1])
    _, until_ms = timed.put(target, port, over_s * 1000, over_s * 1000, seed=seed, lead_ms=400 * over_s + 600)
    return timed.judged(target, timed.collect(receiver, over_s * 1000, until_ms), over_s * 1000)


def _bounds(figures: Figures) -> list[Bound]:
    rate = {name: found["callbacks_per_s"] for name, found in figures["setups"].items()}
    stock = figures["stock_httpx"]["posts_per_s"]
    late_ms = figures["lateness"]["end_to_end_ms"]["p99"]
    bounds = [
        Bound(f"callbacks/s, {PLAIN}", rate[PLAIN], 6000, at_least=True),
        Bound(
            "against a stock httpx.AsyncClient at 32 connections",
            _ratio(rate[PLAIN], stock),
            8,
            at_least=True,
        ),
        Bound("end to end p99 ms at 1,000/s", late_ms, 5),
    ]
    for destinations in (10, 1000):
        few, most = (rate.get(f"{permits} permits, {destinations} destinations") for permits in (32, 512))
        if few and most:
            name = f"512 against 32 permits, {destinations} destinations"
            bounds.append(Bound(name, _ratio(most, few), 0.85, at_least=True))
    if secure := rate.get(f"{PLAIN}, TLS"):
        bounds.append(Bound("TLS against plain", _ratio(secure, rate[PLAIN]), 0.7, at_least=True))
    return bounds


def _ratio(one: float, other: float) -> float:
    return round(one / other, 2)
