"""Minutes of everything at once: nothing lost, nothing early, none called after an acknowledged cancel, and
memory that stays where it was.

The real daemon gets 2,000 mixed operations a second from an open loop: whether it answers or not, the next
ones are sent when their time has come. Four of five tasks are cancelled before they are due; the others are
delivered, fail, are polled, expire, are moved, replaced, finished, redriven, run into a slow receiver and
into one that is not there, with hooks (``soak.py`` has the kinds). Each story is judged when it is over and
then dropped, so that the test's own memory stays small too; whatever comes for it later is an error.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import socket
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.campaign import tried
from tests.process.daemon import START_S, Connection, Daemon, Home
from tests.process.receiver import Receiver
from tests.process.soak import Planner, Request, Step, Story

RATE = 2_000  # operations a second
SECONDS, SECONDS_THOROUGH = 60, 600
KEEP_DONE, KEEP_DEAD = 10_000, 1_000  # both are full long before the middle
CONFIG = f"[limits]\nkeep_done_max = {KEEP_DONE}\nkeep_dead_max = {KEEP_DEAD}\n"
TICK_S = 0.005  # how often the writer sends
REST_S = 5.0  # a story that is over is judged so long after: what comes too late is not missed
TAIL_S = 150.0  # for the last stories to end; a destination that is held takes its 30 s
READS = 0.06  # the share of operations that only look
MEMORY_SHARE_MAX = 0.05

_page_bytes = os.sysconf("SC_PAGE_SIZE")


class Ear(Receiver):
    """A receiver whose callbacks are handed on and not kept."""

    def __init__(self, hear: Callable[[Request], None]) -> None:
        self._hear = hear
        super().__init__()

    def _read(self) -> None:
        for line in self._out:
            told = msgspec.json.decode(line)
            if "answered" not in told:
                self._hear(told)


class Talk:
    """One connection of the writer. Replies come in the order of the requests."""

    def __init__(self, daemon: Daemon, answered: Callable[[Request, list[Story], Request], None]) -> None:
        self.connection = daemon.connect()
        self.waiting: deque[tuple[Request, list[Story]]] = deque()
        self._answered = answered
        self._buffer: list[bytes] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def say(self, request: Request, stories: list[Story]) -> None:
        self.waiting.append((request, stories))
        self._buffer.append(msgspec.json.encode(request) + b"\n")

    def flush(self) -> None:
        if self._buffer:
            self.connection.send_bytes(b"".join(self._buffer))
            self._buffer.clear()

    def _listen(self) -> None:
        while (line := self.connection.line()) is not None:
            self._answered(*self.waiting.popleft(), msgspec.json.decode(line))

    def close(self) -> None:
        self.connection.half_close()
        self._thread.join(START_S)
        self.connection.close()


class Soak:
    """The whole test: what is known of each story, who asks, who listens, what was measured."""

    def __init__(self, daemon: Daemon, seed: int, urls: dict[str, str]) -> None:
        self.daemon = daemon
        self.planner = Planner(seed, urls)
        self.chance = random.Random(seed + 1)
        self.stories: dict[int, Story] = {}
        self.problems: list[str] = []
        self.asked: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.judged = self.forgotten = self.callbacks = 0
        self.late_ms: list[int] = []  # of first attempts, at the receiver
        self.behind_s = 0.0  # the most that the writer was behind its plan
        self.memory: list[tuple[float, int]] = []  # (seconds since the start, resident bytes)
        self._steps: list[tuple[float, int, Talk, Step, list[Story]]] = []  # a heap
        self._looks: list[tuple[float, int, bool]] = []  # a heap: when to look, at whom, whether it was over
        self._count = 0

    # -- who listens: each in a thread -------------------------------------------------------------

    def hear_callback(self, told: Request) -> None:
        self.callbacks += 1
        number, _, hook = told["id"].partition("/")
        story = self._story(int(number), "callback")
        if hook:
            story.hooks.append((told["id"], json.loads(told["body"])))
            return
        story.calls.append((told["version"], told["attempt"], told["due"], told["wall_ns"]))
        if told["attempt"] == 1 and story.to == "good":
            self.late_ms.append(told["wall_ns"] // 1_000_000 - told["due"])

    def hear_events(self, connection: Connection) -> None:
        while (line := connection.line()) is not None:
            event = msgspec.json.decode(line)
            if "event" not in event:
                self.problems.append(f"the subscriber was told {event}")
                return
            number, _, hook = event["id"].partition("/")
            if not hook:
                self._hear_event(self._story(int(number), event["event"]), event)
            elif event["event"] in ("task.dead", "task.expired", "task.cancelled", "attempt.failed"):
                self.problems.append(f"a hook had {event}")

    def _hear_event(self, story: Story, event: dict[str, Any]) -> None:
        room, _, word = event["event"].partition(".")
        version = event["version"]
        if word in ("scheduled", "rescheduled"):
            story.told.append((version, event["due"]))
        elif word == "started":
            story.started.append((version, event["attempt"]))
        elif room == "attempt":
            story.outcomes.append((version, event["attempt"], word))
        else:
            story.ends.append((version, event["state"], event["attempts"]))

    def _story(self, number: int, what: str) -> Story:
        story = self.stories.get(number)
        if story is None:
            self.problems.append(f"task {number}: a {what} for what was never asked, or long over")
            return Story(number, "delivered")
        return story

    def hear_reply(self, request: Request, stories: list[Story], reply: Request) -> None:
        at_ns, op = time.time_ns(), request["op"]
        for story in stories:
            story.unanswered -= 1
        if not stories:  # a read
            if not reply["ok"] and reply["error"] != "not_found":
                self.problems.append(f"{request} was answered {reply}")
            return
        first = stories[0]
        # What comes when the task is due, as planned or because this machine is busy, may be too late.
        raced = any(
            each.raced or (each.dues and (each.dues[-1] or 0) * 1_000_000 <= at_ns) for each in stories
        )
        fine = reply["ok"] or (raced and reply["error"] in ("too_late", "not_found"))
        if op == "redrive":
            fine = reply["ok"] or reply["error"] in ("conflict", "not_found")  # not dead yet, or forgotten
            if reply["ok"]:
                first.dues.append(None)
        elif reply["ok"] and op in ("schedule", "reschedule"):
            again = reply.get("duplicate", False)
            if not again:
                first.dues.append(reply["due"])
            first.forgotten |= raced and reply["version"] == 1 and len(first.dues) > 1
            fine = first.forgotten or (
                reply["version"] == len(first.dues) and (not again or first.kind == "asked twice")
            )
        elif reply["ok"] and op == "cancel":
            all_stopped = reply["cancelled"] == len(stories)
            if all_stopped:
                for story in stories:
                    story.stopped_ns = at_ns
            fine = raced or all_stopped
        elif reply["ok"]:
            fine = raced or reply["finished"] == 1
        if raced:
            for story in stories:
                story.raced = True
        if not fine:
            self.problems.append(f"{first.kind}: {request} was answered {reply}")

    # -- who asks: an open loop --------------------------------------------------------------------

    def run(self, seconds: int) -> None:
        """Ask for so long at the full rate, then only what the stories still need; judge them all."""
        talks = [Talk(self.daemon, self.hear_reply) for _ in range(2)]
        total, sent, began_s, measured_s = RATE * seconds, 0, time.monotonic(), 0.0
        while sent < total or self._steps or self.stories:
            now_s = time.monotonic() - began_s
            wanted = min(total, int(now_s * RATE))
            if sent < wanted:
                self.behind_s = max(self.behind_s, (wanted - sent) / RATE)
            sent += self._ask_planned(now_s, wanted - sent if sent < total else 1 << 30)
            while sent < wanted:
                sent += self._ask_more(now_s, talks)
            for talk in talks:
                talk.flush()
            if now_s - measured_s >= 0.25:
                measured_s = now_s
                self._judge(now_s)
                if now_s <= seconds:
                    self.memory.append((now_s, resident_bytes(self.daemon)))
                elif now_s > seconds + TAIL_S:
                    break
            time.sleep(max(0.0, TICK_S - (time.monotonic() - began_s - now_s)))
        for talk in talks:
            talk.close()
            assert not talk.waiting, f"{len(talk.waiting)} requests were never answered"
        for story in list(self.stories.values()):
            self._end(story)

    def _ask_planned(self, now_s: float, most: int) -> int:
        sent = 0
        while sent < most and self._steps and self._steps[0][0] <= now_s:
            _, _, talk, step, stories = heapq.heappop(self._steps)
            self._ask(talk, step.request, stories)
            sent += 1
        return sent

    def _ask_more(self, now_s: float, talks: list[Talk]) -> int:
        talk = self.chance.choice(talks)
        if self.stories and self.chance.random() < READS:
            self._ask(talk, self._read(), [])
            return 1
        sent, some = 0, self.planner.next()
        for story, (first, *rest) in some:
            self.stories[story.number] = story
            story.unanswered += 1
            self._ask(talk, first.request, [story])
            sent += 1
            last_ms = first.request["delay"]
            for step in rest:
                self._count += 1
                members = [each for each, _ in some] if "group" in step.request else [story]
                for each in members:
                    each.unanswered += 1
                heapq.heappush(self._steps, (now_s + step.at_ms / 1000, self._count, talk, step, members))
                last_ms = max(last_ms, step.at_ms, step.at_ms + step.request.get("delay", 0))
            heapq.heappush(self._looks, (now_s + last_ms / 1000 + 2, story.number, False))
        return sent

    def _read(self) -> Request:
        chance = self.chance.random()
        if chance < 0.02:
            return {"op": "list", "queue": "q1", "limit": 20}
        if chance < 0.04:
            return {"op": self.chance.choice(("stats", "forecast"))}
        number = self.chance.randrange(1, self.planner.made + 1)
        return {"op": "get", "id": str(number), "queue": f"q{number % 8}"}

    def _ask(self, talk: Talk, request: Request, stories: list[Story]) -> None:
        self.asked[request["op"]] += 1
        talk.say(request, stories)

    def report(self, seed: int, seconds: int, cpu_s: float) -> str:
        late_ms, count = sorted(self.late_ms), sum(self.asked.values())
        return (
            f"soak: seed={seed} operations={count} in {seconds} s and the tail, the writer behind by at most"
            f" {self.behind_s:.2f} s{', IT COULD NOT KEEP UP' if self.behind_s > 1 else ''}\n"
            f"soak: tasks={self.judged} forgotten={self.forgotten} callbacks={self.callbacks}"
            f" ends={dict(self.ends)} processor_s={cpu_s:.1f}\n"
            f"soak: late_ms p50={late_ms[len(late_ms) // 2]} p99={late_ms[len(late_ms) * 99 // 100]}"
            f" max={late_ms[-1]}"
        )

    # -- what became of it -------------------------------------------------------------------------

    def _judge(self, now_s: float) -> None:
        """The stories whose time has come: one that is over rests for a while before it is judged."""
        while self._looks and self._looks[0][0] <= now_s:
            _, number, rested = heapq.heappop(self._looks)
            story = self.stories[number]
            if story.over and rested:
                self._end(story)
            else:
                heapq.heappush(self._looks, (now_s + REST_S, number, story.over))

    def _end(self, story: Story) -> None:
        del self.stories[story.number]
        self.judged += 1
        self.forgotten += story.forgotten
        self.ends[story.ends[-1][1] if story.ends else "none"] += 1
        self.problems += [f"task {story.number}: {what}: {story}" for what in story.judge()]


def resident_bytes(daemon: Daemon) -> int:
    return int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * _page_bytes


def around(memory: list[tuple[float, int]], seconds: int, share: tuple[float, float]) -> float:
    """The median of what was measured in that part of the run."""
    return statistics.median(size for at_s, size in memory if share[0] <= at_s / seconds <= share[1])


def test_a_soak_loses_nothing_and_its_memory_stays_where_it_was(
    home: Home, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("WT_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed={seed}; WT_SEED={seed} repeats it")
    seconds = SECONDS_THOROUGH if thorough else SECONDS
    daemon = home.start(config=CONFIG)
    heard: list[Soak] = []
    with (
        socket.socket() as nobody, Ear(lambda told: heard[0].hear_callback(told)) as good,
        Ear(lambda told: heard[0].hear_callback(told)) as slow, daemon.connect() as events,
    ):  # fmt: skip
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        down = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        urls = {"good": good.url(""), "slow": slow.url(""), "down": down}
        soak = Soak(daemon, seed, urls)
        heard.append(soak)
        events.done("subscribe")
        listener = threading.Thread(target=soak.hear_events, args=(events,))
        listener.start()
        soak.run(seconds)
        with daemon.connect() as client:
            tasks = client.done("stats")["tasks"]
        cpu_s = daemon.cpu_ns() / 1e9
        ended = daemon.stop()
        listener.join(START_S)
    middle, end = (around(soak.memory, seconds, share) for share in ((0.45, 0.55), (0.9, 1.0)))
    with capsys.disabled():
        print("\n" + soak.report(seed, seconds, cpu_s))
        print(
            f"soak: resident {middle / 1e6:.1f} MB in the middle, {end / 1e6:.1f} MB at the end"
            f" ({100 * (end / middle - 1):+.1f} %)"
        )
    tried("soaked tasks", soak.judged, sum("lost" in problem for problem in soak.problems))
    assert not soak.problems, "\n".join([f"{len(soak.problems)} problems", *soak.problems[:10]])
    assert "Traceback" not in ended.log, ended.log
    assert sum(soak.asked.values()) >= RATE * seconds
    assert soak.judged == soak.planner.made
    assert tasks["done"] + tasks["cancelled"] == KEEP_DONE, tasks
    assert tasks["dead"] + tasks["expired"] == KEEP_DEAD, tasks
    assert end <= middle * (1 + MEMORY_SHARE_MAX), f"{middle} bytes in the middle, {end} at the end"
