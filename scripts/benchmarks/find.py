"""How a few executions are found among very many that sleep: by an index of the functions, and by one of a label.

The client asks several times; the time is that of one search in a client that is connected, and the commands are those
that the server has counted.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from typing import Any

from durasleep.errors import DurasleepError
from scripts.benchmarks import filling, workflows
from scripts.benchmarks.bench import Bench, bench_on
from scripts.benchmarks.report import Report

RARE = 5
LABEL = "customer"
MS_MAX, COMMANDS_MAX = 50.0, 100


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sleepers", type=int, default=100_000, help="how many sleep (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="searches of each kind (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench:
        report = Report("find", bench.name, f"{RARE} executions among {options.sleepers} that sleep")
        due_ms = time.time_ns() // 1_000_000 + round(filling.FAR.total_seconds() * 1000)
        half = options.sleepers // 2
        await filling.put_to_sleep(bench, half, lambda _: due_ms, prefix="a")
        rare = bench.client.options(labels={LABEL: "rare"}, delay=filling.FAR)
        await rare.rpc_many(workflows.leaf, [(f"rare-{n}", n) for n in range(RARE)])
        for label in ("func", LABEL):
            began = time.perf_counter()
            await bench.client.indexes.build(label)
            report.add(f"build_{label}_s", time.perf_counter() - began)
        await filling.put_to_sleep(bench, options.sleepers - half, lambda _: due_ms, prefix="b")
        search = bench.client.search
        for name, ask in (
            ("function", lambda: search(function="leaf")),
            ("label", lambda: search(labels={LABEL: "rare"})),
            ("both", lambda: search(function="leaf", labels={LABEL: "rare"}, since="1h")),
        ):
            await _measure(bench, report, name, ask, options.rounds)
    return report


async def _measure(bench: Bench, report: Report, name: str, ask: Callable[[], Awaitable[Any]], rounds: int) -> None:
    took_ms: list[float] = []
    before = await _commands(bench)
    for _ in range(rounds):
        began = time.perf_counter()
        found = await ask()
        took_ms.append((time.perf_counter() - began) * 1000)
        if len(found) != RARE:
            raise DurasleepError(f"{len(found)} of {RARE} were found")
    commands = (await _commands(bench) - before - 1) / rounds
    report.add(f"{name}_ms", statistics.median(took_ms), at_most=MS_MAX)
    report.add(f"{name}_commands", commands, at_most=COMMANDS_MAX)


async def _commands(bench: Bench) -> int:
    return int((await bench.info("stats"))["total_commands_processed"])
