"""The same work done by others, each in an environment of its own: for ``--vs``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from scripts.benchmarks.report import Report


def add_arguments(parser: ArgumentParser) -> None:
    pass


async def add_lateness(report: Report, options: Namespace, *, every_ms: float, lead_ms: int) -> dict[str, list[float]]:
    return {}


async def add_throughput(report: Report, options: Namespace, *, count: int, sleep_ms: int, ours_per_s: float) -> None:
    pass
