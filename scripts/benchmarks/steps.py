"""Three-step workflows a second: each step is trivial, and durable before the next one begins."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import work
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Budget

BUDGET = Budget(per_s=5_600, sum_us=230)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=5_000, help="workflows (%(default)s)")
    work.add_concurrency(parser)


async def measure(options: Namespace) -> Report:
    steps = work.KINDS["steps"]
    async with bench_on(options.server) as bench:
        report = Report("steps", bench.name, f"{options.count} {steps.what}, all started at once")
        finished, spent = await work.run(bench, steps, count=options.count, concurrency=options.concurrency)
    report.add("finished", finished)
    spent.add_to(report, "finished_per_s", BUDGET)
    return report
