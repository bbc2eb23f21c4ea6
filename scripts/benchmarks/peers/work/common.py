"""Code of all Python peers: the clocks, and the two lists between the processes. It runs in their environments."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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


async def send_all(send: Callable[[int, int], Awaitable[object]], given: Arguments) -> None:
    """Send all jobs, each with its due time in ms and its key, some at a time; wait for all; print time and cost."""
    listener = redis.asyncio.Redis.from_url(given.url, socket_timeout=None)
    began, used_s, base_ms = time.perf_counter(), time.process_time(), time.time_ns() // 1_000_000
    for first in range(0, given.count, IN_FLIGHT):
        first_ms = given.delay_ms + (base_ms if given.every_ms else time.time_ns() // 1_000_000)
        numbers = range(first, min(first + IN_FLIGHT, given.count))
        await asyncio.gather(*(send(first_ms + round(n * given.every_ms), n % max(given.keys, 1)) for n in numbers))
    answer = await listener.blpop(["bench:done"], given.given_s)
    if answer is None:
        sys.exit(f"not all had run after {given.given_s} s")
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - used_s
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "late_us": json.loads(answer[1])}))
    await listener.aclose()


@dataclass(frozen=True)
class Arguments:
    """What a peer's worker and client are started with; the last three are the client's."""

    role: str
    url: str
    count: int
    concurrency: int
    keys: int
    """Job n has key n modulo this number; 0 for no limit."""
    held: int
    """Jobs of one key that may run at a time."""
    delay_ms: int = 0
    """Of the first job."""
    every_ms: float = 0.0
    """Between two due times."""
    given_s: int = 0


def arguments() -> Arguments:
    role, url, *numbers = sys.argv[1:]
    count, concurrency, keys, held = map(int, numbers[:4])
    delay_ms, every_ms, given_s = numbers[4:] or ("0", "0", "0")
    return Arguments(role, url, count, concurrency, keys, held, int(delay_ms), float(every_ms), int(given_s))
