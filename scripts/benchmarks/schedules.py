"""Thousands of schedules that are due at one instant: how soon their executions are queued, and what that delays.

The schedules have lines of their own in several time zones, and start a task of a group without workers, so that only
starting is measured; with --served one worker also runs them. Beside them, workflows sleep until instants in the same
second, first without the schedules. The same executions are also started by ``rpc_many``: the plain path.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from typing import Any

from durasleep.client.client import store_of
from durasleep.errors import DurasleepError
from durasleep.protocol import schedules
from durasleep.protocol.schedules import OVERLAPS, Schedule
from scripts.benchmarks import workflows
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on, cpu_s
from scripts.benchmarks.report import Report, percentile

LINES = ("0 * * * *", "0 3 * * *", "*/15 * * * *", "0 0 * * 0", "30 8 * * 1-5", "0 0 1 * *")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
NOBODY, PLAIN = "nobody", "plain"
LEAD_S = 5.0
WARM_UP = 20
SLEEP_EVERY_MS = 5
PUT_MAX = 500  # in one go
GIVE_UP_S = 60.0
FIRED_S_MAX = 1.0
LATE_MS_MAX = 10.0


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--overlap", choices=OVERLAPS, default="skip", help="their policy (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="how many worker processes (%(default)s)")
    parser.add_argument("--served", action="store_true", help="the worker runs what they start")


async def measure(options: Namespace) -> Report:
    what = f"{options.schedules} schedules due at one instant, overlap {options.overlap}"
    async with bench_on(options.server) as bench:
        report = Report("schedules", bench.name, what)
        if options.workers == 1:
            async with bench.worker():
                await _measure(bench, report, options)
        else:
            async with bench.worker("--processes", str(options.workers)):
                await _measure(bench, report, options)
    return report


async def _measure(bench: Bench, report: Report, options: Namespace) -> None:
    await asyncio.gather(*[await bench.client.rpc(f"w{n}", workflows.waking, now_ms()) for n in range(WARM_UP)])
    alone_ms = await _sleep(bench, "alone", now_ms() + round(LEAD_S * 1000))
    due_ms = now_ms() + round(LEAD_S * 1000)
    queue = "workers" if options.served else NOBODY
    await _put(bench, options, due_ms, queue)
    due_ms = now_ms() + round(LEAD_S * 1000)
    await _put(bench, options, due_ms, queue)  # again, now that it is known how long it takes
    server_s = -cpu_s(bench.server_process)
    late_ms = await _sleep(bench, "beside", due_ms)
    fired_s = await _until(lambda: _fired_s(bench, options, due_ms))
    server_s += cpu_s(bench.server_process)
    report.add("s until all are started", fired_s, at_most=FIRED_S_MAX)
    for name, sample, budget in (("alone", alone_ms, None), ("beside them", late_ms, LATE_MS_MAX)):
        report.add(f"ms a sleep is late, {name}, p50", percentile(sample, 0.5))
        report.add(f"ms a sleep is late, {name}, p99", percentile(sample, 0.99))
        report.add(f"ms a sleep is late, {name}, max", max(sample), at_most=budget)
    report.add("server, µs a schedule", server_s / options.schedules * 1e6)
    began_s, server_s = time.perf_counter(), -cpu_s(bench.server_process)
    plain = bench.client.options(target=PLAIN)
    await plain.rpc_many(workflows.task, [(f"plain-{number}", number) for number in range(options.schedules)])
    report.add("plain path: s until all are started", time.perf_counter() - began_s)
    server_s += cpu_s(bench.server_process)
    report.add("plain path: server, µs an execution", server_s / options.schedules * 1e6)


async def _put(bench: Bench, options: Namespace, due_ms: int, queue: str) -> None:
    store = await store_of(bench.client)
    args = bench.client.codec.encode_args((1,), {}, "task")
    kinds = itertools.cycle(itertools.product(LINES, ZONES))
    made = [
        Schedule(f"s{number}", f"{line}; start {due_ms}", zone, "task", queue, args, due_ms, overlap=options.overlap)
        for number, (line, zone) in zip(range(options.schedules), kinds, strict=False)
    ]
    for first in range(0, len(made), PUT_MAX):
        for answer in await store.ask(
            [schedules.put_schedule(bench.keys, one) for one in made[first : first + PUT_MAX]]
        ):
            if isinstance(answer, DurasleepError):
                raise answer
    if now_ms() >= due_ms:
        raise DurasleepError("they were due before all were put")


async def _sleep(bench: Bench, name: str, first_ms: int) -> list[float]:
    """How late sleeps until instants of one second are, in ms."""
    dues = range(first_ms, first_ms + 1000, SLEEP_EVERY_MS)
    handles = await bench.client.rpc_many(workflows.waking, [(f"{name}-{due}", due) for due in dues])
    return [late_us / 1000 for late_us in await bench.client.gather(handles)]


async def _fired_s(bench: Bench, options: Namespace, due_ms: int) -> float | None:
    """The time from the due instant to the last start, by the server's clock; None before that."""
    if options.served:
        count = len(await bench.redis.keys(f"{bench.keys.promise('s')}*@*"))
        return (now_ms() - due_ms) / 1000 if count >= options.schedules else None
    stream = bench.keys.queue(NOBODY)
    if await bench.redis.xlen(stream) < options.schedules:
        return None
    latest: Any = await bench.redis.xrevrange(stream, count=1)
    return (int(latest[0][0].decode().partition("-")[0]) - due_ms) / 1000


async def _until(look: Callable[[], Awaitable[float | None]]) -> float:
    give_up_at = time.monotonic() + GIVE_UP_S
    while (found := await look()) is None:
        if time.monotonic() > give_up_at:
            raise DurasleepError("not all schedules were started")
        await asyncio.sleep(LOOK_S)
    return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000
