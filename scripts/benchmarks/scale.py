"""What several partitions cost on one server, and a cluster of three masters: CPU for one workflow, as ratios.

Each round runs every case once, one after the other, so that a slow minute of the machine meets all of them alike. A
ratio is that of a case to the single partition of the same round, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from durasleep.errors import DurasleepError
from scripts.benchmarks import work
from scripts.benchmarks.bench import WorkerBench, bench_on, cluster_bench, cpu_s
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Spent

PARTITIONS = (1, 2, 4, 8, 16)
ONE_SERVER_MAX = 1.1
CLUSTER_MAX = 1.5
NODE_MAX = 0.6


@dataclass(frozen=True)
class Run:
    """One case once."""

    spent: Spent
    node_us: float
    """The processor time of the busiest Redis for one workflow."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--what", choices=work.KINDS, default="sleeper", help="the kind of work (%(default)s)")
    parser.add_argument("--count", type=int, default=10_000, help="how many of it in a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case (%(default)s)")
    work.add_concurrency(parser)


async def measure(options: Namespace) -> Report:
    report = Report("scale", options.server, f"{options.count} {work.KINDS[options.what].what}, all started at once")
    report.notes.append(f"medians of {options.rounds} rounds; a ratio is that to one partition on one server")
    rounds: list[dict[str, Run]] = []
    for _ in range(options.rounds):
        rounds.append({_name(count): await _on_one_server(count, options) for count in PARTITIONS})
        rounds[-1]["cluster"] = await _on_cluster(max(PARTITIONS), options)
    for name in rounds[0]:
        runs = [one[name] for one in rounds]
        ratios = [run.spent.sum_us / one[_name(1)].spent.sum_us for run, one in zip(runs, rounds, strict=True)]
        budget = {_name(1): None, "cluster": CLUSTER_MAX}.get(name, ONE_SERVER_MAX)
        report.add(f"{name}_sum_cpu_us", statistics.median([run.spent.sum_us for run in runs]))
        report.add(f"{name}_per_s", statistics.median([run.spent.per_s for run in runs]))
        report.add(f"{name}_ratio", statistics.median(ratios), at_most=budget)
    nodes = [one["cluster"].node_us / one[_name(1)].node_us for one in rounds]
    report.add("cluster_node_ratio", statistics.median(nodes), at_most=NODE_MAX)
    return report


def _name(partitions: int) -> str:
    return f"p{partitions}"


async def _on_one_server(partitions: int, options: Namespace) -> Run:
    async with bench_on(options.server, partitions=partitions) as bench:
        return await _run(bench, options)


async def _on_cluster(partitions: int, options: Namespace) -> Run:
    async with cluster_bench(options.server, partitions) as (_, bench):
        return await _run(bench, options)


async def _run(bench: WorkerBench, options: Namespace) -> Run:
    before = [cpu_s(process) for process in bench.server_processes]
    finished, spent = await work.run(
        bench, work.KINDS[options.what], count=options.count, concurrency=options.concurrency
    )
    if finished != options.count:
        raise DurasleepError(f"only {finished} of {options.count} have finished")
    used = [cpu_s(process) - then for process, then in zip(bench.server_processes, before, strict=True)]
    return Run(spent, max(used) * 1e6 / options.count)
