"""The time that passes, and the processor time of worker, client and servers meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from scripts.benchmarks.bench import WorkerBench, cpu_s
from scripts.benchmarks.report import Report


@dataclass(frozen=True)
class Budget:
    """The processor time that one piece of work may cost, in µs, and how many a second there should be."""

    per_s: float | None = None
    sum_us: float | None = None
    worker_us: float | None = None
    client_us: float | None = None
    server_us: float | None = None


NO_BUDGET = Budget()


@dataclass(frozen=True)
class Spent:
    """The cost of ``count`` pieces of work: the seconds in all, and each process's processor time for one, in µs."""

    count: int
    seconds: float
    worker_us: float
    client_us: float
    server_us: float

    @classmethod
    def of(cls, count: int, seconds: float, *, worker_s: float, client_s: float, server_s: float) -> Spent:
        """Make it from the processor time for all of them."""
        worker_us, client_us, server_us = (used_s * 1e6 / count for used_s in (worker_s, client_s, server_s))
        return cls(count, seconds, worker_us, client_us, server_us)

    @property
    def sum_us(self) -> float:
        return self.worker_us + self.client_us + self.server_us

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    @property
    def cores_used(self) -> float:
        """Cores that the three processes kept busy, on average."""
        return self.sum_us * self.per_s / 1e6

    def add_to(self, report: Report, rate: str, budget: Budget = NO_BUDGET, *, prefix: str = "") -> None:
        """Add the rate under the name ``rate``, the processor time for one, and how many of the cores were used."""
        report.add(f"{prefix}seconds", self.seconds)
        report.add(f"{prefix}{rate}", self.per_s, at_least=budget.per_s)
        report.add(f"{prefix}worker_cpu_us", self.worker_us, at_most=budget.worker_us)
        report.add(f"{prefix}client_cpu_us", self.client_us, at_most=budget.client_us)
        report.add(f"{prefix}server_cpu_us", self.server_us, at_most=budget.server_us)
        report.add(f"{prefix}sum_cpu_us", self.sum_us, at_most=budget.sum_us)
        report.add(f"{prefix}cores_used", self.cores_used)


class Stopwatch:
    """Runs from its creation until ``stop``."""

    def __init__(self, bench: WorkerBench, worker: psutil.Process) -> None:
        self._processes = (worker,), (bench.client_process,), bench.server_processes
        self._used_s = self._now_s()
        self._began = time.perf_counter()

    def stop(self, count: int) -> Spent:
        """The cost of ``count`` pieces of work until now."""
        seconds = time.perf_counter() - self._began
        worker_s, client_s, server_s = (now - then for now, then in zip(self._now_s(), self._used_s, strict=True))
        return Spent.of(count, seconds, worker_s=worker_s, client_s=client_s, server_s=server_s)

    def _now_s(self) -> list[float]:
        return [sum(map(cpu_s, processes)) for processes in self._processes]
