"""How even the turns of many customers are who share one limit: the greatest difference in starts between two of them.

All jobs are put while the limit is paused. From its resume on, the starts are counted in the order in which the one
worker makes them, and after each start those customers are compared for whom more jobs wait.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable

from scripts.benchmarks import limited
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report

DIFFERENCE_MAX = 2


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--customers", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--jobs", type=int, default=20, help="of each customer (%(default)s)")


async def measure(options: Namespace) -> Report:
    customers, jobs = options.customers, options.jobs
    what = f"{customers} customers with {jobs} jobs each, at most {limited.HELD_IN_ALL} run at a time"
    async with bench_on(options.server) as bench:
        report = Report("fairness", bench.name, what)
        async with bench.worker(app=limited.APP):
            await bench.client.limits.pause(limited.TURNS)
            many = [
                (f"j{job}-{customer}", f"{customer}") for job in range(jobs) for customer in range(customers)
            ]  # the jobs of a customer are far apart
            handles = await bench.client.rpc_many(limited.start_in_turn, many)
            began = time.perf_counter()
            await bench.client.limits.resume(limited.TURNS)
            places = await bench.client.gather(handles)
            seconds = time.perf_counter() - began
    started = sorted(zip(places, (customer for _, customer in many), strict=True))
    report.add("started", len(set(places)), at_least=len(many))
    report.add("started_per_s", len(many) / seconds)
    report.add("difference_most", difference([customer for _, customer in started], jobs), at_most=DIFFERENCE_MAX)
    return report


def difference(started: Iterable[str], jobs: int) -> int:
    """The greatest difference in starts, at any time, between two customers for whom more jobs wait."""
    starts = Counter[str]()
    waiting = Counter[int]()  # customers by their number of starts
    most = 0
    order = list(started)
    waiting[0] = len(set(order))
    for customer in order:
        waiting[starts[customer]] -= 1
        starts[customer] += 1
        if starts[customer] < jobs:
            waiting[starts[customer]] += 1
        waiting += Counter()  # only those that somebody has
        if waiting:
            most = max(most, max(waiting) - min(waiting))
    return most
