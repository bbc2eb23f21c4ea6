"""Many timers due at once: how fast they are drained, and what everybody else feels meanwhile.

The store's own calls put all to sleep until one instant (``filling.put_to_sleep``); when it has passed, a worker
starts. Meanwhile another connection sends a PING every few milliseconds; slow script calls are in the server's SLOWLOG.
"""

from __future__ import annotations

import asyncio
import threading
import time
from argparse import ArgumentParser, Namespace

import redis

from durasleep.model import PromiseId, State
from durasleep.store import reads, script
from scripts.benchmarks import filling
from scripts.benchmarks.bench import LOOK_S, Bench, bench_on, cpu_s
from scripts.benchmarks.report import Report, percentile

PING_EVERY_S = 0.002
SLOW_US = 500  # what the SLOWLOG keeps
SLOW_MAX = 100_000
SAMPLE = 1_000  # executions whose end is looked at


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=100_000, help="timers (%(default)s)")


async def measure(options: Namespace) -> Report:
    count: int = options.count
    slowlog = ("--slowlog-log-slower-than", str(SLOW_US), "--slowlog-max-len", str(SLOW_MAX))
    async with bench_on(options.server, extra_args=slowlog) as bench:
        report = Report("storm", bench.name, f"{count} sleepers all due at once, met by one worker")
        due_ms = time.time_ns() // 1_000_000
        await filling.put_to_sleep(bench, count, lambda _: due_ms)
        await bench.redis.slowlog_reset()
        pings = Pings(bench.url)
        async with bench.worker() as worker:
            began, used_s = time.perf_counter(), cpu_s(worker)
            at_first = await bench.in_timers() + await bench.in_queue()
            while await bench.in_timers() or await bench.in_queue():
                await asyncio.sleep(LOOK_S)
            took_s, used_s = time.perf_counter() - began, cpu_s(worker) - used_s
        pings_ms = pings.stop()
        report.add("finished_of_sample", await _finished(bench, count))
        report.add("sample", min(count, SAMPLE))
        report.add("seconds", took_s)
        report.add("drained_per_s", at_first / took_s, at_least=5_000)
        report.add("worker_cpu_us", used_s * 1e6 / max(1, at_first))
        report.add("ping_p50_ms", percentile(pings_ms, 0.5))
        report.add("ping_p99_ms", percentile(pings_ms, 0.99), at_most=10)
        report.add("ping_max_ms", max(pings_ms))
        slowest_us, which = await _longest_script(bench)
        report.add("longest_script_ms", slowest_us / 1000, at_most=5)
        report.add("longest_script", which)
    return report


class Pings:
    """A thread with a connection of its own that sends a PING every few milliseconds."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)
        self._redis.ping()
        self._stopping = threading.Event()
        self._took_ms: list[float] = []
        self._thread = threading.Thread(target=self._run, name="pings")
        self._thread.start()

    def stop(self) -> list[float]:
        """What each has taken, in ms."""
        self._stopping.set()
        self._thread.join()
        self._redis.close()
        return self._took_ms

    def _run(self) -> None:
        while not self._stopping.wait(PING_EVERY_S):
            began = time.perf_counter()
            self._redis.ping()
            self._took_ms.append((time.perf_counter() - began) * 1000)


async def _longest_script(bench: Bench) -> tuple[int, str]:
    """The longest call of a script in microseconds, and its name, as the server's SLOWLOG has it."""
    names = {script.load(name).sha: name for name in script.NAMES}
    calls = await bench.redis.slowlog_get(SLOW_MAX)
    words = [(int(call["duration"]), call["command"].split(b" ", 2)) for call in calls]
    scripts = [
        (spent_us, names.get(command[1], "one of them")) for spent_us, command in words if command[0] == b"EVALSHA"
    ]
    return max(scripts, default=(SLOW_US, f"none was over {SLOW_US} µs"))


async def _finished(bench: Bench, count: int) -> int:
    """How many of a sample, spread over all, have a result."""
    store = await bench.client.opened()
    ids = [PromiseId(f"s{number}") for number in range(0, count, max(1, count // SAMPLE))][:SAMPLE]
    heads = await asyncio.gather(*(store.call(reads.read_head(store.keys(id), id)) for id in ids))
    return sum(head is not None and head.state is State.RESOLVED for head in heads)
