"""What a worker counts of itself, in plain numbers: the event loop counts, and other threads read.

It imports nothing and locks nothing, so that counting costs less than a microsecond; ``metrics`` makes of it what
Prometheus reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

LATE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3600)
RUN_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3600)
LAG_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30)
SCRIPT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
NAMES_MAX = 200
"""Names of steps and of functions of other groups that get their own series; registered functions always do."""
OTHER = "other"
"""What is counted under no name of its own."""


class MetricsRegistry(Protocol):
    """A registry of metrics, such as ``prometheus_client.CollectorRegistry``."""

    def register(self, collector: Any) -> None:
        """Ask ``collector`` for its metrics whenever they are read."""
        ...


class Histogram:
    """How many values lie in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        """The upper bounds of all buckets but the last, which has none; in seconds."""
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        """All that another one with the same buckets has."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


def _no_slots() -> Mapping[str, int]:
    return {}


class Meter:
    """The numbers of one worker since its start. They only grow, but for ``slots``."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        """Executions that have begun here, by function."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Executions that have ended here, by function and outcome."""
        self.lateness = Histogram(LATE_S)
        """How late the oldest timer of each firing was."""
        self.activations: dict[str, Histogram] = {}
        """By function: how long an execution held its slot, each time."""
        self.steps: dict[str, Histogram] = {}
        """By function: how long a call of a step or task took."""
        self.loop_lag = Histogram(LAG_S)
        """By how much the event loop was late, at each pulse."""
        self.scripts: dict[str, Histogram] = {}
        """By script: the time to the answer of Redis."""
        self.takeovers = 0
        self.fenced = 0
        self.step_retries = 0
        self.slots: Callable[[], Mapping[str, int]] = _no_slots
        """How many slots are in which state now."""
        self._known: set[str] = set()
        self._others: set[str] = set()

    def know(self, names: Iterable[str]) -> None:
        """These functions always have their own series."""
        self._known.update(names)

    def forget_slots(self) -> None:
        """The worker has ended."""
        self.slots = _no_slots

    def _label(self, name: str) -> str:
        if name in self._known or name in self._others:
            return name
        if len(self._others) >= NAMES_MAX:
            return OTHER
        self._others.add(name)
        return name

    def start(self, function: str) -> None:
        self.started[self._label(function)] += 1

    def end(self, function: str, outcome: str, count: int = 1) -> None:
        self.ended[self._label(function), outcome] += count

    def activation(self, function: str, seconds: float) -> None:
        self._observe(self.activations, self._label(function), RUN_S, seconds)

    def step(self, function: str, seconds: float) -> None:
        self._observe(self.steps, self._label(function), RUN_S, seconds)

    def exchange(self, scripts: Iterable[str], seconds: float) -> None:
        """These were answered together after so long."""
        for script in scripts:
            self._observe(self.scripts, script, SCRIPT_S, seconds)

    @staticmethod
    def _observe(all: dict[str, Histogram], name: str, bounds: Sequence[float], seconds: float) -> None:
        one = all.get(name)
        if one is None:
            one = all[name] = Histogram(bounds)
        one.observe(seconds)
