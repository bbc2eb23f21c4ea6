"""Sleeping workflows a second: each sleeps once, and the client waits for every result.

From the first start to the last result, with one worker process and this process as the only client. CPU is what the
three processes used meanwhile. Each workflow is four transitions: created, asleep, awake, finished.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import floor, peers, workflows
from scripts.benchmarks.bench import add_concurrency, bench_on
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Stopwatch

TRANSITIONS = 4
WARM_UP = 20


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=20_000, help="workflows (%(default)s)")
    parser.add_argument("--sleep", type=float, default=1.0, metavar="S", help="how long each sleeps (%(default)s)")
    add_concurrency(parser)
    floor.add_arguments(parser)
    peers.add_arguments(parser)


async def measure(options: Namespace) -> Report:
    count, sleep_ms = options.count, round(options.sleep * 1000)
    async with bench_on(options.server) as bench:
        report = Report(
            "throughput", bench.name, f"{count} workflows that sleep {options.sleep:g} s, all started at once"
        )
        bare = await floor.measure_floor(bench, options.floor_calls)
        async with bench.worker("--concurrency", str(options.concurrency)) as worker:
            client = bench.client
            await client.gather(await client.rpc_many(workflows.sleeper, [(f"w{n}", 1) for n in range(WARM_UP)]))
            watch = Stopwatch(bench, worker)
            handles = await client.rpc_many(workflows.sleeper, [(f"s{n}", sleep_ms) for n in range(count)])
            results = await client.gather(handles)
            watch.stop()
    report.add("finished", sum(result == sleep_ms for result in results))
    watch.add_to(report, "finished_per_s", count, at_least=10_000)
    floor.add_floor(report, bare, TRANSITIONS * count / watch.seconds, at_least=0.5)
    await peers.add_throughput(report, options, count=count, sleep_ms=sleep_ms, ours_per_s=count / watch.seconds)
    return report
