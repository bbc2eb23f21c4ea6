"""Groups, workers and counters as tables, for people."""

from __future__ import annotations

from collections.abc import Sequence

from durasleep import humanize
from durasleep.cli.output import chart, console, tables
from durasleep.cli.output.tables import Cell
from durasleep.model import PRIORITY
from durasleep.query.overview import GroupLoad, Overview, WorkerLoad
from durasleep.query.stats import FunctionStats, Stats

_PARTITIONS_MAX = 8  # that are named in a row
_CHART_WIDTH = 61  # columns: one for each minute of the last hour, the first of which is not whole


def groups(found: Overview) -> None:
    """Groups, one a line."""
    rows: list[list[Cell]] = []
    for one in found.groups:
        is_unserved = bool(one.queued) and not one.workers
        paused = f"since {console.instant(one.paused_since_ms)}, by {one.paused_by}" if one.paused_since_ms else ""
        rows.append(
            [
                (one.name, "bold"),
                (queued_of(one), "yellow" if one.queued else ""),
                (f"{one.running:,}", "cyan" if one.running else ""),
                (oldest_of(one), ""),
                (f"{len(one.workers):,}" if one.workers else "none", "red" if is_unserved else ""),
                (slots_of(one), ""),
                (paused, "yellow"),
            ]
        )
    tables.show(["GROUP", "QUEUED", "RUNNING", "OLDEST", "WORKERS", "SLOTS", "PAUSED"], rows, spare=("SLOTS",))


def queued_of(group: GroupLoad) -> str:
    """How many wait; with their priorities, if these are not all the usual one."""
    levels = [(level.priority, level.queued) for level in group.levels if level.queued]
    text = f"{group.queued:,}"
    if levels and [priority for priority, _ in levels] != [PRIORITY]:
        text += f" ({', '.join(f'P{priority} {count:,}' for priority, count in levels)})"
    return text


def oldest_of(group: GroupLoad) -> str:
    """For how long the oldest waits."""
    return humanize.describe_ms(round(group.oldest_queued_s * 1000)) if group.queued else ""


def slots_of(group: GroupLoad) -> str:
    """How many slots of its workers are in use."""
    return f"{group.running:,} of {group.slots:,}" if group.slots else ""


def workers(found: Sequence[WorkerLoad], seen: Overview) -> None:
    """Workers, one a line."""
    rows: list[list[Cell]] = [
        [
            (one.name, "bold"),
            (one.group, ""),
            (load_of(one), "cyan" if one.running else ""),
            (f"{humanize.describe_ms(max(0, seen.at_ms - one.beat_ms))} ago", "dim"),
            (one.process, "dim"),
            (partitions_of(one, len(seen.partitions)), ""),
            (notes_of(one), "yellow"),
        ]
        for one in found
    ]
    names = ["WORKER", "GROUP", "RUNS", "HEARTBEAT", "PROCESS", "PARTITIONS", "NOTES"]
    tables.show(names, rows, spare=("PROCESS", "HEARTBEAT"))


def load_of(worker: WorkerLoad) -> str:
    """What it runs, of how much it can."""
    return f"{worker.running:,}" if worker.slots is None else f"{worker.running:,} of {worker.slots:,}"


def partitions_of(worker: WorkerLoad, count: int) -> str:
    """Which partitions it serves, if there are several."""
    if count == 1:
        return ""
    numbers = worker.partitions
    if len(numbers) == count:
        return f"all {count}"
    named = ", ".join(map(str, numbers[:_PARTITIONS_MAX]))
    return named if len(numbers) <= _PARTITIONS_MAX else f"{named} and {len(numbers) - _PARTITIONS_MAX} more"


def notes_of(worker: WorkerLoad) -> str:
    """What a person should know of it."""
    threads = f"{worker.lost_threads:,} thread{'' if worker.lost_threads == 1 else 's'} lost"
    notes = (
        "leaving" if worker.is_leaving else "",
        threads if worker.lost_threads else "",
        f"loop blocked for {humanize.describe_ms(round(worker.blocked_s * 1000))}" if worker.blocked_s else "",
        "" if worker.knows_pause else "knows no pause",
    )
    return ", ".join(filter(None, notes))


def stats(found: Stats) -> None:
    """The counters by function, one a line; then the minutes as a chart."""
    span = humanize.describe_ms(found.at_ms - found.minutes[0].at_ms)
    if not found.functions:
        console.note(f"Nothing has ended in the last {span}.")
        return
    several = [found.total] if len(found.functions) > 1 else []
    rows = [_stats_row(one, len(found.minutes)) for one in (*found.functions, *several)]
    tables.show(["FUNCTION", "ENDED", "FAILED", "CANCELED", "A MINUTE", "MEAN TIME"], rows, spare=("CANCELED",))
    counts = chart.in_columns([minute.ended for minute in found.minutes], _CHART_WIDTH)
    peak = max(minute.ended for minute in found.minutes)
    console.line()
    console.line((f"last {span}, at most {peak:,} a minute  ", "dim"), (chart.line(counts), "cyan"))


def _stats_row(one: FunctionStats, minutes: int) -> list[Cell]:
    is_total = not one.name
    return [
        ("all" if is_total else one.name, "dim" if is_total else "bold"),
        (f"{one.ended:,}", ""),
        (f"{one.failed:,}" if one.failed else "", "red"),
        (f"{one.canceled:,}" if one.canceled else "", "yellow"),
        (chart.rate(one.ended / minutes), ""),
        (humanize.describe_ms(round(one.mean_ms)), ""),
    ]
