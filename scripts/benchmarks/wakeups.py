"""Three ways in which workers may hear of an entry in one of many partitions: why each partition has a blocking read.

- ``blocking``: a blocking read for each partition, as durasleep does. Redis gives an entry to one worker that waits.
- ``together``: one blocking read of all partitions. A cluster refuses it, for they are in different slots.
- ``subscribed``: one connection to each node, which hears by ``SSUBSCRIBE`` of each entry that a script adds. All
  workers hear of it, and all but one of them read in vain.

There is no durasleep in it: entries are added at random instants to 16 streams of one server, and connections of this
process stand for the workers. Each way counts its connections, how late an entry arrives, and the server's time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio

from scripts.benchmarks.bench import Bench, bench_on, cpu_s
from scripts.benchmarks.report import Report, percentile

PARTITIONS = 16
WORKERS = (1, 4, 16)
GROUP = "g"
BLOCK_MS = 5_000
READ_MAX = 10
SETTLE_S = 0.5
ADD = "redis.call('XADD', KEYS[1], '*', 'at', ARGV[1])"
ADD_AND_PUBLISH = f"{ADD} redis.call('SPUBLISH', ARGV[2], '')"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rate", type=int, default=200, metavar="PER_S", help="entries a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="for how long, each way (%(default)s)")


async def measure(options: Namespace) -> Report:
    what = f"{options.rate} entries a second in {PARTITIONS} partitions, for {options.seconds:g} s each way"
    async with bench_on(options.server) as bench:
        report = Report("wakeups", bench.name, what)
        for workers in WORKERS:
            for way in WAYS:
                await _measure_way(bench, report, way, workers, options)
    return report


async def _measure_way(bench: Bench, report: Report, way: str, workers: int, options: Namespace) -> None:
    await bench.redis.flushall()
    for partition in range(PARTITIONS):
        await bench.redis.xgroup_create(_queue(partition), GROUP, mkstream=True)
    late_ms: list[float] = []
    add = bench.redis.register_script(ADD_AND_PUBLISH if way == "subscribed" else ADD)
    async with AsyncExitStack() as stack:

        async def connect() -> Any:
            return await stack.enter_async_context(
                redis.asyncio.Redis.from_url(bench.url, protocol=2, socket_timeout=None)
            )

        others = len(await bench.redis.client_list())
        listening = [
            asyncio.ensure_future(one) for worker in range(workers) for one in WAYS[way](f"w{worker}", connect, late_ms)
        ]
        await asyncio.sleep(SETTLE_S)
        connections = len(await bench.redis.client_list()) - others
        before, began = cpu_s(bench.server_process), time.perf_counter()
        count = round(options.rate * options.seconds)
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / options.rate - time.perf_counter()))
            partition = random.randrange(PARTITIONS)
            await add(keys=[_queue(partition)], args=[repr(time.perf_counter()), f"{partition}"])
        while len(late_ms) < count:
            await asyncio.sleep(0.01)
        used_s = cpu_s(bench.server_process) - before
        for one in listening:
            one.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    name = f"{way}_{workers}"
    report.add(f"{name}_connections", connections)
    report.add(f"{name}_p50_ms", statistics.median(late_ms))
    report.add(f"{name}_p99_ms", percentile(late_ms, 0.99))
    report.add(f"{name}_server_us", used_s * 1e6 / count)


Connect = Callable[[], Awaitable[Any]]


def _blocking(worker: str, connect: Connect, late_ms: list[float]) -> list[Awaitable[None]]:
    return [_block(worker, connect, late_ms, [partition]) for partition in range(PARTITIONS)]


def _together(worker: str, connect: Connect, late_ms: list[float]) -> list[Awaitable[None]]:
    return [_block(worker, connect, late_ms, range(PARTITIONS))]


def _subscribed(worker: str, connect: Connect, late_ms: list[float]) -> list[Awaitable[None]]:
    return [_subscribe(worker, connect, late_ms)]


WAYS = {"blocking": _blocking, "together": _together, "subscribed": _subscribed}


async def _block(worker: str, connect: Connect, late_ms: list[float], partitions: Any) -> None:
    client, new = await connect(), {_queue(partition): ">" for partition in partitions}
    while True:
        _take(await client.xreadgroup(GROUP, worker, new, count=1, block=BLOCK_MS), late_ms)


async def _subscribe(worker: str, connect: Connect, late_ms: list[float]) -> None:
    client, listener = await connect(), await connect()
    connection = listener.connection_pool.make_connection()
    try:
        await connection.connect()
        await connection.send_command("SSUBSCRIBE", *range(PARTITIONS))
        while True:
            kind, partition, _ = await connection.read_response()
            if kind == b"smessage":
                new = {_queue(int(partition)): ">"}
                _take(await client.xreadgroup(GROUP, worker, new, count=READ_MAX), late_ms)
    finally:
        await connection.disconnect()


def _take(found: Any, late_ms: list[float]) -> None:
    now = time.perf_counter()
    late_ms += [(now - float(fields[b"at"])) * 1000 for _, entries in found or () for _, fields in entries]


def _queue(partition: int) -> str:
    return f"queue:{partition}"
