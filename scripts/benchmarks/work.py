"""The kinds of work whose CPU is counted: a function that the client starts many times, all at once.

There is one worker process, and this process is the only client. Time counts from the first start to the last result.
Each function answers with its argument, and so the client counts the finished ones.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import APP, WorkerBench
from scripts.benchmarks.stopwatch import Spent, Stopwatch

CONCURRENCY = 1_000  # most of them wait, for a timer or for the server
WARM_UP = 50
SLEEP_S = 1.0


@dataclass(frozen=True)
class Work:
    """One kind of work."""

    what: str
    """Its name in the plural."""
    function: Callable[..., Any]
    argument: int | None = None
    """The argument of all; None if each gets its own number."""
    delay_s: float | None = None
    app: str = APP
    """The application that has it."""


def sleepers(sleep_s: float) -> Work:
    return Work(f"workflows that sleep {sleep_s:g} s", workflows.sleeper, argument=round(sleep_s * 1000))


def delayed(delay_s: float) -> Work:
    return Work(f"async tasks delayed by {delay_s:g} s", workflows.task, delay_s=delay_s)


KINDS: dict[str, Work] = {
    "empty": Work("empty workflows", workflows.leaf),
    "sleeper": sleepers(SLEEP_S),
    "steps": Work("workflows of three steps", workflows.three_steps),
    "task": Work("async tasks", workflows.task),
    "delayed": delayed(SLEEP_S),
    "sync": Work("sync tasks", workflows.sync_task),
}


def add_concurrency(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, help="executions that the worker runs at a time (%(default)s)"
    )


async def run(bench: WorkerBench, work: Work, *, count: int, concurrency: int) -> tuple[int, Spent]:
    """Run ``count`` of a kind on a worker of their own: how many finished correctly, and the cost of all of them."""
    client = bench.client
    async with bench.worker("--concurrency", str(concurrency), app=work.app) as worker:
        await client.gather(await client.rpc_many(work.function, [(f"w{n}", n) for n in range(WARM_UP)]))
        arguments = [number if work.argument is None else work.argument for number in range(count)]
        many = [(f"s{number}", argument) for number, argument in enumerate(arguments)]
        watch = Stopwatch(bench, worker)
        results = await client.gather(await client.rpc_many(work.function, many, delay=work.delay_s))
        spent = watch.stop(count)
    return sum(result == argument for result, argument in zip(results, arguments, strict=True)), spent
