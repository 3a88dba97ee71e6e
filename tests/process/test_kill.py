"""kill -9 at random moments, again and again, under writers that pipeline and callbacks that go out.

What must hold after the last restart: everything that was acknowledged is delivered, nothing is early,
and a callback is repeated only where its first attempt was in flight or ended in the last commit.

The bound on repeats is read from the files, not guessed from a clock. After each kill the journal says
which attempts have a recorded outcome: none of those may ever be made again. Of the others, the last
frame but one says when it was written: what was decided before that is in it or in the last one. So an
attempt that is repeated although the receiver had answered it before that instant was still in flight
for the daemon (the answer unread), and of those there are at most ``CONCURRENCY``; all the rest ended in
the last commit, which the kill cut off.
"""

from __future__ import annotations

import os
import random
import threading
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice, pairwise
from pathlib import Path

import msgspec
import pytest

from tests.campaign import tried
from tests.process.daemon import START_S, Connection, Daemon, Home, Reply
from tests.process.receiver import Callback, Receiver
from wheeltimer.core.records import Attempted, decode_all
from wheeltimer.errors import StorageFailed
from wheeltimer.journal_tools.reader import read

KILLS = 100
ACKNOWLEDGED_LEAST = 100_000
WRITERS = 4
DEPTH = 250  # requests of one writer under way
ROUND_MAX = 4_000  # a round is killed after 1 to so many acknowledgements, and some ms
CONCURRENCY = 32
DELAY_MS_MAX = 800
CONFIG = f"concurrency = {CONCURRENCY}\n[journal]\nsegment_bytes = 8388608\nhistory_bytes = 0\n"


