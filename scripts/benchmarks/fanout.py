"""Children of one workflow a second: all called at once, and their results gathered."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Stopwatch


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=2_000, help="children (%(default)s)")


async def measure(options: Namespace) -> Report:
    count: int = options.count
    async with bench_on(options.server) as bench, bench.worker() as worker:
        report = Report("fanout", bench.name, f"one workflow that calls {count} others and gathers their answers")
        watch = Stopwatch(bench, worker)
        finished = await (await bench.client.rpc("fan", workflows.fan, count))
        spent = watch.stop(count)
    report.add("finished", finished)
    spent.add_to(report, "children_per_s")
    return report
