"""The results of a benchmark beside its budgets: a table for people, one JSON object for programs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil
from rich.console import Console
from rich.table import Table

Value = float | str
Sense = Literal["at least", "at most"]


@dataclass(frozen=True)
class Figure:
    """One number and its budget."""

    name: str
    value: Value
    sense: Sense = "at most"
    budget: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the budget is met; None if there is no budget, or no number."""
        if self.budget is None or isinstance(self.value, str):
            return None
        return self.value >= self.budget if self.sense == "at least" else self.value <= self.budget


@dataclass
class Report:
    """The figures of one benchmark on one server."""

    name: str
    server: str
    what: str
    """The measured work, in a sentence."""
    figures: list[Figure] = field(default_factory=list[Figure])
    notes: list[str] = field(default_factory=list[str])
    cores: int = field(default_factory=lambda: psutil.cpu_count() or 1)
    """The cores of the machine, which server, worker and client share."""

    def add(self, name: str, value: Value, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Add a figure, rounded so that people can read it."""
        sense, budget = ("at least", at_least) if at_least is not None else ("at most", at_most)
        self.figures.append(Figure(name, rounded(value), sense, budget if budget is None else rounded(budget)))

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "server": self.server,
            "cores": self.cores,
            "what": self.what,
            "figures": {figure.name: figure.value for figure in self.figures},
            "budgets": {
                figure.name: {figure.sense.replace(" ", "_"): figure.budget, "met": figure.met}
                for figure in self.figures
                if figure.budget is not None
            },
            "notes": self.notes,
        }

    def show(self, console: Console) -> None:
        table = Table(
            "figure",
            "value",
            "budget",
            "met",
            title=f"{self.name} on {self.server}, {self.cores} cores",
            title_justify="left",
        )
        table.columns[1].justify = "right"
        for figure in self.figures:
            budget = "" if figure.budget is None else f"{figure.sense} {figure.budget:,}"
            met = {True: "[green]yes", False: "[red]no", None: ""}[figure.met]
            table.add_row(
                figure.name, figure.value if isinstance(figure.value, str) else f"{figure.value:,}", budget, met
            )
        console.print(table)
        for line in (self.what, *self.notes):
            console.print(line, style="dim", markup=False)


def rounded(value: Any) -> Any:
    """Round to four significant digits; whole numbers and words stay as they are."""
    if not isinstance(value, float) or not value or not math.isfinite(value):
        return value
    digits = 3 - math.floor(math.log10(abs(value)))
    return round(value, digits) if digits > 0 else round(value)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def add_spread(report: Report, values_ms: Sequence[float], *, p50_max: float | None, p99_max: float | None) -> None:
    """Add the median, the 99th percentile and the maximum of some delays in ms."""
    report.add("p50_ms", statistics.median(values_ms), at_most=p50_max)
    report.add("p99_ms", percentile(values_ms, 0.99), at_most=p99_max)
    report.add("max_ms", max(values_ms))
