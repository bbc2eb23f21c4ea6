"""Plots, for ``--plot``. It is imported only then, because matplotlib takes long to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

WIDE = 10  # if the longest line is so many times the shortest, the axis is logarithmic


def distribution(path: Path, title: str, samples_ms: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of samples up to each delay, a line for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in samples_ms.items():
        shares = [(place + 1) / len(values) for place in range(len(values))]
        axes.step(sorted(values), shares, where="post", label=name)
    longest = [max(values) for values in samples_ms.values()]
    scale = "symlog" if max(longest) > WIDE * min(longest) else "linear"
    axes.set(title=title, xlabel="ms", ylabel="share", xscale=scale, xlim=(0, None), ylim=(0, 1))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def curves(path: Path, title: str, xlabel: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw a line of points for each name, the numbers on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(title=title, xlabel=xlabel, xscale="log", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
