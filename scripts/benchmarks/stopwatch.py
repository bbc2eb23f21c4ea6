"""The time that passes, and what worker, client and Redis use of the processor meanwhile."""

from __future__ import annotations

import time

import psutil

from scripts.benchmarks.bench import Bench, cpu_s
from scripts.benchmarks.report import Report


class Stopwatch:
    """Runs from its making until ``stop``."""

    def __init__(self, bench: Bench, worker: psutil.Process) -> None:
        self._processes = {"worker": worker, "client": bench.client_process, "redis": bench.server_process}
        self._used_s = {name: cpu_s(process) for name, process in self._processes.items()}
        self._began = time.perf_counter()
        self.seconds = 0.0

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self._used_s = {name: cpu_s(process) - self._used_s[name] for name, process in self._processes.items()}

    def add_to(self, report: Report, rate: str, count: int, *, at_least: float | None = None) -> None:
        """The seconds, how many a second under the name ``rate``, and the processor time of each process for one."""
        report.add("seconds", self.seconds)
        report.add(rate, count / self.seconds, at_least=at_least)
        for name, used_s in self._used_s.items():
            report.add(f"{name}_cpu_us", used_s * 1e6 / count)
