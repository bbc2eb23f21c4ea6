"""The cost of one call: an empty workflow from start to result, one at a time, beside a PING of the same process."""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import Bench, bench_on
from scripts.benchmarks.report import Report, add_spread

WARM_UP = 20


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=500, help="calls, and as many PINGs (%(default)s)")


async def measure(options: Namespace) -> Report:
    count: int = options.count
    async with bench_on(options.server) as bench, bench.worker():
        report = Report("rpc", bench.name, f"{count} empty workflows, one after the other")
        for number in range(WARM_UP):
            await _call(bench, f"w{number}")
        calls_ms = [await _timed_ms(lambda number=number: _call(bench, f"r{number}")) for number in range(count)]
        pings_ms = [await _timed_ms(lambda: _ping(bench)) for _ in range(count)]
    report.add("calls", len(calls_ms))
    report.add("ping_p50_ms", statistics.median(pings_ms))
    add_spread(report, calls_ms, p50_max=0.9, p99_max=None)
    return report


async def _call(bench: Bench, id: str) -> None:
    await (await bench.client.rpc(id, workflows.empty))


async def _ping(bench: Bench) -> None:
    await bench.redis.execute_command("PING")


async def _timed_ms(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000
