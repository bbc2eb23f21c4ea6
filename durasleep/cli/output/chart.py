"""Counts as a line of blocks, and rates in words."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_EMPTY = "·"
_EXACT_MAX = 10  # a smaller rate is shown with a decimal


def in_columns(counts: Sequence[int], width: int) -> list[int]:
    """The same counts in at most ``width`` columns: several together if there are more."""
    each = max(1, -(-len(counts) // max(1, width)))
    first = len(counts) % each  # the last columns are whole
    starts = [*([0] if first else []), *range(first, len(counts), each)]
    ends = [*starts[1:], len(counts)]
    return [sum(counts[start:end]) for start, end in zip(starts, ends, strict=False)]


def line(counts: Sequence[int]) -> str:
    """A block for each count, the highest for the largest; a dot for 0."""
    largest = max(counts, default=0)
    return "".join(_BLOCKS[(count * len(_BLOCKS) - 1) // largest] if count else _EMPTY for count in counts)


def rate(a_minute: float) -> str:
    """A rate for people: ``0.02``, ``1.5``, ``1,200``."""
    if 0 < a_minute < _EXACT_MAX:
        return f"{a_minute:.2f}" if a_minute < 1 else f"{a_minute:.1f}"
    return f"{a_minute:,.0f}"
