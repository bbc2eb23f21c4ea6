"""Sleeping workflows a second: each sleeps once, and the client waits for every result.

Time counts from the first start to the last result, with one worker process and this process as the only client. CPU
is the processor time of the three processes meanwhile. Each workflow has four transitions: created, asleep, awake,
finished. With ``--vs`` it also runs as many delayed tasks, with the same delay: peers do exactly this work.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import floor, peers, work
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.peers.running import PeerWork
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Budget

TRANSITIONS = 4
BUDGET = Budget(per_s=9_500, sum_us=172, worker_us=90, client_us=16, server_us=66)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=20_000, help="workflows (%(default)s)")
    parser.add_argument(
        "--sleep", type=float, default=work.SLEEP_S, metavar="S", help="how long each sleeps (%(default)s)"
    )
    work.add_concurrency(parser)
    floor.add_arguments(parser)
    peers.add_arguments(parser)


async def measure(options: Namespace) -> Report:
    count, concurrency = options.count, options.concurrency
    sleepers, delayed = work.sleepers(options.sleep), work.delayed(options.sleep)
    async with bench_on(options.server) as bench:
        report = Report("throughput", bench.name, f"{count} {sleepers.what}, all started at once")
        bare = await floor.measure_floor(bench, options.floor_calls)
        finished, spent = await work.run(bench, sleepers, count=count, concurrency=concurrency)
    report.add("finished", finished)
    spent.add_to(report, "finished_per_s", BUDGET)
    floor.add_floor(report, bare, TRANSITIONS * spent.per_s, at_least=0.5)
    if options.vs:
        async with bench_on(options.server) as bench:
            finished, spent_by_tasks = await work.run(bench, delayed, count=count, concurrency=concurrency)
        report.add("delayed_finished", finished)
        spent_by_tasks.add_to(report, "finished_per_s", prefix="delayed_")
        report.notes.append(f"delayed: {count} {delayed.what}, all started at once")
        same = PeerWork(count, round(options.sleep * 1000), every_ms=0, concurrency=options.vs_concurrency)
        await peers.add_throughput(report, options, same, workflows_per_s=spent.per_s, tasks_per_s=spent_by_tasks.per_s)
    return report
