"""How many executions have ended, minute by minute, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durasleep.query.stats import MinuteStats

WIDTH, HEIGHT = 720, 90
_BARS_MAX = 120


@dataclass(frozen=True, slots=True)
class Bar:
    """The endings of one minute, or of several together."""

    x: float
    width: float
    good_y: float
    good_height: float
    bad_y: float
    bad_height: float
    at_ms: int
    ended: int
    failed: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars, and what they stand for."""

    bars: list[Bar]
    top: int
    """The number at the upper edge."""
    minutes: int
    """How many minutes one bar is."""
    ended: int
    failed: int
    width: int = WIDTH
    height: int = HEIGHT


def minute_chart(minutes: Sequence[MinuteStats], count: int) -> Chart:
    """Bars of the last ``count`` minutes; the upper part of a bar has failed."""
    each = max(1, -(-count // _BARS_MAX))
    minutes = minutes[-count:]
    parts = [minutes[max(0, end - each) : end] for end in range(len(minutes), 0, -each)][::-1]
    sums = [(part[0].at_ms, sum(one.ended for one in part), sum(one.failed for one in part)) for part in parts]
    top = max((ended for _, ended, _ in sums), default=0)
    step = WIDTH / max(1, len(sums))
    bars: list[Bar] = []
    for number, (at_ms, ended, failed) in enumerate(sums):
        good, bad = (_height(ended - failed, top), _height(failed, top))
        bars.append(
            Bar(
                x=round(number * step, 1),
                width=round(max(step - 1, 1), 1),
                good_y=HEIGHT - good,
                good_height=good,
                bad_y=HEIGHT - good - bad,
                bad_height=bad,
                at_ms=at_ms,
                ended=ended,
                failed=failed,
            )
        )
    return Chart(bars, top, each, sum(ended for _, ended, _ in sums), sum(failed for *_, failed in sums))


def _height(count: int, top: int) -> float:
    """Whatever is not nothing can be seen."""
    return max(2.0, round(count / top * (HEIGHT - 2), 1)) if count else 0.0
