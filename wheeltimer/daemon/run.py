"""The composition root: recover, start the parts in order, drain.

Only this file opens the outer nurseries. Parts are started with ``nursery.start``, each ready before the next
one starts; the ready line is printed once the port accepts connections.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

import trio

from wheeltimer import __version__
from wheeltimer.core.engine import Engine
from wheeltimer.core.outcome import decision_bytes_needed
from wheeltimer.core.records import Due, Ended, Paused
from wheeltimer.core.task import NS_PER_MS
from wheeltimer.daemon import process
from wheeltimer.daemon.build import (
    access_of,
    address_rule,
    check_served,
    keys_of,
    policy_of,
    queue_of,
    reload_line,
    tls_of,
    transport_of,
    window_of,
)
from wheeltimer.daemon.deaths import Deaths
from wheeltimer.daemon.process import Notifier, ample, fit, say
from wheeltimer.delivery.callback import Sender
from wheeltimer.delivery.dispatcher import Dispatcher
from wheeltimer.delivery.proxy import ProxyTransport
from wheeltimer.delivery.transport import Transport
from wheeltimer.errors import SettingsError, StorageFailed
from wheeltimer.journal import Clocks, Journal
from wheeltimer.runtime.clock import Clock, SystemClock
from wheeltimer.runtime.loop_clock import LoopClock
from wheeltimer.runtime.time_slices import TimeSlices
from wheeltimer.runtime.timer import open_timer
from wheeltimer.server.admission import Admission
from wheeltimer.server.client_memory import ClientMemory
from wheeltimer.server.listeners import open_listeners
from wheeltimer.server.rejection import Overflow
from wheeltimer.server.scans import Scans
from wheeltimer.server.server import Server
from wheeltimer.server.service import Service
from wheeltimer.server.subscriptions import Subscriptions
from wheeltimer.settings import Settings
from wheeltimer.shard.compactor import Compactor
from wheeltimer.shard.durable import Debounce, DurableEngine
from wheeltimer.shard.startup import end_stopped, note_boot, recover
from wheeltimer.shard.ticker import Ticker

GC_YOUNG_MAX = 20_000  # containers made before a young pass of 0.5 ms; rows and keys are not containers
IDLE_LOOK_S = 5.0
_log = logging.getLogger("wheeltimer")
Progress = Callable[[int, int], None]


def main(
    settings: Settings, progress: Progress | None = None, reload: Callable[[], Settings] | None = None
) -> int:
    """Run the daemon until a signal; return the exit code. Raises the typed errors of a failed start.

    ``progress`` is called during recovery, with bytes; ``reload`` reads the settings again at SIGHUP.
    """
    check_served(settings)
    given, (settings, share) = settings, fit(settings)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `_hangups` runs: the settings are fresh
    daemon = Daemon(settings, SystemClock(), reload)
    daemon.given, daemon.share = given, share
    process.end_at_once(unless=lambda: daemon.listening)
    daemon.recover(progress)
    try:
        return trio.run(daemon.run, clock=LoopClock())
    finally:
        process.ignore_signals()


class Daemon:
    """All parts of one daemon. ``recover`` first, then ``run`` in Trio; both once."""

    def __init__(
        self, settings: Settings, clock: Clock, reload: Callable[[], Settings] | None = None
    ) -> None:
        self.settings = self.given = settings  # given: before `fit`
        self.clock = clock
        self._reload = reload
        self.share = ample(settings)
        self._notifier = Notifier(os.environ)
        self._began_ns = clock.elapsed_ns()
        self._exit_code = 0
        self.listening = False  # for signals: once True, `_signals` handles them
        self._tls = tls_of(settings)  # first: a bad file must be found before the journal is opened

    def recover(self, progress: Progress | None = None) -> None:
        """Open the journal and apply it. Blocking; raises JournalError and its subclasses."""
        settings, clock = self.settings, self.clock

        def clocks() -> Clocks:
            now = clock.now()
            return Clocks(clock.boot_id, now.elapsed_ns, now.wall_ns // NS_PER_MS)

        self.journal = Journal.open(
            settings.data_dir,
            clock=clocks,
            segment_bytes=settings.journal.segment_bytes,
            unsynced_bytes_max=settings.journal.unsynced_bytes_max,
            fsync=settings.fsync == "group",
        )
        self._check_segments()
        if self.journal.found.torn is not None:
            part, offset, size = self.journal.found.torn
            _log.warning(
                "torn tail set aside, nothing acknowledged was in it segment=%s offset=%d bytes=%d",
                part.name, offset, size,
            )  # fmt: skip
        now = clock.now()
        self.engine = Engine(settings.limits, now, settings.tick_ms * NS_PER_MS, settings.wheel_size)
        gc.disable()  # recovery frees next to nothing; passes over the growing heap would only cost time
        self._recovered = recover(self.journal, self.engine, clock.boot_id, now, progress)
        gc.enable()
        gc.set_threshold(GC_YOUNG_MAX, 20, 100)
        gc.freeze()  # recovered objects live long: later passes skip them
        self._recovered_ms = self._since_began_ms()

    def _check_segments(self) -> None:
        """Any decision that the limits allow must fit a segment, also one made smaller for a small disk."""
        needed, most = decision_bytes_needed(self.settings.limits), self.journal.decision_bytes_max
        if needed > most:
            self.journal.abandon()
            raise SettingsError(
                f"journal.segment_bytes: with these [limits] a task and its outcome may take {needed} bytes,"
                f" and segments of {self.journal.segment_bytes} bytes take {most} at a time;"
                " raise it, free disk space, or lower reply_bytes_max, history_max or line_bytes_max"
            )

    def _make_parts(self) -> None:
        """Make all parts and connect them; none of them runs yet."""
        settings, journal, clock = self.settings, self.journal, self.clock
        self._rule = rule = address_rule(settings)
        self._ledger = ledger = DurableEngine(self.engine, journal, clock, policy_of(settings, rule))
        self._transport = transport = transport_of(settings, rule, self.share.idle_max)
        self._overflow = overflow = Overflow(transport.give_up_idle)
        self._sender = sender = Sender(
            transport, journal.journal_id, ledger.now, keys_of(settings), __version__
        )
        self._dispatcher = dispatcher = Dispatcher(
            ledger, sender.attempt, lambda: journal.durable_lsn, settings.concurrency,
            queue_of(settings), window_of(settings), sender.begin, sender.flush, transport.keeps,
        )  # fmt: skip
        self._timer = open_timer(clock)
        self._ticker = ticker = Ticker(ledger, clock, self._timer, dispatcher.dispatch_now)
        ledger.observe(Due, lambda due: dispatcher.enqueue(due.key, due.task, due.late_ms))
        self._deaths = Deaths(self.engine)
        ledger.observe(Ended, self._deaths.ended)
        ledger.observe(Paused, lambda record: dispatcher.paused(record.queue) if record.paused else None)

        def changed() -> None:
            journal.flush()
            ticker.poke()

        self._turn = turn = TimeSlices()
        self._compactor = Compactor(ledger, turn, settings.journal.history_bytes)
        memory = ClientMemory(settings.limits)
        admission = Admission(journal, turn, memory)
        self._requests = requests = Service(
            ledger, admission, durability=settings.fsync, changed=changed, resumed=dispatcher.resumed,
            about=self._about,
        )  # fmt: skip
        self._subscriptions = subscriptions = Subscriptions(ledger, turn, settings.limits)
        self._server = Server(
            requests, subscriptions, memory, settings.limits, access_of(settings), self._tls, overflow,
            self.share.turned_away_max,
        )  # fmt: skip
        self._recorded = Debounce(ticker.poke)
        ledger.changed = self._recorded.ask
        journal.on_durable += [
            turn.committed, memory.committed, lambda lsn: dispatcher.committed(), subscriptions.committed,
        ]  # fmt: skip

    async def run(self) -> int:
        """Serve until a signal or a failure of the storage; return the exit code."""
        self._make_parts()
        listeners, names = await open_listeners(
            self.settings.listen, self._turn, self._overflow, int(self.settings.unix_mode, 8)
        )
        work = trio.CancelScope()  # parts that make records; clients are answered beyond its end
        async with trio.open_nursery() as outer:
            outer.start_soon(self._signals, outer, work)
            await outer.start(self._keep_journal, work)
            await outer.start(self._subscriptions.run)
            try:
                with work:
                    async with trio.open_nursery() as inner:
                        await inner.start(self._compactor.run)
                        await self._catch_up()
                        tasks = self.engine.live  # some may be delivered before the port is open
                        for part in (self._sender.arrivals, self._dispatcher, self._ticker):
                            await inner.start(part.run)
                        for listener, kind in listeners:
                            await outer.start(trio.serve_listeners, self._server.host(kind), [listener])
                        inner.start_soon(self._recorded.run, self.journal.flush)
                        await inner.start(self._hangups)
                        inner.start_soon(_close_idle, self._transport)
                        inner.start_soon(self._deaths.run)
                        alive_ns = lambda: self._ticker.alive_ns  # noqa: E731
                        inner.start_soon(self._notifier.watch, alive_ns, self.clock.elapsed_ns)
                        self._say_ready(names, tasks)
            except* StorageFailed:
                pass  # `_keep_journal` logs it and sets the exit code
            await self._server.end(self._end_journal)
            outer.cancel_scope.cancel()
        await self._transport.aclose()
        self._timer.close()
        self._overflow.close()
        _log.info("stopped exit=%d commits=%d", self._exit_code, self.journal.commits)
        return self._exit_code

    async def _catch_up(self) -> None:
        """Commit what must be on disk before clients are served and receivers called."""
        await note_boot(self._ledger)
        await end_stopped(self._ledger, self._recovered.stopping)

    async def _keep_journal(
        self, work: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the journal beside everything else; if its storage fails, all work ends."""
        try:
            await self.journal.run(task_status)
        except StorageFailed as error:
            _log.critical("storage failed, stopping: %s", error)
            self._exit_code = error.exit_code
            self._server.fail(error)
            work.cancel()

    async def _end_journal(self) -> None:
        """Commit what waits and stop cleanly; `_keep_journal` reports a failure."""
        with contextlib.suppress(StorageFailed):
            await self.journal.close()
        await self._subscriptions.end()

    async def _signals(self, outer: trio.Nursery, work: trio.CancelScope) -> None:
        """Drain at the first SIGTERM or SIGINT, end at once at the second."""
        with trio.open_signal_receiver(*process.ENDING) as received:
            self.listening = True
            async for number in received:
                if self._requests.admission.draining:
                    _log.warning("second signal, ending at once")
                    logging.shutdown()  # writes what the log's queue holds, within END_S
                    os._exit(128 + number)
                self._requests.admission.draining = True
                self._notifier.stopping()
                name, in_flight = signal.Signals(number).name, self._dispatcher.in_flight
                _log.info("draining signal=%s in_flight=%d", name, in_flight)
                outer.start_soon(self._drain, work)

    async def _hangups(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the settings again at each SIGHUP; if the file is bad, the old ones stay."""
        before = self.given
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            task_status.started()
            async for _ in received:
                if self._reload is None:
                    continue
                try:
                    with self._notifier.reloading():
                        settings = self._reload()
                        check_served(settings)
                        tls = tls_of(settings)
                except SettingsError as error:
                    _log.error("settings not reloaded, the old ones stay: %s", error)
                    continue
                self._ledger.policy = policy_of(settings, self._rule)
                self._sender.keys_of = keys_of(settings)
                self._dispatcher.reconfigure(queue_of(settings), window_of(settings))
                self._server.reload(access_of(settings), tls)
                _log.info("settings reloaded %s", reload_line(self.given, before, settings))
                before = settings

    async def _drain(self, work: trio.CancelScope) -> None:
        """Wait up to ``drain_ms`` for what is under way; then all work ends, and with it the daemon."""
        await drain(self._dispatcher, self._requests.bulk, self.settings.limits.drain_ms)
        work.cancel()

    def _about(self) -> dict[str, object]:
        """The part of ``stats`` that does not come from the engine."""
        journal, compactor, late = self.journal, self._compactor, self._ticker.lateness.shown()
        return {
            "connections": self._server.connections,
            "journal": {
                "bytes": journal.bytes,
                "live_bytes": compactor.live_bytes,
                "commits": journal.commits,
                "compactions": compactor.done,
                "carried": compactor.carried,
                "slow_syncs": journal.pace.slow_syncs,
                "sync_ms_max": journal.pace.sync_ms_max,
            },
            "lateness_ms": {name: -(-us // 1000) for name, us in late.items() if name != "p999"},
            "lateness_us": late,
            "lapsed": self._dispatcher.lapses,
            "clock_steps": self._ticker.steps,
            "uptime_ms": self._since_began_ms(),
        }

    def _since_began_ms(self) -> int:
        return (self.clock.elapsed_ns() - self._began_ns) // NS_PER_MS

    def _say_ready(self, names: list[str], tasks: int) -> None:
        trio.lowlevel.spawn_system_task(
            say,
            f"wheeltimer {__version__} ready listen={','.join(names)} tasks={tasks}"
            f" recovered_ms={self._recovered_ms} data={self.settings.data_dir}",
        )
        self._notifier.ready()
        if self.settings.fsync == "off":
            _log.warning("fsync is off: a power cut loses acknowledged tasks")


async def _close_idle(transport: Transport | ProxyTransport) -> None:
    """Close kept connections that were idle for too long, also while no callback is sent."""
    while True:
        await trio.sleep(IDLE_LOOK_S)
        transport.close_idle()


# -- drain: what is under way may end, for a limited time --------------------------------------------------

CUT_GRACE_S: Final = 1.0  # for the replies of requests that are cut short; bounded, as a disk may hang
_log = logging.getLogger("wheeltimer")


async def drain(dispatcher: Dispatcher, bulk: Scans, drain_ms: int) -> None:
    """Start no attempt, and return once attempts in flight and requests that change groups have ended.

    After ``drain_ms`` such a request replies with the count of what it has done, and this returns although
    attempts are in flight: the caller ends those.
    """
    with trio.move_on_after(drain_ms / 1000) as patience:
        await dispatcher.drain()
        await bulk.quiet()
    bulk.cut = True  # also for requests that begin from here on
    if patience.cancelled_caught:
        _log.warning("drain cut attempts in_flight=%d requests=%d", dispatcher.in_flight, bulk.changing)
        with trio.move_on_after(CUT_GRACE_S):
            await bulk.quiet()
