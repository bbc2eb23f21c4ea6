"""What falls due when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.dashboard.views.look import Look
from durasleep.query import dues, search
from durasleep.query.dues import DueSpan

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
_ITEMS = 50
_SPANS = {"hour": (5 * MINUTE_MS, 12), "day": (HOUR_MS, 24), "month": (DAY_MS, 30)}
_NEVER_MS = 1 << 53  # beyond every instant


@dataclass(frozen=True, slots=True)
class Bucket:
    """A span with its share of the fullest one."""

    span: DueSpan
    percent: int


async def load(look: Look) -> dict[str, Any]:
    """How much is due in each span of the next hour, day or month, and the first of it from an instant on."""
    of = look.choice("of", _SPANS)
    size_ms, count = _SPANS[of]
    keyspaces = look.keyspaces
    count, size_ms = fitting(count, size_ms, dues.spans_max(keyspaces) - 2)
    first = look.now_ms // size_ms * size_ms
    edges = [0, look.now_ms, *[first + size_ms * number for number in range(1, count + 1)], _NEVER_MS]
    overdue, *spans, later = await look.store.run(dues.count(keyspaces, edges))
    since_ms = look.number("since", 1, _NEVER_MS) if look.query.get("since") else None
    items = await look.store.run(search.timers(keyspaces, _ITEMS, since_ms=since_ms))
    most = max((span.count for span in spans), default=0)
    return {
        "title": "Calendar",
        "of": of,
        "spans": tuple(_SPANS),
        "buckets": [Bucket(span, round(100 * span.count / most) if most else 0) for span in spans],
        "overdue": overdue,
        "later": later,
        "has_days": size_ms >= DAY_MS,
        "items": items,
        "since_ms": since_ms,
    }


def fitting(count: int, size_ms: int, most: int) -> tuple[int, int]:
    """Fewer and longer spans for the same time, if that many cannot be asked for."""
    if count <= most:
        return count, size_ms
    together = -(-count // max(1, most))
    return -(-count // together), size_ms * together
