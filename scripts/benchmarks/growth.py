"""The cost of one wake-up beside more and more timers: Redis's time in scripts, and lateness.

Executions with a delayed start represent other sleepers (``filling.delay``): each has a timer. Beside them, workflows
that the store's own calls put to sleep wake one by one, a few milliseconds apart, on one worker. The cost is that of
firing, of the commit that ends the workflow, and of the worker's other work meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from scripts.benchmarks import filling, plot
from scripts.benchmarks.bench import Bench, bench_on
from scripts.benchmarks.report import Report

EVERY_MS = 5
READY_MS = 100  # before the first timer is due, the worker is ready and its cost begins to count


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--timers", type=int, default=1_000_000, help="the largest number of timers (%(default)s)")
    parser.add_argument("--base", type=int, default=10_000, help="the smallest number of timers (%(default)s)")
    parser.add_argument("--wake-ups", type=int, default=1_000, help="wake-ups for each number of timers (%(default)s)")
    parser.add_argument(
        "--lead", type=float, default=5.0, metavar="S", help="time to set the timers and start a worker"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the cost by the number of timers, with more numbers between"
    )


async def measure(options: Namespace) -> Report:
    points: list[tuple[int, float, float]] = []
    async with bench_on(options.server) as bench:
        what = f"{options.wake_ups} wake-ups, {EVERY_MS} ms apart, beside so many timers"
        report = Report("growth", bench.name, what)
        made = 0
        for timers in _numbers(options.base, options.timers, between=options.plot is not None):
            await filling.delay(bench, timers - made, prefix=f"d{timers}-")
            made = timers
            redis_us, p50_ms = await _wake(bench, options.wake_ups, options.lead, prefix=f"s{timers}-")
            report.add(f"redis_us_at_{timers}", redis_us)
            report.add(f"p50_ms_at_{timers}", p50_ms)
            points.append((timers, redis_us, p50_ms))
        report.add("timers", await bench.in_timers())
    (_, first_us, first_ms), (_, last_us, last_ms) = points[0], points[-1]
    report.add("redis_ratio", last_us / first_us, at_most=1.5)
    report.add("p50_ratio", last_ms / first_ms, at_most=1.5)
    if options.plot:
        lines = {
            "µs of Redis a wake-up": [(timers, us) for timers, us, _ in points],
            "lateness p50, µs": [(timers, ms * 1000) for timers, _, ms in points],
        }
        plot.curves(options.plot, f"One wake-up on {report.server}", "timers", lines)
    return report


def _numbers(base: int, most: int, *, between: bool) -> list[int]:
    """The least and the most; with ``--plot`` also numbers between, each ten times the one before."""
    numbers = [base]
    while between and numbers[-1] * 10 < most:
        numbers.append(numbers[-1] * 10)
    return [*numbers, most]


async def _wake(bench: Bench, wake_ups: int, lead_s: float, *, prefix: str) -> tuple[float, float]:
    """Microseconds of scripts for each wake-up, and the median lateness in ms.

    If the worker is ready only when the first timer is due, all is done anew with twice the lead.
    """
    first_ms = time.time_ns() // 1_000_000 + round(lead_s * 1000)
    last_ms = first_ms + wake_ups * EVERY_MS
    await filling.put_to_sleep(bench, wake_ups, lambda number: first_ms + number * EVERY_MS, prefix=prefix)
    async with bench.worker():
        wait_s = _seconds_until(first_ms - READY_MS)
        await asyncio.sleep(wait_s)
        before_us = await bench.script_us()
        await asyncio.sleep(_seconds_until(last_ms))
        while await bench.in_queue():
            await asyncio.sleep(0.05)
        spent_us = await bench.script_us() - before_us
        late_us = await asyncio.gather(*(bench.client.get(f"{prefix}{n}") for n in range(wake_ups)))
    if not wait_s:
        return await _wake(bench, wake_ups, 2 * lead_s, prefix=f"{prefix}again-")
    return spent_us / wake_ups, statistics.median(late_us) / 1000


def _seconds_until(at_ms: int) -> float:
    return max(0.0, at_ms / 1000 - time.time())
