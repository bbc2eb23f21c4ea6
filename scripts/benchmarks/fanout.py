"""Children of one workflow a second: all called at once, and their results gathered."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import bench_on, cpu_s
from scripts.benchmarks.report import Report


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=2_000, help="children (%(default)s)")


async def measure(options: Namespace) -> Report:
    count: int = options.count
    async with bench_on(options.server) as bench, bench.worker() as worker:
        report = Report("fanout", bench.name, f"one workflow that calls {count} others and gathers what they answer")
        began, used_s = time.perf_counter(), cpu_s(worker)
        finished = await (await bench.client.rpc("fan", workflows.fan, count))
        took_s, used_s = time.perf_counter() - began, cpu_s(worker) - used_s
    report.add("finished", finished)
    report.add("seconds", took_s)
    report.add("children_per_s", count / took_s)
    report.add("worker_cpu_us", used_s * 1e6 / count)
    return report
