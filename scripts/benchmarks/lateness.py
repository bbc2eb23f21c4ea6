"""How late a sleeping workflow wakes: from its due time to the line after the sleep.

The timers are spread on an idle worker, or with --rate there are so many wake-ups a second for some seconds. The
workflow sleeps until an instant and answers how late it was. Server, worker and client are on one machine, with one
clock.
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from durasleep.errors import DurasleepError
from scripts.benchmarks import peers, plot, workflows
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on
from scripts.benchmarks.peers.running import PeerWork
from scripts.benchmarks.report import Report, add_spread

SPREAD_MS = 20  # between two timers of an idle worker
WARM_UP = 20  # the first activations of a function are watched, which costs
LEAD_MS = 1_000
IDLE = {"p50_max": 1.5, "p99_max": 3.0}
AT_2000_PER_S = {"p50_max": 0.6, "p99_max": 2.0}
AT_OTHER_RATES = {"p50_max": None, "p99_max": 50.0}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--timers", type=int, default=200, help="how many, 20 ms apart (%(default)s)")
    parser.add_argument("--rate", type=int, metavar="PER_S", help="instead: this many wake-ups a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long, with --rate (%(default)s)")
    parser.add_argument("--lead", type=float, metavar="S", help="time until the first is due, in which all go to sleep")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the distribution")
    peers.add_arguments(parser)


async def measure(options: Namespace) -> Report:
    if options.rate:
        every_ms, timers = 1000 / options.rate, round(options.rate * options.seconds)
        lead_ms = round((options.lead or 2 + timers / 500) * 1000)
        budgets = AT_2000_PER_S if options.rate == 2_000 else AT_OTHER_RATES
        what = f"{timers} timers, {options.rate} a second, all set before the first is due"
    else:
        every_ms, timers = SPREAD_MS, options.timers
        lead_ms = round((options.lead or 0) * 1000) or LEAD_MS
        budgets = IDLE
        what = f"{timers} timers, {SPREAD_MS} ms apart, on an idle worker"
    async with bench_on(options.server) as bench, bench.worker():
        await asyncio.gather(*[await bench.client.rpc(f"w{n}", workflows.waking, now_ms()) for n in range(WARM_UP)])
        late_ms = await _wake(bench, timers, every_ms, lead_ms, strict=bool(options.rate))
        report = Report("lateness", bench.name, what)
    report.add("timers", len(late_ms))
    report.add("early", sum(ms < 0 for ms in late_ms))
    add_spread(report, late_ms, **budgets)
    samples = {"durasleep": late_ms}
    work = PeerWork(timers, delay_ms=lead_ms, every_ms=every_ms, concurrency=options.vs_concurrency)
    samples |= await peers.add_lateness(report, options, work)
    if options.plot:
        plot.distribution(options.plot, f"Lateness: {what}", samples)
    return report


async def _wake(bench: Bench, timers: int, every_ms: float, lead_ms: int, *, strict: bool) -> list[float]:
    """The lateness of each, in ms; ``strict`` refuses a run in which the first fell due before all were asleep."""
    first_ms = now_ms() + lead_ms
    dues = [first_ms + round(number * every_ms) for number in range(timers)]
    started = [bench.client.rpc(f"s{number}", workflows.waking, due) for number, due in enumerate(dues)]
    handles = await asyncio.gather(*started)
    if strict:
        while await bench.in_timers() < timers:
            if now_ms() >= first_ms:
                raise DurasleepError("the first fell due before all were asleep: a longer --lead helps")
            await asyncio.sleep(LOOK_S)
    return [late_us / 1000 for late_us in await asyncio.gather(*handles)]


def now_ms() -> int:
    return time.time_ns() // 1_000_000
