"""A workflow that repeats a step and a short sleep: does a long journal make it slow?

The workflow itself times the first and the second half of the iterations, in steps that read the wall clock and the
processor clock of its worker. If the work depends only on new entries, both halves cost the same.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks import workflows
from scripts.benchmarks.bench import bench_on
from scripts.benchmarks.report import Report

RATIO_MAX = 1.25  # equal halves, and some tolerance for a busy machine
SLEEP_MS = 1


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=1_000, help="how many (%(default)s)")


async def measure(options: Namespace) -> Report:
    async with bench_on(options.server) as bench, bench.worker():
        what = f"{options.iterations} times a step and a sleep of {SLEEP_MS} ms, in one workflow"
        report = Report("loop", bench.name, what)
        clocks = await (await bench.client.rpc("loop", workflows.step_loop, options.iterations, SLEEP_MS))
        entries = len((await bench.client.export("loop")).entries)
    (wall, cpu), (half_wall, half_cpu), (end_wall, end_cpu) = clocks
    report.add("journal_entries", entries)
    report.add("first_half_s", half_wall - wall)
    report.add("second_half_s", end_wall - half_wall)
    report.add("first_half_cpu_s", half_cpu - cpu)
    report.add("second_half_cpu_s", end_cpu - half_cpu)
    report.add("cpu_ratio_of_halves", (end_cpu - half_cpu) / (half_cpu - cpu), at_most=RATIO_MAX)
    return report
