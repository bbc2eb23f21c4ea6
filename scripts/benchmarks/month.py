"""Thirty days with a daily step in the test kit, in seconds of real time: the best and the median of several runs."""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from datetime import timedelta

from durasleep import Context, Durasleep, testing
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report

DAYS = 30

app = Durasleep()


@app.workflow
async def daily(ctx: Context, days: int) -> int:
    for day in range(days):
        await ctx.sleep(timedelta(days=1))
        await ctx.run(abs, day)
    return days


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=7, help="how often (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench:
        report = Report("month", bench.name, f"{DAYS} days with a daily step in the test kit, {options.runs} times")
        for name, source in (("fakeredis", None), ("server", bench.url)):
            took: list[float] = []
            async with testing.env(app, redis=source) as env:
                for _ in range(options.runs):
                    began = time.perf_counter()
                    await env.run(daily, DAYS)
                    took.append(time.perf_counter() - began)
            report.add(f"{name}_best_s", min(took))
            report.add(f"{name}_p50_s", statistics.median(took))
    return report
