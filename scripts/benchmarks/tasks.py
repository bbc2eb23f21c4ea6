"""Tasks a second: async ones at once, async ones with a delay, and sync ones, each kind on a server of its own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import work
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Budget

BUDGETS = {
    "task": Budget(per_s=22_000, sum_us=70),
    "delayed": Budget(per_s=11_000, sum_us=85),
    "sync": Budget(per_s=11_500, sum_us=110),
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=20_000, help="tasks of each kind (%(default)s)")
    work.add_concurrency(parser)


async def measure(options: Namespace) -> Report:
    kinds = {name: work.KINDS[name] for name in BUDGETS}
    what = ", ".join(f"{name}: {kind.what}" for name, kind in kinds.items())
    report = Report("tasks", options.server, f"{options.count} of each, all started at once; {what}")
    for name, kind in kinds.items():
        async with bench_on(options.server) as bench:
            report.server = bench.name
            finished, spent = await work.run(bench, kind, count=options.count, concurrency=options.concurrency)
        report.add(f"{name}_finished", finished)
        spent.add_to(report, "finished_per_s", BUDGETS[name], prefix=f"{name}_")
    return report
