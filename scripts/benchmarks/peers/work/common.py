"""Code of all Python peers: the clocks, and the two lists between the processes. It runs in their environments."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import redis.asyncio

IN_FLIGHT = 100


class Tally:
    """Counts the jobs that a worker has run, with their lateness; reports when all have run."""

    def __init__(self, url: str, count: int) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=None)
        self._count = count
        self._late_us: list[int] = []

    async def ready(self) -> None:
        await self._redis.rpush("bench:ready", "1")

    async def note(self, due_ms: int) -> None:
        self._late_us.append(time.time_ns() // 1000 - due_ms * 1000)
        if len(self._late_us) == self._count:
            await self._redis.rpush("bench:done", json.dumps(self._late_us))


async def send_all(
    send: Callable[[int], Awaitable[object]], url: str, count: int, delay_ms: int, every_ms: float, given_s: int
) -> None:
    """Send ``count`` jobs, each with its due time in ms, some at a time; wait for all, and print time and cost."""
    listener = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    began, used_s, base_ms = time.perf_counter(), time.process_time(), time.time_ns() // 1_000_000
    for first in range(0, count, IN_FLIGHT):
        now_ms = base_ms if every_ms else time.time_ns() // 1_000_000
        numbers = range(first, min(first + IN_FLIGHT, count))
        await asyncio.gather(*(send(now_ms + delay_ms + round(number * every_ms)) for number in numbers))
    answer = await listener.blpop(["bench:done"], given_s)
    if answer is None:
        sys.exit(f"not all had run after {given_s} s")
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - used_s
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "late_us": json.loads(answer[1])}))
    await listener.aclose()


def arguments() -> tuple[str, str, int, int, int, float, int]:
    """The role, URL, number of jobs and concurrency; for a client also first delay and distance in ms, and seconds."""
    role, url, count, concurrency, *rest = sys.argv[1:]
    delay_ms, every_ms, given_s = rest or ("0", "0", "0")
    return role, url, int(count), int(concurrency), int(delay_ms), float(every_ms), int(given_s)
