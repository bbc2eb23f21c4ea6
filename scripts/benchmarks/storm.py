"""Many timers due at once: how fast one worker fires them, and how long other clients wait meanwhile.

The store's own calls put all executions to sleep until one instant (``filling.put_to_sleep``). When it has passed, a
worker starts. Once the first timer is fired, another connection sends a PING every few milliseconds. Slow script calls
are in the server's SLOWLOG.
"""

from __future__ import annotations

import asyncio
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager

import redis

from durasleep.client.client import store_of
from durasleep.model import PromiseId, State
from durasleep.protocol import journal, script
from scripts.benchmarks import filling
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on
from scripts.benchmarks.report import Report, percentile
from scripts.benchmarks.stopwatch import Budget, Stopwatch

PING_EVERY_S = 0.002
SLOW_US = 500  # entries that the SLOWLOG keeps
SLOW_MAX = 100_000
SAMPLE = 1_000  # executions whose end is checked


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=100_000, help="timers (%(default)s)")


async def measure(options: Namespace) -> Report:
    count: int = options.count
    slowlog = ("--slowlog-log-slower-than", str(SLOW_US), "--slowlog-max-len", str(SLOW_MAX))
    async with bench_on(options.server, extra_args=slowlog) as bench:
        report = Report("storm", bench.name, f"{count} sleepers all due at once, and one worker")
        due_ms = time.time_ns() // 1_000_000
        await filling.put_to_sleep(bench, count, lambda _: due_ms)
        await bench.redis.slowlog_reset()
        async with bench.worker(wait=False) as worker:
            while await bench.in_timers() == count:
                await asyncio.sleep(LOOK_S)
            with pinging(bench.url) as pings_ms:
                watch = Stopwatch(bench, worker)
                while await bench.in_timers() or await bench.in_queue():
                    await asyncio.sleep(LOOK_S)
                spent = watch.stop(count)
        report.add("finished_of_sample", await _finished(bench, count))
        report.add("sample", min(count, SAMPLE))
        spent.add_to(report, "drained_per_s", Budget(per_s=12_000))
        report.add("ping_p50_ms", percentile(pings_ms, 0.5))
        report.add("ping_p99_ms", percentile(pings_ms, 0.99), at_most=5)
        report.add("ping_max_ms", max(pings_ms))
        slowest_us, which = await _longest_script(bench)
        report.add("longest_script_ms", slowest_us / 1000, at_most=4)
        report.add("longest_script", which)
    return report


@contextmanager
def pinging(url: str) -> Generator[list[float]]:
    """Send a PING every few milliseconds, from a thread with its own connection; the duration of each in ms."""
    took_ms: list[float] = []
    stopping = threading.Event()

    def run() -> None:
        with redis.Redis.from_url(url) as connection:
            while True:
                began = time.perf_counter()
                connection.ping()
                took_ms.append((time.perf_counter() - began) * 1000)
                if stopping.wait(PING_EVERY_S):
                    return

    thread = threading.Thread(target=run, name="pings")
    thread.start()
    try:
        yield took_ms
    finally:
        stopping.set()
        thread.join()


async def _longest_script(bench: Bench) -> tuple[int, str]:
    """The longest script call in microseconds, and the name of the script, by the server's SLOWLOG."""
    names = {script.load(name).sha: name for name in script.NAMES}
    calls = await bench.redis.slowlog_get(SLOW_MAX)
    words = [(int(call["duration"]), call["command"].split(b" ", 2)) for call in calls]
    scripts = [
        (spent_us, names.get(command[1], "one of them")) for spent_us, command in words if command[0] == b"EVALSHA"
    ]
    return max(scripts, default=(SLOW_US, f"none was over {SLOW_US} µs"))


async def _finished(bench: Bench, count: int) -> int:
    """How many executions of a sample, spread over all, have a result."""
    store = await store_of(bench.client)
    ids = [PromiseId(f"s{number}") for number in range(0, count, max(1, count // SAMPLE))][:SAMPLE]
    records = await asyncio.gather(*(store.call(journal.read_record(store.keys(id), id)) for id in ids))
    return sum(record is not None and record.state is State.RESOLVED for record in records)
