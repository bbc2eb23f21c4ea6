"""How soon work goes on: after a worker has started beside many sleepers, and after another worker was killed.

The store's own calls put the sleepers to sleep for years (``filling.put_to_sleep``), and one more that is due already.
Time counts from the start of the worker process to the result here, so it includes Python's start. For the takeover, a
worker is killed as by kill -9 in the middle of a step, while a second one is idle. That time ends when the step begins
again.
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace

from scripts.benchmarks import filling, workflows
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on
from scripts.benchmarks.report import Report

IN_STEP_S = 0.2  # from reading an execution to its step: no signal shows this


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sleepers", type=int, default=100_000, help="how many (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench:
        report = Report(
            "recover", bench.name, f"a worker that starts beside {options.sleepers} sleepers; one killed in a step"
        )
        now_ms = time.time_ns() // 1_000_000
        far_ms = now_ms + round(filling.FAR.total_seconds() * 1000)
        await filling.put_to_sleep(bench, options.sleepers, lambda number: far_ms + number)
        await filling.put_to_sleep(bench, 1, lambda _: now_ms, prefix="first")
        began = time.perf_counter()
        async with bench.worker(wait=False):
            await bench.client.get("first0")
            report.add("first_timer_s", time.perf_counter() - began, at_most=1)
        report.add("sleepers", await bench.in_timers())
        report.add("takeover_s", await _takeover_s(bench), at_most=2.5)
    return report


async def _takeover_s(bench: Bench) -> float:
    """The time from the kill of a worker until its step begins again in the other."""
    marker = bench.directory / "go"
    async with bench.worker() as first:
        handle = await bench.client.rpc("held", workflows.held, str(marker))
        while (await bench.client.describe("held")).status != "running":
            await asyncio.sleep(LOOK_S)
        async with bench.worker():
            await asyncio.sleep(IN_STEP_S)
            killed = time.time()
            first.kill()
            marker.touch()
            return await handle - killed
