"""One stock ``httpx.AsyncClient`` on Trio that posts what a callback is, to compare with.

``python -m benchmarks.stock CONNECTIONS SECONDS URL...`` prints ``ready``, waits for a line and then answers
``{"posts": N, "seconds": S, "cpu_s": C}``.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import httpx
import trio

BODY = b'{"order":                   1,"note":"0123456789"}'
HEADERS = {
    "content-type": "application/json",
    "webhook-id": "wt_01234567890123456789012345",
    "webhook-timestamp": "1700000000",
    "wheeltimer-id": "timed-00000000000001",
    "wheeltimer-queue": "timed",
    "wheeltimer-attempt": "1",
    "wheeltimer-due": "1700000000000",
    "wheeltimer-late-ms": "0",
    "wheeltimer-version": "1",
}


async def post(connections: int, seconds: float, urls: list[str]) -> dict[str, float]:
    """As many posts as ``connections`` workers make in ``seconds``, after one to each URL."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    posts = 0
    turn = itertools.cycle(urls)

    async def work() -> None:
        nonlocal posts
        while time.perf_counter() < until:
            reply = await client.post(next(turn), content=BODY, headers=HEADERS)
            assert reply.status_code == 200, reply
            posts += 1

    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:
        for url in urls:
            await client.post(url, content=BODY, headers=HEADERS)
        began, cpu_s = time.perf_counter(), time.process_time()
        until = began + seconds
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(work)
        return {
            "posts": posts, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_s,
        }  # fmt: skip


if __name__ == "__main__":
    print("ready", flush=True)
    if sys.stdin.readline():
        print(json.dumps(trio.run(post, int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])), flush=True)
