"""Which of many points at which something may be interrupted a test tries: all are too many for every run."""

from __future__ import annotations

import os

POINTS_MAX = int(os.environ.get("DURASLEEP_CRASH_POINTS", "12"))
"""Of one program; 0 for all."""


def chosen(points: int, *, times: float = 1) -> list[int]:
    """The points to try, from the first to the last at equal distances; ``times`` as many for a long way, or a dear
    one.
    """
    most = round(POINTS_MAX * times)
    if not most or points <= most:
        return list(range(points))
    return sorted({round(n * (points - 1) / (most - 1)) for n in range(most)})
