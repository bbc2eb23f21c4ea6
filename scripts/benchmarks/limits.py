"""What limits cost: the same tasks and sleeping workflows without and with them, each kind on a server of its own.

All are started at once, so that nearly all of those with a tight limit are parked. ``_times_plain`` is the processor
time of worker, client and server together, in times of that without a limit. The kinds take turns for --rounds, and
their medians count. With ``--vs`` others run as many jobs without and with limits of their own.
"""

from __future__ import annotations

import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from scripts.benchmarks import limited, peers, work
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.peers.running import PeerWork
from scripts.benchmarks.report import Report
from scripts.benchmarks.stopwatch import Spent
from scripts.benchmarks.work import Work

PLAIN = ("task", "sleeper")


def _limited(what: str, function: Callable[..., Any], argument: int | None = None) -> Work:
    return Work(what, function, argument, app=limited.APP)


LIMITED: dict[str, tuple[str, Work]] = {
    "passing": ("task", _limited("with a limit that has room for all", limited.passing)),
    "rate": ("task", _limited("with a rate that has a token for all", limited.at_a_rate)),
    "per_key": ("task", _limited(f"at most {limited.HELD} of each of {limited.LIMIT_KEYS} keys", limited.by_key)),
    "total": ("task", _limited(f"at most {limited.HELD_IN_ALL} in all", limited.in_all)),
    "fair": ("task", _limited("with both limits: the keys take turns", limited.in_turn)),
    "sleeper_passing": ("sleeper", _limited("sleepers with a limit that has room", limited.passing_sleeper, 1000)),
    "sleeper_life": ("sleeper", _limited("the same, held for life", limited.lifelong_sleeper, 1000)),
}
"""Work with a limit, and the kind that is the same without one."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=10_000, help="executions of each kind (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all kinds are measured (%(default)s)")
    work.add_concurrency(parser)
    peers.add_arguments(parser)


async def measure(options: Namespace) -> Report:
    kinds = {name: work.KINDS[name] for name in PLAIN} | {name: kind for name, (_, kind) in LIMITED.items()}
    what = "; ".join(f"{name}: {kind.what}" for name, kind in kinds.items())
    report = Report("limits", options.server, f"{options.count} of each, all started at once; {what}")
    spent: dict[str, list[Spent]] = {name: [] for name in kinds}
    finished = dict.fromkeys(kinds, 0)
    for _ in range(options.rounds):
        for name, kind in kinds.items():
            async with bench_on(options.server) as bench:
                report.server = bench.name
                done, cost = await work.run(bench, kind, count=options.count, concurrency=options.concurrency)
                spent[name].append(cost)
                finished[name] += done
    for name, costs in spent.items():
        report.add(f"{name}_finished", finished[name] / options.rounds, at_least=options.count)
        report.add(f"{name}_finished_per_s", statistics.median(one.per_s for one in costs))
        report.add(f"{name}_server_cpu_us", statistics.median(one.server_us for one in costs))
        report.add(f"{name}_sum_cpu_us", statistics.median(one.sum_us for one in costs))
        if name in LIMITED:
            plain = spent[LIMITED[name][0]]
            ratios = [one.sum_us / other.sum_us for one, other in zip(costs, plain, strict=True)]
            report.add(f"{name}_times_plain", statistics.median(ratios))
    jobs = PeerWork(options.count, delay_ms=0, every_ms=0, concurrency=options.vs_concurrency)
    by_key = PeerWork(options.count, 0, 0, options.vs_concurrency, keys=limited.LIMIT_KEYS, held=limited.HELD)
    total = PeerWork(options.count, 0, 0, options.vs_concurrency, keys=1, held=limited.HELD_IN_ALL)
    await peers.add_limits(report, options, jobs, by_key, total)
    return report
