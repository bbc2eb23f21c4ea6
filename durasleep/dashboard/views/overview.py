"""The first page: numbers, endings minute by minute, and what waits for a person."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from durasleep.dashboard.drawing.minutes import minute_chart
from durasleep.dashboard.rendering import coarse
from durasleep.dashboard.views.look import Look
from durasleep.query.overview import GroupLoad, Overview
from durasleep.query.search import Search

SHOWN_MAX = 10
_LATE_S = 10.0  # a due timer settles within a second, or within three if its firer has just died
_SPANS = {"1h": 60, "3h": 180, "24h": 1_440}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that waits for a person."""

    text: str
    path: str
    """The page that shows more of it."""


async def load(look: Look) -> dict[str, Any]:
    """Everything that the overview shows."""
    span = look.choice("span", _SPANS)
    keyspaces = look.keyspaces
    overview, stats, failures, halted = await asyncio.gather(
        look.overview(),
        look.client.stats(span),
        look.client.last_failures(SHOWN_MAX),
        look.store.run(Search(status="halted", page=SHOWN_MAX, looked_max=SHOWN_MAX).part(keyspaces, SHOWN_MAX)),
    )
    return {
        "title": "Overview",
        "overview": overview,
        "notices": list(notices(overview)),
        "chart": minute_chart(stats.minutes, _SPANS[span]),
        "functions": stats.functions[:SHOWN_MAX],
        "total": stats.total,
        "span": span,
        "spans": tuple(_SPANS),
        "failures": failures,
        "halted": halted,
    }


def notices(overview: Overview) -> Iterator[Notice]:
    """What needs attention, the worst first."""
    if overview.is_clock_held:
        yield Notice("The clock of Redis jumped ahead, and workers hold timers back.", "/doctor")
    if overview.overdue_s > _LATE_S:
        yield Notice(f"Timers are late: the first one by {coarse(round(overview.overdue_s * 1000))}.", "/calendar")
    for group in overview.groups:
        yield from _of_group(group)
    for limit in overview.limits:
        if limit.paused_since_ms is not None and limit.parked:
            yield Notice(f"Limit {limit.name} is paused, with {_count(limit.parked, 'execution')} parked.", "/limits")
    if overview.quarantined:
        yield Notice(f"Broken data was quarantined: {_count(overview.quarantined, 'name')}.", "/doctor")
    if any(not partition.is_asked for partition in overview.partitions):
        yield Notice("A part of the cluster does not answer, or moves to another node.", "/partitions")


def _of_group(group: GroupLoad) -> Iterator[Notice]:
    if group.paused_since_ms is not None:
        queued = f", and {_count(group.queued, 'execution')} queued there" if group.queued else ""
        yield Notice(f"Group {group.name} is paused by {group.paused_by}{queued}.", "/groups")
    elif group.queued and not group.workers:
        yield Notice(f"No worker serves group {group.name}: {_count(group.queued, 'execution')} queued.", "/groups")
    lost = sum(worker.lost_threads for worker in group.workers)
    if lost:
        yield Notice(f"Workers of group {group.name} have lost {_count(lost, 'thread')}.", "/groups")
    if blocked := [worker.name for worker in group.workers if worker.blocked_s]:
        yield Notice(f"The event loop of worker {blocked[0]} of group {group.name} is blocked.", "/groups")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
