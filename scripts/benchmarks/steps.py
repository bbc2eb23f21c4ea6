"""Three-step workflows a second: each step trivial, and durable before the next begins."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import add_concurrency, bench_on
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Stopwatch

WARM_UP = 20


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=5_000, help="workflows (%(default)s)")
    add_concurrency(parser)


async def measure(options: Namespace) -> Report:
    count: int = options.count
    concurrency = ("--concurrency", str(options.concurrency))
    async with bench_on(options.server) as bench, bench.worker(*concurrency) as worker:
        report = Report("steps", bench.name, f"{count} workflows of three steps, all started at once")
        client = bench.client
        await client.gather(await client.rpc_many(workflows.three_steps, [(f"w{n}", n) for n in range(WARM_UP)]))
        watch = Stopwatch(bench, worker)
        results = await client.gather(
            await client.rpc_many(workflows.three_steps, [(f"s{n}", n) for n in range(count)])
        )
        watch.stop()
    report.add("finished", sum(result == number for number, result in enumerate(results)))
    watch.add_to(report, "finished_per_s", count, at_least=3_000)
    return report