@dataclass
class Writer:
    """One connection's worth of requests; what is not answered is sent again, with its id, next time."""

    name: str
    chance: random.Random
    url: str
    acknowledged: dict[str, int] = field(default_factory=dict)  # id -> due, as the daemon answered
    unanswered: list[Reply] = field(default_factory=list)
    refused: list[Reply] = field(default_factory=list)
    made: int = 0

    def requests(self, more: bool) -> Iterator[Reply]:
        again, self.unanswered = self.unanswered, []
        yield from again
        while more:
            self.made += 1
            delay = self.chance.randrange(DELAY_MS_MAX)
            yield {"op": "schedule", "id": f"{self.name}-{self.made}", "url": self.url, "delay": delay}

    def run(self, address: str, on_answer: Callable[[], None]) -> None:
        """Write until the daemon dies, with DEPTH requests unanswered."""
        self.write(address, self.requests(more=True), on_answer)

    def run_out(self, address: str) -> None:
        """Send again what was not answered, and nothing new."""
        self.write(address, self.requests(more=False), lambda: None)
        assert not self.unanswered

    def write(self, address: str, requests: Iterator[Reply], on_answer: Callable[[], None]) -> None:
        waiting: dict[str, Reply] = {}
        try:
            with Connection(address) as client:
                while True:
                    batch = list(islice(requests, DEPTH - len(waiting)))
                    waiting |= {request["id"]: request for request in batch}
                    if not waiting:
                        return
                    client.send(*batch)
                    for _ in range(min(len(waiting), DEPTH // 4)):
                        line = client.line()
                        if line is None:
                            raise ConnectionResetError
                        self.answered(waiting, msgspec.json.decode(line))
                        on_answer()
        except (ConnectionError, AssertionError):
            pass  # killed, perhaps in the middle of a reply
        finally:
            self.unanswered = [*waiting.values(), *self.unanswered]

    def answered(self, waiting: dict[str, Reply], reply: Reply) -> None:
        if reply["ok"]:
            del waiting[reply["id"]]
            self.acknowledged[reply["id"]] = reply["due"]
        else:  # replies come in order, so it is the oldest
            request = waiting.pop(next(iter(waiting)))
            self.refused.append(reply | {"id": request["id"]})


@dataclass
class Life:
    """One daemon from launch to kill, and what the journal said then.

    ``began_ns``: wall time when it could not have sent anything yet, and all that its predecessor had
    sent was read. ``recorded``: ids with an outcome on disk. ``decided_ms``: what was decided before is
    on disk.
    """

    began_ns: int
    recorded: set[str] = field(default_factory=set)
    decided_ms: int = 0


class Campaign:
    """The whole test; a round is killed after at most ``round_max`` acknowledgements, and some ms."""

    def __init__(self, home: Home, receiver: Receiver, seed: int, round_max: int = ROUND_MAX) -> None:
        self.home = home
        self.receiver = receiver
        self.chance = random.Random(seed)
        self.round_max = round_max
        self.writers = [
            Writer(f"w{n}", random.Random(seed * 100 + n), receiver.url()) for n in range(WRITERS)
        ]
        self.lives: list[Life] = []
        self.rounds = self.starts_killed = 0
        self._recorded: set[str] = set()
        self._read_upto_lsn = 0
        self._written_ms = self._written_before_ms = 0  # the last frame, and the one before it

    @property
    def kills(self) -> int:
        return self.rounds + self.starts_killed

    @property
    def acknowledged(self) -> int:
        return sum(len(writer.acknowledged) for writer in self.writers)

    def round(self) -> None:
        """Start, write, kill; sometimes a start is killed first."""
        self.rounds += 1
        if self.chance.random() < 0.25:
            self.starts_killed += 1
            daemon = self.launch()
            threading.Event().wait(self.chance.uniform(0.1, 1.0))
            self.kill(daemon)
        daemon = self.launch()
        daemon.await_ready()
        answers, enough = count(1), self.chance.randrange(1, self.round_max)
        reached = threading.Event()

        def on_answer() -> None:
            if next(answers) == enough:
                reached.set()

        threads = [
            threading.Thread(target=writer.run, args=(daemon.listen[0], on_answer)) for writer in self.writers
        ]
        for thread in threads:
            thread.start()
        assert reached.wait(START_S), daemon.log
        threading.Event().wait(self.chance.uniform(0, 0.02))
        self.kill(daemon)
        for thread in threads:
            thread.join()

    def launch(self) -> Daemon:
        # An interpreter takes longer than this to come up, and the receiver shorter to read what is left.
        self.lives.append(Life(time.time_ns() + 50_000_000))
        return self.home.launch(config=CONFIG)

    def kill(self, daemon: Daemon) -> None:
        """Kill, and look into the journal before anybody else does."""
        daemon.kill()
        try:
            for frame in read(self.home.data, self._read_upto_lsn + 1):
                self._read_upto_lsn = frame.first_lsn + frame.records - 1
                self._written_before_ms, self._written_ms = self._written_ms, frame.clocks.wall_ms
                for record in decode_all(frame.payload):
                    if isinstance(record, Attempted):
                        self._recorded.add(record.key.partition("/")[2])
        except StorageFailed:
            assert not self.acknowledged, "the folder was never made"
        self.lives[-1].recorded = set(self._recorded)
        self.lives[-1].decided_ms = self._written_before_ms

    def finish(self) -> dict[str, list[Callback]]:
        """The last start: everything is written and delivered; callbacks by id."""
        daemon = self.launch()
        daemon.await_ready()
        for writer in self.writers:
            writer.run_out(daemon.listen[0])
        wanted = {id for writer in self.writers for id in writer.acknowledged}
        seen: dict[str, list[Callback]] = defaultdict(list)
        looked_at = 0

        def all_came(callbacks: list[Callback]) -> bool:
            nonlocal looked_at
            for callback in callbacks[looked_at:]:
                seen[callback.id].append(callback)
                wanted.discard(callback.id)
            looked_at = len(callbacks)
            return not wanted

        self.receiver.wait(all_came, 60 + self.acknowledged / 500)
        ended = daemon.stop()
        assert "Traceback" not in ended.log, ended.log
        self.receiver.wait(all_came)
        return seen

    def check(self, seen: dict[str, list[Callback]]) -> None:
        due = {id: due for writer in self.writers for id, due in writer.acknowledged.items()}
        refused = {reply["id"] for writer in self.writers for reply in writer.refused}
        missing = due.keys() - seen.keys()
        assert not missing, f"{len(missing)} acknowledged and never delivered: {sorted(missing)[:5]}"
        invented = seen.keys() - due.keys()
        assert not invented, f"delivered and never acknowledged: {sorted(invented)[:5]}"
        assert not refused, "a journal of this size has room for all of it"
        for id, callbacks in seen.items():
            for callback in callbacks:
                assert callback.due == due[id], f"{id}: due moved by {callback.due - due[id]} ms"
                assert callback.wall_ms >= due[id], f"{id}: {due[id] - callback.wall_ms} ms early"
                assert (callback.attempt, callback.version) == (1, 1), callback
        self.check_repeats(seen)

    def check_repeats(self, seen: dict[str, list[Callback]]) -> None:
        """See the module: which attempts a kill may cause to be made again."""
        unread: Counter[int] = Counter()
        for id, callbacks in seen.items():
            for first, second in pairwise(callbacks):
                made_by, made_again_by = self.life_at(first), self.life_at(second)
                assert made_by < made_again_by, f"{id} was made twice without a kill between"
                before = self.lives[made_again_by - 1]
                assert id not in before.recorded, f"{id} was made again though its outcome was on disk"
                assert first.answered_ns is not None
                if first.answered_ns < self.lives[made_by].decided_ms * 1_000_000:
                    unread[made_by] += 1
        assert all(number <= CONCURRENCY for number in unread.values()), unread

    def life_at(self, callback: Callback) -> int:
        """Which daemon made the callback."""
        return bisect([life.began_ns for life in self.lives], callback.wall_ns) - 1

    def report(self, seed: int, seen: dict[str, list[Callback]]) -> str:
        repeats = sum(len(callbacks) - 1 for callbacks in seen.values())
        return (
            f"seed={seed} kills={self.kills} starts_killed={self.starts_killed}"
            f" acknowledged={self.acknowledged} delivered={len(seen)} repeats={repeats}"
        )


def play(
    campaign: Campaign,
    title: str,
    seed: int,
    kills: int,
    acknowledged: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rounds until there were so many kills and acknowledgements; what must hold then."""
    while campaign.kills < kills or campaign.acknowledged < acknowledged:
        campaign.round()
    seen = campaign.finish()
    with capsys.disabled():
        print(f"\n{title}: {campaign.report(seed, seen)}")
    campaign.check(seen)
    tried(title, campaign.kills)


def test_kill_9_under_pipelining_writers(
    tmp_path: Path, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``ok`` means. Each campaign has a folder of its own: a start reads all that was ever stored."""
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed={seed}; WT_SEED={seed} repeats it")
    for number in range(10 if thorough else 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Home(folder) as home, Receiver() as receiver:
            campaign = Campaign(home, receiver, seed + number)
            play(campaign, "kills", seed + number, KILLS, ACKNOWLEDGED_LEAST, capsys)
