"""The cost of a worker that has nothing to do: its commands a second, its share of a core, and its memory.

The store's own calls put the sleepers to sleep (``filling.put_to_sleep``), so that no worker has ever seen them.
Commands are counted by MONITOR, because INFO would also count the commands of scripts. Memory is compared with that of
a worker of an empty Redis.
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from typing import Any

import psutil

from scripts.benchmarks import filling
from scripts.benchmarks.bench import Bench, bench_on, cpu_s
from scripts.benchmarks.report import Report

GROWN_MIB_MAX = 1.0  # none, except the difference between any two processes


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sleepers", type=int, default=100_000, help="how many (%(default)s)")
    parser.add_argument(
        "--settle", type=float, default=3.0, metavar="S", help="pause before the measurement (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench:
        report = Report("idle", bench.name, f"a worker beside {options.sleepers} sleepers, for {options.seconds:g} s")
        async with bench.worker() as worker:
            await asyncio.sleep(options.settle)
            empty_bytes = worker.memory_info().rss
        far_ms = (time.time_ns() // 1_000_000) + round(filling.FAR.total_seconds() * 1000)
        await filling.put_to_sleep(bench, options.sleepers, lambda number: far_ms + number)
        async with bench.worker() as worker:
            await asyncio.sleep(options.settle)
            sent, worker_share, redis_share = await _look(bench, worker, options.seconds)
            grown_bytes = worker.memory_info().rss - empty_bytes
        report.add("sleepers", await bench.in_timers())
    report.add("commands_per_s", sum(sent.values()) / options.seconds, at_most=3)
    for name, times in sent.most_common():
        report.add(f"{name}_per_s", times / options.seconds)
    report.add("worker_core_percent", worker_share * 100, at_most=1)
    report.add("redis_core_percent", redis_share * 100)
    report.add("worker_grown_mib", grown_bytes / (1 << 20), at_most=GROWN_MIB_MAX)
    return report


async def _look(bench: Bench, worker: psutil.Process, seconds: float) -> tuple[Counter[str], float, float]:
    """The commands that clients sent meanwhile, by name, and the shares of a core that worker and Redis used."""
    sent: Counter[str] = Counter()
    before = cpu_s(worker), cpu_s(bench.server_process)
    monitor: Any
    async with bench.redis.monitor() as monitor:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    command = await monitor.next_command()
                    if command["client_type"] != "lua":
                        sent[command["command"].partition(" ")[0].lower()] += 1
        except TimeoutError:
            pass
    worker_s, redis_s = cpu_s(worker) - before[0], cpu_s(bench.server_process) - before[1]
    return sent, worker_s / seconds, redis_s / seconds
