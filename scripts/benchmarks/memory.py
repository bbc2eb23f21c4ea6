"""The cost of a sleeper in Redis: the growth of used_memory with each sleeping workflow, on each kind of server.

The store's own calls put them to sleep, as a client and a worker would (``filling.put_to_sleep``). Each has a short
id, and its client waits for it. Its arguments are one int, nothing, or a text of a given size.
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from durasleep import Durasleep
from scripts.benchmarks import filling
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on, found_kinds
from scripts.benchmarks.report import Report

ALL = "all that are found"
SIZES = (0, 50, 200, 1_000)
FIRST = 512  # they fill whole batches, so that the server has all its buffers before the measurement
NO_SLOWLOG = ("--slowlog-log-slower-than", "-1")  # it would keep copies of our arguments
ONE_INT_MAX = {"redis7": 325.0, "valkey8": 270.0}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=20_000, help="sleepers (%(default)s)")
    parser.set_defaults(server=ALL)


async def measure(options: Namespace) -> Report:
    kinds = found_kinds() if options.server == ALL else [options.server]
    report = Report(
        "memory", ", ".join(kinds), f"bytes for each of {options.count} sleepers, by the bytes of its arguments"
    )
    for kind in kinds:
        report.add(f"{kind}_int", await _bytes_each(kind, options.count, (7,)), at_most=ONE_INT_MAX.get(kind))
        for size in SIZES:
            report.add(f"{kind}_{size}", await _bytes_each(kind, options.count, ("x" * size,) if size else ()))
    return report


async def _bytes_each(kind: str, count: int, args: tuple[object, ...]) -> float:
    async with bench_on(kind, extra_args=NO_SLOWLOG) as bench:
        payload = bench.client.codec.encode_args(args, {}, filling.WAKING)
        before = await _used_after(bench, FIRST, "first", payload)
        return (await _used_after(bench, count, "s", payload) - before) / count


async def _used_after(bench: Bench, count: int, prefix: str, payload: bytes) -> int:
    """Put some to sleep, and answer the server's memory after their client's connection has closed."""
    far_ms = (time.time_ns() // 1_000_000) + round(filling.FAR.total_seconds() * 1000)
    async with Durasleep(bench.url) as client:
        filler = replace(bench, client=client)
        await filling.put_to_sleep(filler, count, lambda number: far_ms + number, prefix=prefix, args=payload)
    while int((await bench.info("clients"))["connected_clients"]) > 1:
        await asyncio.sleep(LOOK_S)
    await bench.redis.script_flush("SYNC")  # the amount of Lua garbage changes from time to time
    return int((await bench.info("memory"))["used_memory"])
