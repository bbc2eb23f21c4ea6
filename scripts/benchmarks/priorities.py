"""How long the last priority waits while the first ones are kept full: how many starts there are for one of the last.

The client keeps thousands of tasks of each chosen priority in the queue, for some seconds. The one worker numbers its
starts.
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace

from durasleep.client.client import Handle
from durasleep.model import levels_of
from scripts.benchmarks import limited
from scripts.benchmarks.bench import GROUP, bench_on
from scripts.benchmarks.report import Report

LAST = 5
BEHIND = 60
"""Of so many starts at least one is of the last priority."""
FULL = 2_000


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (%(default)s)")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[1], help="the priorities that are kept full beside the last (1)"
    )
    parser.add_argument(
        "--concurrency", type=int, default=10, help="tasks that the worker runs at a time (%(default)s)"
    )


async def measure(options: Namespace) -> Report:
    levels = sorted({*options.levels, LAST})
    what = f"priorities {', '.join(map(str, levels))} kept full for {options.seconds:g} s"
    async with bench_on(options.server) as bench:
        report = Report("priorities", bench.name, what)
        callers = {level: bench.client.options(priority=level) for level in levels}
        handles: dict[int, list[Handle[int]]] = {level: [] for level in levels}

        async def fill(level: int) -> None:
            names = [(f"p{level}-{len(handles[level]) + n}",) for n in range(FULL)]
            handles[level] += await callers[level].rpc_many(limited.start, names)

        for level in levels:
            await fill(level)
        async with bench.worker("--concurrency", str(options.concurrency), app=limited.APP):
            began = time.perf_counter()
            ended = dict.fromkeys(levels, 0)
            while time.perf_counter() < began + options.seconds:
                for level in levels:
                    waiting = await bench.redis.xlen(bench.keys.queue(levels_of(GROUP)[level - 1]))
                    if waiting < FULL:
                        await fill(level)
                    ended[level] = len(handles[level]) - waiting
            full = sum(ended.values())
            places = {level: await bench.client.gather(handles[level]) for level in levels}
    last = [-1, *sorted(place for place in places[LAST] if place < full)]
    report.add("started_while_full", full)
    report.add("of_the_last", len(last) - 1)
    report.add("starts_for_one_of_the_last", full / (len(last) - 1), at_most=BEHIND)
    report.add("most_between_two_of_the_last", max(b - a for a, b in itertools.pairwise(last)))
    return report
