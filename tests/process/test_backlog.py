"""A start with a great many overdue tasks for one destination, and fresh ones for another."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.process.daemon import Daemon, Home, until
from tests.process.receiver import Callback, Receiver

LARGE = "[journal]\nsegment_bytes = 67108864\n"
MIB = 1 << 20
FOLLOWED = 150_000  # callbacks of the backlog that are waited for; the test remembers each


def rss_mib(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmRSS")


def percentile(values: list[int], permille: int) -> int:
    return sorted(values)[min(len(values) - 1, len(values) * permille // 1000)]


def test_backlog_at_start_goes_out_in_due_order_and_delays_nobody(home: Home, thorough: bool) -> None:
    count, fresh_count = (1_000_000, 1000) if thorough else (20_000, 200)
    daemon = home.start("--fsync", "off", config=LARGE)
    with Receiver() as slow, Receiver() as fast:
        with daemon.connect() as client:
            # The first must still lie ahead when the last is in, so that none is sent before the restart.
            ahead_ms = 3000 + count // 20
            start_ms = client.done("ping")["now"] + ahead_ms
            url = slow.url("/slow/20")
            for first in range(0, count, 2000):
                lines = [
                    json.dumps({
                        "op": "schedule", "id": f"{number * 7919 % count:07}", "queue": "old", "url": url,
                        "at": start_ms + number * 7919 % count // 20,
                    })
                    for number in range(first, min(first + 2000, count))
                ]  # fmt: skip
                client.send_bytes("\n".join(lines).encode() + b"\n")
                for reply in client.replies(len(lines)):
                    assert reply["ok"], reply
            assert client.done("stats")["tasks"]["scheduled"] == count
        daemon.stop()
        assert not slow.callbacks
        while time.time() * 1000 < start_ms + count // 20 + 1100:  # all overdue by more than a second
            time.sleep(0.1)
        daemon = home.start("--fsync", "off", config=LARGE)
        assert daemon.tasks == count
        sizes = [rss_mib(daemon)]
        with daemon.connect() as client:
            for number in range(fresh_count):
                client.done("schedule", id=f"fresh-{number}", url=fast.url(), delay=20)
                time.sleep(0.002)
                if number % 50 == 0:
                    sizes.append(rss_mib(daemon))
            fresh = fast.wait(lambda all_: len(all_) == fresh_count)
            during = len(slow.callbacks)
            for _ in until(within_s=3000, every_s=0.5):
                sizes.append(rss_mib(daemon))
                if len(slow.callbacks) >= min(count, FOLLOWED):
                    break
        late_ms = [each.wall_ms - each.due for each in fresh]
        print(f"backlog {count}: rss MiB at start {sizes[0]}, most {max(sizes)}, end {sizes[-1]};"
              f" of the backlog {during} sent while {fresh_count} fresh: late p50 {percentile(late_ms, 500)}"
              f" p99 {percentile(late_ms, 990)} max {max(late_ms)} ms")  # fmt: skip
        assert during < count, "the backlog was gone before the fresh ones: nothing was tried"
        assert max(sizes) - sizes[0] < 64 + count * 200 // MIB, "memory follows the backlog"
        assert percentile(late_ms, 990) < 2000
        _check_order(slow.callbacks[: min(count, FOLLOWED)])
        daemon.kill()


def _check_order(callbacks: list[Callback]) -> None:
    """In due order, as far as attempts of one window may pass each other on their way."""
    assert len({each.id for each in callbacks}) == len(callbacks)
    numbers = [int(each.id) for each in callbacks]
    worst = max(abs(number - at) for at, number in enumerate(numbers))
    print(f"out of order by at most {worst}")
    assert worst <= 2 * 128 + 20, "20 are due in the same millisecond"
