"""The server's own floor: the lowest cost of a transition, by redis-benchmark of the redis-tools package."""

from __future__ import annotations

import asyncio
import csv
import shutil
from argparse import ArgumentParser
from urllib.parse import urlsplit

from durasleep.errors import DurasleepError
from scripts.benchmarks.bench import Bench
from scripts.benchmarks.report import Report

SCRIPT = """
redis.call('HSET', KEYS[1], 's', 'p', 'k', 'e', 'a', ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[1], KEYS[1])
redis.call('XADD', KEYS[3], '*', 'i', ARGV[1])
"""
CLIENTS = 50
PIPELINE = 50
KEYS = 100_000


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--floor-calls", type=int, default=200_000, help="calls to measure the floor by; 0 for none")


async def measure_floor(bench: Bench, calls: int) -> float | None:
    """Scripts of one HSET, ZADD and XADD a second, 50 clients, 50 deep; None without redis-benchmark.

    It removes everything there is on the server, before and after.
    """
    program = shutil.which("redis-benchmark")
    if program is None or calls == 0:
        return None
    await bench.redis.flushall()
    sha = await bench.redis.script_load(SCRIPT)
    port = str(urlsplit(bench.url).port)
    options = ["-p", port, "-n", str(calls), "-c", str(CLIENTS), "-P", str(PIPELINE), "-r", str(KEYS), "--csv"]
    words = ["evalsha", sha, "3", "floor:__rand_int__", "floor-timers", "floor-stream", "__rand_int__"]
    process = await asyncio.create_subprocess_exec(
        program, *options, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    await bench.redis.flushall()
    if process.returncode != 0:
        raise DurasleepError(f"redis-benchmark failed: {err.decode(errors='replace').strip()}")
    return float(list(csv.reader(out.decode().splitlines()))[-1][1])


def add_floor(report: Report, floor: float | None, transitions_per_s: float, *, at_least: float | None) -> None:
    """The floor and the share of it that was reached, or why it is missing."""
    if floor is None:
        report.notes.append("no floor: redis-benchmark, of the package redis-tools, is not here, or --floor-calls is 0")
        return
    report.add("floor_per_s", floor)
    report.add("transitions_per_s", transitions_per_s)
    report.add("ratio_to_floor", transitions_per_s / floor, at_least=at_least)
